"""The vision tower's gradient bursts."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import Field

from triune.monitor.alarms import ALARMS, Alarm, Note, Rule
from triune.monitor.alarms.readings import Curve, Readings

VISION = "vision"


@ALARMS.register("vision_gradient_spike")
class VisionGradientSpike(Rule):
    """Gradient norms of the vision tower and of its layers, before clipping: against their own past, and against the language
    model's.

    V-Triune (arXiv 2505.18129) trains with the tower frozen, because its norm was more than 10 times the language model's,
    and its first layers' 5 to 10 times its last ones', before performance broke down. The same ratio of 10 is a bound here.
    Against the past a step counts that is both 10 times the median and 10 scaled median absolute deviations above it: ours,
    far beyond what batches differ by. A norm that is not finite is one in any case. Such an alarm is over when no such step
    is among the last ones.
    """

    recent: int = Field(10, ge=1, description="last steps in which a spike counts")
    past: int = Field(50, ge=5, description="steps before them that it is compared with, at most")
    least: int = Field(10, ge=5, description="steps before them that there must be")
    times: float = Field(10, gt=1, description="the median of these steps")
    deviations: float = Field(10, gt=0, description="above that median")
    of_language: float = Field(
        10, gt=1, description="times the language model's norm, as medians of the last steps"
    )
    over: float = Field(0.7, gt=0, le=1, description="times that ratio that it must fall to")

    def check(self, readings: Readings) -> Iterator[Alarm | Note]:
        modules = readings.curves("grad_norm", by=("module",))
        layers = readings.curves("grad_norm/layer", by=("layer",))
        tower = [("grad_norm", key[0], curve) for key, curve in modules.items() if key[0] == VISION]
        tower += [
            ("grad_norm/layer", key[0], curve)
            for key, curve in layers.items()
            if key[0].startswith(f"{VISION}.")
        ]
        for metric, part, curve in tower:
            yield from self._spikes(readings, metric, part, curve)
        language = modules.get(("language",))
        if language is not None and (VISION,) in modules:
            yield from self._ratio(readings, modules[VISION,], language)

    def _spikes(self, readings: Readings, metric: str, part: str, curve: Curve) -> Iterator[Alarm]:
        lost = [step for step in curve.lost if step > readings.step - self.recent]
        if lost:
            yield Alarm(
                rule=self.name,
                source="",
                component=part,
                step=readings.step,
                since=lost[0],
                message=f"gradient norm is not finite at step {lost[-1]}: nothing was learnt from it. Lower "
                "train.optimizer.lr_by_module.vision, or freeze the tower",
                value=math.inf,
                bound=math.inf,
                metric=metric,
            )
            return
        now = curve.last(self.recent)
        before = curve.last(min(self.past, len(curve.tail) - self.recent), self.recent)
        if now is None or before is None or len(before.points) < self.least:
            return
        bound = max(self.times * before.median, before.median + self.deviations * before.mad)
        spikes = [point for point in now.points if point.max > bound]
        if not spikes or bound <= 0:  # a frozen tower has no gradient to burst
            return
        worst = max(spikes, key=lambda point: point.max)
        yield Alarm(
            rule=self.name,
            source="",
            component=part,
            step=readings.step,
            since=spikes[0].step,
            message=f"gradient norm {worst.max:.3g} at step {worst.step}, against a median of {before.median:.3g} before. "
            "Lower train.optimizer.lr_by_module.vision, or freeze the tower",
            value=worst.max,
            bound=bound,
            metric=metric,
        )

    def _ratio(self, readings: Readings, vision: Curve, language: Curve) -> Iterator[Alarm]:
        ours, theirs = vision.last(self.recent), language.last(self.recent)
        if ours is None or theirs is None or not theirs.median:
            return
        component = f"{VISION}/language"
        ratio = ours.median / theirs.median
        bound = self.bound(readings, "", component, self.of_language, self.of_language * self.over)
        if math.isfinite(ratio) and ratio >= bound:
            yield Alarm(
                rule=self.name,
                source="",
                component=component,
                step=readings.step,
                since=ours.first,
                message=f"the vision tower's gradient norm is {ratio:.3g} times the language model's: it is rewritten, not "
                "tuned. Lower train.optimizer.lr_by_module.vision, or freeze the tower",
                value=ratio,
                bound=self.of_language,
                metric="grad_norm",
            )
