"""What a step's rollouts say per source and task: the *source metrics* of V-Triune without its artefacts.

"Correct" is each verifier's own threshold instead of reward == 1, an empty set has no mean instead of NaN, and a
rollout that could not be judged is counted by its status instead of scored 0. What was placed (a demonstration, or a
rollout that continues one) is counted under names of its own, by component. Names are TRL's where it has one; see
`docs/metrics.md`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import get_args

from triune.core.monitorspec import REFLECTION_WORDS
from triune.core.trajectory import BASELINE, Trajectory
from triune.core.verdict import Ending, Status, Verdict
from triune.monitor.metric import Labels, Metric, Scored, labelled

NO_SPREAD = 1e-8
"""Rewards that differ by no more than this are equal: floating-point noise is not a learning signal."""


_STATUSES: tuple[str, ...] = get_args(Status)
_ENDINGS: tuple[str, ...] = get_args(Ending)
_BY_CORRECT = {
    correct: [
        (f"completions/length{split}", f"completions/clipped_ratio{split}", f"reflection/ratio{split}")
        for split in splits
    ]
    for correct, splits in {None: ("",), True: ("", "_correct"), False: ("", "_wrong")}.items()
}
"""Names of what is told apart by whether the answer was right."""


class _Place:
    """Observed values of one source, task and component, by name and, if `labelled`, by (name, label, its value). A step adds
    tens of thousands of values, so that little may be done for each of them."""

    def __init__(self) -> None:
        self.plain: dict[str, list[float]] = defaultdict(list)
        self.labelled: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self._spread: dict[str, int] = {}  # by name: how many values there are for each option
        self._options: dict[str, tuple[str, tuple[str, ...]]] = {}

    def add(self, name: str, value: float | None) -> None:
        if value is not None:
            self.plain[name].append(value)

    def spread(self, name: str, label: str, options: tuple[str, ...], found: Mapping[str, float]) -> None:
        """One value for each of the options: 0 for those that were not found."""
        self._spread[name] = self._spread.get(name, 0) + 1
        self._options[name] = label, options
        for of, value in found.items():
            self.labelled[name, label, of].append(value)

    def metrics(self, place: tuple[str, str, str]) -> Iterator[Metric]:
        for name, count in self._spread.items():
            label, options = self._options[name]
            for option in options:
                values = self.labelled.pop((name, label, option), [])
                yield _metric(name, place, label, option, values, count - len(values))
        for (name, label, of), values in self.labelled.items():
            yield _metric(name, place, label, of, values)
        for name, values in self.plain.items():
            yield _metric(name, place, "", "", values)


def _metric(
    name: str, place: tuple[str, str, str], label: str, of: str, values: list[float], zeros: int = 0
) -> Metric:
    ones, unlike = values.count(True), values.count(False)
    if ones + unlike == len(values):
        return _share(name, place, label, of, ones, zeros + unlike)
    return Metric.made(name, _labels(place, label, of), values, zeros)


@lru_cache(maxsize=1 << 14)
def _share(name: str, place: tuple[str, str, str], label: str, of: str, ones: int, zeros: int) -> Metric:
    """Most metrics are of zeros and ones only, and most of these were the same at an earlier step."""
    return Metric.made(name, _labels(place, label, of), [1.0] * ones, zeros)


@lru_cache(maxsize=1 << 14)
def _labels(place: tuple[str, str, str], label: str, of: str) -> Labels:
    source, task, component = place
    own = {label: of} if of else {}
    return labelled(**{"source": source, "task": task, "component": component, **own})


def rollout_metrics(scored: Sequence[Scored], words: Sequence[str] = REFLECTION_WORDS) -> list[Metric]:
    """What these rollouts say, per source and task. Parts that split no group merge into the whole."""
    places, words = dict[tuple[str, str, str], _Place](), tuple(words)

    def place(source: str, task: str, component: str = "") -> _Place:
        key = source, task, component
        if key not in places:
            places[key] = _Place()
        return places[key]

    groups: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for one in scored:
        source, task = one.sample.source, one.sample.task
        if one.trajectory.component == BASELINE:  # not drawn as the others are: it would bias every mean
            here = place(source, task)
            here.add("baseline/reward", one.verdict.reward)
            here.add("baseline/correct", one.verdict.correct)
            continue
        component = placed_as(one.trajectory)
        here = place(source, task, component)
        if component:
            _add_placed(here, one)
            continue
        if not one.drawn:
            continue  # replayed: no measure of the policy either
        _add_verdict(here, one)
        _add_response(here, one, words)
        if one.in_baseline and one.verdict.reward is not None:
            groups[source, task, one.trajectory.group].append(one.verdict)
    for (source, task, _), group in groups.items():
        if len(group) > 1:  # a single rollout has no spread to speak of
            _add_group(place(source, task), group)
    made = [metric for key, here in places.items() for metric in here.metrics(key)]
    return sorted(made, key=attrgetter("name", "labels"))


def placed_as(trajectory: Trajectory) -> str:
    """What a row is where the policy did not begin it, '' where it did: `prefix` if it continues what was placed, else the
    component that it was placed for. Such a row says nothing of how good the policy is."""
    forced = trajectory.decisions.forced
    if not forced[:1].any():
        return ""
    return trajectory.component if forced.all() else "prefix"


def _add_placed(here: _Place, one: Scored) -> None:
    add, forced = here.add, one.trajectory.decisions.forced
    add("placed/reward", one.verdict.reward)
    add("placed/correct", one.verdict.correct)
    add("placed/tokens", int(forced.sum()))
    add("placed/sampled", int((~forced).sum()))
    add("placed/unjudged", one.verdict.reward is None)
    _add_fate(here, one)


def _add_fate(here: _Place, one: Scored) -> None:
    for parameter, value in one.trajectory.resolved.items():
        here.labelled["schedule", "parameter", parameter].append(value)
    here.plain["dropped/loss"].append(not one.in_loss)
    here.plain["dropped/baseline"].append(not one.in_baseline)
    if one.reason:
        here.labelled["dropped/reason", "reason", one.reason].append(1.0)


def _add_verdict(here: _Place, one: Scored) -> None:
    plain, labelled, verdict = here.plain, here.labelled, one.verdict
    reward, components = verdict.reward, verdict.components
    if reward is not None:
        low, high = _extremes(tuple([part.weight for part in components]), verdict.normalized)
        plain["reward"].append(reward)
        plain["reward/share_at_min"].append(reward <= low + NO_SPREAD)
        plain["reward/share_at_max"].append(reward >= high - NO_SPREAD)
    here.add("correct", verdict.correct)
    here.add("accuracy", verdict.main.value if components else None)
    plain["judge/seconds"].append(verdict.elapsed)
    here.spread("status", "status", _STATUSES, {verdict.status: 1.0})
    gated = {check.name for check in one.sample.checks if check.gate is not None}
    for part in components:
        name, value = part.name, part.value
        if name in gated:
            labelled["component/gated", "component", name].append(part.gated)
        if part.correct is not None:
            labelled["component/correct", "component", name].append(part.correct)
        labelled["component/not_ok", "component", name].append(part.status != "ok")
        if value is not None:
            labelled["component", "component", name].append(value)
            # Fixed bounds, and beyond counts as at: the extremes of each step would move with the policy.
            labelled["component/share_at_min", "component", name].append(value <= 0)
            labelled["component/share_at_max", "component", name].append(value >= 1)
        for key, measured in part.metrics.items():
            labelled[f"verifier/{key}", "component", name].append(measured)
    _add_fate(here, one)


@lru_cache(maxsize=1 << 10)
def _extremes(weights: tuple[float, ...], normalized: bool) -> tuple[float, float]:
    """The least and the most that components on [0, 1] of these weights can add up to."""
    scale = (sum(weights) if normalized else 0.0) or 1.0
    return sum(min(w, 0.0) for w in weights) / scale, sum(max(w, 0.0) for w in weights) / scale


def _add_response(here: _Place, one: Scored, words: tuple[str, ...]) -> None:
    plain, outcome, correct = here.plain, one.outcome, one.verdict.correct
    text = outcome.text.lower()
    counts = {word: count for word in words if (count := text.count(word))}
    reflective = bool(counts)
    for length, clipped, reflection in _BY_CORRECT[correct]:
        plain[length].append(outcome.num_tokens)
        plain[clipped].append(outcome.truncated)
        plain[reflection].append(reflective)
    here.add("reflection/correct_with" if reflective else "reflection/correct_without", correct)
    here.spread("reflection/word", "word", words, counts)
    here.add("prompts/length", one.prompt_tokens)
    plain["episode/turns"].append(outcome.num_turns)
    here.spread("ending", "ending", _ENDINGS, {outcome.ending: 1.0})
    for call in outcome.calls:
        here.labelled["tools/ok", "tool", call.name].append(call.ok)


def _add_group(here: _Place, group: Sequence[Verdict]) -> None:
    """`group`: the verdicts that one baseline is formed over."""
    rewards = [verdict.reward for verdict in group if verdict.reward is not None]
    here.plain["reward_std"].append(_spread(rewards))
    here.plain["frac_reward_zero_std"].append(max(rewards) - min(rewards) <= NO_SPREAD)
    parts: dict[str, list[float]] = defaultdict(list)
    for verdict in group:
        for part in verdict.components:
            if part.value is not None:
                parts[part.name].append(part.value)
    for name, seen in parts.items():
        here.labelled["component_std", "component", name].append(_spread(seen))
        same = max(seen) - min(seen) <= NO_SPREAD
        here.labelled["frac_component_zero_std", "component", name].append(same)


def _spread(values: Sequence[float]) -> float:
    return Metric.of("", values).std
