"""What the sinks for trackers share: names, one tracker run for a run however often it is resumed, examples.

A tracker connects at its first step, in the thread that its guard gives it, so a login that is missing or a server that is
down is a failed step: counted, said, and tried again a minute later.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
import uuid
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from pydantic import Field

from triune.core.errors import RecipeError, StorageError
from triune.monitor.disk import write
from triune.monitor.metric import Metric, Scored, merge
from triune.monitor.names import Namer, Style
from triune.monitor.rollouts import Advantage, prompt_text
from triune.monitor.sinks import Options, Run
from triune.monitor.store import Event, Store

RETRY = 60.0
"""Seconds after which a tracker that could not be reached is tried again."""
SIDE = 384
"""Pixels of the longer side of a picture in a tracker's table."""
PICTURES = 4
"""Pictures of one rollout in a tracker's table, at most."""


class TrackerOptions(Options):
    """What every tracker can be told."""

    project: str = Field(
        "triune", min_length=1, description="project (or experiment) that the run belongs to"
    )
    name: str = Field("", description="name of the run there; default: that of the run's folder")
    tags: tuple[str, ...] = Field((), description="tags of the run there")
    names: Style = Field(
        "trl", description="what series are called: triune (as on the page of metrics), trl, v-triune"
    )
    per_source: bool = Field(True, description="every series per source too, not only of the whole step")


class Showing(TrackerOptions):
    """Of a tracker that can show tables with pictures."""

    examples: int = Field(
        0, ge=0, le=64, description="rollouts of each evaluation in a table, with their pictures; 0: none"
    )


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around the import of a tracker's client: raises RecipeError that names the extra where it is missing or broken."""
    try:
        yield
    except (ImportError, OSError) as error:
        raise RecipeError(
            f"monitor.sinks: {extra} cannot be imported ({error}): pip install 'triune[{extra}]'"
        ) from None


@dataclass(frozen=True, slots=True)
class Example:
    """A rollout as a row of a tracker's table."""

    source: str
    prompt: str
    response: str
    truth: str
    reward: float | None
    correct: bool | None
    pictures: tuple[Image.Image, ...]


class Tracker:
    """A sink that sends numbers by name. A subclass says how to connect, send and finish.

    What it sent is noted in `run_dir/trackers/KIND.json`: the tracker's id of the run, which a resumed run continues, and
    the last step of each phase. Where the tracker cannot take back what a resumed run goes back behind (`replaces` is false),
    steps are there twice; that is counted and said.
    """

    local = False
    kind: ClassVar[str]
    replaces: ClassVar[bool] = False

    def __init__(self, run: Run, options: TrackerOptions, namer: Namer, place: str = "") -> None:
        self.run, self.options, self._namer = run, options, namer
        self._file = run.run_dir / "trackers" / f"{self.kind}.json"
        self._place = f"{place} {options.project}".strip()  # where the id means something
        self._id: str | None = None
        self._last: dict[str, int] = {}
        self._repeated = 0
        self._tokens: tuple[int, float] | None = None
        self._refused: tuple[float, Exception] | None = None

    # -- of a subclass ---------------------------------------------------------------------------------------------

    @abstractmethod
    def connect(self, known: str | None) -> str:
        """Opens the run that is `known` there, or a new one with the recipe as its configuration; returns its id."""

    @abstractmethod
    def send(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """One step of one phase."""

    @abstractmethod
    def finish(self) -> None:
        """Sends what is held back and says that the run has ended; called once, and only when connected."""

    def show(self, step: int, phase: str, examples: Sequence[Example]) -> None:
        """A table of rollouts, where the tracker has such a thing."""

    def go_back(self, step: int) -> None:
        """Takes back what came after a step; called where `replaces` says that the tracker can."""

    # -- as a sink -------------------------------------------------------------------------------------------------

    def pick(self, phase: str, kept: Sequence[Scored]) -> Sequence[int]:
        """Of an evaluation, the first rollouts of each source in turn."""
        wanted = getattr(self.options, "examples", 0)
        if phase == "train" or not wanted:
            return []
        by_source: dict[str, list[int]] = defaultdict(list)
        for at, one in enumerate(kept):
            by_source[one.sample.source].append(at)
        turns = sorted((turn, at) for many in by_source.values() for turn, at in enumerate(many))
        return [at for _, at in turns[:wanted]]

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self._connect()
        self._again(step, phase)
        values = self._namer.values(phase, metrics)
        if phase == "train" and self.options.names == "trl":
            values["train/num_tokens"] = self._counted(step, metrics)
        self.send(step, phase, values)
        self._last[phase] = step
        self._note()

    def log_rollouts(
        self,
        step: int,
        phase: str,
        metrics: Sequence[Metric],
        kept: Sequence[Scored],
        advantages: Sequence[Advantage],
        events: Sequence[Event],
    ) -> None:
        self.log(step, phase, metrics)
        self.show(step, phase, [_example(one) for one in kept])

    def rewind(self, step: int) -> None:
        """Connects only where there is something to go back from: a new run does so at its first step."""
        self._known()
        self._tokens = None
        if not any(last > step for last in self._last.values()):
            return
        if self.replaces:
            self._connect()
            self.go_back(step)
            self._last = {phase: min(last, step) for phase, last in self._last.items()}
            self._note()

    def close(self) -> None:
        if self._id is not None:
            self._id = None
            self.finish()

    def repeated(self) -> int:
        repeated, self._repeated = self._repeated, 0
        return repeated

    # -- inside ----------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._id is not None:
            return
        if self._refused and time.monotonic() < self._refused[0]:
            raise self._refused[1]
        try:
            self._id = self.connect(self._known())
        except Exception as error:
            self._refused = time.monotonic() + RETRY, error
            raise
        self._note()

    def _known(self) -> str | None:
        """The tracker's id of this run, if there is one; what was noted of another place is of another run."""
        try:
            noted = json.loads(self._file.read_bytes())
            if noted["place"] == self._place:
                self._last = self._last or {str(phase): int(step) for phase, step in noted["last"].items()}
                return str(noted["id"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none, or half of one
        return None

    def _note(self) -> None:
        noted = {"place": self._place, "id": self._id, "last": self._last}
        partial = self._file.with_suffix(".partial")
        write(partial, json.dumps(noted).encode(), sync=False)
        partial.replace(self._file)

    def _again(self, step: int, phase: str) -> None:
        if step <= self._last.get(phase, -1):
            self._repeated += 1

    def _counted(self, step: int, metrics: Sequence[Metric]) -> float:
        """TRL's `num_tokens`: prompts and responses of the run up to this step. What earlier steps had is in the store."""
        if self._tokens is None or step <= self._tokens[0]:
            before = 0.0
            with contextlib.suppress(StorageError), Store(self.run.run_dir, readonly=True) as store:
                for name in _LENGTHS:
                    points = store.series(name, by=()).get((), ())
                    before += sum(
                        point.count * point.mean for point in points if point.count and point.step < step
                    )
            self._tokens = step, before
        own = merge([one for one in metrics if one.name in _LENGTHS], by=())
        self._tokens = step, self._tokens[1] + sum(one.count * one.mean for one in own if one.count)
        return self._tokens[1]


_LENGTHS = ("prompts/length", "completions/length")


def new_id() -> str:
    return uuid.uuid4().hex[:12]


def _example(one: Scored) -> Example:
    images = [medium for medium in one.sample.media if medium.kind == "image"][:PICTURES]
    return Example(
        source=one.sample.source,
        prompt=prompt_text(one.sample),
        response=one.outcome.text,
        truth=json.dumps(one.sample.truth, ensure_ascii=False),
        reward=one.verdict.reward,
        correct=one.verdict.correct,
        pictures=tuple(_small(medium.read()) for medium in images),
    )


def _small(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    return image


COLUMNS = ("source", "prompt", "response", "truth", "reward", "correct")


def row(example: Example) -> list[Any]:
    """Its cells but for the pictures, in the order of `COLUMNS`."""
    return [getattr(example, name) for name in COLUMNS]
