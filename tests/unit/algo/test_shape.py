"""Shapes change the total, its place in time and its parts together, and nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from triune.algo.options import ADVANTAGES, SHAPES
from triune.algo.step import Step
from triune.algo.types import Batch, Evaluated, Rewards
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.core.trajectory import Payload, Trajectory
from triune.core.verdict import RewardEvent
from triune.monitor.metric import Metric, Scored
from triune.testing.table import TableFamily, recipe, scored, trajectory
from triune.train.batching import rewards
from triune.train.learner import Learner

KINDS: dict[str, dict[str, Any]] = {
    "kl_in_reward": {"coef": 0.1},
    "soft_overlong": {"max_length": 3, "buffer": 2},
    "length_penalty": {},
    "pairwise": {},
}


def build(kind: str, **options: Any) -> Any:
    return SHAPES[kind].model_validate({"kind": kind, **KINDS[kind], **options})


def step_of(
    rows: Sequence[Trajectory],
    totals: Sequence[float | None],
    *,
    old: Sequence[float] | None = None,
    other: Sequence[float] | None = None,
    step: int = 1,
    turns: int = 1,
    **judged: Any,
) -> Step:
    rollouts = [scored(t, r, **judged) for t, r in zip(rows, totals, strict=True)]
    rollouts = [
        Scored(o.sample, o.trajectory, o.outcome.model_copy(update={"num_turns": turns}), o.verdict)
        for o in rollouts
    ]
    batch = Batch.of(rows, None)
    views = {
        "old": Evaluated(batch.logp_behavior if old is None else torch.tensor(old)),
        "reference": Evaluated(batch.logp_behavior - 0.5 if other is None else torch.tensor(other)),
    }
    said = rewards(batch, [one.verdict for one in rollouts])
    return Step(batch, rollouts, said, views, Progress(step=step, total_steps=10))


def rows(*sizes: int, **fields: Any) -> list[Trajectory]:
    return [trajectory([1] * n, id=f"{i}", rank=i, **fields) for i, n in enumerate(sizes)]


def value(metrics: Sequence[Metric], name: str) -> float:
    (metric,) = [m for m in metrics if m.name == name]
    return metric.mean


def agree(found: Rewards, batch: Batch) -> None:
    """The total of an episode is what its rows hold in time, and what its parts add up to."""
    for index, one in enumerate(batch.trajectories):
        if bool(found.total[index].isnan()):
            assert all(bool(part[index].isnan()) for part in found.parts.values())
            continue
        same = [(t.episode or t.id) == (one.episode or one.id) for t in batch.trajectories]
        placed = found.placed[torch.tensor(same)[batch.trajectory]].sum()
        assert float(placed) == pytest.approx(float(found.total[index]))
        parts = [float(part[index]) for part in found.parts.values() if not bool(part[index].isnan())]
        assert math.fsum(parts) == pytest.approx(float(found.total[index]))
        for name, part in found.parts.items():
            assert bool(part[index].isnan()) == bool(found.weights[name][index].isnan())


@pytest.mark.parametrize("kind", KINDS)
def test_total_time_and_parts_stay_one_reward(kind: str) -> None:
    fragments = [
        trajectory([1, 2], id="early", episode="e", rank=3, terminated=False),
        trajectory([1, 2, 3], id="late", episode="e", rank=3, step_offset=2),
    ]
    given = [*rows(3, 2, 4), *fragments]
    step = step_of(
        given, [1.0, 0.0, None, 0.5, 0.5], events=(RewardEvent(decision=0, name="check", value=0.0),)
    )
    found, metrics = build(kind)(step)
    agree(found, step.batch)
    assert found.total.isnan().tolist() == [False, False, True, False, False]
    assert torch.equal(found.total[3], found.total[4])
    assert metrics
    assert all(m.nonfinite == 0 for m in metrics)


@pytest.mark.parametrize("kind", KINDS)
def test_who_could_not_be_judged_changes_nothing(kind: str) -> None:
    before = build(kind)(step_of(rows(1, 2, 3), [1.0, 0.0, 0.5]))[0].total
    found = build(kind)(step_of(rows(1, 2, 3, 9), [1.0, 0.0, 0.5, None]))[0].total
    assert torch.equal(found[:3], before)
    assert bool(found[3].isnan())


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_response_is_no_harm(kind: str) -> None:
    found, _ = build(kind)(step_of(rows(0, 2), [1.0, 0.0]))
    assert bool(found.total.isfinite().all())
    assert bool(found.placed.isfinite().all())


def test_shapes_follow_each_other() -> None:
    step = step_of(rows(3, 1), [1.0, 0.0])
    step.rewards, _ = build("soft_overlong")(step)
    step.rewards, _ = build("kl_in_reward")(step)
    assert step.rewards.total.tolist() == pytest.approx([1.0 - 1.0 - 0.15, -0.05])
    assert set(step.rewards.parts) == {"check", "soft_overlong", "kl_in_reward"}
    agree(step.rewards, step.batch)


# -- KL ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("k1", [0.5, -1.0]),
        ("abs", [0.5, 1.0]),
        ("k2", [0.125, 0.5]),
        ("k3", [math.exp(-0.5) - 0.5, math.e - 2.0]),
    ],
)
def test_forms_of_the_divergence(form: str, expected: list[float]) -> None:
    step = step_of(rows(2), [0.0], old=[-1.0, -2.0], other=[-1.5, -1.0])
    found, metrics = build("kl_in_reward", form=form, coef=1.0)(step)
    assert (-found.placed).tolist() == pytest.approx(expected, abs=1e-6)
    assert value(metrics, "reward/kl") == pytest.approx(sum(expected) / 2, abs=1e-6)


def test_k3_is_held_where_verl_holds_it() -> None:
    step = step_of(rows(1), [0.0], old=[-100.0], other=[0.0])
    assert build("kl_in_reward", form="k3", coef=1.0)(step)[0].total.tolist() == [-10.0]


def test_forced_tokens_and_greedy_answers_pay_nothing() -> None:
    given = [
        trajectory([1, 2], id="a", forced=[True, False]),
        trajectory([1], id="b", component="baseline"),
        trajectory([1], id="c", forced=True, component="imitation"),
    ]
    step = step_of(
        given, [1.0, 1.0, 1.0], old=[-math.inf, -1.0, -1.0, -math.inf], other=[-1.0, -1.5, -9.0, -math.inf]
    )
    found, _ = build("kl_in_reward", coef=1.0)(step)
    assert found.total.tolist() == pytest.approx([0.5, 1.0, 1.0])
    assert found.placed[0] == 0


def test_the_coefficient_may_be_a_schedule() -> None:
    options = {"coef": {"kind": "linear", "start": 1.0, "end": 0.0}}
    for step, coef in ((1, 0.9), (10, 0.0)):
        made = step_of(rows(1), [0.0], step=step)
        found, metrics = build("kl_in_reward", **options)(made)
        assert found.total.tolist() == pytest.approx([-0.5 * coef])
        assert value(metrics, "reward/kl_coef") == pytest.approx(coef)


def test_the_coefficient_is_steered_to_a_target_and_saved() -> None:
    """KL .5 per token against a target of .25: the error is clipped at .2, two rollouts of a horizon of 10."""
    shape = build("kl_in_reward", coef=0.1, target=0.25, horizon=10)
    step = step_of(rows(2, 4), [0.0, 0.0])
    assert value(shape(step)[1], "reward/kl_coef") == pytest.approx(0.1)
    assert shape.state() == {"coef": pytest.approx(0.1 * 1.04)}
    resumed = build("kl_in_reward", coef=0.1, target=0.25, horizon=10)
    resumed.restore(shape.state())
    below = step_of(rows(2, 4), [0.0, 0.0], other=[-1.0] * 6)  # no divergence at all
    for each in (shape, resumed):
        assert value(each(below)[1], "reward/kl_coef") == pytest.approx(0.104)
        assert each.state()["coef"] == pytest.approx(0.104 * 0.96)


def test_the_mean_that_steers_is_over_rollouts_not_tokens() -> None:
    shape = build("kl_in_reward", coef=1.0, target=1.0, horizon=2)
    step = step_of(rows(1, 3), [0.0, 0.0], old=[0.0] * 4, other=[-2.2, 0.0, 0.0, 0.0])
    shape(step)  # (2.2 + 0) / 2 = 1.1: error .1, two rollouts of two
    assert shape.state()["coef"] == pytest.approx(1.1)


def test_a_schedule_and_a_target_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="both move the coefficient"):
        build("kl_in_reward", coef={"kind": "linear", "start": 1.0, "end": 0.0}, target=0.1)


def test_reinforce_pp_sees_the_price_of_every_token_and_rloo_the_sum() -> None:
    step = step_of(rows(2, 2), [1.0, 1.0], old=[-1.0] * 4, other=[-2.0, -1.0, -1.0, -1.0])
    step.rewards, _ = build("kl_in_reward", coef=0.1)(step)
    in_time = ADVANTAGES["reinforce_pp"]()(step.batch, step.rewards, {}).advantage
    assert float(in_time[0]) < float(in_time[1]) == pytest.approx(float(in_time[2]))
    whole = ADVANTAGES["rloo"]()(step.batch, step.rewards, {}).advantage
    assert whole.tolist() == pytest.approx([-0.1, -0.1, 0.1, 0.1])


# -- length --------------------------------------------------------------------------------------------------------


def test_overlong_counts_what_the_whole_episode_sampled() -> None:
    given = [
        trajectory([1, 2], id="a", episode="e", forced=[True, False], terminated=False),
        trajectory([1], id="b", episode="e", step_offset=2),
        trajectory([1] * 9, id="c"),
    ]
    found, metrics = build("soft_overlong")(step_of(given, [1.0, 1.0, 1.0]))
    assert found.total.tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert found.placed.tolist() == pytest.approx([0, 0, 0.5, *[0] * 8, 0])
    assert value(metrics, "reward/overlong") == pytest.approx(-2 / 3)


def test_a_buffer_must_fit() -> None:
    with pytest.raises(ValidationError, match="do not fit in max_length"):
        build("soft_overlong", max_length=3, buffer=4)
    with pytest.raises(ValidationError, match="max_length"):
        SHAPES["soft_overlong"].model_validate({"kind": "soft_overlong"})


def test_length_costs_only_where_the_prompt_is_solved() -> None:
    """Mean .5; outputs 2 and 4, one prompt token, one turn: .25 n/4 + .1 + .1."""
    found, metrics = build("length_penalty")(step_of(rows(2, 4), [1.0, 0.0]))
    assert found.total.tolist() == pytest.approx([1 - 0.5 * 0.325, -0.5 * 0.45])
    assert value(metrics, "reward/length_penalty") == pytest.approx(-0.5 * (0.325 + 0.45) / 2)
    unsolved, _ = build("length_penalty")(step_of(rows(2, 4), [0.0, 0.0]))
    assert unsolved.total.tolist() == [0.0, 0.0]
    negative, _ = build("length_penalty")(step_of(rows(2, 4), [-1.0, -2.0]))
    assert negative.total.tolist() == [-1.0, -2.0]  # length is never paid for


def test_length_is_normalised_by_the_group_alone() -> None:
    given = [*rows(2, 4), trajectory([1] * 100, id="x", group="other")]
    found, _ = build("length_penalty", input=0.0, turns=0.0)(step_of(given, [1.0, 1.0, 1.0]))
    assert found.total.tolist() == pytest.approx([1 - 0.125, 1 - 0.25, 1 - 0.25])


def test_rollouts_without_tokens_need_another_weight() -> None:
    one = rows(1)[0].model_copy(update={"payload": Payload(family="flow")})
    with pytest.raises(RecipeError, match=r"'0' of the family 'flow' holds no tokens.*input: 0"):
        build("length_penalty")(step_of([one], [1.0]))
    assert build("length_penalty", input=0.0)(step_of([one], [1.0]))[0].total.tolist() == pytest.approx(
        [0.65]
    )


# -- pairs ---------------------------------------------------------------------------------------------------------


def test_win_rates_take_the_place_of_rewards() -> None:
    found, metrics = build("pairwise")(step_of(rows(1, 1, 1), [0.0, 5.0, 1.0]))
    assert found.total.tolist() == [0.0, 1.0, 0.5]
    assert value(metrics, "reward/win_rate") == pytest.approx(0.5)
    soft, _ = build("pairwise", temperature=1.0)(step_of(rows(1, 1), [0.0, 1.0]))
    assert soft.total.tolist() == pytest.approx([1 / (1 + math.e), 1 / (1 + math.exp(-1))])


def test_a_matrix_leaves_out_who_could_not_be_judged() -> None:
    def said(step: Step, matrix: Sequence[Sequence[float | None]]) -> Step:
        for one, line in zip(step.scored, matrix, strict=True):
            (part,) = one.verdict.components
            part.metrics.update({f"beats/{k}": p for k, p in enumerate(line) if p is not None})
        return step

    step = said(step_of(rows(1, 1, 1), [0.0, 0.0, None]), [[0.5, 0.9, 0.1], [0.1, 0.5, 0.1], [0.9, 0.9, 0.5]])
    assert build("pairwise", check="check")(step)[0].total[:2].tolist() == [0.9, 0.1]
    with pytest.raises(RecipeError, match=r"'1': the check 'check' reports no beats/0"):
        build("pairwise", check="check")(said(step_of(rows(1, 1), [0.0, 0.0]), [[0.5, 0.9], [None, 0.5]]))
    with pytest.raises(RecipeError, match="'nobody' reports no"):
        build("pairwise", check="nobody")(step_of(rows(1, 1), [0.0, 0.0]))


def test_an_order_that_goes_in_a_circle_has_win_rates() -> None:
    """Rock, paper, scissors: every reward is wrong, every win rate is 1/2, and so nothing is learnt."""
    step = step_of(rows(1, 1, 1), [0.3, 0.2, 0.1])
    for one, line in zip(step.scored, [[0.5, 1, 0], [0, 0.5, 1], [1, 0, 0.5]], strict=True):
        one.verdict.components[0].metrics.update({f"beats/{k}": float(p) for k, p in enumerate(line)})
    step.rewards, _ = build("pairwise", check="check")(step)
    assert step.rewards.total.tolist() == [0.5, 0.5, 0.5]
    credit = ADVANTAGES["group"](scale="none")(step.batch, step.rewards, {})
    assert credit.advantage.tolist() == [0.0, 0.0, 0.0]
    assert credit.degenerate.tolist() == [True]


# -- through the learner -------------------------------------------------------------------------------------------


def trained(shape: dict[str, Any], steps: int, *, advantage: str = "reinforce_pp") -> Learner:
    """Steps on rollouts that the policy of the moment samples, all rewarded for token 1 after token 0."""
    family = TableFamily()
    plan = recipe(
        algo={
            "shape": shape,
            "advantage": {"kind": advantage},
            "terms": {"policy": {"kind": "reinforce"}},
            "views": {"reference": {"kind": "frozen"}},
        },
        total_steps=1000,
        optimizer={"lr": 0.3, "warmup_fraction": 0.0},
    )
    learner = Learner(family, plan, exact=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(1, steps + 1):
        logp = family.table.weight[0].detach().log_softmax(-1)
        tokens = torch.multinomial(logp.exp(), 16, True, generator=generator).tolist()
        rows = [
            trajectory([t], id=f"{i}", group=f"{i // 8}", rank=i % 8, logp=[float(logp[t])])
            for i, t in enumerate(tokens)
        ]
        made = [scored(row, float(t == 1)) for row, t in zip(rows, tokens, strict=True)]
        learner.step(lambda made=made: made, plan, Progress(step=number, total_steps=1000))  # type: ignore[misc]
    return learner


def reached(learner: Learner) -> float:
    return float(learner.family.modules()["table"].weight[0].detach().softmax(-1)[1])


@pytest.mark.parametrize("advantage", ["reinforce_pp", "rloo"])
def test_the_price_of_distance_keeps_the_policy_near_its_reference(advantage: str) -> None:
    """The optimum of reward - KL is the reference times exp(reward); without the price probability goes to 1."""
    start = TableFamily().table.weight[0].detach().softmax(-1)
    tilted = start * torch.exp(torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))
    best = float((tilted / tilted.sum())[1])
    free = reached(trained({}, 25, advantage=advantage))
    held = reached(trained({"kl": {"kind": "kl_in_reward", "coef": 1.0}}, 25, advantage=advantage))
    assert free > 0.9
    assert held == pytest.approx(best, abs=0.12)
    assert float(start[1]) < best < 0.5


def test_the_controller_and_the_moving_baseline_go_on_after_a_resume() -> None:
    def learner(steps: int) -> Learner:
        return trained(
            {"kl": {"kind": "kl_in_reward", "coef": 0.1, "target": 0.01, "horizon": 100}},
            steps,
            advantage="ema",
        )

    first = learner(5)
    state = first.state()
    assert set(state["parts"]) == {"advantage", "shape.kl"}  # type: ignore[call-overload]
    again = learner(0)
    again.restore(state)
    assert again.parts["shape.kl"].state() == first.parts["shape.kl"].state() != {}
    assert again.parts["advantage"].state() == first.parts["advantage"].state()
    buffer = io.BytesIO()
    torch.save(state["parts"], buffer)  # plain data: a checkpoint can hold it
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == state["parts"]


def moved(token_budget: int) -> torch.Tensor:
    """The table after one step of two mini-batches on rollouts of several lengths."""
    family = TableFamily()
    plan = recipe(
        algo={
            "shape": {
                "kl": {"kind": "kl_in_reward", "coef": 0.5},
                "long": {"kind": "soft_overlong", "max_length": 3, "buffer": 2},
                "length": {"kind": "length_penalty"},
            },
            "advantage": {"kind": "reinforce_pp", "gamma": 0.9},
        },
        token_budget=token_budget,
        minibatches_per_step=2,
    )
    learner = Learner(family, plan, exact=False)
    with torch.no_grad():  # away from the reference, which is the policy at the start
        family.table.weight += 0.3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(7))
    made = [
        scored(trajectory([(i + k) % 5 for k in range(1 + i % 3)], id=f"{i}", group=f"{i // 3}"), i / 6)
        for i in range(6)
    ]
    learner.step(lambda: made, plan, Progress(step=1, total_steps=10))
    return family.table.weight.detach()


def test_shapes_do_not_depend_on_the_micro_batches() -> None:
    whole = moved(1 << 30)
    assert torch.allclose(moved(4), whole, atol=1e-6)  # a rollout each
    assert torch.allclose(moved(9), whole, atol=1e-6)


def test_a_reference_may_price_rewards_and_be_compared_with_in_full() -> None:
    """A whole distribution is too large to be kept for a step; the log-probs that rewards need are not."""
    family = TableFamily()
    plan = recipe(
        algo={
            "shape": {"kl": {"kind": "kl_in_reward", "coef": 0.5}},
            "terms": {"policy": {"kind": "reinforce"}, "kl": {"kind": "kl", "form": "full", "coef": 0.1}},
        }
    )
    learner = Learner(family, plan, exact=True)
    assert learner.views.passes == 2
    made = [scored(trajectory([i], id=f"{i}", family=family), float(i)) for i in (1, 2)]
    report = learner.step(lambda: made, plan, Progress(step=1, total_steps=10))
    assert {"reward/kl", "reward/kl_coef", "loss/kl"} <= {metric.name for metric in report.metrics}
