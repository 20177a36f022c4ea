"""What a run checks before it spends compute: batch arithmetic, reward routing, rewards, the policy's eyes, memory.

A run that would train blind, on a constant reward or on biased ratios does not start: the error says why and what to do.
`train.probe: false` leaves out all that needs the model to generate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from triune.algo.options import CollectOptions, PolicyGradient
from triune.algo.shape.recorded import RecordedRewards
from triune.algo.views.corrupted import CorruptedPictures
from triune.core.errors import DataError, RecipeError
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.data.source import stored, unread
from triune.monitor.alarms.source_starved import SOURCES
from triune.rollout.generator import Demand, Episode
from triune.train.memory import estimate
from triune.train.probe import probe
from triune.train.views import staged
from triune.verify.trial import trial

if TYPE_CHECKING:
    from triune.loop import Loop

SAMPLES = 8
"""Samples that the policy answers before a run starts: different sources first."""
ROLLOUTS = 2


def check(loop: Loop) -> None:
    """Runs every check, says what was found, raises what forbids the run: DataError, RecipeError or ParityError."""
    recipe, mixture, monitor = loop.recipe, loop.mixture, loop.monitor
    for label, value in recipe.arithmetic(mixture.samples_per_epoch):
        monitor.say(f"{label}: {value}", kind="arithmetic")
    shares = mixture.shares
    monitor.say(
        f"sources: {len(shares)}, with {min(shares.values()):.1%} to {max(shares.values()):.1%} of the prompts",
        kind=SOURCES,
        shares=dict(shares),
        prompts_per_step=recipe.train.prompts_per_step,
    )
    for remark in getattr(loop.family, "remarks", ()):
        monitor.say(remark, kind="policy")
    for source, reasons in mixture.skipped.items():
        monitor.say(f"{source}: skipped rows {dict(reasons)}", kind="skipped", source=source, **reasons)
    for file in unread(recipe.data):
        monitor.say(f"{file}: below data.root, but no source reads it", kind="unread", file=str(file))
    draws = getattr(loop.generator, "draws", True)
    for stage in (*staged(recipe), recipe):
        _trains(stage, draws)
    if not draws:
        monitor.say(
            "rollouts: the answers that samples carry; train.rollouts_per_prompt is not used", kind="rollouts"
        )
    if recipe.data.on_bad_row == "error":
        loop.judge.check_many(s for source in mixture.sources for s in stored(source))
    firsts = list(mixture.firsts())
    if labelled := _labelled(recipe):
        monitor.say(
            "rewards: the labels and scores of recorded answers; checks are run beside them", kind="rewards"
        )
    else:
        _rewards(loop, firsts)
    _pictured(loop, firsts)
    batch = mixture.batch(1)
    loop.family.begin_step(batch)
    batch = loop.usable(batch, drawn=False)
    if not recipe.train.probe:
        return
    chosen = _different(batch, firsts)
    loop.family.begin_step(chosen)
    chosen = loop.usable(chosen, drawn=False)
    rule = SamplingRule(temperature=recipe.rollout.temperature)  # type: ignore[attr-defined]
    progress = Progress(step=1, total_steps=recipe.train.total_steps)
    demand = Demand(ROLLOUTS, rule, recipe.seed, 0, progress)
    found, groups = probe(loop.family, loop.generator, chosen, demand)
    monitor.say(str(found), kind="probe", **asdict(found))
    if not labelled:
        _informative(loop, groups, progress)
    drawn = [e.trajectory for group in groups for e in group if len(e.trajectory.decisions)]
    if (choice := getattr(loop.family.pack(drawn).payload, "choice", None)) is not None:
        monitor.say(f"layout: {choice}", kind="layout", **asdict(choice))
    views = getattr(loop.update, "views", None)
    if views is not None and views.held:
        for name, gap in views.gaps(loop.family.pack(drawn), progress).items():
            monitor.say(
                f"view {name}: log-probs differ from the policy's by {gap:.2g} in the mean", kind="view"
            )
    needed = estimate(loop.family, recipe, [e for group in groups for e in group], views)
    monitor.say(str(needed), kind="memory", **asdict(needed))
    needed.refuse()


def _pictured(loop: Loop, firsts: Sequence[Sample]) -> None:
    """A view of corrupted pictures is the policy itself where there are none."""
    views = getattr(loop.update, "views", None)
    names = [n for n in views.held if isinstance(views.declared.get(n), CorruptedPictures)] if views else []
    if names and not any(sample.media or sample.env for sample in firsts):
        raise RecipeError(
            f"algo.views.{names[0]} corrupts pictures, but the first rows of all sources have none: it would change nothing. "
            "Leave out the terms that need it"
        )


def _trains(recipe: Recipe, draws: bool) -> None:
    """Refuses an algorithm that can learn nothing from the rollouts that it will get: placed answers where it trains sampled
    ones or the reverse, labels of answers that are drawn, groups of one where they are compared."""
    algo = recipe.algo
    if not isinstance(algo, PolicyGradient):
        return
    terms = algo.parts("terms")
    sampled = any(term.tokens != "placed" for term in terms.values())
    if not draws:
        if all(term.tokens == "sampled" for term in terms.values()):
            raise RecipeError(
                f"rollout.kind {_kind(recipe)} draws nothing, but all of algo.terms ({', '.join(terms)}) train what the policy "
                "sampled: choose terms that train placed answers (imitation, dpo, ...), or a rollout.kind that draws"
            )
        return
    alone = []
    # What a collector places may be trained, labelled, and compared with.
    if all(type(part).place is CollectOptions.place for part in algo.parts("collect").values()):
        if not sampled:
            raise RecipeError(
                f"rollout.kind {_kind(recipe)} draws answers, but all of algo.terms ({', '.join(terms)}) train placed ones, and "
                "no collector places any: add algo.collect.demonstrations: {kind: demonstrations}, or set rollout.kind: recorded"
            )
        if named := [n for n, shape in algo.parts("shape").items() if isinstance(shape, RecordedRewards)]:
            raise RecipeError(
                f"algo.shape.{named[0]} reads the labels of recorded answers, but rollout.kind {_kind(recipe)} draws answers, "
                f"which have none: set rollout.kind: recorded, or algo.shape.{named[0]}: null to go by the verdicts"
            )
        alone = [f"algo.terms.{name}" for name, term in terms.items() if term.grouped]
    alone = [*(["algo.advantage"] if sampled and algo.estimator().grouped else []), *alone]
    if alone and recipe.train.rollouts_per_prompt == 1:
        raise RecipeError(
            f"train.rollouts_per_prompt is 1, but {alone[0]} compares the rollouts of a prompt with each other: every "
            "advantage would be 0. Use 2 or more (8 is usual), or an advantage that needs no group"
        )


def _kind(recipe: Recipe) -> str:
    return str(getattr(recipe.rollout, "kind", "?"))


def _labelled(recipe: Recipe) -> bool:
    """Whether recorded answers bring their rewards along."""
    algo = recipe.algo
    if not isinstance(algo, PolicyGradient):
        return False
    return any(isinstance(shape, RecordedRewards) for shape in algo.parts("shape").values())


def _rewards(loop: Loop, firsts: Sequence[Sample]) -> None:
    """One trial per source: its truth must earn full marks, and an answer that says nothing must not."""
    tried = 0
    for sample in firsts:
        try:
            loop.judge.check(sample)
        except DataError:
            if loop.recipe.data.on_bad_row == "error":
                raise
            continue  # skipped and counted when it is drawn
        result = trial(sample, loop.judge)
        if result is None:
            continue
        tried += 1
        if result.fault is not None:
            raise DataError(
                f"source {sample.source!r}, sample {sample.id!r}: {result.fault}. Nothing could be learnt from that: "
                f"mend the truth or the checks ({', '.join(check.name for check in sample.checks)}); where a right answer "
                "is not the truth itself, give the row an `expert` answer or the verifier an `example`"
            )
    unseen = len(firsts) - tried
    rest = f"; {unseen} need an episode or a group and were not tried" if unseen else ""
    loop.monitor.say(
        f"rewards: in {tried} of {len(firsts)} sources the truth earns full marks and an empty answer does not{rest}",
        kind="rewards",
    )


def _different(batch: list[Sample], firsts: Sequence[Sample]) -> list[Sample]:
    """Samples of as many sources as the probe has room for; the first step's own come first."""
    by_source = {sample.source: sample for sample in reversed([*batch, *firsts])}
    chosen = list(by_source.values())[::-1][:SAMPLES]
    return chosen + [s for s in batch if s not in chosen][: SAMPLES - len(chosen)]


def _informative(loop: Loop, groups: Sequence[Sequence[Episode]], progress: Progress) -> None:
    """Says how many groups of the probe have rewards that differ: without any, nothing is learnt yet."""
    requests = [(group[0].sample, tuple(e.outcome for e in group)) for group in groups]
    verdicts = loop.judge.judge_many(requests, progress)
    rewards = [[v.reward for v in group if v.reward is not None] for group in verdicts]
    judged = sum(map(len, rewards))
    if not judged:
        lost = next(c for v in verdicts[0] for c in v.components if c.value is None)
        raise DataError(
            f"no rollout of the probe could be judged, for example {verdicts[0][0].id!r}: {lost.name}: {lost.status}: "
            f"{lost.detail}"
        )
    differ = sum(max(group) > min(group) for group in rewards if group)
    mean = sum(map(sum, rewards)) / judged
    hint = (
        "" if differ else "; rewards that never differ teach nothing: look at the rollouts of the first steps"
    )
    loop.monitor.say(
        f"probe: {judged} of {sum(map(len, verdicts))} rollouts judged, mean reward {mean:.3f}; rewards differ in {differ} "
        f"of {len(groups)} groups of {max(map(len, groups))}{hint}",
        kind="probe",
    )
