"""The main job from a fresh clone: eight tasks, one policy, before and after, on the same held-out pictures.

    python -m triune.quickstart --seed 0

Evaluates the shipped policy, trains it by RL with the recipe `recipes/quickstart.yaml`, evaluates again with and
without pictures, and writes `summary.json`, `report.html` and `report.png` into the run's folder.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from triune.core.errors import TriuneError
from triune.core.loading import find_recipe
from triune.core.provenance import save_provenance
from triune.core.recipe import Recipe
from triune.data.mixture import heldout
from triune.evaluate import accuracy
from triune.loop import Loop
from triune.monitor.metric import Scored
from triune.monitor.stats import Gain, Score, paired_gains
from triune.policy.nano import WEIGHTS

CLEAN = WEIGHTS / "clean.json"
"""Held-out accuracy per source of the cleanly taught model, before the annotator's faults: the ceiling for RL."""


def scores(scored: Iterable[Scored]) -> list[Score]:
    return [Score(one.sample.id, one.sample.source, one.sample.task, accuracy(one)) for one in scored]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def summarise(
    before: Sequence[Scored],
    after: Sequence[Scored],
    blind: Sequence[Scored],
    clean: Mapping[str, float],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The run in numbers; a task's `clean` and the means weigh sources and tasks equally."""
    gains = paired_gains(scores(before), scores(after))
    seen = paired_gains(scores(blind), scores(after))
    task_of = {one.sample.source: one.sample.task for one in after}

    def entry(gain: Gain, unseen: Gain, ceiling: Sequence[float]) -> dict[str, Any]:
        return {
            "before": gain.before,
            "after": gain.after,
            "clean": mean(ceiling) if ceiling else None,
            "blind": unseen.before,
            "gain_ci95": list(gain.ci95 or ()),
            "n": gain.n,
        }

    tasks = {
        task: entry(gain, seen.tasks[task], [v for s, v in clean.items() if task_of.get(s) == task])
        for task, gain in gains.tasks.items()
    }
    return {
        "tasks": tasks,
        "sources": {
            s: entry(gain, seen.sources[s], [clean[s]] if s in clean else [])
            for s, gain in gains.sources.items()
        },
        "mean_before": gains.mean.before,
        "mean_after": gains.mean.after,
        "mean_clean": mean([t["clean"] for t in tasks.values()]) if clean else None,
        "mean_blind": seen.mean.before,
        "mean_gain_ci95": list(gains.mean.ci95 or ()),
        "seconds": dict(seconds),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def table(summary: Mapping[str, Any]) -> Table:
    """Before and after per task and source, the gain with its 95 % interval, the ceiling, and the blind level."""
    out = Table(title="held-out greedy accuracy, same samples", title_justify="left")
    out.add_column("task / source")
    for name in ("before", "after", "gain [95 %]", "clean", "blind", "n"):
        out.add_column(name, justify="right", no_wrap=True)

    def row(name: str, e: Mapping[str, Any], style: str = "") -> None:
        low, high = e["gain_ci95"] or (float("nan"),) * 2
        gain = f"{e['after'] - e['before']:+.3f} [{low:+.3f}, {high:+.3f}]"
        clean = "-" if e["clean"] is None else f"{e['clean']:.3f}"
        cells = (f"{e['before']:.3f}", f"{e['after']:.3f}", gain, clean, f"{e['blind']:.3f}", str(e["n"]))
        out.add_row(name, *cells, style=style)

    for task, e in summary["tasks"].items():
        row(task, e, "bold")
        for source, inner in summary["sources"].items():
            if source.startswith(task + "/"):
                row("  " + source.split("/", 1)[1], inner)
    out.add_section()
    total = {k: summary[f"mean_{k}"] for k in ("before", "after", "clean", "blind", "gain_ci95")}
    row("mean of tasks", {**total, "n": sum(e["n"] for e in summary["tasks"].values())}, "bold")
    return out


def make_room(run_dir: Path, console: Console) -> None:
    """An empty folder for the run; what was there gets the next free number."""
    if run_dir.exists() and any(run_dir.iterdir()):
        number = next(n for n in itertools.count(1) if not run_dir.with_name(f"{run_dir.name}-{n}").exists())
        aside = run_dir.with_name(f"{run_dir.name}-{number}")
        run_dir.rename(aside)
        console.print(f"the earlier run is now {aside}", highlight=False)
    run_dir.mkdir(parents=True, exist_ok=True)


def main(
    seed: int = 0,
    run_dir: Path = Path("runs/quickstart"),
    recipe: str = "quickstart",
    overrides: tyro.conf.Positional[tuple[str, ...]] = (),
) -> None:
    """Trains the embedded policy on the eight tasks and shows what changed.

    Args:
        seed: of everything that is drawn.
        run_dir: where the run goes; an earlier one there is moved aside, never overwritten.
        recipe: recipe file, or the name of one that ships with triune.
        overrides: recipe keys, `train.total_steps=20`.
    """
    console = Console()
    started = time.monotonic()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    chosen = Recipe.load(find_recipe(recipe), (*overrides, f"seed={seed}"))
    make_room(run_dir, console)
    with Loop(chosen, run_dir) as loop:
        samples = [s for many in heldout(chosen).values() for s in many]
        loop.check()
        save_provenance(run_dir, chosen)
        ready = time.monotonic()
        before = loop.evaluate("eval-before", samples)
        evaluated = time.monotonic()
        loop.run()
        trained = time.monotonic()
        after = loop.evaluate("eval-after", samples)
        blind = loop.evaluate("eval-blind", samples, probe="blind")
        done = time.monotonic()
    seconds = {
        "setup": ready - started,
        "train": trained - evaluated,
        "eval": evaluated - ready + done - trained,
    }
    clean = json.loads(CLEAN.read_text())["sources"] if CLEAN.exists() else {}
    summary = summarise(before, after, blind, clean, seconds)
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2))
    from triune.monitor.report import write_report

    files = write_report(run_dir, ("html", "md", "overview"))
    console.print(table(summary))
    console.print(f"set-up {seconds['setup']:.0f} s, training {seconds['train']:.0f} s, evaluation {seconds['eval']:.0f} s, "
                  f"peak memory {summary['peak_rss_mb']:.0f} MB")  # fmt: skip
    console.print(f"report: {files[0]}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except TriuneError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print(interrupt)
        sys.exit(130)
