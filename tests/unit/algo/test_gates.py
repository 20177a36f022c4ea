"""Gates, draws, distillation and SRFT's credit on hand-made steps: who is trained, with what factor, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from triune.algo.adjust.gate_draw import GateDraw, GradNormProbe
from triune.algo.options import ADJUSTMENTS, ADVANTAGES
from triune.algo.step import Step
from triune.algo.types import Credit, Evaluated
from triune.core.schedule import Linear, Progress
from triune.core.trajectory import Trajectory
from triune.monitor.metric import Metric, scalar
from triune.testing.table import batch_of, scored, trajectory

NOW = Progress(step=1, total_steps=10)
DEMO: dict[str, Any] = {"forced": True, "component": "expert"}


def step_of(
    rows: Sequence[tuple[Trajectory, float | None]], views: dict[str, Evaluated] | None = None, step: int = 1
) -> Step:
    """Rewards of 1 are correct."""
    many, totals = [row for row, _ in rows], [reward for _, reward in rows]
    batch, rewards = batch_of(many, totals)
    rewards.correct = torch.where(torch.isnan(rewards.total), rewards.total, (rewards.total == 1).double())
    credit = ADVANTAGES["group"]()(batch, rewards, {})
    done = [scored(row, reward) for row, reward in rows]
    return Step(batch, done, rewards, views or {}, Progress(step=step, total_steps=100), credit)


def group(name: str, rewards: Sequence[float | None], *shown: str, source: str = "source") -> list[Any]:
    where = {"group": name, "sample": name, "source": source}
    own = [(trajectory([1, 2], id=f"{name}{i}", **where), r) for i, r in enumerate(rewards)]
    return own + [
        (trajectory([1, 2, 3], id=f"{name} {kind}", forced=True, component=kind, **where), 1.0)
        for kind in shown
    ]


def fates(step: Step) -> dict[str, str]:
    """Why each row left the loss; '' for those that are in it."""
    assert step.credit is not None
    facts = zip(step.batch.trajectories, step.credit.in_loss, step.credit.reasons, strict=True)
    return {row.id: "" if live else why for row, live, why in facts}


def shares(metrics: Sequence[Metric], source: str = "source") -> dict[str, float]:
    return {
        m.label("mode"): m.mean for m in metrics if m.name == "gate/share" and m.label("source") == source
    }


def test_a_switch_imitates_where_nothing_is_solved_and_says_so_per_source() -> None:
    rows = [*group("a", [0, 0], "expert"), *group("b", [1, 0], "expert"), *group("c", [0, 0], source="bare")]
    rows += group("d", [None, None], "expert", source="lost")
    step = step_of(rows)
    metrics = ADJUSTMENTS["gate_switch"]()(step)
    assert fates(step) == {
        "a0": "gated", "a1": "gated", "a expert": "", "b0": "", "b1": "", "b expert": "gated",
        "c0": "", "c1": "", "d0": "abstained", "d1": "abstained", "d expert": "gated",
    }  # fmt: skip
    assert step.credit is not None
    assert step.credit.in_baseline.tolist() == [True, True, False] * 2 + [True, True] + [False] * 3
    everything = {"sft": 0.0, "rl": 0.0, "undemonstrated": 0.0, "unjudged": 0.0}
    assert shares(metrics) == everything | {"sft": 0.5, "rl": 0.5}
    assert shares(metrics, "bare") == everything | {"undemonstrated": 1.0}
    assert shares(metrics, "lost") == everything | {"unjudged": 1.0}
    (solved,) = [m for m in metrics if m.name == "gate/correct"]
    assert (solved.label("source"), solved.mean) == ("source", 0.5)


@pytest.mark.parametrize(
    ("solved", "trained"), [(0, "expert"), (1, "expert"), (2, "off_policy"), (3, "off_policy"), (4, "")]
)
def test_a_band_uses_the_demonstration_as_off_policy_reinforcement(solved: int, trained: str) -> None:
    rows = group("a", [1.0] * solved + [0.0] * (4 - solved), "expert", "off_policy")
    step = step_of(rows)
    ADJUSTMENTS["gate_switch"](at_most=1, off_at_most=3)(step)
    kept = {id.removeprefix("a ").rstrip("0123") for id, why in fates(step).items() if not why}
    assert kept == {trained or "a"}


def test_what_counts_is_declared() -> None:
    for counts, why in (("policy", "gated"), ("all", "")):
        step = step_of(group("a", [0, 0], "expert"))
        ADJUSTMENTS["gate_switch"](counts=counts)(step)
        assert fates(step)["a0"] == why
    # A demonstration that is placed for two components is one answer.
    step = step_of(group("a", [0, 0], "expert", "off_policy"))
    metrics = ADJUSTMENTS["gate_soft"]()(step)
    nothing = {"2": 0.0, "3": 0.0, "4": 0.0, "5": 0.0, "undemonstrated": 0.0, "unjudged": 0.0}
    assert shares(metrics) == {"1": 1.0, **nothing}


def test_an_episode_in_several_rows_is_one_answer() -> None:
    parts = [
        (trajectory([1], id=f"e/{n}", episode="e", step_offset=n, group="a", sample="a"), 1.0)
        for n in range(3)
    ]
    step = step_of([*parts, *group("a", [0], "expert")])
    metrics = ADJUSTMENTS["gate_switch"](at_most=1)(step)
    assert {m.name: m.mean for m in metrics}["gate/correct"] == 1.0
    assert fates(step)["e/2"] == "gated"


@pytest.mark.parametrize(
    ("solved", "factors"),
    [
        (0, (0, 1, 1)),
        (1, (0.125, 1, 0.5)),
        (2, (0.25, 1, 0.25)),
        (3, (0.5, 1, 0.125)),
        (4, (1, 1, 0)),
        (7, (1, 1, 0)),
    ],
)
def test_soft_factors_follow_the_table(solved: int, factors: tuple[float, float, float]) -> None:
    step = step_of(group("a", [1.0] * solved + [0.0] * (8 - solved), "expert", "off_policy"))
    ADJUSTMENTS["gate_soft"]()(step)
    credit = step.credit
    assert credit is not None
    scale = torch.ones(len(credit.advantage)) if credit.scale is None else credit.scale
    live = credit.in_loss[step.batch.trajectory]
    by_component = {
        name: (scale * live)[step.batch.component == i].unique().tolist()
        for i, name in enumerate(step.batch.components)
    }
    assert by_component == {"policy": [factors[0]], "off_policy": [factors[1]], "expert": [factors[2]]}


def test_ahpo_adds_imitation_and_can_share_a_normaliser() -> None:
    step = step_of([*group("a", [1, 0, 0], "expert"), *group("b", [1, 1, 0], "expert")])
    metrics = ADJUSTMENTS["gate_below"](below=2)(step)
    assert {id for id, why in fates(step).items() if why} == {"b expert"}
    assert shares(metrics) == {"both": 0.5, "rl": 0.5, "undemonstrated": 0.0, "unjudged": 0.0}
    assert step.credit is not None
    assert step.credit.scale is None
    step = step_of([*group("a", [1, 0, 0], "expert"), *group("b", [1, 1, 0], "expert")])
    ADJUSTMENTS["gate_below"](below=2, shared_z=True)(step)
    assert step.credit is not None
    assert step.credit.scale is not None
    # Group a: 3 rollouts of 2 tokens and a demonstration of 3 share 9.
    assert step.credit.scale.tolist() == pytest.approx([6 / 9] * 6 + [3 / 9] * 3 + [1.0] * 9)
    with pytest.raises(ValidationError, match="below"):
        ADJUSTMENTS["gate_below"]()


def test_one_normaliser_is_one_mean_over_both_kinds_of_tokens() -> None:
    from triune.algo.objective import Objective

    rows = group("a", [1, 0, 0], "expert")
    step = step_of(rows)
    ADJUSTMENTS["gate_below"](below=2, shared_z=True)(step)
    assert step.credit is not None
    logp = torch.linspace(-3, -0.1, step.batch.num_decisions, dtype=torch.float64)
    terms = {"policy": {"kind": "reinforce"}, "expert": {"kind": "imitation"}}
    objective = Objective.of(terms, aggregate="group-token-mean")
    view = {"old": Evaluated(logp)}
    total = objective.whole(step.batch, step.credit, Evaluated(logp), view, step.rewards).total
    worth = torch.where(step.batch.sampled, step.credit.advantage, 1.0)
    assert float(total) == pytest.approx(float(-(worth * logp).mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gate_switch", {"at_most": 3, "off_at_most": 2}, "the band is empty"),
        ("gate_soft", {"table": [(2, 1, 1, 1), (1, 1, 1, 1)]}, "must rise"),
        ("gate_draw", {"gamma": 1.0}, "warmup"),
        ("gate_draw", {"warmup": 1}, "gamma"),
        ("distill", {}, "beta"),
    ],
)
def test_what_no_source_states_or_makes_no_sense(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADJUSTMENTS[kind].model_validate(options)


# -- SASR --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "warm", "gamma", "p"),
    [(1, 1, 1, 0.5), (0.1, 1, 1, 1 / 11), (1, 1, 3, 0.25), (0, 1, 1, 0), (0, 0, 1, 0)],
)
def test_the_probability_of_imitation(last: float, warm: float, gamma: float, p: float) -> None:
    probe = GradNormProbe()
    assert probe.probability(gamma) == 1.0
    probe.see(warm, warming=True)
    probe.see(last, warming=False)
    probe.see(float("nan"), warming=False)
    assert probe.probability(gamma) == pytest.approx(p)


def test_the_probability_falls_while_a_network_learns_its_demonstrations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(6, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 6)).double()
    x, y = torch.arange(6), torch.tensor([1, 2, 3, 4, 5, 0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe, seen = GradNormProbe(), []
    for step in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        norm = float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())
        probe.see(norm, warming=step == 20)
        optimizer.step()
        if step >= 20 and step % 20 == 0:
            seen.append(probe.probability(1.0))
    assert seen[0] == 0.5
    assert seen[-1] < 0.5 * seen[0]
    late = seen[len(seen) // 2 :]
    assert all(b < a for a, b in pairwise(late))


def drawn(gate: GateDraw, step: int) -> tuple[dict[str, str], list[Metric]]:
    made = step_of(group("a", [1, 0], "expert"), step=step)
    metrics = gate(made)
    return fates(made), metrics


def test_a_step_is_all_imitation_or_all_reinforcement_as_often_as_it_should() -> None:
    gate = GateDraw(gamma=1.0, warmup=2)
    imitation = {"a0": "gated", "a1": "gated", "a expert": ""}
    for step, norm in ((1, 8.0), (2, 4.0)):
        found, metrics = drawn(gate, step)
        assert found == imitation
        assert {m.name: m.mean for m in metrics}["gate/probability"] == 1.0
        gate.observe([scalar("grad_norm", norm, module="all"), scalar("grad_norm", 99.0, module="language")])
    assert gate.state() == {"warm": 4.0, "last": 4.0}
    gate.restore({"warm": 4.0, "last": 1.0})
    assert gate.probability(3) == pytest.approx(0.2)
    count = sum(gate.imitates(step) for step in range(3, 1003))
    assert abs(count - 200) < 3 * (1000 * 0.2 * 0.8) ** 0.5
    again = GateDraw(gamma=1.0, warmup=2)
    again.restore(gate.state())
    assert [again.imitates(s) for s in range(3, 50)] == [gate.imitates(s) for s in range(3, 50)]
    other = GateDraw(gamma=1.0, warmup=2, seed=1)
    other.restore(gate.state())
    assert [other.imitates(s) for s in range(3, 50)] != [gate.imitates(s) for s in range(3, 50)]


def test_only_steps_of_imitation_are_measured() -> None:
    gate = GateDraw(gamma=1.0, warmup=1, clip=3.0)
    drawn(gate, 1)
    gate.observe([scalar("grad_norm", 10.0, module="all")])
    assert gate.state() == {"warm": 3.0, "last": 3.0}
    gate.restore({"warm": 3.0, "last": 0.0})  # p = 0: every step reinforces
    found, _ = drawn(gate, 2)
    assert found == {"a0": "", "a1": "", "a expert": "gated"}
    gate.observe([scalar("grad_norm", 2.0, module="all")])
    assert gate.state() == {"warm": 3.0, "last": 0.0}


# -- distillation ------------------------------------------------------------------------------------------------------


def taught(rows: Sequence[Any], gap: float = 0.5, step: int = 1, **options: Any) -> Credit:
    made = step_of(rows, step=step)
    old = torch.full((made.batch.num_decisions,), -1.0)
    old[~made.batch.sampled] = float("-inf")
    made.views = {"old": Evaluated(old), "teacher": Evaluated(old + gap)}
    assert made.credit is not None
    made.credit.advantage = torch.where(made.batch.sampled, 1.0, 0.0)
    ADJUSTMENTS["distill"](**{"beta": 0.1, **options})(made)
    return made.credit


def test_a_teacher_adds_to_what_was_sampled_alone() -> None:
    rows = group("a", [1, 0], "expert")
    assert taught(rows).advantage.tolist() == pytest.approx([1.05] * 4 + [0.0] * 3)
    assert taught(rows, replace=True).advantage.tolist() == pytest.approx([0.05] * 4 + [0.0] * 3)
    assert taught(rows, gap=50.0, bound=2.0).advantage.tolist() == pytest.approx([1.2] * 4 + [0.0] * 3)
    assert taught(rows, on="failed").advantage.tolist() == pytest.approx([1.0] * 2 + [1.05] * 2 + [0.0] * 3)
    mixed = [*rows, *group("b", [0, 0], "expert")]
    found = taught(mixed, on="failed_groups").advantage.tolist()
    assert found == pytest.approx([1.0] * 4 + [0.0] * 3 + [1.05] * 4 + [0.0] * 3)
    falling = Linear(start=0.2, end=0.0)
    assert taught(rows, step=50, beta=falling).advantage.tolist() == pytest.approx([1.05] * 4 + [0.0] * 3)


def test_the_end_of_a_turn_can_be_left_to_the_policy() -> None:
    turns = trajectory([1, 2, 3, 4], id="t", turn=[0, 0, 1, 1], group="a", sample="a")
    cut = trajectory(
        [1, 2], id="c", group="a", sample="a", truncated=True, terminated=False, ending="overlong_turn"
    )
    found = taught([(turns, 0.0), (cut, 0.0)], ends=False).advantage.tolist()
    assert found == pytest.approx([1.05, 1.0, 1.05, 1.0, 1.05, 1.05])


def test_a_distilled_advantage_has_the_gradient_of_the_divergence_from_the_teacher() -> None:
    """E[(log pi - log pi_T) grad log pi] over all outcomes, at three logits: KDRL without reward is the reverse KL."""
    logits = torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64).log()
    logp = logits.log_softmax(0)
    divergence = (logp.exp() * (logp - teacher)).sum()
    (expected,) = torch.autograd.grad(divergence, logits, retain_graph=True)
    rows = [(trajectory([i], id=f"{i}"), 0.0) for i in range(3)]
    made = step_of(rows, {"old": Evaluated(logp.detach()), "teacher": Evaluated(teacher)})
    ADJUSTMENTS["distill"](beta=1.0, replace=True)(made)
    assert made.credit is not None
    surrogate = -(logp.exp().detach() * made.credit.advantage * logp).sum()
    (found,) = torch.autograd.grad(surrogate, logits)
    assert torch.allclose(found, expected, atol=1e-9)


# -- SRFT --------------------------------------------------------------------------------------------------------------


def test_successes_count_more_the_more_undecided_the_policy_is() -> None:
    rows = group("a", [1, 0, None], "expert")
    entropy = torch.tensor([0.2, 0.6, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    made = step_of(rows, {"old": Evaluated(torch.zeros(9), entropy)})
    ADJUSTMENTS["srft"]()(made)
    assert made.credit is not None
    worth = 0.1 * float(torch.tensor(0.4).exp())
    assert made.credit.advantage.tolist() == pytest.approx([worth] * 2 + [-1.0] * 2 + [0.0] * 5)
    assert fates(made) == {"a0": "", "a1": "", "a2": "abstained", "a expert": ""}
