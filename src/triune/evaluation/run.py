"""An evaluation: suites, a model that answers them, and a report. With saved predictions, without the model.

The model is a run's checkpoint (its recipe says how it is loaded and sampled), or any folder that `policy.path` takes.
Prompts are rendered, answers decoded and judged by the objects that training uses.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue, ValidationError

from triune.core.base import Frozen
from triune.core.errors import RecipeError
from triune.core.loading import command_line, explain, merge, read
from triune.core.plugin import PlugIn
from triune.core.provenance import RECIPE_FILE
from triune.core.recipe import PolicyOptions, Recipe, RolloutOptions
from triune.core.sample import Sample
from triune.data.files import atomic
from triune.evaluation.number import Number, count, mean
from triune.evaluation.predictions import Prediction, record, rejudge, write
from triune.evaluation.probes import drop, look
from triune.evaluation.suites import SUITES, Suite, counts
from triune.evaluation.suites.external import External
from triune.verify.judge import Judge

SuiteOptions = Annotated[BaseModel, PlugIn("triune.evaluation.suites:SUITES")]

MAX_TOKENS = 1024
"""Longest answer of a model that comes without a recipe, in tokens."""


class Evaluation(Frozen):
    """A file that names suites; `policy` and `rollout` override how the model is loaded and how it answers."""

    suites: tuple[SuiteOptions, ...] = Field(min_length=1, description="what is asked")
    policy: dict[str, JsonValue] = Field(
        default_factory=dict, description="options of the policy: dtype, frame, window"
    )
    rollout: dict[str, JsonValue] = Field(
        default_factory=dict, description="options of the rollout: max_tokens"
    )
    workers: int = Field(2, ge=0, description="processes for slow verifiers")

    @classmethod
    def load(
        cls, file: Path | None, overrides: Sequence[str] = (), suite: Mapping[str, Any] | None = None
    ) -> Evaluation:
        """From a YAML file, or from one suite's options; `overrides` are `a.b=c`. Raises RecipeError naming file, line, key."""
        values: Any = {"suites": [dict(suite)]} if suite else {}
        places: dict[Any, str] = {(): "command line"}
        if file is not None:
            layer = read(file)
            values, places = layer.values, {(): str(file), **layer.places}
        layer = command_line(overrides)
        values, places = merge(values, layer.values), places | layer.places
        try:
            found = cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(explain(error, values, places, cls)) from None
        names = Counter(one.source for one in found.chosen)
        if repeated := [name for name, n in names.items() if n > 1]:
            raise RecipeError(f"suites {repeated} have one name; give each its own `name`")
        return found

    @classmethod
    def of(
        cls,
        file: str | None,
        overrides: Sequence[str] = (),
        task: str = "",
        data: str = "",
        images: Path | None = None,
        out: Path | None = None,
    ) -> Evaluation:
        """As the command line has it: a file, or one suite, whose options are then the overrides without a section."""
        if not task:
            if data or images or out:
                raise RecipeError(
                    "--data, --images and --out belong to --task; a file of suites names its own"
                )
            return cls.load(Path(str(file)), overrides)
        given = {"kind": task, "data": data, "images": images and str(images), "out": out and str(out)}
        own = ("policy.", "rollout.", "workers=")
        placed = [text if text.startswith(own) else f"suites[0].{text}" for text in overrides]
        return cls.load(None, placed, {key: value for key, value in given.items() if value})

    @property
    def chosen(self) -> list[Suite]:
        return [one for one in self.suites if isinstance(one, Suite)]


class Model(Frozen):
    """How a model is loaded and how it answers."""

    policy: PolicyOptions
    rollout: RolloutOptions

    @classmethod
    def find(cls, path: str, evaluation: Evaluation | None = None) -> Model:
        """Of a checkpoint or an exported folder by its recipe, of a run's newest checkpoint, or of a model folder."""
        folder = newest(Path(path))
        recipe = folder / RECIPE_FILE
        values: dict[str, Any] = {
            "policy": {"kind": "language", "path": path},
            "rollout": {"kind": "native", "max_tokens": MAX_TOKENS},
        }
        if recipe.is_file():
            dumped = Recipe.load(recipe).dump()
            weights = folder / "model" if (folder / "model").is_dir() else folder
            values = {"policy": {**dumped["policy"], "path": str(weights)}, "rollout": dumped["rollout"]}
        if evaluation is not None:
            values = merge(values, {"policy": evaluation.policy, "rollout": evaluation.rollout})
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(explain(error, values, {(): path}, cls)) from None


def newest(path: Path) -> Path:
    """The newest checkpoint of a run; any other path as it is."""
    if not (path / "checkpoints").is_dir():
        return path
    from triune.train.checkpoint import latest

    return latest(path)


@dataclass(frozen=True)
class Report:
    """Rows of predictions, the figures of each source, what suites left out, and what was written for other scorers. Of a
    probe, rows and figures are those of the changed samples, and `drops` has the accuracy that the same samples had as they
    were (`seen`) and how much of it is gone (`drop`), paired by sample."""

    rows: list[Prediction]
    suites: dict[str, Suite]
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    commands: dict[str, list[str]] = field(default_factory=dict)
    model: str = ""
    probe: str = ""
    drops: dict[str, dict[str, Number]] = field(default_factory=dict)

    def numbers(self) -> dict[str, dict[str, Number]]:
        """{source: {figure: Number}}."""
        return {
            source: {**counts(rows), **self.suites[source].numbers(rows), **self.drops.get(source, {})}
            for source, rows in self.by_source().items()
            if rows or not self.probe
        }

    def by_source(self) -> dict[str, list[Prediction]]:
        found: dict[str, list[Prediction]] = {source: [] for source in self.suites}
        for row in self.rows:
            found[row.source].append(row)
        return found

    def compare(self, seen: Sequence[Prediction], probed: Sequence[Prediction]) -> None:
        """What answers to the samples as they were say of those to the changed ones."""
        for source in dict.fromkeys(row.source for row in probed):
            before, after = (
                {row.id: [row.value] for row in rows if row.source == source} for rows in (seen, probed)
            )
            found = drop(before, after)
            n = len(found.lost)
            lost = Number(value=sum(found.lost) / n if n else None, n=n)
            if ends := found.ci95(source):
                lost = lost.model_copy(update={"low": ends[0], "high": ends[1], "interval": "bootstrap"})
            self.drops[source] = {"seen": mean(found.seen) if n else lost, "drop": lost}
            if found.unpaired:
                self.drops[source]["unpaired"] = count(found.unpaired, n + found.unpaired)

    def leave_out(self, reasons: Mapping[tuple[str, str], int]) -> None:
        """Counts samples that were not asked, by source and reason."""
        for (source, reason), number in reasons.items():
            self.left_out.setdefault(source, Counter())[reason] += number

    def save(self, path: Path, numbers: Mapping[str, Mapping[str, Number]]) -> None:
        """The figures as JSON, with how each source was scored and the versions that did it."""
        held = {
            "model": self.model,
            **({"probe": self.probe} if self.probe else {}),
            "versions": _versions(),
            "suites": {source: suite.tag() for source, suite in self.suites.items()},
            "left_out": {source: dict(reasons) for source, reasons in self.left_out.items() if reasons},
            "sources": {
                source: {name: one.model_dump(mode="json") for name, one in figures.items()}
                for source, figures in numbers.items()
            },
        }
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(held, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def save_predictions(self, path: Path) -> None:
        write(path, self.rows)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("triune", "faster-coco-eval", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def evaluate_suites(
    model: str,
    evaluation: Evaluation,
    *,
    samples: int | None = None,
    probe: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """The model answers every suite, greedily, once; with a `probe` once more, as that shows the samples. `samples`: the first
    so many of each suite."""
    from triune.evaluate import answer, respond  # the one place that needs torch

    look(probe, ())  # an unknown one, before the model is loaded
    options = Model.find(model, evaluation)
    family: Any = options.policy.build()  # type: ignore[attr-defined]
    generator: Any = options.rollout.build(family)  # type: ignore[attr-defined]
    report = Report([], {}, model=model, probe=probe)
    with Judge(workers=evaluation.workers) as judge:
        # All questions are read and routed before the first is asked.
        asked: list[tuple[Suite, list[Sample]]] = []
        for suite in evaluation.chosen:
            loaded = suite.load(getattr(family, "frame", "pixels_original"))
            chosen = loaded.samples[:samples]
            if not isinstance(suite, External):
                judge.check_many(chosen)
            for source in dict.fromkeys(sample.source for sample in chosen):
                if source in report.suites:
                    raise RecipeError(f"two suites have a source {source!r}; give one of them a `name`")
                report.suites[source] = suite
            report.left_out[suite.source] = loaded.left_out
            asked.append((suite, chosen))
        for suite, chosen in asked:
            say(f"{suite.source}: {len(chosen)} samples")
            tag, probed = suite.tag(), look(probe, chosen)
            if isinstance(suite, External):
                episodes = respond(family, generator, probed.samples)
                rows = [record(one.sample, one.outcome, None, tag) for one in episodes]
                report.commands[suite.source] = suite.commands()
            else:
                done = answer(family, generator, judge, probed)
                rows = [record(one.sample, one.outcome, one.verdict, tag) for one in done]
            if probe and not isinstance(suite, External):
                seen = answer(family, generator, judge, probed.originals)
                report.compare([record(one.sample, one.outcome, one.verdict, tag) for one in seen], rows)
            report.leave_out(probed.left_out)
            report.rows.extend(rows)
            report.written.extend(suite.write(rows))
    return report


def evaluate_heldout(
    checkpoint: Path, *, probe: str = "", seed: int | None = None, samples: int | None = None
) -> Report:
    """A checkpoint of a run on the recipe's held-out samples; as `evaluate_suites` with a probe."""
    if not (checkpoint / RECIPE_FILE).is_file() or not (checkpoint / "model").is_dir():
        raise RecipeError(
            f"{checkpoint} is no checkpoint, so it has no held-out samples; say what to ask: --task with --data, or a "
            "file of suites"
        )
    from triune.evaluate import answer_heldout

    look(probe, ())
    answers, changed, probed = answer_heldout(checkpoint, probe=probe, seed=seed, samples=samples)
    seen, rows = (
        [record(one.sample, one.outcome, one.verdict, {"kind": "rows"}) for one in done]
        for done in (answers, changed)
    )
    if not probe:
        return Report(seen, _suites(seen), model=str(checkpoint))
    report = Report(rows, _suites(rows), model=str(checkpoint), probe=probe)
    report.compare(seen, rows)
    report.leave_out(probed.left_out)
    return report


def rescore(rows: Sequence[Prediction], *, workers: int = 2) -> tuple[Report, int]:
    """Judges saved predictions again; returns the report and how many verdicts differ from the saved ones."""
    with Judge(workers=workers) as judge:
        fresh = rejudge(rows, judge)
    changed = sum(
        (a.value, a.correct, a.status) != (b.value, b.correct, b.status)
        for a, b in zip(rows, fresh, strict=True)
    )
    return Report(fresh, _suites(fresh)), changed


def _suites(rows: Sequence[Prediction]) -> dict[str, Suite]:
    """The suites that rows say they are scored by, without their data."""
    found: dict[str, Suite] = {}
    for row in rows:
        if row.source not in found:
            found[row.source] = _suite(row)
    return found


def _suite(row: Prediction) -> Suite:
    tag = dict(row.suite)
    kind = str(tag.get("kind", ""))
    if kind not in SUITES:
        raise RecipeError(
            f"source {row.source!r} was scored by the unknown suite {kind!r}; {SUITES.hint(kind)}"
        )
    needed = {"out": "."} if issubclass(SUITES[kind], External) else {}
    try:
        return SUITES[kind].model_validate({"data": "", "name": row.source, **needed, **tag})
    except ValidationError as error:
        raise RecipeError(
            f"source {row.source!r}: its scoring options {tag} are not legal: {error}"
        ) from None
