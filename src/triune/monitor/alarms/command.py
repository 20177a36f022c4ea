"""`triune alarms`: the rules over a run, finished or going on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from triune.core.loading import command_line, merge, read
from triune.core.provenance import RECIPE_FILE
from triune.monitor.alarms import rules
from triune.monitor.alarms.watch import history
from triune.monitor.sinks.terminal import printable
from triune.monitor.store import Store


def alarms(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="folder of a run, finished or going on")],
    overrides: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="[a.b=c ...]",
            help="options of rules: entropy_collapse.share=0.2; zero_variance=null leaves it out",
        ),
    ] = (),
) -> int:
    """Look for alarms in a run; exit code 1 if any holds at its end.

    Every rule is evaluated anew, at the steps at which the run itself was looked at, with the options of its recipe and
    those given here. The run's own events stay as they are.
    """
    layer = command_line(overrides)
    chosen = rules(merge(_options(run), layer.values))
    with Store(run, readonly=True) as store:
        found, notes = history(store, chosen)
        steps = store.steps()
    out = Console(highlight=False, soft_wrap=True)
    for alarm in found:
        until = "holds" if alarm.over is None else f"over at step {alarm.over}"
        out.print(printable(f"step {alarm.step}, since {alarm.since}, {until}: {alarm}"), markup=False)
    for note in notes:
        out.print(f"note: {note.rule}: {note.message}", markup=False)
    holding = sum(alarm.over is None for alarm in found)
    out.print(
        f"{len(chosen)} rules over {len(steps)} training steps: {len(found)} alarms raised, {holding} hold",
        markup=False,
    )
    return 1 if holding else 0


def _options(run: Path) -> dict[str, object]:
    """What the run's recipe says of rules; nothing where it has none."""
    file = run / RECIPE_FILE
    section = read(file).values.get("monitor", {}) if file.is_file() else {}
    given = section.get("alarms") if isinstance(section, dict) else None
    return dict(given) if isinstance(given, dict) else {}
