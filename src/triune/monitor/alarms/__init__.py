"""Alarms: declared rules over the store that say when a run goes wrong without stopping by itself. One file each.

    @ALARMS.register("mine")
    class Mine(Rule):
        bound: float = Field(3.0, description="...")
        def check(self, readings: Readings) -> Iterator[Alarm | Note]: ...

A rule is a small frozen model: its fields are its options, each with a default and where that comes from. What holds is
kept in the store as events: `alarm` when it is raised, `alarm-over` when it no longer holds, `alarm-note` for what a rule
cannot know. `read` makes alarms of them again, for the terminal, the dashboard and the report.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from pydantic import JsonValue, ValidationError

from triune.core.base import Frozen
from triune.core.errors import RecipeError
from triune.core.registry import Registry
from triune.monitor.alarms.readings import Readings
from triune.monitor.store import Event, Store

RAISED, OVER, NOTED = "alarm", "alarm-over", "alarm-note"
"""Kinds of events."""

Key = tuple[str, str, str]
"""Rule, source and component: at most one alarm of each holds at a time."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a rule found, of one source ('' for all together) and, where it applies, one component.

    `step`: when it was raised. `since`: the first step of what shows it. `value` is beyond `bound`, in the unit that the rule's
    docstring names; NaN where a rule has no number. `metric` and `phase`: the curve to look at. `over`: the step at which it
    no longer held, None while it holds. An alarm of level `stop` ends the run.
    """

    rule: str
    source: str
    component: str
    step: int
    since: int
    message: str
    value: float
    bound: float
    metric: str
    phase: str = "train"
    level: Literal["warn", "stop"] = "warn"
    over: int | None = None

    @property
    def key(self) -> Key:
        return self.rule, self.source, self.component

    @property
    def where(self) -> str:
        """Source and component in words."""
        return ", ".join(filter(None, (self.source, self.component))) or "the whole run"

    def __str__(self) -> str:
        return f"{self.rule} ({self.where}): {self.message}"

    def event(self, phase: str = "") -> Event:
        """As it is kept when it is raised, after a step of `phase` was logged: it goes when that is logged again."""
        detail: dict[str, JsonValue] = {
            "rule": self.rule,
            "level": self.level,
            "component": self.component,
            "since": self.since,
            "message": self.message,
            "value": _number(self.value),
            "bound": _number(self.bound),
            "metric": self.metric,
            "phase": self.phase,
        }
        return Event(RAISED, detail, self.step, phase, self.source)

    def event_over(self, step: int, phase: str = "") -> Event:
        """As it is kept when it no longer holds, likewise."""
        detail: dict[str, JsonValue] = {
            "rule": self.rule,
            "component": self.component,
            "raised": self.step,
            "message": f"{self.rule} ({self.where}), raised at step {self.step}, is over",
        }
        return Event(OVER, detail, step, phase, self.source)

    @classmethod
    def of(cls, event: Event) -> Alarm:
        """The alarm that an event keeps."""
        held: Mapping[str, Any] = event.detail
        return cls(
            rule=str(held["rule"]),
            source=event.source,
            component=str(held["component"]),
            step=event.step,
            since=int(held["since"]),
            message=str(held["message"]),
            metric=str(held["metric"]),
            phase=str(held.get("phase", "train")),
            level="stop" if held["level"] == "stop" else "warn",
            value=math.nan if held["value"] is None else float(held["value"]),
            bound=math.nan if held["bound"] is None else float(held["bound"]),
        )


@dataclass(frozen=True, slots=True)
class Note:
    """What a rule cannot know in this run, and what would let it: said once."""

    rule: str
    message: str

    def event(self, step: int) -> Event:
        return Event(NOTED, {"rule": self.rule, "message": self.message}, step)


class Rule(Frozen):
    """Base of every rule. `name` is the one that it is registered under."""

    name: ClassVar[str] = ""

    @abstractmethod
    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        """What holds at `readings.step`. A rule keeps nothing: what it said before is in `readings.holding`, and lets it
        ask for less before it says that an alarm is over (`bound`)."""

    def bound(self, readings: Readings, source: str, component: str, raised: float, over: float) -> float:
        """Hysteresis: the value at which an alarm is raised, or, while it holds, the one that it must come back to."""
        return over if (self.name, source, component) in readings.holding else raised


class Rules(Registry[type[Rule]]):
    """The registry; a rule is told the name that it is registered under."""

    def register(self, name: str) -> Callable[[type[Rule]], type[Rule]]:
        add = super().register(name)

        def named(rule: type[Rule]) -> type[Rule]:
            rule.name = name
            return add(rule)

        return named


ALARMS = Rules("alarm", "triune.monitor.alarms")


def rules(options: Mapping[str, Mapping[str, JsonValue] | None] | None = None) -> dict[str, Rule]:
    """Every rule by name, with these options; None in place of options leaves a rule out. Raises RecipeError naming the
    rule and the option that is wrong, with the nearest right one."""
    given = dict(options or {})
    for name in given:
        ALARMS[name]  # an unknown one is an error that says which was meant
    return {name: build(name, given.get(name) or {}) for name in ALARMS if given.get(name, {}) is not None}


def build(name: str, options: Mapping[str, JsonValue]) -> Rule:
    """One rule with its options."""
    from triune.core.loading import explain  # which knows the whole recipe, alarms included

    kind = ALARMS[name]
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        raise RecipeError(explain(error, dict(options), {(): f"alarm {name}"}, kind)) from None


def read(store: Store) -> list[Alarm]:
    """Every alarm that was raised, in order of steps; those that still hold have no `over`."""
    found: list[Alarm] = []
    open_: dict[Key, int] = {}
    events = [*store.events(RAISED), *store.events(OVER)]
    for event in sorted(events, key=lambda one: (one.step, one.time)):
        key = (str(event.detail["rule"]), event.source, str(event.detail["component"]))
        if event.kind == RAISED:
            open_[key] = len(found)
            found.append(Alarm.of(event))
        elif key in open_:
            place = open_.pop(key)
            found[place] = replace(found[place], over=event.step)
    return found


def _number(value: float) -> JsonValue:
    return value if math.isfinite(value) else None
