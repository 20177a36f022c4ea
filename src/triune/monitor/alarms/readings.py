"""What rules look at: the curves of a run up to a step, read from its store a few points at a time, and robust statistics
over windows of them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from triune.monitor.store import Point, Store

HEAD, TAIL = 64, 512
"""Points of a curve that are held in memory: its first, and its last."""

Keys = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Some successive points of a curve. Medians are over points, not weighted: a step with many rollouts is one step.

    `noise` is the standard error of the median, from the median absolute deviation of the points, and at least that of the
    mean from the values themselves: means of few zeros and ones may all be equal by chance.
    """

    points: Sequence[Point]

    @property
    def first(self) -> int:
        return self.points[0].step

    @property
    def last(self) -> int:
        return self.points[-1].step

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(point.count for point in self.points)

    @property
    def mean(self) -> float:
        """Over values."""
        return sum(point.count * point.mean for point in self.points) / self.count

    @property
    def median(self) -> float:
        return statistics.median(point.mean for point in self.points)

    @property
    def min(self) -> float:
        return min(point.min for point in self.points)

    @property
    def max(self) -> float:
        return max(point.max for point in self.points)

    @property
    def mad(self) -> float:
        """1.4826 times the median absolute deviation of the points: the standard deviation, if they are normal."""
        middle = self.median
        return 1.4826 * statistics.median(abs(point.mean - middle) for point in self.points)

    @property
    def noise(self) -> float:
        # The median of n normal values has sqrt(pi / 2) times the standard error of their mean.
        spread = sum(point.count * point.std**2 for point in self.points) / self.count
        return max(1.2533 * self.mad / math.sqrt(len(self.points)), math.sqrt(spread / self.count))


@dataclass(frozen=True, slots=True)
class Shift:
    """Two windows of a curve and how far it moved between them; `z` in standard errors of the difference."""

    before: Window
    after: Window

    @property
    def change(self) -> float:
        return self.after.median - self.before.median

    @property
    def z(self) -> float:
        noise = math.hypot(self.before.noise, self.after.noise)
        return self.change / noise if noise else math.copysign(math.inf, self.change) if self.change else 0.0


class Curve:
    """A metric of one source (or whatever labels were asked for) up to the step at hand. Points without a finite value are
    not on it; `lost` has their steps."""

    def __init__(self) -> None:
        self.head: list[Point] = []
        self.tail: deque[Point] = deque(maxlen=TAIL)
        self.lost: deque[int] = deque(maxlen=TAIL)
        self.length = 0

    def add(self, point: Point) -> None:
        if not point.count:
            self.lost.append(point.step)
        else:
            if len(self.head) < HEAD:
                self.head.append(point)
            self.tail.append(point)
            self.length += 1

    def last(self, points: int, back: int = 0) -> Window | None:
        """The last `points` of it, or those that end `back` points before; None if there are fewer."""
        start = len(self.tail) - points - back
        if start < 0 or points < 1:
            return None
        return Window(tuple(itertools.islice(self.tail, start, start + points)))

    def first(self, points: int) -> Window | None:
        """Its first points; None if there are fewer."""
        return Window(tuple(self.head[:points])) if len(self.head) >= points else None

    def between(self, first: int, last: int) -> Window | None:
        """Its points from step `first` to step `last`, of those in memory; None if there are none."""
        found = tuple(point for point in self.tail if first <= point.step <= last)
        return Window(found) if found else None

    def since_start(self, points: int) -> Shift | None:
        """From its first points to its last; None while they overlap."""
        before, after = self.first(points), self.last(points)
        return Shift(before, after) if before and after and self.length >= 2 * points else None

    def shifts(self, points: int) -> Iterator[Shift]:
        """To its last points from its first ones, and from those that end 1, 2, 4, ... windows before the last."""
        if whole := self.since_start(points):
            yield whole
        after, back = self.last(points), points
        while after and (before := self.last(points, back)):
            yield Shift(before, after)
            back *= 2


class Readings:
    """Curves up to `step`, as far as they are logged. What was read once is kept, so that the next look reads new points only.

    `holding`: rule, source and component of the alarms that hold. `ahead`: steps to read at once, for a run that is looked at
    from its start; points beyond the step at hand wait.
    """

    def __init__(self, store: Store, ahead: int = 0) -> None:
        self.store, self.ahead = store, ahead
        self.step = 0
        self.holding: Container[tuple[str, str, str]] = ()
        self._logged: dict[str, int] = {}
        self._feeds: dict[tuple[object, ...], _Feed] = {}
        self._events: dict[str, Mapping[str, Any]] = {}

    def catch_up(self) -> None:
        """Goes to where the run stands, and forgets what was read: what came after a step may have been taken back."""
        self._feeds.clear()
        self._events.clear()
        last = {phase: self.store.steps(phase) for phase in self.store.phases()}
        self._logged = {phase: steps[-1] for phase, steps in last.items()}
        self.step = max(self._logged.values(), default=0)

    def knows(self, step: int, phase: str) -> bool:
        """Whether this step of the phase, or a later one, was read."""
        return step <= self._logged.get(phase, -1)

    def advance(self, step: int, phase: str) -> None:
        """A step of a phase was logged."""
        self._logged[phase] = max(step, self._logged.get(phase, 0))
        self.step = max(self._logged.values())

    def curves(
        self,
        name: str,
        *,
        phase: str = "train",
        by: Sequence[str] = ("source",),
        where: Mapping[str, str] | None = None,
    ) -> Mapping[Keys, Curve]:
        """As `Store.series`: a curve for each combination of the labels in `by`; none if the metric was never logged."""
        if phase not in self._logged:
            return {}
        key = (name, phase, tuple(by), tuple((where or {}).items()))
        feed = self._feeds.setdefault(key, _Feed(name, phase, tuple(by), dict(where or {})))
        return feed.upto(self._logged[phase], self.store, self.ahead)

    def event(self, kind: str) -> Mapping[str, Any]:
        """What the last event of a kind says; nothing if there is none."""
        if kind not in self._events:
            found = self.store.events(kind)
            if not found:
                return {}
            self._events[kind] = found[-1].detail
        return self._events[kind]

    def curve(self, name: str, *keys: str, phase: str = "train") -> Curve:
        """The curve of one source, or of all (no key); empty if there is none."""
        return self.curves(name, phase=phase, by=("source",)[: len(keys)]).get(keys) or Curve()


class _Feed:
    """The curves of one query, as far as they were read."""

    def __init__(self, name: str, phase: str, by: Keys, where: Mapping[str, str]) -> None:
        self.name, self.phase, self.by, self.where = name, phase, by, where
        self.curves: dict[Keys, Curve] = {}
        self.waiting: deque[tuple[Keys, Point]] = deque()  # read, but of later steps
        self.read = -1

    def upto(self, step: int, store: Store, ahead: int) -> Mapping[Keys, Curve]:
        if self.read < step:
            found = store.series(
                self.name,
                phase=self.phase,
                by=self.by,
                where=self.where,
                since=self.read + 1,
                until=step + ahead,
            )
            new = [(key, point) for key, points in found.items() for point in points]
            self.waiting.extend(sorted(new, key=lambda one: one[1].step))
            self.read = step + ahead
        while self.waiting and self.waiting[0][1].step <= step:
            key, point = self.waiting.popleft()
            if key not in self.curves:
                self.curves[key] = Curve()
            self.curves[key].add(point)
        return self.curves
