"""For each rule a run that raises it, and one that does not though it comes near."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from triune.evaluation.probes import drop_metrics
from triune.monitor.alarms import ALARMS, NOTED, Alarm, Note, read, rules
from triune.monitor.alarms.watch import history
from triune.monitor.metric import Metric, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.store import Store
from triune.testing.told import Told, answers, train

STEPS = 60
A, B = "counting/shapes", "ocr/words"


@dataclass(frozen=True)
class Story:
    """What happens in a run of two sources; what is not said is healthy."""

    a: Callable[[int], Told] = lambda step: Told()
    b: Callable[[int], Told] = lambda step: Told()
    scalars: Callable[[int], Sequence[Metric]] = lambda step: ()
    held_out: Mapping[int, Mapping[str, Told]] = field(default_factory=dict)
    blind: Mapping[int, Mapping[str, Told]] = field(default_factory=dict)
    samples: int = 64
    shares: Mapping[str, float] = field(default_factory=lambda: {A: 0.5, B: 0.5})
    steps: int = STEPS


def run(story: Story, run_dir: Path) -> tuple[list[Alarm], list[Note]]:
    with Monitor(run_dir, sinks=(), rollouts_every=0) as monitor:
        monitor.say("two sources", kind="sources", shares=dict(story.shares), prompts_per_step=2)
        for step in range(story.steps + 1):
            if step:
                told = {A: story.a(step), B: story.b(step)}
                train(
                    monitor,
                    step,
                    {name: one for name, one in told.items() if one.groups},
                    story.scalars(step),
                )
            if step in story.held_out:
                seen = answers(story.held_out[step], step, story.samples)
                monitor.log_step(step, "eval", seen)
            if step in story.blind:
                blind = answers(story.blind[step], step, story.samples)
                monitor.log_step(step, "eval-blind", blind, drop_metrics(seen, blind))
    with Store(run_dir, readonly=True) as store:
        return history(store, rules())


def rises(step: int, first: float, last: float, start: int = 10, end: int = 40) -> float:
    """A straight line between two steps, constant before and after."""
    return first + (last - first) * min(1.0, max(0.0, (step - start) / (end - start)))


def norms(vision: Callable[[int], float]) -> Callable[[int], list[Metric]]:
    """Gradient norms around the tower's, which differ by a half from step to step."""
    return lambda step: [
        scalar("grad_norm", (1 + step % 3 / 4) * vision(step), module="vision"),
        scalar("grad_norm/layer", (1 + step % 3 / 4) * vision(step), layer="vision.0"),
        scalar("grad_norm", 0.4 + step % 2 / 10, module="language"),
    ]


RAISED: dict[str, tuple[Story, tuple[str, str]]] = {
    "entropy_collapse": (Story(a=lambda step: Told(entropy=rises(step, 0.5, 0.01))), (A, "")),
    "failing_verifier": (Story(a=lambda step: Told(failed=0.1 if step > 30 else 0.0)), (A, "")),
    "constant_verifier": (Story(a=lambda step: Told(correct=1.0, level=0.5)), (A, "answer")),
    "zero_variance": (Story(a=lambda step: Told(correct=float(step > 30), form=1.0)), (A, "")),
    "source_starved": (Story(a=lambda step: Told(groups=int(step < 15))), (A, "")),
    "logprob_gap": (Story(a=lambda step: Told(gap=1e-6 if step < 30 else 0.01)), (A, "")),
    "vision_gradient_spike": (
        Story(scalars=norms(lambda step: 9.0 if step == 40 else 0.3)),
        ("", "vision"),
    ),
    "length_explosion": (Story(a=lambda step: Told(tokens=round(rises(step, 12, 60)))), (A, "")),
    "component_hacked": (
        Story(a=lambda step: Told(correct=rises(step, 0.8, 0.1), form=rises(step, 0.2, 0.95))),
        (A, "format"),
    ),
    "reward_up_heldout_down": (
        Story(
            a=lambda step: Told(correct=rises(step, 0.2, 0.9)),
            held_out={0: {A: Told(correct=0.7), B: Told()}, 60: {A: Told(correct=0.2), B: Told()}},
        ),
        (A, ""),
    ),
    "blind_policy": (
        Story(
            held_out={60: {A: Told(correct=0.6), B: Told(correct=0.6)}},
            blind={60: {A: Told(correct=0.6), B: Told(correct=0.1)}},
        ),
        (A, ""),
    ),
}  # fmt: skip
QUIET: dict[str, Story] = {
    # Certain, because it is always right.
    "entropy_collapse": Story(
        a=lambda step: Told(entropy=rises(step, 0.5, 0.01), correct=rises(step, 0.5, 0.99)),
        b=lambda step: Told(entropy=rises(step, 0.5, 0.1)),
    ),
    "failing_verifier": Story(a=lambda step: Told(failed=0.3 if step == 31 else 0.0)),  # one of four
    # A format that is learnt, and one that nobody keeps for a while.
    "constant_verifier": Story(a=lambda step: Told(form=1.0), b=lambda step: Told(form=float(step > 12))),
    "zero_variance": Story(a=lambda step: Told(correct=0.9, form=1.0)),
    # A rare source, as declared; two steps without the other one.
    "source_starved": Story(
        a=lambda step: Told(groups=int(step % 4 == 0)),
        b=lambda step: Told(groups=4 - int(step % 4 == 0) if step not in (30, 31) else 0),
        shares={A: 1 / 16, B: 15 / 16},
    ),
    "logprob_gap": Story(a=lambda step: Told(gap=0.02), b=lambda step: Told(gap=1e-6 if step != 30 else 0.01)),
    "vision_gradient_spike": Story(scalars=norms(lambda step: rises(step, 0.3, 2.4))),
    # Longer, and better for it; twice as long, but of no length to speak of.
    "length_explosion": Story(
        a=lambda step: Told(tokens=round(rises(step, 12, 60)), correct=rises(step, 0.3, 0.8)),
        b=lambda step: Told(tokens=round(rises(step, 6, 14))),
    ),
    # The format is learnt while accuracy stays; accuracy falls while the format stays.
    "component_hacked": Story(
        a=lambda step: Told(form=rises(step, 0.2, 0.95)), b=lambda step: Told(correct=rises(step, 0.8, 0.3))
    ),
    # Both rise; held-out falls, but so does the reward.
    "reward_up_heldout_down": Story(
        a=lambda step: Told(correct=rises(step, 0.2, 0.9)),
        b=lambda step: Told(correct=rises(step, 0.7, 0.3)),
        held_out={
            0: {A: Told(correct=0.2), B: Told(correct=0.7)},
            60: {A: Told(correct=0.7), B: Told(correct=0.3)},
        },
    ),
    # A drop, and one that so few samples cannot tell from none.
    "blind_policy": Story(
        held_out={30: {A: Told(correct=0.6), B: Told(correct=0.6)}},
        blind={30: {A: Told(correct=0.2), B: Told(correct=0.6)}},
        samples=24,
    ),
}  # fmt: skip


def test_every_rule_has_its_runs() -> None:
    assert set(RAISED) == set(QUIET) == set(ALARMS)


@pytest.mark.parametrize("name", RAISED)
def test_it_is_raised_where_it_should_be(name: str, tmp_path: Path) -> None:
    story, where = RAISED[name]
    found, _ = run(story, tmp_path)
    mine = [alarm for alarm in found if alarm.rule == name]
    assert where in {(alarm.source, alarm.component) for alarm in mine}
    for alarm in mine:
        assert alarm.since <= alarm.step
        assert alarm.source != B, alarm
        assert alarm.message


@pytest.mark.parametrize("name", QUIET)
def test_it_is_not_raised_where_it_should_not(name: str, tmp_path: Path) -> None:
    found, _ = run(QUIET[name], tmp_path)
    assert [str(alarm) for alarm in found if alarm.rule == name] == []


def test_a_healthy_run_raises_nothing_and_says_once_what_cannot_be_known(tmp_path: Path) -> None:
    found, notes = run(Story(held_out={0: {A: Told(), B: Told()}, 60: {A: Told(), B: Told()}}), tmp_path)
    assert [str(alarm) for alarm in found] == []
    assert [note.rule for note in notes] == ["blind_policy"]
    with Store(tmp_path, readonly=True) as store:
        assert len(store.events(NOTED)) == 1  # as it was said while the run went on


@pytest.mark.parametrize("name", ["length_explosion", "failing_verifier"])
def test_what_was_kept_while_it_ran_is_what_is_found_afterwards(name: str, tmp_path: Path) -> None:
    found, _ = run(RAISED[name][0], tmp_path)
    with Store(tmp_path, readonly=True) as store:
        assert sorted(read(store), key=str) == sorted(found, key=str)


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Stopped in the middle, taken back some steps and gone on: as if it had never stopped."""
    story = RAISED["failing_verifier"][0]
    whole, _ = run(story, tmp_path / "whole")
    for first, last in ((1, 47), (41, STEPS)):
        with Monitor(tmp_path / "parts", sinks=(), rollouts_every=0) as monitor:
            monitor.rewind(first - 1)
            for step in range(first, last + 1):
                train(monitor, step, {A: story.a(step), B: story.b(step)})
    with Store(tmp_path / "parts", readonly=True) as store:
        assert read(store) == [alarm for alarm in whole if alarm.rule != "source_starved"]


def test_the_run_is_told_to_stop_by_the_rules_that_are_named(tmp_path: Path) -> None:
    story = RAISED["failing_verifier"][0]
    for number, stop_on in enumerate((("entropy_collapse",), ("failing_verifier",))):
        with Monitor(tmp_path / str(number), sinks=(), rollouts_every=0, stop_on=stop_on) as monitor:
            for step in range(1, STEPS + 1):
                train(monitor, step, {A: story.a(step), B: story.b(step)})
            monitor.flush()
            assert ("failing_verifier" in monitor.stopping) == (number == 1)
        with Store(tmp_path / str(number), readonly=True) as store:
            assert [alarm.level for alarm in read(store)] == [("warn", "stop")[number]]


@pytest.mark.parametrize("steps", [0, 1])
def test_hardly_a_run_raises_nothing(steps: int, tmp_path: Path) -> None:
    found, _ = run(Story(steps=steps), tmp_path)
    assert found == []


def test_what_is_not_a_number_breaks_nothing(tmp_path: Path) -> None:
    nothing = [scalar(name, math.nan, source=A) for name in ("completions/length", "reward", "accuracy")]
    with Monitor(tmp_path, sinks=(), rollouts_every=0) as monitor:
        for step in range(1, STEPS + 1):
            norm = scalar("grad_norm", math.inf if step == 20 else 1.0, module="vision")
            monitor.log_step(step, "train", (), [*nothing, norm, scalar("entropy", math.nan, source=A)])
    with Store(tmp_path, readonly=True) as store:
        (burst,) = read(store)  # but for a gradient
    assert (burst.rule, burst.component, burst.since, burst.step, burst.over) == (
        "vision_gradient_spike",
        "vision",
        20,
        20,
        30,
    )
