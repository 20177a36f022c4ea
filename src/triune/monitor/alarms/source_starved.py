"""A source is declared, but not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import TAIL, Readings

SOURCES = "sources"
"""Kind of the event that says, when a run starts, which share of the prompts each source is declared to have."""


@ALARMS.register("source_starved")
class SourceStarved(Rule):
    """A source has far less of the rollouts than its weight says, or nearly all that it has leave the loss.

    As many steps are looked at as must bring `prompts` of the source: where 25 are expected, chance draws 6 or fewer six times
    in a million (Poisson), and the mixture spreads sources more evenly than chance. A source that 512 steps do not bring 25
    prompts of is not judged.
    """

    prompts: float = Field(25, gt=0, description="of the source that the steps looked at should have brought")
    share: float = Field(0.25, gt=0, lt=1, description="of its declared share, below which it is starved")
    window: int = Field(20, ge=1, description="steps in which nearly all must leave the loss")
    rollouts: int = Field(64, ge=1, description="in these steps, at least")
    dropped: float = Field(0.95, gt=0, le=1, description="share of them that leaves the loss")
    over: float = Field(1.5, ge=1, description="times the bound that the shares must come back to")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        declared = readings.event(SOURCES)
        shares: Mapping[str, float] = declared.get("shares", {}) if declared else {}
        starved = set()
        for source, share in shares.items():
            if alarm := self._drawn(readings, source, share * declared["prompts_per_step"], share):
                starved.add(source)
                yield alarm
        for (source,), curve in readings.curves("dropped/loss").items():
            window = curve.last(min(self.window, curve.length))
            if source in starved or window is None or window.count < self.rollouts:
                continue
            left = 1 - self.dropped
            if 1 - window.mean > self.bound(readings, source, "", left, left * self.over) + 1e-12:
                continue
            yield Alarm(
                rule=self.name,
                source=source,
                component="",
                step=readings.step,
                since=window.first,
                message=f"{window.mean:.0%} of its {window.count} rollouts since step {window.first} left the loss: nothing is "
                "learned from it. The events of kind drop say why",
                value=1 - window.mean,
                bound=left,
                metric="dropped/loss",
            )

    def _drawn(self, readings: Readings, source: str, prompts: float, share: float) -> Alarm | None:
        """Against `prompts` of it a step, which is `share` of all."""
        steps = math.ceil(self.prompts / prompts)
        first = readings.step - steps + 1
        everything = readings.curve("dropped/loss").between(first, readings.step)
        if first < 1 or steps > TAIL or everything is None:
            return None
        mine = readings.curve("dropped/loss", source).between(first, readings.step)
        count = mine.count if mine else 0
        drawn = count / everything.count / share
        if drawn > self.bound(readings, source, "", self.share, self.share * self.over):
            return None
        return Alarm(
            rule=self.name,
            source=source,
            component="",
            step=readings.step,
            since=first,
            message=f"it has {count} of {everything.count} rollouts since step {first}, {drawn:.0%} of what its weight asks "
            "for. Rows that are skipped, groups that are dropped, or data that is used up?",
            value=drawn,
            bound=self.share,
            metric="dropped/loss",
        )
