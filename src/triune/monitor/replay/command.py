"""`triune replay`: a run's rollouts judged again, and what that would have changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from triune.core.errors import RecipeError

if TYPE_CHECKING:
    from triune.monitor.replay.run import Change, Replayed

_LONGEST = 600  # characters of a prompt or a response that are printed


def replay(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="a run, or a file of its rollouts")],
    overrides: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="[source.check.key=value ...]",
            help="other checks: a key of a check or a parameter; check=null takes it out, * stands for any source",
        ),
    ] = (),
    *,
    checks: Annotated[
        Path | None, arg(help="a YAML file of the same: source, check, keys; overrides lie on top")
    ] = None,
    phase: Annotated[tuple[str, ...], arg(help="phases, such as train or eval; default: all")] = (),
    steps: Annotated[str, arg(help="steps, as FIRST:LAST; default: all")] = "",
    source: Annotated[tuple[str, ...], arg(help="sources, * stands for anything; default: all")] = (),
    examples: Annotated[int, arg(help="rollouts to print of which the reward changes most")] = 3,
    workers: Annotated[int, arg(help="processes for slow verifiers; 0: in this one, without a deadline")] = 0,
    json: Annotated[Path | None, arg(help="write the figures and the examples here")] = None,
) -> int:
    """Judge saved rollouts again, as they were or by other verifiers, parameters and weights, and say what would change.

    Needs no model and no data, only the run's folder. Without overrides every verdict must be the recorded one: exit code 1 if
    one differs, or if none could be judged.
    """
    from triune.data.saved import Choice
    from triune.monitor.replay.checks import Rechecked
    from triune.monitor.replay.run import replay as again

    choice = Choice(phases=phase, steps=_range(steps), sources=source)
    result = again(run, Rechecked.of(overrides, checks), choice, examples=examples, workers=workers)
    _print(result)
    if json is not None:
        result.save(json)
        _say(f"wrote {json}")
    return 1 if not result.overridden and (result.changed or not result.rollouts) else 0


def _range(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    first, _, last = text.partition(":")
    try:
        return int(first or 0), int(last or (first if ":" not in text else 2**62))
    except ValueError:
        raise RecipeError(f"--steps is FIRST:LAST, or one step; got {text!r}") from None


def _print(result: Replayed) -> None:
    rewards = _table(
        "source", "n", "changed", "reward", "now", "correct", "now",
        "groups", "reordered", "flipped", "flat", "now",
    )  # fmt: skip
    for source, values in sorted(result.rewards.items()):
        groups = result.groups[source]
        rewards.add_row(
            source,
            *_cells(values.dump()),
            str(groups.count),
            *(_share(n, groups.count) for n in (groups.reordered,)),
            _share(groups.flipped, groups.rollouts),
            *(_share(n, groups.count) for n in (groups.flat_before, groups.flat_after)),
        )
    parts = _table("source", "component", "n", "changed", "value", "now", "correct", "now")
    for (source, name), values in sorted(result.components.items()):
        parts.add_row(source, name, *_cells(values.dump()))
    wide = Console(highlight=False, soft_wrap=True, width=200)
    for table in (rewards, parts):
        if table.row_count:
            wide.print(table)
            wide.print()
    for (source, reason), count in sorted(result.left_out.items()):
        _say(f"{source}: {count} rollouts not judged: {reason}")
    for file, why in result.damaged.items():
        _say(f"not read: {why if file in why else f'{file}: {why}'}")
    for change in result.examples:
        _example(change)
    if not result.rollouts:
        _say("no rollout could be judged again")
        return
    speed = result.rollouts / result.seconds if result.seconds else 0.0
    _say(f"{result.rollouts} rollouts in {result.seconds:.1f} s ({speed:.0f} per second)")
    if result.changed:
        _say(f"{result.changed} of them would have another verdict")
    else:
        _say("every verdict is the recorded one")


def _example(change: Change) -> None:
    from triune.monitor.replay.run import paired

    rollout, verdict = change.rollout, change.verdict
    _say(
        f"{rollout.phase}, step {rollout.step}, {rollout.id}: reward {_number(rollout.reward)} -> {_number(verdict.reward)}"
    )
    _say(f"  prompt   {_short(rollout.prompt)}")
    _say(f"  response {_short(rollout.response)}")
    _say(f"  truth    {_short(str(rollout.truth))}")
    for name, before, after in paired(rollout.components, verdict.components):
        told = [
            f"{_number(part.value)} x {part.weight:g} {part.status}" if part else "-"
            for part in (before, after)
        ]
        _say(f"  {name}: {told[0]} -> {told[1]}  {after.detail if after else ''}".rstrip())
    _say("")


def _cells(values: Mapping[str, float | None]) -> Sequence[str]:
    moments = ("before", "after", "correct_before", "correct_after")
    return [str(values["n"]), str(values["changed"]), *(_number(values[name]) for name in moments)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(count: int, of: int) -> str:
    return f"{count / of:.0%}" if of else "-"


def _short(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable if len(printable) <= _LONGEST else f"{printable[:_LONGEST]}..."


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at and column != "component" else "left")
    return table


def _say(text: str) -> None:
    Console(highlight=False, soft_wrap=True).print(text, markup=False)
