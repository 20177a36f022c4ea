"""The live view: progress, time left and one row per source; plain lines where the output is not a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from triune.core.verdict import SCORED
from triune.monitor.alarms import Alarm
from triune.monitor.metric import Metric, merge
from triune.monitor.sinks import SINKS, Options, Run

_SHOWN = (
    "reward",
    "correct",
    "completions/length",
    "completions/clipped_ratio",
    "frac_reward_zero_std",
    "status",
)
_WINDOW = 50  # steps that the speed is averaged over
_ALARMS = 5  # that are shown in full
_REFRESHES_PER_SECOND = 2


@dataclass(frozen=True, slots=True)
class _Row:
    """What is shown of one source, or of all together; None where nothing was observed."""

    reward: float | None = None
    correct: float | None = None
    length: float | None = None
    clipped: float | None = None
    zero_std: float | None = None
    unparsed: float = 0.0
    unscored: float = 0.0

    @classmethod
    def of(cls, metrics: Sequence[Metric]) -> _Row:
        means = {metric.name: metric.mean for metric in metrics if metric.name != "status"}
        shares = {metric.label("status"): metric.mean for metric in metrics if metric.name == "status"}
        return cls(
            reward=means.get("reward"),
            correct=means.get("correct"),
            length=means.get("completions/length"),
            clipped=means.get("completions/clipped_ratio"),
            zero_std=means.get("frac_reward_zero_std"),
            unparsed=shares.get("unparsed", 0.0),
            unscored=sum(share for status, share in shares.items() if status not in SCORED),
        )


@SINKS.register("console")  # the name that recipes give it
@SINKS.register("terminal")
class TerminalOptions(Options):
    """A live view, or plain lines where the output is no terminal."""

    def open(self, run: Run) -> Terminal:
        return Terminal(run)


class Terminal:
    """Costs the training microseconds per step: a thread draws twice a second what steps left for it. Where the
    output is not a terminal, one line every `plain_every` training steps and one per evaluation are printed."""

    local = True

    def __init__(self, run: Run, console: Console | None = None, plain_every: int = 10) -> None:
        self._total, self._plain_every = run.total_steps, plain_every
        self._console = console or Console()
        self._live: Live | None = None
        self._pending: deque[tuple[int, str, Sequence[Metric]]] = deque()  # not drawn yet
        self._times: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._step, self._phase = 0, ""
        self._train: dict[str, _Row] = {}
        self._held_out: dict[str, _Row] = {}
        self._alarms: Sequence[Alarm] = ()

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        if phase == "train":
            self._times.append((step, time.monotonic()))
        if self._console.is_terminal:
            self._pending.append((step, phase, metrics))
            if self._live is None:
                self._live = Live(
                    get_renderable=self._render,
                    console=self._console,
                    refresh_per_second=_REFRESHES_PER_SECOND,
                )
                self._live.start()
        elif phase != "train" or step % self._plain_every == 0 or step == self._total:
            self._console.file.write(self._line(step, phase, metrics) + "\n")
            self._console.file.flush()

    def say(self, message: str) -> None:
        self._console.print(Text(printable(message)), soft_wrap=True)  # above the live view, if there is one

    def alarms(self, holding: Sequence[Alarm]) -> None:
        self._alarms = holding

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> RenderableType:
        while self._pending:
            self._step, self._phase, metrics = self._pending.popleft()
            rows = self._train if self._phase == "train" else self._held_out
            by_source: dict[str, list[Metric]] = {}
            for metric in _shown(metrics, by=("source", "status")):
                by_source.setdefault(printable(metric.label("source")), []).append(metric)
            rows.update({source: _Row.of(found) for source, found in by_source.items()})
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._at(self._step), style="bold"),
            ProgressBar(total=self._total, completed=self._step, width=32) if self._total else Text(""),
            Text("  ".join(f"{value} {unit}" for unit, value in self._pace(self._step).items()), style="dim"),
            Text("" if self._phase == "train" else self._phase, style="cyan"),
        )
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("source")
        for title in (
            "reward",
            "correct",
            "held-out",
            "length",
            "clipped",
            "zero-var",
            "unparsed",
            "unscored",
        ):
            table.add_column(title, justify="right")
        for source in sorted({*self._train, *self._held_out}):
            row, held_out = self._train.get(source, _Row()), self._held_out.get(source, _Row())
            table.add_row(
                Text(source or "all"),
                _number(row.reward),
                _number(row.correct),
                _number(held_out.correct),
                _number(row.length, ".0f"),
                _number(row.clipped, ".0%", alarm=0.2),
                _number(row.zero_std, ".0%", alarm=0.8),
                _number(row.unparsed, ".0%", alarm=0.5),
                _number(row.unscored, ".0%", alarm=1e-9),
            )
        return Group(head, table, *self._holding())

    def _holding(self) -> Iterator[Text]:
        """The alarms that hold, the newest first."""
        for alarm in self._alarms[: -_ALARMS - 1 : -1]:
            line = f"ALARM since step {alarm.since}: {alarm}"
            yield Text(printable(line), style="bold red", overflow="ellipsis", no_wrap=True)
        if len(self._alarms) > _ALARMS:
            yield Text(f"and {len(self._alarms) - _ALARMS} more alarms", style="bold red")

    def _line(self, step: int, phase: str, metrics: Sequence[Metric]) -> str:
        row = _Row.of(_shown(metrics, by=("status",)))
        facts = {
            "reward": _number(row.reward),
            "correct": _number(row.correct),
            "length": _number(row.length, ".0f"),
            "clipped": _number(row.clipped, ".0%"),
            "zero-var": _number(row.zero_std, ".0%"),
            "unparsed": _number(row.unparsed, ".0%"),
            "unscored": _number(row.unscored, ".0%"),
        }
        words = [self._at(step), phase]
        words += [f"{name} {value.plain}" for name, value in facts.items() if value.plain != "-"]
        if self._alarms:
            words.append(f"alarms {len(self._alarms)}")
        if phase == "train":
            words += [f"{value} {unit}" for unit, value in self._pace(step).items()]
        return "  ".join(words)

    def _at(self, step: int) -> str:
        return f"step {step}" + (f"/{self._total}" if self._total else "")

    def _pace(self, step: int) -> dict[str, str]:
        """Speed over the last steps, and the time that the rest takes at that speed."""
        if len(self._times) < 2 or self._times[-1][0] <= self._times[0][0]:
            return {}
        (first, start), (last, end) = self._times[0], self._times[-1]
        seconds_per_step = (end - start) / (last - first)
        pace = {"s/step": f"{seconds_per_step:.3g}"}
        if self._total is not None:
            minutes, seconds = divmod(round(seconds_per_step * max(0, self._total - step)), 60)
            pace["left"] = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        return pace


def _shown(metrics: Sequence[Metric], by: Sequence[str]) -> list[Metric]:
    return merge((metric for metric in metrics if metric.name in _SHOWN), by)


def _number(value: float | None, form: str = ".3f", alarm: float | None = None) -> Text:
    if value is None:
        return Text("-", style="dim")
    return Text(format(value, form), style="bold red" if alarm is not None and value >= alarm else "")


def printable(name: str) -> str:
    """Names come from data: no control codes may reach the terminal."""
    return "".join(c if c.isprintable() else "?" for c in name)
