"""The command line. Every command is a thin function over a Python call that does the same; torch is imported only
inside the commands that train or evaluate."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from triune.core.describe import annotated, leaves
from triune.core.errors import RecipeError, TriuneError
from triune.core.loading import find_recipe, list_recipes
from triune.core.provenance import RECIPE_FILE
from triune.core.recipe import Recipe

RecipeName = Annotated[
    str, arg(metavar="RECIPE", help="a recipe file, or the name of one that ships with triune")
]
Overrides = Annotated[tuple[str, ...], arg(metavar="[a.b=c ...]", help="recipe keys to set; values are YAML")]

out = Console(highlight=False, soft_wrap=True)


def train(
    recipe: Positional[RecipeName] = "",
    overrides: Positional[Overrides] = (),
    *,
    run_dir: Annotated[Path | None, arg(help="folder of the run; default: runs/NAME-DATE")] = None,
    resume: Annotated[Path | None, arg(help="folder of a run to continue from its newest checkpoint")] = None,
) -> int:
    """Train by a recipe, or continue a run.

    A run that is interrupted (Ctrl-C) writes a checkpoint first; continue it with --resume. With --resume the recipe
    is the run's own; overrides still apply.
    """
    if resume is not None:
        chosen, folder = _resumed(recipe, overrides, resume, run_dir), resume
    elif not recipe:
        raise RecipeError(
            "name a recipe to train by, or a run to --resume; `triune recipes` lists what ships"
        )
    else:
        chosen = Recipe.load(find_recipe(recipe), overrides)
        folder = run_dir or Path("runs") / f"{chosen.name}-{datetime.now():%Y%m%d-%H%M%S}"
    out.print(f"run {folder}")
    from triune.loop import train as run

    run(chosen, folder, resume=resume is not None)
    return 0


def _resumed(recipe: str, overrides: Sequence[str], resume: Path, run_dir: Path | None) -> Recipe:
    if run_dir is not None and run_dir != resume:
        raise RecipeError("--resume continues a run in its own folder; leave --run-dir out")
    saved = resume / RECIPE_FILE
    if not saved.is_file():
        raise RecipeError(f"{resume} is not a run: it has no {RECIPE_FILE}")
    if "=" in recipe:  # `triune train a.b=c --resume RUN`
        recipe, overrides = "", (recipe, *overrides)
    chosen = Recipe.load(saved, overrides)
    if recipe and Recipe.load(find_recipe(recipe), overrides) != chosen:
        raise RecipeError(
            f"{recipe} is no longer the recipe that {resume} was started with; leave it out to continue by {saved}"
        )
    return chosen


def evaluate(
    checkpoint: Annotated[
        Positional[Path], arg(help="a checkpoint folder, or a run (its newest checkpoint)")
    ],
    *,
    blind: Annotated[bool, arg(help="grey pictures: what is left is not seen but guessed")] = False,
    seed: Annotated[int | None, arg(help="of the held-out samples; default: the recipe's")] = None,
    samples: Annotated[int | None, arg(help="held-out samples per source; default: the recipe's")] = None,
) -> int:
    """Evaluate a checkpoint on held-out samples: greedy answers, judged, per source."""
    from triune.evaluate import evaluate as score

    rows = score(_checkpoint(checkpoint), blind=blind, seed=seed, samples=samples)
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    table = _table("source", *names)
    for source, values in rows.items():
        table.add_row(source, *(_number(values.get(name)) for name in names))
    if len(rows) > 1:
        sums = {name: sum(values.get(name, 0) for values in rows.values()) for name in names}
        table.add_section()
        table.add_row(
            "mean of sources", *(_number(v if name == "n" else v / len(rows)) for name, v in sums.items())
        )
    out.print(table)
    return 0


def _checkpoint(path: Path) -> Path:
    found = sorted((path / "checkpoints").glob("step-*"))
    return found[-1] if found else path


def data(
    action: Positional[Literal["show", "check"]],
    recipe: Positional[RecipeName],
    overrides: Positional[Overrides] = (),
    *,
    file: Annotated[Path, arg(name="out", help="show: where the picture goes")] = Path("samples.png"),
    samples: Annotated[
        int, arg(help="show: how many; check: how many of each source that draws on demand")
    ] = 32,
    split: Annotated[Literal["train", "heldout"], arg(help="show: which samples")] = "train",
) -> int:
    """Look at a recipe's samples, or audit them.

    show writes a contact sheet with the truth drawn on the pictures. check opens every row: does each picture decode,
    can every check be routed, does the truth itself score full marks, is anything held out also trained on?
    """
    chosen = Recipe.load(find_recipe(recipe), overrides)
    return _show(chosen, file, samples, split) if action == "show" else _check(chosen, samples)


def _show(recipe: Recipe, file: Path, samples: int, split: Literal["train", "heldout"]) -> int:
    from triune.data.mixture import Mixture
    from triune.data.show import contact_sheet

    mixture = Mixture.of(recipe, split)
    contact_sheet([mixture.draw(number) for number in range(samples)], file)
    _skips(mixture.skipped)
    out.print(f"{samples} {split} samples in {file}")
    return 0


def _check(recipe: Recipe, samples: int) -> int:
    from triune.data.audit import FATAL, audit

    found = audit(recipe, samples)
    table = _table("source", "train", "held out", "findings")
    by_source = Counter(finding.source for finding in found.findings)
    for name in dict.fromkeys(source for source, _ in found.counts):
        counts = (found.counts[name, "train"], found.counts[name, "heldout"], by_source[name])
        table.add_row(name, *map(str, counts))
    out.print(table)
    _skips(found.skipped)
    for kind in dict.fromkeys(finding.kind for finding in found.findings):
        same = [finding for finding in found.findings if finding.kind == kind]
        out.print(f"\n{'error' if kind in FATAL else 'note'}: {kind}: {len(same)}", markup=False)
        for finding in same[:5]:
            out.print(f"  {finding.sample}: {finding.detail}", markup=False)
    out.print("passed" if found.passed else "failed")
    return 0 if found.passed else 1


def _skips(skipped: dict[str, Counter[str]]) -> None:
    for source, reasons in skipped.items():
        for reason, count in reasons.items():
            out.print(f"skipped in {source}: {count} rows, {reason}", markup=False)


def verify(
    path: Annotated[Positional[Path], arg(metavar="RUN|ROLLOUTS", help="a run, or one of its rollout files")],
    *,
    show: Annotated[int, arg(help="rollouts with another verdict to print")] = 3,
) -> int:
    """Judge saved rollouts again, in this process: per source and component, what was given and what is given now.

    Exit code 1 if any verdict differs.
    """
    from triune.data.rejudge import rejudge

    result = rejudge(path)
    table = _table("source", "component", "rollouts", "before", "now", "changed", "statuses")
    for (source, component), tally in sorted(result.tallies.items()):
        statuses = ", ".join(f"{count} {status}" for status, count in tally.statuses.most_common())
        means = [
            _number(sum(values) / len(values)) if values else "-" for values in (tally.before, tally.now)
        ]
        table.add_row(source, component, str(tally.count), *means, str(tally.changed), statuses)
    out.print(table)
    for source, count in result.missing.items():
        out.print(f"{source}: {count} rollouts not judged: their samples are no longer in the recipe's data")
    for change in result.changes[:show]:
        rollout, verdict = change.rollout, change.verdict
        out.print(f"\n{rollout.id}: reward {rollout.reward} -> {verdict.reward}", markup=False)
        out.print(f"  truth {rollout.truth!r}; response {rollout.response!r}", markup=False)
        for part in verdict.components:
            out.print(f"  {part.name}: {part.value} {part.status} {part.detail}", markup=False)
    same = "every verdict is the same"
    out.print(f"{len(result.changes)} rollouts have another verdict" if result.changes else same)
    return 1 if result.changes else 0


def report(run: Annotated[Positional[Path], arg(metavar="RUN", help="folder of a run")]) -> int:
    """Write a run's report: curves, tables and rollouts on one page."""
    from triune.monitor.report import write_report

    if not run.is_dir():
        raise RecipeError(f"{run} is not the folder of a run")
    for file in write_report(run):
        out.print(str(file))
    return 0


def recipes(name: Annotated[Positional[str], arg(metavar="NAME", help="one to show in full")] = "") -> int:
    """List the recipes that ship with triune, or show one with every key, its value and what it means."""
    if name:
        out.print(annotated(Recipe.load(find_recipe(name))), markup=False)
        return 0
    for found, path in list_recipes().items():
        lines = path.read_text(encoding="utf-8").split("\n")
        about = lines[0].removeprefix("#").strip() if lines[0].startswith("#") else ""
        out.print(f"{found:24} {about}", markup=False)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "eval": evaluate,
    "data": data,
    "verify": verify,
    "report": report,
    "recipes": recipes,
}


TRAINING = frozenset({"torch", "transformers", "safetensors"})
"""Packages of the `train` extra; a command that trains or evaluates says so when they are missing."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; exit code 2 for an error that the user can mend, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _warn
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="triune",
            description="Reinforcement learning for models that see.",
            args=arguments,
        )
    except SystemExit:
        if arguments[:1] == ["train"] and {"-h", "--help"} & set(arguments):
            _print_keys()
        raise
    except TriuneError as error:
        _complain(f"error: {error}")
        code = 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in TRAINING:
            raise
        _complain(
            f"error: this command needs {error.name}, which the base install leaves out: pip install 'triune[train]'"
        )
        code = 2
    except KeyboardInterrupt as interrupt:
        _complain(str(interrupt) or "interrupted")
        code = 130
    sys.exit(code)


def _print_keys() -> None:
    """Every key of a recipe, from the types that validate it."""
    out.print("\nKeys of a recipe (type, default), to be set in a file or as a.b=c:\n")
    for leaf in leaves(plugins=True):
        out.print(f"  {leaf.key}  ({leaf.type}, {leaf.default})\n      {leaf.doc}", markup=False)


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    _complain(f"warning: {message}")


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i and column not in ("component", "statuses") else "left")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
