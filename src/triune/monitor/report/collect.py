"""What the report shows, read from the run's store and `summary.json`; no layout here."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from triune.core.errors import StorageError
from triune.core.verdict import SCORED
from triune.monitor.disk import naming
from triune.monitor.report.cases import TaskCases, choose_cases
from triune.monitor.rollouts import Rollout
from triune.monitor.stats import Gain, Score, paired_gains
from triune.monitor.store import Point, Store


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the headline table: accuracies in [0, 1]; None where not measured. `ci95` belongs to the gain."""

    before: float | None = None
    after: float | None = None
    clean: float | None = None
    blind: float | None = None
    ci95: tuple[float, float] | None = None
    n: int | None = None

    @property
    def gain(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: points (step, value), and the steps at which the value was not finite."""

    label: str
    points: Sequence[tuple[int, float]]
    broken: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; `note` says what to look for.

    `scale`: `unit` always shows 0 to 1, so that panels compare; `share` shows percentages, as far as they go; `free`
    fits the values.
    """

    title: str
    lines: Sequence[Line]
    note: str = ""
    scale: Literal["unit", "share", "free"] = "free"


@dataclass(frozen=True, slots=True)
class Report:
    name: str
    facts: Mapping[str, str]
    mean: Result
    tasks: Mapping[str, Result]
    sources: Mapping[str, Result]
    task_of: Mapping[str, str]
    curves: Mapping[str, Panel]
    components: Mapping[str, Panel]
    health: Sequence[Panel]
    cases: Sequence[TaskCases]
    problems: Sequence[str] = field(default_factory=list)


def collect(run_dir: Path) -> Report:
    """Raises StorageError if the run cannot be read."""
    summary = _read_summary(run_dir / "summary.json")
    with Store(run_dir, readonly=True) as store:
        before, after = _evaluations(store)
        extra = {name: _latest_rollouts(store, f"eval-{name}") for name in ("clean", "blind")}
        mean, tasks, sources = _results(summary, before, after, extra)
        task_of = _tasks(store)
        return Report(
            name=run_dir.resolve().name,
            facts=_facts(store, summary),
            mean=mean,
            tasks=tasks,
            sources=sources,
            task_of=task_of,
            curves=_curves(store),
            components=_components(store),
            health=_health(store),
            cases=choose_cases(store, before, after),
            problems=_problems(store),
        )


# Results


def _read_summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        with naming(path, reading=True):
            found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise StorageError(f"{path} must hold an object with tasks and sources")
    return found


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _interval(value: object) -> tuple[float, float] | None:
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    low, high = map(_number, value)
    return None if low is None or high is None else (low, high)


def _result(row: Mapping[str, Any], prefix: str = "") -> Result:
    n = _number(row.get("n"))
    return Result(
        **{name: _number(row.get(prefix + name)) for name in ("before", "after", "clean", "blind")},
        ci95=_interval(row.get(prefix + "gain_ci95")),
        n=None if n is None else int(n),
    )


Results = tuple[Result, dict[str, Result], dict[str, Result]]


def _results(
    summary: Mapping[str, Any],
    before: Sequence[Rollout],
    after: Sequence[Rollout],
    extra: Mapping[str, Sequence[Rollout]],
) -> Results:
    """The mean over tasks, the tasks and the sources: as summarised, else computed from the rollouts."""
    if summary:
        tasks, sources = (
            {str(name): _result(row) for name, row in (summary.get(key) or {}).items()}
            for key in ("tasks", "sources")
        )
        mean = _result(summary, "mean_")
        return replace(mean, n=sum(task.n or 0 for task in tasks.values()) or None), tasks, sources
    first, second = _scores(before), _scores(after)
    if not {score.sample for score in first} & {score.sample for score in second}:
        return Result(), {}, {}
    gains = paired_gains(first, second)
    others = {name: _scores(rollouts) for name, rollouts in extra.items()}

    def of(gain: Gain, **label: str) -> Result:
        means = {
            name: _mean(
                s.value for s in scores if all(getattr(s, key) == value for key, value in label.items())
            )
            for name, scores in others.items()
        }
        return Result(gain.before, gain.after, ci95=gain.ci95, n=gain.n, **means)

    tasks = {name: of(gain, task=name) for name, gain in gains.tasks.items()}
    sources = {name: of(gain, source=name) for name, gain in gains.sources.items()}
    over_tasks = {
        name: _mean(value for task in tasks.values() if (value := getattr(task, name)) is not None)
        for name in others
    }
    mean = Result(gains.mean.before, gains.mean.after, ci95=gains.mean.ci95, n=gains.mean.n, **over_tasks)
    return mean, tasks, sources


def _scores(rollouts: Iterable[Rollout]) -> list[Score]:
    """Accuracy per rollout; what nobody could judge is left out, and shows in the statuses."""
    return [Score(r.sample, r.source, r.task, r.accuracy) for r in rollouts if r.accuracy is not None]


def _mean(values: Iterable[float]) -> float | None:
    seen = list(values)
    return sum(seen) / len(seen) if seen else None


def _latest_rollouts(store: Store, phase: str) -> list[Rollout]:
    steps = store.rollout_steps(phase)
    return store.rollouts(phase, steps[-1]) if steps else []


def _evaluations(store: Store) -> tuple[list[Rollout], list[Rollout]]:
    """Rollouts before and after training; without such phases, those of the first and last evaluation on the way."""
    before, after = _latest_rollouts(store, "eval-before"), _latest_rollouts(store, "eval-after")
    on_the_way = store.rollout_steps("eval")
    if not before and len(on_the_way) > 1:
        before = store.rollouts("eval", on_the_way[0])
    if not after and on_the_way:
        after = store.rollouts("eval", on_the_way[-1])
    return before, after


def _facts(store: Store, summary: Mapping[str, Any]) -> dict[str, str]:
    facts = {}
    if steps := store.steps():
        facts["steps"] = str(steps[-1])
    lengths = chain.from_iterable(store.series("completions/length", by=()).values())
    rollouts, tokens = 0, 0.0
    for point in lengths:
        rollouts, tokens = rollouts + point.count, tokens + point.count * point.mean
    if rollouts:
        facts |= {"rollouts": f"{rollouts:,}", "sampled tokens": f"{tokens:,.0f}"}
    for name, seconds in (summary.get("seconds") or {}).items():
        if (number := _number(seconds)) is not None:
            facts[f"{name} time"] = duration(number)
    if (memory := _number(summary.get("peak_rss_mb"))) is not None:
        facts["peak memory"] = f"{memory / 1024:.1f} GB"
    return facts


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _tasks(store: Store) -> dict[str, str]:
    """Source -> task, over all phases."""
    found = {}
    for phase in store.phases():
        for source, task in store.latest("status", phase=phase, by=("source", "task")):
            found[source] = task
    return dict(sorted(found.items(), key=lambda item: (item[1], item[0])))


# Curves


def _line(label: str, points: Iterable[Point]) -> Line:
    points = list(points)
    return Line(
        label,
        [(point.step, point.mean) for point in points if point.count],
        [point.step for point in points if point.nonfinite],
    )


def _curves(store: Store) -> dict[str, Panel]:
    """Per source: the training reward and the held-out accuracy."""
    rewards = store.series("reward")
    held_out: dict[str, dict[int, Point]] = defaultdict(dict)
    for phase in ("eval-before", "eval", "eval-after"):
        for (source,), points in store.series("accuracy", phase=phase).items():
            held_out[source] |= {point.step: point for point in points}
    panels = {}
    for source in sorted({*(source for (source,) in rewards), *held_out}):
        lines = []
        if (source,) in rewards:
            lines.append(_line("training reward", rewards[source,]))
        if source in held_out:
            lines.append(_line("held-out accuracy", (point for _, point in sorted(held_out[source].items()))))
        panels[source] = Panel(source, lines, scale="unit")
    return panels


def _components(store: Store) -> dict[str, Panel]:
    """Per source with more than one reward component: the mean value of each."""
    lines: dict[str, list[Line]] = defaultdict(list)
    for (source, component), points in sorted(store.series("component", by=("source", "component")).items()):
        lines[source].append(_line(component, points))
    return {source: Panel(source, found, scale="unit") for source, found in lines.items() if len(found) > 1}


def _health(store: Store) -> list[Panel]:
    """The signs of a run that trains on while something is wrong; panels without data are left out."""

    def whole(name: str, label: str) -> list[Line]:
        return [_line(label, points) for points in store.series(name, by=()).values()]

    def split(name: str, label: str) -> list[Line]:
        return [
            _line(key or "all", points) for (key,), points in sorted(store.series(name, by=(label,)).items())
        ]

    def largest(name: str) -> list[Line]:
        return [
            Line("max", [(p.step, p.max) for p in points if p.count])
            for points in store.series(name, by=()).values()
        ]

    def ever(lines: list[Line]) -> list[Line]:
        return [line for line in lines if any(value for _, value in line.points)]

    statuses = [line for line in split("status", "status") if line.label != "ok"]
    panels = [
        Panel("Answers that are not ok", ever(statuses), "unparsed is scored, the rest is nobody's score", "share"),
        Panel("Groups without spread", whole("frac_reward_zero_std", "groups"), "they give no gradient", "share"),
        Panel("Left out of the loss", ever(whole("dropped/loss", "rollouts")), scale="share"),
        Panel("Truncated responses", ever(whole("completions/clipped_ratio", "rollouts")), scale="share"),
        Panel(
            "Response length",
            [
                *whole("completions/length", "all"),
                *whole("completions/length_correct", "correct"),
                *whole("completions/length_wrong", "wrong"),
            ],
            "tokens",
        ),
        Panel("Entropy", whole("entropy", "nats per token"), "collapses when the policy stops exploring"),
        Panel("Gradient norm", split("grad_norm", "module"), "before clipping, by module"),
        Panel("Clipped tokens", [*whole("clip_frac/low", "low"), *whole("clip_frac/high", "high")], scale="share"),
        Panel("Largest ratio", largest("ratio"), "policy after against before the update"),
        Panel(
            "Engine against learner",
            whole("sampling/sampling_logp_difference", "mean |difference|"),
            "log-prob; 0 when exact",
        ),
        Panel("Loss", [line for name in store.names() if name.split("/")[0] == "loss" for line in whole(name, name)]),
        Panel("Reflective responses", whole("reflection/ratio", "rollouts"), scale="share"),
        Panel("Learning rate", split("learning_rate", "module")),
        Panel("Seconds per step", split("seconds", "phase"), "by part of the step"),
    ]  # fmt: skip
    return [panel for panel in panels if any(line.points or line.broken for line in panel.lines)]


def _problems(store: Store) -> list[str]:
    """Sentences that the reader must not miss."""
    found = []
    for phase in store.phases():
        totals: Counter[str] = Counter()
        for (status,), points in store.series("status", phase=phase, by=("status",)).items():
            totals[status] += round(sum(point.count * point.mean for point in points))
        for status, count in sorted(totals.items()):
            if status not in SCORED and count:
                found.append(
                    f"{count} rollouts in {phase} could not be judged ({status}); they were not scored."
                )
    for name, steps in store.nonfinite().items():
        plural = "s" if len(steps) > 1 else ""
        found.append(f"{name} was not finite at {len(steps)} step{plural}, first at step {steps[0]}.")
    return found
