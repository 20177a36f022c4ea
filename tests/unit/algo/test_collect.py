"""What a step is made of: which groups are trained on, what is replayed, which prompts are passed over, and what is said of
the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from triune.algo.collect.difficulty import Difficulty, PassRate
from triune.algo.collect.dynamic_sampling import DynamicSampling
from triune.algo.collect.replay import LAG, Replay
from triune.core.errors import DataError, RecipeError
from triune.core.sample import Check, Message, Sample, Text
from triune.core.schedule import Linear, Progress
from triune.core.trajectory import SamplingRule
from triune.core.verdict import Component, Outcome, Verdict
from triune.monitor.metric import Metric, Scored, merge
from triune.monitor.source import rollout_metrics
from triune.rollout.generator import Demand
from triune.testing.table import TableFamily, recipe, trajectory
from triune.train.learner import Learner
from triune.train.update import Report

TOTAL = 100


def at(step: int) -> Progress:
    return Progress(step=step, total_steps=TOTAL)


def row(
    prompt: str,
    rank: int,
    value: float | None,
    *,
    ids: Sequence[int] = (1, 2),
    source: str = "s",
    version: int = 0,
    length: int | None = None,
    **fields: Any,
) -> Scored:
    """One judged rollout of a prompt; a value of 1 is correct."""
    message = Message(role="user", content=(Text(text=f"what of {prompt}?"),))
    sample = Sample(
        id=prompt,
        source=source,
        task="t",
        messages=(message,),
        checks=(Check(verifier="x"),),
        meta={"rate": 0.5},
    )
    given = {
        "id": f"{prompt}#{rank}/{version}",
        "group": prompt,
        "sample": prompt,
        "source": source,
        "rank": rank,
        "version": version,
        "family": TableFamily(),
    } | fields
    made = trajectory(ids, **given)
    status = "ok" if value is not None else "unavailable"
    correct = None if value is None else value >= 1
    part = Component(name="x", value=value, weight=1.0, status=status, correct=correct, main=True)
    verdict = Verdict(id=made.id, reward=value, components=(part,), correct=correct)
    outcome = Outcome(id=made.id, num_tokens=len(ids) if length is None else length, rank=rank)
    return Scored(sample, made, outcome, verdict)


def group(prompt: str, values: Sequence[float | None], **fields: Any) -> list[Scored]:
    return [row(prompt, i, v, ids=[(i + k) % 5 for k in range(3)], **fields) for i, v in enumerate(values)]


def batches(*given: Sequence[Scored]) -> Callable[[], list[Scored]]:
    """A source that gives these batches in order."""
    left = list(given)
    return lambda: list(left.pop(0))


def count(metrics: Sequence[Metric], name: str, **labels: str) -> float:
    return sum(
        m.total / (1 << 1074) for m in metrics if m.name == name and labels.items() <= dict(m.labels).items()
    )


def prompts(rows: Sequence[Scored]) -> list[str]:
    return list(dict.fromkeys(one.sample.id for one in rows))


def learner(collect: dict[str, Any], exact: bool = True, **options: Any) -> Learner:
    algo = {"collect": collect, **options.pop("algo", {})}
    return Learner(TableFamily(), recipe(algo=algo, total_steps=TOTAL, **options), exact)


def step(one: Learner, plan: Any, number: int, *given: Sequence[Scored]) -> Report:
    return one.step(batches(*given), plan, at(number))


def run(collect: dict[str, Any], *given: Sequence[Scored], **options: Any) -> tuple[Learner, Report]:
    exact = options.pop("exact", True)
    plan = recipe(algo={"collect": collect, **options.pop("algo", {})}, total_steps=TOTAL, **options)
    one = Learner(TableFamily(), plan, exact)
    return one, step(one, plan, 1, *given)


def weights(one: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for m in one.family.modules().values() for p in m.parameters()])


DYNAMIC = {"dynamic": {"kind": "dynamic_sampling"}}


# -- dynamic sampling ----------------------------------------------------------------------------------------------


def test_a_step_is_filled_up_with_groups_that_differ() -> None:
    part = DynamicSampling()
    more = batches(
        group("c", [1, 1], source="b") + group("d", [0, 1], source="b"),
        group("e", [1, 0]) + group("f", [0, 1]),
    )
    kept, said = part.select(group("a", [0, 0]) + group("b", [0, 1]) + group("x", [0.5, 0.5]), more, at(1))
    assert prompts(kept) == ["b", "d", "e"]
    assert count(said, "dynamic_sampling/batches") == 3
    assert count(said, "dynamic_sampling/groups_short") == 0
    assert count(said, "dynamic_sampling/drawn", source="s") == 5
    assert count(said, "dynamic_sampling/drawn", source="b") == 2
    assert count(said, "dynamic_sampling/kept", source="s") == 2
    for cause, source, number in [("all_wrong", "s", 2), ("all_right", "b", 1), ("surplus", "s", 1)]:
        assert count(said, "dynamic_sampling/dropped", source=source, reason=cause) == number
    assert count(said, "dynamic_sampling/dropped") == 4


def test_the_bound_is_kept_and_the_step_goes_on_with_what_there_is() -> None:
    given = [group("a", [0, 1]) + group("b", [1, 1]), group("c", [0, 0]) + group("d", [0, 0])]
    source = batches(*given, [])
    kept, said = DynamicSampling(max_batches=2).select(source(), source, at(1))
    assert prompts(kept) == ["a"]
    assert count(said, "dynamic_sampling/groups_short") == 1
    assert source() == []  # not asked a third time
    padded, said = DynamicSampling(max_batches=1, pad=True).select(given[0], batches(), at(1))
    assert prompts(padded) == ["a", "b"]
    assert count(said, "dynamic_sampling/padded") == 1


@pytest.mark.parametrize(
    ("values", "options", "cause"),
    [
        ([1.0], {}, ""),  # nothing to compare with: as in verl
        ([None, None], {}, "abstained"),
        ([1.0, None], {}, "abstained"),  # seven of eight lost: no baseline either
        ([1.0, 0.0, None], {}, ""),
        ([0.1 + 0.2, 0.3], {}, "all_wrong"),  # one rounding apart
        ([0.01, 0.01], {"band": (0.01, 0.99)}, "too_hard"),
        ([0.5, 0.5], {"band": (0.01, 0.99)}, ""),
        ([1.0, 0.99], {"band": (0.01, 0.99)}, "too_easy"),
        ([0.0, 1.0], {"metric": "x"}, ""),
        ([0.0, 1.0], {"metric": "reward"}, ""),
    ],
)
def test_why_a_group_teaches_nothing(values: list[float | None], options: dict[str, Any], cause: str) -> None:
    assert DynamicSampling(**options).cause(group("a", values)) == cause


def test_a_metric_that_no_verdict_has_is_named() -> None:
    with pytest.raises(
        RecipeError, match=r"metric 'acc' of source 's' does not exist; it has accuracy, reward, x"
    ):
        DynamicSampling(metric="acc").cause(group("a", [0, 1]))


def test_demonstrations_are_neither_compared_nor_lost() -> None:
    shown = row("a", 9, 1.0, forced=True, component="imitation", id="a#shown")
    part = DynamicSampling(max_batches=1)
    assert part.cause([*group("a", [0, 0]), shown]) == "all_wrong"
    alone = row("b", 9, 1.0, forced=True, component="imitation", id="b#shown")
    kept, said = part.select([*group("a", [0, 1]), shown, alone], batches(), at(1))
    assert kept[-2:] == [shown, alone]
    assert count(said, "dynamic_sampling/drawn") == 1  # what nothing was drawn for is no group to compare


def test_failed_worlds_are_not_compared() -> None:
    lost = [
        replace(o, trajectory=o.trajectory.model_copy(update={"ending": "env_error"}))
        for o in group("a", [1, 1])
    ]
    assert DynamicSampling().cause([*group("a", [0, 0]), *lost]) == "all_wrong"


@pytest.mark.parametrize("minibatches", [1, 2])
def test_what_is_kept_is_trained_as_if_it_had_been_drawn_alone(minibatches: int) -> None:
    kept = [group("b", [0, 1]), group("d", [1, 0, 0]), group("e", [1, 0])]
    dull = [group("a", [0, 0]), group("c", [1, 1])]
    options = {"minibatches_per_step": minibatches}
    one, _ = run(DYNAMIC, dull[0] + kept[0] + dull[1], kept[1] + kept[2], **options)
    other, _ = run({}, kept[0] + kept[1] + kept[2], **options)
    assert torch.equal(weights(one), weights(other))


def test_fewer_groups_than_mini_batches_are_still_averaged_right() -> None:
    given = group("a", [0, 1]) + group("b", [0, 0]) + group("c", [1, 1]) + group("d", [0, 0])
    collect = {"dynamic": {"kind": "dynamic_sampling", "max_batches": 1}}
    one, report = run(collect, given, minibatches_per_step=4)
    other, _ = run({}, group("a", [0, 1]))
    assert torch.equal(weights(one), weights(other))
    assert count(report.metrics, "dynamic_sampling/groups_short") == 3


def test_dropped_groups_stay_in_the_monitors_eyes() -> None:
    """Right answers are 4 of 8 among all, 1 of 2 among those that are trained."""
    given = group("a", [1, 1, 1]) + group("b", [0, 1]) + group("c", [0, 0, None])
    _, report = run({"dynamic": {"kind": "dynamic_sampling", "max_batches": 1}}, given)
    found = {m.name: m for m in merge(rollout_metrics(report.scored), by=())}
    assert (found["correct"].count, found["correct"].mean) == (7, 4 / 7)
    assert found["frac_reward_zero_std"].mean == pytest.approx(2 / 3)
    fate = {
        o.trajectory.id: (o.in_loss, o.in_baseline, o.reason, a)
        for o, a in zip(report.scored, report.advantages, strict=True)
    }
    assert len(fate) == 8
    assert fate["a#0/0"] == (False, True, "dynamic", None)
    assert fate["c#2/0"] == (False, False, "dynamic", None)
    assert fate["b#1/0"][:3] == (True, True, "")
    assert fate["b#1/0"][3] > 0


def test_a_step_without_any_signal_changes_nothing() -> None:
    before = weights(learner({}))
    one, report = run(
        {"dynamic": {"kind": "dynamic_sampling", "max_batches": 2}}, group("a", [1, 1]), group("b", [0, 0])
    )
    assert torch.equal(weights(one), before)
    assert [o.reason for o in report.scored] == ["dynamic"] * 4
    assert not one.optimizer.adamw.state


def test_what_is_drawn_later_has_been_through_the_collectors_before() -> None:
    """A refilled group is repaired by replay, too, and then differs."""
    collect = {"replay": {"kind": "replay"}, **DYNAMIC}
    plan = recipe(algo={"collect": collect}, total_steps=TOTAL)
    one = Learner(TableFamily(), plan, True)
    step(one, plan, 1, group("a", [0, 1]))
    report = step(one, plan, 2, group("b", [0, 0], version=1), group("a", [0, 0], version=1))
    trained = [o for o, a in zip(report.scored, report.advantages, strict=True) if a is not None]
    assert [o.trajectory.id for o in trained] == ["a#1/1", "a#0/1@0"]


# -- replay of successes -------------------------------------------------------------------------------------------


def stored(values: Sequence[float], prompt: str = "a", **options: Any) -> Replay:
    """A buffer after a step with these rollouts of one prompt."""
    part = Replay(**options)
    part.select(group(prompt, values), batches(), at(1))
    return part


def test_one_success_in_a_group_of_eight_failures() -> None:
    """The case of the design: with the population's std, sqrt(7) for the success and -0.378 for the others."""
    plan = recipe(
        algo={"collect": {"replay": {"kind": "replay"}}, "advantage": {"kind": "group", "ddof": 0}},
        total_steps=TOTAL,
    )
    one = Learner(TableFamily(), plan, True)
    failed = step(one, plan, 1, group("a", [0] * 7 + [0]))
    assert failed.advantages == [0.0] * 8
    step(one, plan, 2, group("a", [0] * 7 + [1], version=1))
    report = step(one, plan, 3, group("a", [0] * 8, version=2))
    advantages = dict(zip([o.trajectory.id for o in report.scored], report.advantages, strict=True))
    assert advantages.pop("a#0/2@1") == pytest.approx(math.sqrt(7), abs=1e-4)
    assert advantages.pop("a#0/2") is None  # gave way: all failures are of one length
    assert list(advantages.values()) == pytest.approx([-0.378] * 7, abs=1e-3)


def test_with_nothing_stored_gradients_are_those_without_replay() -> None:
    given = group("a", [0, 0, 0]) + group("b", [0, 1, 0])
    one, report = run({"replay": {"kind": "replay"}}, given)
    other, plain = run({}, given)
    assert torch.equal(weights(one), weights(other))
    assert [replace(o) for o in report.scored] == plain.scored
    assert count(report.metrics, "replay/failed_groups") == 1
    assert count(report.metrics, "replay/stored") == 1
    assert count(report.metrics, "replay/injected") == 0


@pytest.mark.parametrize(
    ("values", "repaired"),
    [([0, 0, 0], True), ([0.19, 0.19], True), ([0.2, 0.2], False), ([0, 0.2], False), ([0, 0, None], True), ([None], False)],
)  # fmt: skip
def test_only_groups_that_failed_are_repaired(values: list[float | None], repaired: bool) -> None:
    part = stored([1, 0])
    kept, said = part.select(group("a", values, version=1), batches(), at(2))
    assert len(kept) == len(values)
    assert count(said, "replay/injected") == repaired
    assert [LAG in o.trajectory.resolved for o in kept] == [False] * (len(values) - 1) + [repaired]


def test_the_longest_failure_gives_way() -> None:
    part = stored([1, 0])
    rows = [row("a", i, 0.0, length=n, version=1) for i, n in enumerate([3, 9, 9, 2])]
    kept, _ = part.select(rows, batches(), at(2))
    assert [o.trajectory.rank for o in kept] == [0, 2, 3, 1]
    chosen = set()
    for number in range(2, 40):
        part = stored([1, 0], replace="random")
        kept, _ = part.select(rows, batches(), at(number))
        chosen.add(kept[-1].trajectory.rank)
    assert chosen == {0, 1, 2, 3}


def test_a_replayed_row_takes_the_place_of_another_of_the_group() -> None:
    part = stored([0, 1])
    again = [
        replace(o, sample=o.sample.model_copy(update={"id": "a~2"}), trajectory=o.trajectory.model_copy(update={"group": "a~2"}))
        for o in group("a", [0, 0], version=4)
    ]  # fmt: skip
    kept, said = part.select(again, batches(), at(5))
    row = kept[-1]
    assert row.trajectory.id == row.outcome.id == row.verdict.id == "a#0/4@0"
    assert (row.trajectory.group, row.trajectory.sample, row.sample.id) == ("a~2", "a~2", "a~2")
    assert row.verdict.reward == 1
    assert row.trajectory.resolved[LAG] == 4
    assert count(said, "replay/lag", source="s") == 4


def test_a_prompt_that_comes_twice_in_a_step_is_helped_twice() -> None:
    part = stored([1, 0])
    twice = group("a", [0, 0], version=1)
    twice += [
        replace(
            o,
            sample=o.sample.model_copy(update={"id": "a~2"}),
            trajectory=o.trajectory.model_copy(update={"group": "a~2", "id": f"a~2#{o.trajectory.rank}/1"}),
        )
        for o in twice
    ]
    kept, said = part.select(twice, batches(), at(2))
    assert count(said, "replay/injected") == 2
    assert len({o.trajectory.id for o in kept}) == 4


def test_the_buffer_is_first_in_first_out_and_bounded() -> None:
    part = stored([1, 1, 1, 0], capacity=2)
    _, said = part.select(group("b", [1, 1]), batches(), at(2))
    assert count(said, "replay/size", source="s") == 4
    _, said = part.select(group("a", [1], version=2), batches(), at(3))
    assert count(said, "replay/evicted", reason="capacity") == 1
    assert [e["version"] for e in part.state()["entries"]["s\x1fa"]] == [0, 2]
    bounded = stored([1, 1, 1], total=2)
    assert sum(map(len, bounded.state()["entries"].values())) == 2


def test_the_old_is_dropped_by_its_lag() -> None:
    part = stored([1, 0], max_lag=3)
    kept, said = part.select(group("a", [0, 0], version=3), batches(), at(4))
    assert count(said, "replay/injected") == 1
    kept, said = part.select(group("a", [0, 0], version=4), batches(), at(5))
    assert count(said, "replay/evicted", reason="stale") == 1
    assert not any(LAG in o.trajectory.resolved for o in kept)


def test_a_success_on_another_prompt_is_no_success() -> None:
    """The same id over another question: an edited file, a source that numbers its rows anew."""
    part = stored([1, 0])
    other = Message(role="user", content=(Text(text="something else"),))
    asked = [
        replace(o, sample=o.sample.model_copy(update={"messages": (other,)})) for o in group("a", [0, 0])
    ]
    kept, said = part.select(asked, batches(), at(2))
    assert not any(LAG in o.trajectory.resolved for o in kept)
    assert count(said, "replay/evicted", reason="changed") == 1


def test_what_cannot_be_replayed_is_counted() -> None:
    part = Replay()
    pictured = row("a", 0, 1.0)
    payload = pictured.trajectory.payload.model_copy(update={"media": ("of a tool",)})
    pictured = replace(pictured, trajectory=pictured.trajectory.model_copy(update={"payload": payload}))
    cut = row("b", 0, 1.0, step_offset=1, episode="b")
    shown = row("c", 0, 1.0, forced=True, component="imitation")
    _, said = part.select([pictured, cut, shown], batches(), at(1))
    assert count(said, "replay/not_stored", reason="pictures") == 1
    assert count(said, "replay/not_stored", reason="fragment") == 1
    assert part.state() == {"entries": {}}


def test_a_success_that_a_hint_began_is_nobodys_pass_rate() -> None:
    hinted = row("a", 2, 1.0, ids=[1, 2, 3], forced=[True, False, False])
    part = Replay()
    part.select([*group("a", [0, 0]), hinted], batches(), at(1))
    assert part.state() == {"entries": {}}
    window = PassRate(max_batches=1)
    window.select([*group("a", [0, 0]), hinted], batches(), at(1))
    assert window.state() == {"rates": {"s\x1fa": 0.0}}
    # But what it teaches about its hint is a difference.
    assert DynamicSampling().cause([*group("a", [0, 0]), hinted]) == ""
    failed = replace(hinted, verdict=row("a", 2, 0.0).verdict)
    repaired, _ = stored([1, 0]).select([*group("a", [0, 0], version=1), failed], batches(), at(2))
    assert hinted.trajectory in [o.trajectory for o in repaired]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("how", ["stored_logprob_clip", "none"])
def test_the_ratio_of_a_replayed_row(how: str, exact: bool) -> None:
    """Against who drew it, or 1 as in ARPO's release; whatever the engine."""
    plan = recipe(algo={"collect": {"replay": {"kind": "replay", "replay_is": how}}}, total_steps=TOTAL)
    one = Learner(TableFamily(), plan, exact)
    one.place([], Demand(2, SamplingRule(), 0, 0, at(1)))  # as the loop does in every batch
    step(one, plan, 1, group("a", [0, 1]))
    with torch.no_grad():
        one.family.table.weight += 0.5 * torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    rows = group("a", [0, 0], version=1, family=one.family)
    report = step(one, plan, 2, rows)
    (again,) = [o for o in report.scored if LAG in o.trajectory.resolved]
    drawn = group("a", [0, 1])[1].trajectory.decisions.logp
    (ratio,) = [m for m in merge(report.metrics, by=()) if m.name == "ratio"]
    if how == "none":
        assert not np.allclose(again.trajectory.decisions.logp, drawn)
        assert (ratio.min, ratio.max) == (pytest.approx(1, abs=1e-5), pytest.approx(1, abs=1e-5))
    else:
        assert np.array_equal(again.trajectory.decisions.logp, drawn)
        assert max(abs(math.log(ratio.min)), abs(math.log(ratio.max))) > 0.1
    # How engine and learner differ is not measured on what another policy drew.
    (gap,) = [m for m in merge(report.metrics, by=()) if m.name == "sampling/sampling_logp_difference"]
    assert (gap.count, gap.max) == (3, pytest.approx(0, abs=1e-5))


def test_replayed_rows_are_no_measure_of_the_policy() -> None:
    plan = recipe(algo={"collect": {"replay": {"kind": "replay"}}}, total_steps=TOTAL)
    one = Learner(TableFamily(), plan, True)
    step(one, plan, 1, group("a", [0, 1]))
    report = step(one, plan, 2, group("a", [0, 0, 0], version=1))
    assert [o.drawn for o in report.scored] == [True, True, False, True]
    assert report.scored[-1].reason == "replay"  # the failure that gave way
    found = {m.name: m for m in merge(rollout_metrics(report.scored), by=())}
    assert (found["correct"].count, found["correct"].mean) == (3, 0.0)
    assert found["frac_reward_zero_std"].mean == 1.0


def test_what_a_buffer_remembers_survives_a_checkpoint(tmp_path: Any) -> None:
    """Saved and loaded as checkpoints are, it does what it would have done."""
    plan = recipe(algo={"collect": {"replay": {"kind": "replay", "capacity": 3}}}, total_steps=TOTAL)
    given = [
        group(p, v, version=n)
        for n, (p, v) in enumerate([("a", [0, 1, 1]), ("b", [1, 0, 0]), ("a", [0, 0, 0])])
    ]
    whole, cut = (Learner(TableFamily(), plan, True) for _ in range(2))
    for number, rows in enumerate(given[:2], 1):
        step(whole, plan, number, rows)
    torch.save(whole.state(), tmp_path / "learner.pt")
    whole.family.save(tmp_path)
    cut.family.load(tmp_path)
    cut.restore(torch.load(tmp_path / "learner.pt", weights_only=True))
    reports = [step(one, plan, 3, given[2]) for one in (whole, cut)]
    assert any(LAG in o.trajectory.resolved for o in reports[0].scored)
    assert reports[0] == reports[1]
    assert torch.equal(weights(whole), weights(cut))
    assert whole.state()["parts"] == cut.state()["parts"]


# -- difficulty windows --------------------------------------------------------------------------------------------


def samples(rates: Sequence[Any], source: str = "s") -> list[Sample]:
    message = Message(role="user", content=(Text(text="?"),))
    given: dict[str, Any] = {
        "source": source,
        "task": "t",
        "messages": (message,),
        "checks": (Check(verifier="x"),),
    }
    return [
        Sample(id=f"{source}{i}", meta={} if rate is None else {"rate": rate}, **given)
        for i, rate in enumerate(rates)
    ]


def test_a_column_decides_which_prompts_are_worth_it() -> None:
    part = Difficulty(column="rate", low=0.2, high=0.8)
    kept = part.admit(samples([0.1, 0.2, 0.5, 0.8, 0.9]), at(1))
    assert [s.id for s in kept] == ["s1", "s2", "s3"]
    source = batches(group("late", [0, 1]), group("later", [0, 1]), group("latest", [0, 1]))
    rows, said = part.select([one for p in kept for one in group(p.id, [0, 1])], source, at(1))
    assert prompts(rows) == ["s1", "s2", "s3", "late", "later"]
    assert count(said, "difficulty/batches") == 3
    assert count(said, "difficulty/skipped", source="s", reason="below") == 1
    assert count(said, "difficulty/skipped", source="s", reason="above") == 1
    assert count(said, "difficulty/groups_short") == 0


def test_a_window_may_move_with_the_run() -> None:
    part = Difficulty(column="rate", low=Linear(start=1.0, end=0.0), high=1.0)
    assert len(part.admit(samples([0.0, 0.5, 0.95]), at(10))) == 1
    assert len(part.admit(samples([0.0, 0.5, 0.95]), at(60))) == 2
    assert len(part.admit(samples([0.0, 0.5, 0.95]), at(100))) == 3
    with pytest.raises(ValueError, match="no number is between"):
        Difficulty(column="rate", low=0.6, high=0.5)


def test_a_missing_number_is_an_error_unless_something_else_is_declared() -> None:
    with pytest.raises(DataError, match=r"sample 's1' of source 's': meta\['rate'\] is None"):
        Difficulty(column="rate").admit(samples([0.5, None]), at(1))
    with pytest.raises(DataError, match="is 'hard'"):
        Difficulty(column="rate", missing="skip").admit(samples(["hard"]), at(1))
    assert len(Difficulty(column="rate", missing="admit").admit(samples([0.5, None]), at(1))) == 2
    part = Difficulty(column="rate", missing="skip")
    assert len(part.admit(samples([0.5, None]), at(1))) == 1
    _, said = part.select(group("a", [0, 1]), batches([], [], [], [], [], [], [], [], []), at(1))
    assert count(said, "difficulty/skipped", reason="missing") == 1


def test_a_prompts_own_pass_rate_decides() -> None:
    part = PassRate(low=0.2, high=0.8, rate=0.5)
    (one,) = samples([None])
    assert part.admit([one], at(1)) == [one]  # never seen
    part.select(group("s0", [1, 1, 1, 1]), batches(), at(1))
    assert part.admit([one], at(2)) == []
    part.restore(part.state())
    assert part.state() == {"rates": {"s\x1fs0": 1.0}}
    part.select(group("s0", [0, 0, None, 0]), batches(*[[]] * 9), at(2))
    assert part.state()["rates"]["s\x1fs0"] == 0.5
    assert part.admit([one], at(3)) == [one]
    again = one.model_copy(update={"id": "s0~2"})  # the second time in one step
    part.select(group("s0", [0, 0]), batches(*[[]] * 9), at(3))
    part.select(group("s0", [0, 0]), batches(*[[]] * 9), at(4))
    assert part.admit([again], at(5)) == []


def test_a_prompt_outside_is_looked_at_again_now_and_then() -> None:
    part = PassRate(low=0.5, revisit=0.25, max_batches=1)
    (one,) = samples([None])
    part.select(group("s0", [0, 0]), batches(), at(1))
    seen = [bool(part.admit([one], Progress(step=n, total_steps=4000))) for n in range(1, 4001)]
    assert abs(sum(seen) - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75)
    assert seen == [bool(part.admit([one], Progress(step=n, total_steps=4000))) for n in range(1, 4001)]


def test_nothing_admitted_is_a_step_that_changes_nothing() -> None:
    before = weights(learner({}))
    collect = {"window": {"kind": "difficulty", "column": "rate", "low": 0.9, "max_batches": 3}}
    plan = recipe(algo={"collect": collect}, total_steps=TOTAL)
    one = Learner(TableFamily(), plan, True)
    drawn = []

    def source() -> list[Scored]:
        drawn.append(one.admit(samples([0.1, 0.2]), at(1)))
        return []

    report = one.step(source, plan, at(1))
    assert drawn == [[], [], []]
    assert torch.equal(weights(one), before)
    assert report.scored == []
    assert count(report.metrics, "difficulty/groups_short") == 2
    assert count(report.metrics, "difficulty/skipped", reason="below") == 6
