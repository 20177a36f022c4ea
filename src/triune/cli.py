"""The command line. Every command is a thin function over a Python call that does the same; torch is imported only
inside the commands that train or evaluate."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from triune.core.describe import annotated, leaves
from triune.core.errors import RecipeError, Stopped, TriuneError
from triune.core.loading import find_recipe, list_recipes
from triune.core.provenance import RECIPE_FILE
from triune.core.recipe import Recipe
from triune.monitor.alarms.command import alarms
from triune.monitor.dash.command import dash
from triune.monitor.replay.command import replay
from triune.monitor.report.command import report
from triune.monitor.send import send
from triune.serve.command import serve

if TYPE_CHECKING:
    from triune.data.rejudge import Rejudged
    from triune.evaluation.number import Number
    from triune.evaluation.run import Report

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
    from triune.loop import train as run
    from triune.runtime.world import leave, world

    folder = world().first(lambda: folder)  # its name may hold the time
    if world().leads:
        out.print(f"run {folder}")

    try:
        run(chosen, folder, resume=resume is not None)
    finally:
        leave()
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
    if recipe and (named := Recipe.load(find_recipe(recipe), overrides)) != chosen:
        from triune.train.position import worded

        raise RecipeError(
            f"{recipe} is no longer the recipe that {resume} was started with; leave it out to continue by {saved}:\n  "
            + "\n  ".join(worded(chosen, named))
        )
    return chosen


def evaluate(
    model: Annotated[
        Positional[str], arg(help="a checkpoint, a run (its newest checkpoint), a model folder, or nano")
    ] = "",
    suites: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="[FILE.yaml] [a.b=c ...]",
            help="a file of suites; keys to set in it, or options of --task",
        ),
    ] = (),
    *,
    task: Annotated[str, arg(help="one suite instead of a file: detection, counting, ocr, ...")] = "",
    data: Annotated[str, arg(help="of --task: the file with questions and truth")] = "",
    images: Annotated[Path | None, arg(help="of --task: where relative picture paths start")] = None,
    export: Annotated[Path | None, arg(name="out", help="of --task: what another scorer reads")] = None,
    rescore: Annotated[
        Path | None, arg(name="from", help="saved predictions, judged again without a model")
    ] = None,
    json: Annotated[Path | None, arg(help="write the figures here")] = None,
    predictions: Annotated[Path | None, arg(help="write every answer here, as JSON Lines")] = None,
    probe: Annotated[
        str, arg(help="ask again with other pictures, and show the drop: blind, swapped, halved")
    ] = "",
    blind: Annotated[bool, arg(help="short for --probe blind")] = False,
    seed: Annotated[int | None, arg(help="of a recipe's held-out samples; default: the recipe's")] = None,
    samples: Annotated[int | None, arg(help="at most so many of each source")] = None,
) -> int:
    """Evaluate a model: greedy answers, judged, per source, with 95 % intervals.

    A checkpoint alone is evaluated on its recipe's held-out samples; --task or a file of suites ask any model about your
    own files. --from makes the figures again from saved predictions; exit code 1 if any verdict differs.
    """
    from triune.evaluation import predictions as saved
    from triune.evaluation import run

    if blind and probe not in ("", "blind"):
        raise RecipeError(f"--blind is --probe blind; with --probe {probe}, leave it out")
    probe = "blind" if blind else probe
    files, overrides = [s for s in suites if "=" not in s], [s for s in suites if "=" in s]
    if len(files) > 1 or (files and task):
        raise RecipeError(
            f"one file of suites, or --task; got {', '.join(files)}{' and --task' if task else ''}"
        )
    if rescore is not None:
        if model or suites or task or probe:
            raise RecipeError(
                "--from needs no model, suite or probe: saved predictions say how they are scored"
            )
        report, changed = run.rescore(saved.load(rescore))
    elif not model:
        raise RecipeError("name a model to evaluate, or saved predictions with --from")
    elif files or task:
        chosen = run.Evaluation.of(files[0] if files else None, overrides, task, data, images, export)
        report, changed = run.evaluate_suites(model, chosen, samples=samples, probe=probe, say=_say), 0
    elif overrides or data:
        raise RecipeError("what shall the model be asked? Give --task (with --data), or a file of suites")
    else:
        folder = run.newest(Path(model))
        report, changed = run.evaluate_heldout(folder, probe=probe, seed=seed, samples=samples), 0
    _report(report, json, predictions)
    if rescore is not None:
        different = f"{changed} of {len(report.rows)} verdicts differ from the saved ones"
        _say(different if changed else "every verdict is the same")
    return 1 if changed else 0


def _report(report: Report, json: Path | None, predictions: Path | None) -> None:
    """One table per kind of suite, then what was written where."""
    if predictions is not None:  # first of all: they cost the most
        report.save_predictions(predictions)
    figures = report.numbers()
    kinds = {source: suite.kind for source, suite in report.suites.items()}
    for kind in dict.fromkeys(kinds.values()):
        sources = [source for source in figures if kinds[source] == kind]
        shown = [*COUNTS, *report.suites[sources[0]].shown, *DROPS]
        names = [name for name in shown if any(name in figures[source] for source in sources)]
        table = _table("source", *names)
        for source in sources:
            table.add_row(source, *(str(figures[source].get(name, "-")) for name in names))
        if len(sources) > 1:
            table.add_section()
            cells = [_mean(name, [figures[source].get(name) for source in sources]) for name in names]
            table.add_row("mean of sources", *cells)
        # A row on one line, however narrow the terminal: intervals that are cut off say nothing.
        Console(highlight=False, soft_wrap=True, width=max(out.width, 60 + 24 * len(names))).print(table)
    if any("[" in str(number) for held in figures.values() for number in held.values()):
        _say("in brackets: 95 % intervals (Wilson for shares, else bootstrap over samples)")
    for source, reasons in report.left_out.items():
        for reason, count in reasons.items():
            _say(f"left out of {source}: {count}, {reason}")
    if json is not None:
        report.save(json, figures)
    for file in (*report.written, *filter(None, (json, predictions))):
        _say(f"wrote {file}")
    for source, commands in report.commands.items():
        _say(f"to score {source}, in a checkout of its repository:")
        for command in commands:
            _say(f"  {command}")


COUNTS = ("n", "unparsed", "unjudged", "truncated")
DROPS = ("seen", "drop", "unpaired")
"""Of a probe: accuracy on the same samples as they were, and how much of it is gone."""


def _mean(name: str, numbers: Sequence[Number | None]) -> str:
    """The mean of sources, each counting once; of counts their sum."""
    values = [number.value for number in numbers if number is not None and number.value is not None]
    if not values:
        return "-"
    return f"{sum(values):g}" if name in (*COUNTS, "unpaired") else f"{sum(values) / len(values):.3f}"


def _say(text: str) -> None:
    out.print(text, markup=False)


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
    from triune.data.source import unread

    found = audit(recipe, samples)
    table = _table("source", "train", "held out", "findings")
    by_source = Counter(finding.source for finding in found.findings)
    for name in dict.fromkeys(source for source, _ in found.counts):
        counts = (found.counts[name, "train"], found.counts[name, "heldout"], by_source[name])
        table.add_row(name, *map(str, counts))
    out.print(table)
    _skips(found.skipped)
    for path in unread(recipe.data):
        out.print(f"{path}: below data.root, but no source reads it", markup=False)
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
    action: Annotated[
        Positional[Literal["test"]], arg(metavar="test", help="what to do: test the verifiers")
    ],
    path: Annotated[
        Positional[Path],
        arg(metavar="RUN|FILE", help="a run, a file of its rollouts, or rows with responses"),
    ],
    overrides: Annotated[
        Positional[tuple[str, ...]],
        arg(
            metavar="[a.b=c ...]",
            help="how rows are read: adapter=..., response=COLUMN, frame=..., plugins=[FILE.py]",
        ),
    ] = (),
    *,
    slow: Annotated[
        float, arg(help="milliseconds of the slowest 1 % above which a verifier is flagged")
    ] = 100,
    workers: Annotated[int, arg(help="processes for slow verifiers; 0: in this one, without a deadline")] = 0,
    show: Annotated[int, arg(help="rollouts with another verdict to print")] = 3,
    json: Annotated[Path | None, arg(help="write the figures here")] = None,
) -> int:
    """Score saved answers in this process, without a model, and say which verifiers cannot be trusted.

    A run's rollouts are judged again by its recipe and its data as it is now, and compared with what they were given. Any
    other file holds rows that a data adapter reads, with a column of responses. Exit code 1 if a verdict differs or a
    verifier is flagged: failing, constant, flat in every group, slow, or paying empty answers.
    """
    from triune.data.rejudge import rejudge
    from triune.data.saved import Reading

    result = rejudge(path, Reading.of(overrides), workers=workers)
    flags = _verified(result, slow / 1000)
    for change in result.changes[:show]:
        rollout, verdict = change.rollout, change.verdict
        _say(f"\n{rollout.id}: reward {rollout.reward} -> {verdict.reward}")
        _say(f"  truth {rollout.truth!r}; response {rollout.response!r}")
        for part in verdict.components:
            _say(f"  {part.name}: {part.value} {part.status} {part.detail}")
    if result.compared:
        different = f"{len(result.changes)} of {result.compared} rollouts have another verdict than was saved"
        _say(different if result.changes else "every verdict is the same as was saved")
    _say(f"{flags} of {len(result.tallies)} components are flagged" if flags else "no component is flagged")
    if json is not None:
        result.save(json, slow / 1000)
        _say(f"wrote {json}")
    return 1 if result.changes or flags else 0


def _verified(result: Rejudged, slow: float) -> int:
    """The table, and what it flags in words; returns how many components are flagged."""
    columns = ["n", "mean", "std", "at min", "at max", "flat groups", "empty", "p50 ms", "p99 ms"]
    compared = ["before", "changed"] if result.compared else []
    table = _table("source", "component", *columns, *compared, "statuses", "flags")
    flags = result.flags(slow)
    for (source, component), tally in sorted(result.tallies.items()):
        shares = [tally.at_min, tally.at_max, tally.flat / tally.groups if tally.groups else None]
        before = sum(tally.before) / len(tally.before) if tally.before else None
        table.add_row(
            source,
            component,
            str(tally.count),
            *map(_number, (tally.mean, tally.std)),
            *("-" if share is None else f"{share:.0%}" for share in shares),
            _number(tally.empty),
            *(f"{1000 * tally.quantile(share):.2f}" for share in (0.5, 0.99)),
            *([_number(before), str(tally.changed)] if result.compared else []),
            ", ".join(f"{count} {status}" for status, count in tally.statuses.most_common()),
            ", ".join(flags.get((source, component), ())),
        )
    Console(highlight=False, soft_wrap=True, width=max(out.width, 240)).print(table)
    for source, component in sorted(flags):
        for reason in result.tallies[source, component].explain(slow):
            _say(f"{source}, {component}: {reason}")
    for source, count in result.missing.items():
        _say(f"{source}: {count} rollouts not judged: their samples are no longer in the recipe's data")
    for reason, count in result.skipped.items():
        _say(f"skipped: {count} rows, {reason}")
    for source, fault in result.faults.items():
        _say(f"note: {source}: {fault}")
    return len(flags)


def export(
    run: Annotated[Positional[Path], arg(metavar="RUN", help="a run, or one of its checkpoint folders")],
    *,
    folder: Annotated[Path | None, arg(name="out", help="where to; default: RUN/export/step-NUMBER")] = None,
    checkpoint: Annotated[int | None, arg(help="step of the checkpoint; default: the newest")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, arg(help="of the weights; default: the run's")
    ] = None,
    adapter: Annotated[
        bool, arg(help="write trained adapters as a PEFT folder; default: merge them into the weights")
    ] = False,
) -> int:
    """Write a checkpoint as a plain Hugging Face folder with a model card, read it back and compare it.

    An export that transformers does not read back as what was trained is an error, and is not kept.
    """
    from triune.export import export as write

    path, compared = write(run, folder, step=checkpoint, dtype=dtype, adapter=adapter)
    out.print(str(path))
    out.print(str(compared), markup=False)
    return 0


def recipes(
    action: Annotated[
        Positional[Literal["list", "show"]], arg(metavar="list|show", help="what to do")
    ] = "list",
    name: Annotated[Positional[str], arg(metavar="NAME", help="a recipe or a preset to show in full")] = "",
) -> int:
    """List the recipes and the presets of update rules that ship with triune, or show one.

    A recipe is shown with every key, its value and what it means; a preset with its parts, the views that they need, the
    equation and the sources.
    """
    from triune.algo import preset

    if action == "show":
        if name in preset.names():
            from triune.algo.shown import show

            out.print(show(preset.load(name)), markup=False, soft_wrap=True)
        else:
            out.print(annotated(Recipe.load(find_recipe(name))), markup=False)
        return 0
    shipped = list_recipes()
    width = max(map(len, [*shipped, *preset.names()]))
    for found, path in shipped.items():
        lines = path.read_text(encoding="utf-8").split("\n")
        about = lines[0].removeprefix("#").strip() if lines[0].startswith("#") else ""
        out.print(f"{found:{width}}  {about}", markup=False)
    out.print("\npresets of update rules, for algo.preset:", markup=False)
    for found in preset.names():
        out.print(f"{found:{width}}  {preset.load(found).title}", markup=False)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "eval": evaluate,
    "data": data,
    "verify": verify,
    "replay": replay,
    "serve": serve,
    "export": export,
    "report": report,
    "send": send,
    "alarms": alarms,
    "dash": dash,
    "recipes": recipes,
}


TRAINING = frozenset({"torch", "transformers", "safetensors"})
"""Packages of the `train` extra; a command that trains or evaluates says so when they are missing."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; exit code 2 for an error that the user can mend, 3 where an alarm ended a run, 130 after Ctrl-C."""
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
        code = 3 if isinstance(error, Stopped) else 2
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


WORDS = ("component", "statuses", "flags")
"""Columns that hold words, to the left."""


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i and column not in WORDS else "left")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
