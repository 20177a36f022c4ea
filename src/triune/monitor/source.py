"""What a step's rollouts say per source and task: the *source metrics* of V-Triune without its artefacts.

"Correct" is each verifier's own threshold instead of reward == 1, an empty set has no mean instead of NaN, and a
rollout that could not be judged is counted by its status instead of scored 0. What was placed (a demonstration, or a
rollout that continues one) is counted under names of its own, by component. Names are TRL's where it has one; see
`docs/metrics.md`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import get_args

from triune.core.monitorspec import REFLECTION_WORDS
from triune.core.trajectory import BASELINE, Trajectory
from triune.core.verdict import Ending, Status, Verdict
from triune.monitor.metric import Labels, Metric, Scored, labelled

NO_SPREAD = 1e-8
"""Rewards that differ by no more than this are equal: floating-point noise is not a learning signal."""


_STATUSES: tuple[str, ...] = get_args(Status)
_ENDINGS: tuple[str, ...] = get_args(Ending)


class _Values:
    """Observed values by name and at most one label of their own, apart for each `place`: source, task and component of the
    rollout or group at hand. A step adds tens of thousands of values, so that little may be done for each of them."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, str], dict[tuple[str, str, str], list[float]]] = {}
        self._rows: dict[tuple[str, str, str], Counter[tuple[str, str, tuple[str, ...]]]] = {}

    def place(self, source: str, task: str, component: str = "") -> None:
        key = source, task, component
        if key not in self._places:
            self._places[key], self._rows[key] = defaultdict(list), Counter()
        self._here, self._counts = self._places[key], self._rows[key]

    def add(self, name: str, value: float | None, label: str = "", of: str = "") -> None:
        if value is not None:
            self._here[name, label if of else "", of].append(value)

    def spread(self, name: str, label: str, options: tuple[str, ...], found: Mapping[str, float]) -> None:
        """One value for each of the options: 0 for those that were not found."""
        self._counts[name, label, options] += 1
        for of, value in found.items():
            self._here[name, label, of].append(value)

    def metrics(self) -> list[Metric]:
        made = []
        for place, seen in self._places.items():
            counts = [
                (name, label, option, count)
                for (name, label, options), count in self._rows[place].items()
                for option in options
            ]
            for name, label, option, count in counts:
                values = seen.pop((name, label, option), None)
                if values is None:
                    made.append(_zeros(name, place, label, option, count))
                else:
                    labels = _labels(place, label, option)
                    made.append(Metric.made(name, labels, values, count - len(values)))
            for (name, label, of), values in seen.items():
                made.append(Metric.made(name, _labels(place, label, of), values))
        return sorted(made, key=lambda metric: (metric.name, metric.labels))


@lru_cache(maxsize=1 << 14)
def _labels(place: tuple[str, str, str], label: str, of: str) -> Labels:
    source, task, component = place
    own = {label: of} if of else {}
    return labelled(**{"source": source, "task": task, "component": component, **own})


@lru_cache(maxsize=1 << 14)
def _zeros(name: str, place: tuple[str, str, str], label: str, of: str, count: int) -> Metric:
    """What was not found in so many rollouts: most words, endings and statuses of most sources, at every step again."""
    return Metric.made(name, _labels(place, label, of), (), count)


def rollout_metrics(scored: Sequence[Scored], words: Sequence[str] = REFLECTION_WORDS) -> list[Metric]:
    """What these rollouts say, per source and task. Parts that split no group merge into the whole."""
    values, words = _Values(), tuple(words)
    groups: dict[tuple[str, str, str], list[Verdict]] = defaultdict(list)
    for one in scored:
        source, task = one.sample.source, one.sample.task
        if one.trajectory.component == BASELINE:  # not drawn as the others are: it would bias every mean
            values.place(source, task)
            values.add("baseline/reward", one.verdict.reward)
            values.add("baseline/correct", one.verdict.correct)
            continue
        component = placed_as(one.trajectory)
        values.place(source, task, component)
        if component:
            _add_placed(values, one)
            continue
        if not one.drawn:
            continue  # replayed: no measure of the policy either
        _add_verdict(values, one)
        _add_response(values, one, words)
        if one.in_baseline and one.verdict.reward is not None:
            groups[source, task, one.trajectory.group].append(one.verdict)
    for (source, task, _), group in groups.items():
        if len(group) > 1:  # a single rollout has no spread to speak of
            values.place(source, task)
            _add_group(values, group)
    return values.metrics()


def placed_as(trajectory: Trajectory) -> str:
    """What a row is where the policy did not begin it, '' where it did: `prefix` if it continues what was placed, else the
    component that it was placed for. Such a row says nothing of how good the policy is."""
    forced = trajectory.decisions.forced
    if not forced[:1].any():
        return ""
    return trajectory.component if forced.all() else "prefix"


def _add_placed(values: _Values, one: Scored) -> None:
    add, forced = values.add, one.trajectory.decisions.forced
    add("placed/reward", one.verdict.reward)
    add("placed/correct", one.verdict.correct)
    add("placed/tokens", int(forced.sum()))
    add("placed/sampled", int((~forced).sum()))
    add("placed/unjudged", one.verdict.reward is None)
    _add_fate(values, one)


def _add_fate(values: _Values, one: Scored) -> None:
    for parameter, value in one.trajectory.resolved.items():
        values.add("schedule", value, "parameter", parameter)
    values.add("dropped/loss", not one.in_loss)
    values.add("dropped/baseline", not one.in_baseline)
    if one.reason:
        values.add("dropped/reason", 1.0, "reason", one.reason)


def _add_verdict(values: _Values, one: Scored) -> None:
    add, verdict = values.add, one.verdict
    if verdict.reward is not None:
        low, high = _reward_range(verdict)
        add("reward", verdict.reward)
        add("reward/share_at_min", verdict.reward <= low + NO_SPREAD)
        add("reward/share_at_max", verdict.reward >= high - NO_SPREAD)
    add("correct", verdict.correct)
    add("accuracy", verdict.main.value if verdict.components else None)
    add("judge/seconds", verdict.elapsed)
    values.spread("status", "status", _STATUSES, {verdict.status: 1.0})
    gated = {check.name for check in one.sample.checks if check.gate is not None}
    for part in verdict.components:
        name, value = part.name, part.value
        add("component", value, "component", name)
        if name in gated:
            add("component/gated", part.gated, "component", name)
        add("component/correct", part.correct, "component", name)
        add("component/not_ok", part.status != "ok", "component", name)
        if value is not None:
            # Fixed bounds, and beyond counts as at: the extremes of each step would move with the policy.
            add("component/share_at_min", value <= 0, "component", name)
            add("component/share_at_max", value >= 1, "component", name)
        for key, measured in part.metrics.items():
            add(f"verifier/{key}", measured, "component", name)
    _add_fate(values, one)


def _reward_range(verdict: Verdict) -> tuple[float, float]:
    """The least and the most that components on [0, 1] can add up to."""
    return _extremes(tuple(component.weight for component in verdict.components), verdict.normalized)


@lru_cache(maxsize=1 << 10)
def _extremes(weights: tuple[float, ...], normalized: bool) -> tuple[float, float]:
    scale = (sum(weights) if normalized else 0.0) or 1.0
    return sum(min(w, 0.0) for w in weights) / scale, sum(max(w, 0.0) for w in weights) / scale


def _add_response(values: _Values, one: Scored, words: tuple[str, ...]) -> None:
    add, outcome, correct = values.add, one.outcome, one.verdict.correct
    text = outcome.text.lower()
    counts = {word: count for word in words if (count := text.count(word))}
    reflective = bool(counts)
    for split in ("",) if correct is None else ("", "_correct" if correct else "_wrong"):
        add(f"completions/length{split}", outcome.num_tokens)
        add(f"completions/clipped_ratio{split}", outcome.truncated)
        add(f"reflection/ratio{split}", reflective)
    add("reflection/correct_with" if reflective else "reflection/correct_without", correct)
    values.spread("reflection/word", "word", words, counts)
    add("prompts/length", one.prompt_tokens)
    add("episode/turns", outcome.num_turns)
    values.spread("ending", "ending", _ENDINGS, {outcome.ending: 1.0})
    for call in outcome.calls:
        add("tools/ok", call.ok, "tool", call.name)


def _add_group(values: _Values, group: Sequence[Verdict]) -> None:
    """`group`: the verdicts that one baseline is formed over."""
    rewards = [verdict.reward for verdict in group if verdict.reward is not None]
    values.add("reward_std", Metric.of("reward", rewards).std)
    values.add("frac_reward_zero_std", max(rewards) - min(rewards) <= NO_SPREAD)
    parts: dict[str, list[float]] = defaultdict(list)
    for part in (part for verdict in group for part in verdict.components if part.value is not None):
        parts[part.name].append(part.value or 0.0)
    for name, seen in parts.items():
        values.add("component_std", Metric.of(name, seen).std, "component", name)
        values.add("frac_component_zero_std", max(seen) - min(seen) <= NO_SPREAD, "component", name)
