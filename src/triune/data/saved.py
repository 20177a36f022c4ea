"""Answers that were saved with what they answer: the rollouts of a run, or rows of any adapter with a response column.

Both become groups that a judge takes: the sample, the outcomes in order, and where the run stood.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from triune.core.base import Frozen
from triune.core.dataspec import AdapterOptions
from triune.core.errors import DataError, RecipeError, StorageError
from triune.core.loading import command_line, explain
from triune.core.provenance import RECIPE_FILE
from triune.core.recipe import Recipe
from triune.core.sample import Frame, Sample
from triune.core.schedule import Progress
from triune.core.userfile import UserFile
from triune.core.verdict import Outcome
from triune.data.adapters import Adapter
from triune.data.reading import Table, tables
from triune.data.rows import BadRow, Row
from triune.data.source import Source, open_sources
from triune.monitor.rollouts import Rollout, from_parquet
from triune.monitor.store import Store
from triune.verify.trial import END

OF_A_ROLLOUT = frozenset({"components", "answer_frame", "judge_seconds", "response"})
"""Columns by which a Parquet file is known as a run's rollouts."""


class Reading(Frozen):
    """How a file of rows with responses is read; set as `a.b=c` on the command line."""

    plugins: tuple[UserFile, ...] = Field((), description="Python files of your own that register verifiers")
    adapter: AdapterOptions = Field("triune", validate_default=True, description="row format, as in a recipe")
    response: str = Field(
        "response",
        description="column with what was answered: a text, an object with fields of an Outcome, or a list of these",
    )
    frame: Frame | None = Field(
        None, description="coordinate frame that the responses write boxes in; default: the truth's"
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="a row that cannot be used is an error, or is skipped and counted"
    )

    @classmethod
    def of(cls, overrides: Sequence[str]) -> Reading:
        """From `a.b=c`; raises RecipeError naming the key."""
        layer = command_line(overrides)
        try:
            return cls.model_validate(layer.values)
        except ValidationError as error:
            places: dict[Any, str] = {(): "command line", **layer.places}
            raise RecipeError(explain(error, layer.values, places, cls)) from None


@dataclass(frozen=True)
class Group:
    """The outcomes of one sample that are judged together. `rollouts`: as they were saved with their verdicts, or none."""

    sample: Sample
    outcomes: tuple[Outcome, ...]
    progress: Progress
    rollouts: tuple[Rollout, ...] = ()


class Choice(Frozen):
    """Which of a run's rollouts; empty means all."""

    phases: tuple[str, ...] = Field((), description="phases, such as train or eval")
    steps: tuple[int, int] | None = Field(None, description="first and last step")
    sources: tuple[str, ...] = Field((), description="sources, * stands for anything")

    def wants(self, phase: str, step: int) -> bool:
        low, high = self.steps or (step, step)
        return (not self.phases or phase in self.phases) and low <= step <= high

    def wants_source(self, source: str) -> bool:
        return not self.sources or any(fnmatchcase(source, pattern) for pattern in self.sources)


@dataclass
class Saved:
    """Saved answers, batch by batch: the groups of a batch were, or are, judged together, at one progress.

    `recorded` takes a run's samples as they were when they were answered, from the run's store, and from the recipe's data
    only what the store does not have; else they come from the data as it is now. `missing` counts per source the rollouts
    whose sample is nowhere, `skipped` bad rows per reason, `damaged` says of files why they cannot be read. All are complete
    once `batches` has been read.
    """

    path: Path
    reading: Reading = field(default_factory=Reading)
    recorded: bool = False
    choice: Choice = field(default_factory=Choice)
    missing: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: dict[str, str] = field(default_factory=dict)

    def batches(self) -> Iterator[list[Group]]:
        """Raises DataError when there is nothing to read, or rows that cannot be used."""
        files = _rollout_files(self.path)
        return self._of_a_run(files) if files else iter([self._of_rows()])

    # -- rollouts of a run -----------------------------------------------------------------------------------------

    def _of_a_run(self, files: Sequence[Path]) -> Iterator[list[Group]]:
        folders = [self.path, *self.path.resolve().parents]
        run_dir = next((folder for folder in folders if (folder / RECIPE_FILE).is_file()), None)
        if run_dir is None:
            raise DataError(
                f"{self.path}: no {RECIPE_FILE} in this or any folder above; rollouts are judged by their recipe"
            )
        recipe = Recipe.load(run_dir / RECIPE_FILE)
        with ExitStack() as opened:
            store = None
            if self.recorded and (run_dir / "metrics.sqlite").is_file():
                store = opened.enter_context(Store(run_dir, readonly=True))
            samples = _Samples(recipe, store)
            kept = store.rollout_files() if store else {}
            for file in self._listed(files, run_dir, kept) if store else files:
                if not self._wanted(file):
                    continue
                try:
                    rollouts = store.rollouts(*kept[file]) if store and file in kept else from_parquet(file)
                except StorageError as error:
                    if not self.recorded:
                        raise
                    self.damaged[str(file)] = str(error)
                    continue
                batches: dict[Progress, list[Group]] = defaultdict(list)
                for group in _together(rollouts):
                    if not self.choice.wants_source(group[0].source):
                        continue
                    sample = samples.of(group[0])
                    if sample is None:
                        self.missing[group[0].source] += len(group)
                        continue
                    progress = _progress(group[0], recipe.train.total_steps)
                    batches[progress].append(
                        Group(sample, tuple(map(outcome, group)), progress, tuple(group))
                    )
                yield from batches.values()

    def _listed(
        self, files: Sequence[Path], run_dir: Path, kept: Mapping[Path, tuple[str, int]]
    ) -> list[Path]:
        """The files as the run's store lists them: one that is gone is missed, and one that a resumed run took back is left."""
        others = [
            file for file in files if file.parent.parent != run_dir / "rollouts" or not file.stem.isdigit()
        ]
        return sorted({*others, *kept}) if self.path.is_dir() else list(files)

    def _wanted(self, file: Path) -> bool:
        return not file.stem.isdigit() or self.choice.wants(file.parent.name, int(file.stem))

    # -- rows with responses ---------------------------------------------------------------------------------------

    def _of_rows(self) -> list[Group]:
        found: dict[str, tuple[Sample, list[Outcome]]] = {}
        for table in tables(str(self.path)):
            for row, responses in self._rows(table):
                try:
                    self._add(found, row, responses)
                except DataError as error:
                    if self.reading.on_bad_row == "error":
                        raise
                    self.skipped[error.reason if isinstance(error, BadRow) else "invalid"] += 1
        if not found:
            raise DataError(f"{self.path} has no usable rows (skipped: {dict(self.skipped)})")
        return [Group(sample, tuple(outcomes), END) for sample, outcomes in found.values()]

    def _rows(self, table: Table) -> Iterator[tuple[Row, Any]]:
        """Rows as the adapter has them, without the response column, and what that held."""
        adapter, column = self._adapter(), self.reading.response
        responses: dict[int, Any] = {}

        def bare() -> Iterator[Row]:
            for number, values in enumerate(table.rows()):
                rest = {name: value for name, value in values.items() if name != column}
                row = Row(
                    rest, table.file, number, adapter.folder or table.folder, self.path.stem,
                    prefix=table.prefix, outside=adapter.allow_outside, cached=table.large,
                )  # fmt: skip
                if number == 0:
                    if column not in values:
                        raise DataError(
                            f"{table.file}, row 0: no column {column!r} with what was answered; the columns are "
                            f"{', '.join(map(str, values))}. Name it: response=COLUMN"
                        )
                    adapter.recognise(row)
                responses[number] = values.get(column)
                yield row

        for row in adapter.group(bare()):
            yield row, responses.pop(row.number)

    def _add(self, found: dict[str, tuple[Sample, list[Outcome]]], row: Row, responses: Any) -> None:
        """Rows with one id are one group, and must hold one sample."""
        sample = self._adapter().read(row)
        if responses is None and row.file.suffix in (".csv", ".tsv"):
            responses = ""  # where an empty cell is the only way to write an empty answer
        texts = list(responses) if isinstance(responses, list | tuple) else [responses]
        if not texts:
            raise row.error("missing_field", f"column {self.reading.response!r} is empty: nothing to judge")
        known, outcomes = found.get(sample.id, (sample, []))
        if known != sample:
            raise row.error("duplicate_id", f"id {sample.id!r} is already taken by another sample")
        made = [self._outcome(row, sample, len(outcomes) + n, value) for n, value in enumerate(texts)]
        found[sample.id] = (known, outcomes + made)

    def _outcome(self, row: Row, sample: Sample, rank: int, value: Any) -> Outcome:
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, Mapping):
            kind = type(value).__name__
            raise row.error(
                "wrong_type",
                f"column {self.reading.response!r} must hold a text, an object with fields of an Outcome, or a list of "
                f"these; got {kind}",
            )
        seen = [{"sha256": m.sha256, "original": m.size, "processed": m.size} for m in sample.media]
        fields = {
            "id": f"{sample.id}#{rank}", "rank": rank, "frame": self.reading.frame or sample.frame, "media": seen, **value
        }  # fmt: skip
        try:
            return Outcome.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except (TypeError, ValueError) as error:
            why = str(error)
        raise row.error("invalid", f"a response is no outcome: {why}")

    def _adapter(self) -> Adapter:
        adapter = self.reading.adapter
        if not isinstance(adapter, Adapter):
            raise RecipeError(f"{type(adapter).__name__} is not a data adapter")
        return adapter


class _Samples:
    """The samples that rollouts answered: from the store, where there is one that has them, else from the recipe's data,
    which is opened when it is needed first."""

    def __init__(self, recipe: Recipe, store: Store | None) -> None:
        self._recipe, self._store = recipe, store
        self._known: dict[str, Sample | None] = {}
        self._sources: list[Source] | None = None

    def of(self, rollout: Rollout) -> Sample | None:
        sha = rollout.sample_sha if self._store else ""
        key = sha or f"id {rollout.sample}"
        if key not in self._known:
            kept = self._store.sample(sha) if self._store and sha else None
            self._known[key] = kept or self._of_the_data(rollout.sample)
        return self._known[key]

    def _of_the_data(self, id: str) -> Sample | None:
        if self._sources is None:
            self._sources = [
                source
                for split in ("train", "heldout")
                for source, _ in open_sources(self._recipe.data, self._recipe.seed, split)
            ]
        return find(self._sources, id)


def find(sources: Iterable[Source], id: str) -> Sample | None:
    """The sample with this id in any of the sources."""
    return next((found for source in sources if (found := source.find(id)) is not None), None)


def outcome(rollout: Rollout) -> Outcome:
    """What the verifiers saw of a saved rollout. Runs of before events were saved have those that a check counted."""
    events = rollout.events or tuple(
        event for part in rollout.components if part.verifier.startswith("env/") for event in part.events
    )
    return Outcome(
        id=rollout.id,
        text=rollout.response,
        calls=rollout.calls,
        media=rollout.seen,
        frame=rollout.answer_frame,
        ending=rollout.ending,
        truncated=rollout.truncated,
        num_tokens=rollout.response_tokens,
        num_turns=rollout.turns,
        events=events,
        rank=rollout.rank,
    )


def _progress(rollout: Rollout, total_steps: int) -> Progress:
    """Where the run stood when it judged: as `Loop` has it, an evaluation before the first step counts as of the first."""
    phase: Literal["train", "eval"] = "train" if rollout.phase == "train" else "eval"
    step = rollout.step if phase == "train" else max(1, rollout.step)
    return Progress(step=step, total_steps=max(total_steps, step), phase=phase)


def _rollout_files(path: Path) -> list[Path]:
    """The rollout files that a path stands for; none if it is a file of rows. Raises DataError if there is nothing."""
    if path.is_dir():
        files = sorted(path.glob("rollouts/*/*.parquet"))
        if not files:
            raise DataError(
                f"{path} holds no rollouts; give a run's folder, one of its rollouts/PHASE/*.parquet, or a file of rows "
                "with a response column"
            )
        return files
    if not path.is_file():
        raise DataError(f"{path} is neither a run's folder nor a file")
    if path.suffix != ".parquet":
        return []
    try:
        columns = set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [path] if columns >= OF_A_ROLLOUT else []


def _together(rollouts: Iterable[Rollout]) -> Iterator[list[Rollout]]:
    """Rollouts of one sample that were judged together, by rank: group verifiers need all of them. What was placed beside
    them was judged alone."""
    groups: dict[tuple[str, str, str], list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        alone = "" if rollout.component == "policy" else rollout.id
        groups[rollout.group, rollout.sample, alone].append(rollout)
    for group in groups.values():
        yield sorted(group, key=lambda rollout: rollout.rank)
