"""What collectors ask of a group of judged rollouts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from triune.core.errors import RecipeError
from triune.monitor.metric import Metric, Scored
from triune.rollout.conversation import FAULTS


def by_group(scored: Sequence[Scored]) -> dict[str, list[Scored]]:
    """The rows of each group, demonstrations and fragments included, in order of first appearance."""
    found: dict[str, list[Scored]] = {}
    for one in scored:
        found.setdefault(one.trajectory.group, []).append(one)
    return found


def apart(scored: Sequence[Scored]) -> tuple[list[list[Scored]], list[Scored]]:
    """The groups that hold something the policy drew, and the rows of all others, which nobody is to compare."""
    compared, others = [], []
    for group in by_group(scored).values():
        if drawn(group):
            compared.append(group)
        else:
            others += group
    return compared, others


def drawn(group: Sequence[Scored]) -> list[Scored]:
    """One row per episode that the policy drew: no demonstrations, no later fragments or branches of an episode."""
    first: dict[str, Scored] = {}
    for one in group:
        forced = one.trajectory.decisions.forced
        if one.trajectory.component == "policy" and not (len(forced) and forced.all()):
            first.setdefault(one.trajectory.episode or one.trajectory.id, one)
    return list(first.values())


def unaided(group: Sequence[Scored]) -> list[Scored]:
    """Of what was drawn, that which the policy began by itself: no rollouts that continue a hint."""
    return [one for one in drawn(group) if not one.trajectory.decisions.forced[:1].any()]


def value(one: Scored, metric: str) -> float | None:
    """`reward`, `accuracy` (of the main check) or the value of the check that `metric` names; None where nobody could judge
    (an episode that failed by no fault of the policy is not judged either). Raises RecipeError for an unknown check."""
    if one.verdict.reward is None or one.trajectory.ending in FAULTS:
        return None
    if metric == "reward":
        return one.verdict.reward
    if metric == "accuracy":
        return one.verdict.main.value
    for part in one.verdict.components:
        if part.name == metric:
            return part.value
    known = ["accuracy", "reward", *(part.name for part in one.verdict.components)]
    raise RecipeError(
        f"algo.collect: metric {metric!r} of source {one.sample.source!r} does not exist; it has {', '.join(known)}"
    )


class Counts:
    """Counters per source, by name and cause, as metrics of one number each."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], float] = defaultdict(float)

    def add(self, name: str, source: str, cause: str = "", number: float = 1.0) -> None:
        self._found[name, source, cause] += number

    def metrics(self) -> list[Metric]:
        """Everything counted so far; then it starts again."""
        out = [
            Metric.of(name, [count], source=source, reason=cause)
            for (name, source, cause), count in sorted(self._found.items())
        ]
        self._found.clear()
        return out
