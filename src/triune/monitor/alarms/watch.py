"""When rules are evaluated: while a run is written, or over one that was."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from triune.core.errors import StorageError
from triune.monitor.alarms import NOTED, Alarm, Key, Note, Rule, read
from triune.monitor.alarms.readings import Readings
from triune.monitor.store import Store

EVERY = 10
"""Training steps between two looks; besides, there is one after each evaluation and one at the end."""
AHEAD = 256
"""Steps that are read at once of a run that is looked at from its start."""


@dataclass(slots=True)
class Change:
    """What a look changed: alarms that were raised, those that are over, and what a rule cannot know."""

    raised: list[Alarm] = field(default_factory=list)
    over: list[Alarm] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.raised or self.over or self.notes)


class Look:
    """The rules, and which of their alarms hold."""

    def __init__(self, rules: Mapping[str, Rule], readings: Readings, holding: Sequence[Alarm] = ()) -> None:
        self.rules, self.readings = rules, readings
        self.holding: dict[Key, Alarm] = {alarm.key: alarm for alarm in holding}
        self.noted: set[str] = set()

    def __call__(self) -> Change:
        """Evaluates every rule at the step that the readings stand at."""
        change, found = Change(), set[Key]()
        self.readings.holding = self.holding.keys()
        for rule in self.rules.values():
            for said in self._said(rule):
                if isinstance(said, Note):
                    if said.rule not in self.noted:
                        self.noted.add(said.rule)
                        change.notes.append(said)
                    continue
                found.add(said.key)
                if said.key not in self.holding:
                    change.raised.append(said)
        for key in [key for key in self.holding if key not in found]:
            change.over.append(replace(self.holding.pop(key), over=self.readings.step))
        self.holding |= {alarm.key: alarm for alarm in change.raised}
        return change

    def _said(self, rule: Rule) -> Iterator[Alarm | Note]:
        """What a rule finds. One that fails, which is the fault of the rule and not of the run, says so once; what it said
        before still holds."""
        try:
            yield from rule.check(self.readings)
        except StorageError:
            raise
        except Exception as error:
            yield Note(rule.name, f"the rule failed, and finds nothing: {type(error).__name__}: {error}")
            yield from [alarm for alarm in self.holding.values() if alarm.rule == rule.name]


class Watch:
    """Evaluates rules while a run goes on, for whoever writes its store, and keeps what they find there as events.

    What holds is read from the store, so that a resumed run goes on where it was. `stop_on`: rules whose alarms say in
    `stopping` that the run shall end; one that was raised before the run was resumed does not end it again.
    """

    def __init__(self, store: Store, rules: Mapping[str, Rule], stop_on: Collection[str] = ()) -> None:
        self._store, self._rules, self._stop_on = store, rules, stop_on
        self.stopping = ""
        self._phase = ""
        self.rewound()

    def rewound(self) -> None:
        """What came after a step was taken back, alarms included."""
        readings = Readings(self._store)
        readings.catch_up()
        held = [alarm for alarm in read(self._store) if alarm.over is None and alarm.rule in self._rules]
        self._look = Look(self._rules, readings, held)
        self._look.noted = {str(event.detail["rule"]) for event in self._store.events(NOTED)}
        self._seen = readings.step

    @property
    def holding(self) -> list[Alarm]:
        """The alarms that hold, the newest last."""
        return list(self._look.holding.values())

    def logged(self, step: int, phase: str) -> list[str]:
        """A step of a phase is in the store; returns what is to be said."""
        self._phase = phase
        if self._look.readings.knows(step, phase):
            self.rewound()  # with the step that is now replaced went its alarms
        self._look.readings.advance(step, phase)
        if phase == "train" and step % EVERY:
            return []
        return self.look()

    def finish(self) -> list[str]:
        """The last look, if there was none at the last step."""
        return self.look() if self._seen < self._look.readings.step else []

    def look(self) -> list[str]:
        """Evaluates the rules now."""
        readings = self._look.readings
        self._seen = readings.step
        change = self._look()
        for alarm in change.raised:
            if alarm.rule in self._stop_on:
                alarm = replace(alarm, level="stop")
                self._look.holding[alarm.key] = alarm
                self.stopping = self.stopping or str(alarm)
            self._store.log_event(alarm.event(self._phase))
        for alarm in change.over:
            self._store.log_event(alarm.event_over(readings.step, self._phase))
        for note in change.notes:
            self._store.log_event(note.event(readings.step))
        return list(_words(change))


def _words(change: Change) -> Iterator[str]:
    for alarm in change.raised:
        yield f"ALARM at step {alarm.step}: {alarm}"
    for alarm in change.over:
        yield f"alarm over at step {alarm.over}: {alarm.rule} ({alarm.where}), raised at step {alarm.step}"
    for note in change.notes:
        yield f"alarm {note.rule}: {note.message}"


def history(store: Store, rules: Mapping[str, Rule]) -> tuple[list[Alarm], list[Note]]:
    """Every alarm that these rules would have raised in a run, looked at as often as while it went on, in order of steps;
    those that hold at its end have no `over`. And what the rules cannot know."""
    logged = sorted(
        (step, phase != "train", phase) for phase in store.phases() for step in store.steps(phase)
    )
    readings = Readings(store, AHEAD)
    look = Look(rules, readings)
    found: dict[tuple[Key, int], Alarm] = {}
    notes: list[Note] = []
    for number, (step, evaluation, phase) in enumerate(logged):
        readings.advance(step, phase)
        if evaluation or step % EVERY == 0 or number == len(logged) - 1:
            change = look()
            found |= {(alarm.key, alarm.step): alarm for alarm in [*change.raised, *change.over]}
            notes += change.notes
    return list(found.values()), notes
