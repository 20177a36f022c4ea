"""Which curves tell whether a run is healthy: declared once, shown by the dashboard and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from triune.monitor.store import Point, Store

Scale = Literal["unit", "share", "free", "log"]


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric in a panel: one curve called `label`, or one for each value of the label `by`. A metric `loss/*` stands for all
    whose names begin so. `stat` is what of each step's values is drawn. `signs`: a curve that is 0 throughout says
    nothing and is left out; `but`: values of `by` that are."""

    metric: str
    label: str = ""
    by: str = ""
    stat: Literal["mean", "max", "sum"] = "mean"
    signs: bool = False
    but: frozenset[str] = frozenset()

    def read(
        self,
        store: Store,
        where: Mapping[str, str] | None = None,
        points: int | None = None,
        *,
        since: int | None = None,
        until: int | None = None,
    ) -> Iterator[tuple[str, list[Point]]]:
        """(name, points) of each curve that there is; `since`, `until` and `points` as in `Store.series`."""
        start = self.metric.removesuffix("*")
        names = [self.metric]
        if start != self.metric:
            names = [name for name in store.names() if name.startswith(start)]
        keys = (self.by,) if self.by else ()
        for name in names:
            series = store.series(name, by=keys, where=where, since=since, until=until, points=points)
            for key, found in sorted(series.items()):
                words = (self.label or name.removeprefix(start), *(part or "all" for part in key))
                if set(key) & self.but or (self.signs and not any(point.mean for point in found)):
                    continue
                yield " ".join(words[1:] if key and not self.label else words), found

    def value(self, point: Point) -> float:
        return point.mean * point.count if self.stat == "sum" else getattr(point, self.stat)


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; `note` says what to look for.

    `scale`: `unit` always shows 0 to 1, so that panels compare; `share` shows percentages, as far as they go; `log` is for
    what may spike; `free` fits the values.
    """

    title: str
    curves: tuple[Curve, ...]
    note: str = ""
    scale: Scale = "free"


HEALTH = (
    Panel(
        "Entropy",
        (Curve("entropy", "nats per token"), Curve("entropy/sampled", "sampled")),
        "collapses when the policy stops exploring",
    ),
    Panel(
        "Clipped tokens",
        (
            Curve("clip_frac/low", "low"),
            Curve("clip_frac/high", "high"),
            Curve("clip_frac/dual", "dual", signs=True),
        ),
        "0 on-policy; above .2 the step is too far from its data",
        "share",
    ),
    Panel(
        "Largest ratio", (Curve("ratio", "max", stat="max"),), "policy after against before the update", "log"
    ),
    Panel(
        "Divergence",
        (
            Curve("approx_kl", "from the policy before"),
            Curve("kl/*"),
            Curve("reward/kl", "charged in the reward"),
            Curve("mismatch/kl", "engine against learner"),
        ),
        "nats per token; growth over a run",
    ),
    Panel(
        "Engine against learner",
        (
            Curve("sampling/sampling_logp_difference", "mean"),
            Curve("sampling/sampling_logp_difference", "max", stat="max"),
        ),
        "log-prob of the same tokens; 0 when exact",
        "log",
    ),
    Panel("Gradient norm", (Curve("grad_norm", by="module"),), "before clipping, by module", "log"),
    Panel(
        "Groups without spread",
        (Curve("frac_reward_zero_std", "rewards equal"), Curve("degenerate", "no gradient")),
        "they teach nothing",
        "share",
    ),
    Panel("Truncated responses", (Curve("completions/clipped_ratio", "rollouts", signs=True),), "", "share"),
    Panel(
        "Response length",
        (
            Curve("completions/length", "all"),
            Curve("completions/length_correct", "correct"),
            Curve("completions/length_wrong", "wrong"),
        ),
        "tokens",
    ),
    Panel(
        "Answers that are not ok",
        (Curve("status", by="status", signs=True, but=frozenset({"ok"})),),
        "unparsed is scored, the rest is nobody's score",
        "share",
    ),
    Panel(
        "Left out",
        (
            Curve("dropped/loss", "of the loss", signs=True),
            Curve("dropped/baseline", "of the baseline", signs=True),
        ),
        "rollouts",
        "share",
    ),
    Panel("Reflective responses", (Curve("reflection/ratio", "rollouts"),), "", "share"),
    Panel(
        "Critic",
        (Curve("explained_variance", "explained variance"), Curve("value_error", "squared error")),
        "below 0 the critic does harm",
    ),
    Panel("Loss", (Curve("loss/*"),), "of a policy gradient it has no target: do not read progress from it"),
    Panel("Learning rate", (Curve("learning_rate", by="module"),)),
    Panel(
        "Steps without effect",
        (
            Curve("grad_skipped", "gradient not finite", signs=True),
            Curve("minibatches_empty", "nothing counted", signs=True),
        ),
        "anything but 0",
    ),
    Panel("Seconds per step", (Curve("seconds", by="phase"),), "by part of the step"),
    Panel("Tokens per second", (Curve("tokens_per_second", by="phase"),)),
    Panel("Memory", (Curve("peak_rss_mb", "process, MiB"),), "growth over a run is a leak"),
    Panel(
        "Judge",
        (Curve("judge/seconds", "mean"), Curve("judge/seconds", "max", stat="max")),
        "seconds per rollout",
        "log",
    ),
    Panel(
        "Monitor",
        (
            Curve("rollouts/unkept", by="reason", stat="sum", signs=True),
            Curve("sinks/failed", by="sink", stat="sum", signs=True),
        ),
        "rollouts that were not kept, trackers that failed",
    ),
)
"""In the order in which they are looked at."""

LAYERS = Curve("grad_norm/layer", by="layer")
"""Of the gradient, what each layer gets: too many curves for a chart."""
