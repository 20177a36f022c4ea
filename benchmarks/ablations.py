"""The paper's ablations on the embedded model, three seeds each: the tables and the JSON of docs/ablations.md.

    python benchmarks/ablations.py --json ablations.json
    python benchmarks/ablations.py --only iou --seeds 0 --steps 10
    python benchmarks/ablations.py --show

Every run is `triune train quickstart` with overrides (`--show` prints the commands), in a process of its own with one
thread, and all figures are read from the runs' stores. What is done is not run again.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from scipy.stats import t as student

from triune.core.errors import RecipeError, TriuneError
from triune.monitor.store import Store

Group = Literal["iou", "modules", "joint", "policy"]
Run = dict[str, Any]
"""The figures of one run: see `figures`."""
Results = dict[str, dict[int, Run]]
"""Figures by arm and seed."""

TASKS = ("math", "puzzle", "science", "chart", "detection", "grounding", "counting", "ocr")
BOXES = {"detection": "detection", "grounding": "box_iou"}
"""Box tasks, and the check of their samples that has a threshold."""
# The first dynamic table is the embedded tasks' own; the second ends where one pixel of a 20 px box decides.
THRESHOLDS = {
    "fixed .5": "0.5",
    "fixed .99": "0.99",
    "dynamic .5/.6/.7": "{kind: steps, table: [[0.1, 0.5], [0.25, 0.6], [1.0, 0.7]]}",
    "dynamic .5/.75/.9": "{kind: steps, table: [[0.1, 0.5], [0.25, 0.75], [1.0, 0.9]]}",
    "paper's .85/.95/.99": "{kind: steps, table: [[0.1, 0.85], [0.25, 0.95], [1.0, 0.99]]}",
}


# -- what is run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the runs are: steps, prompts per step of a run on all tasks, held-out samples per source."""

    steps: int
    prompts: int
    heldout: int

    def common(self, prompts: int) -> tuple[str, ...]:
        return (
            f"train.total_steps={self.steps}",
            f"train.eval_every={self.steps}",
            f"train.prompts_per_step={prompts}",
            f"data.heldout_per_source={self.heldout}",
            "monitor.rollouts_every=0",
            "monitor.sinks=[console]",
            "judge.workers=0",
        )


def arms(scale: Scale) -> dict[str, tuple[str, ...]]:
    """Overrides of recipes/quickstart.yaml by arm. `joint` is the recipe itself: the language model is trained, on all
    tasks, on-policy. A specialist gets as many steps, and in each its task's share of the joint run's prompts."""
    common = scale.common(scale.prompts)
    share = scale.common(scale.prompts // len(TASKS))
    return {
        # One step at rate 0 changes nothing: where all arms start.
        "untrained": (*common, "train.total_steps=1", "train.eval_every=1", "train.optimizer.lr=0"),
        **{f"iou {name}": (*common, sources(BOXES, value)) for name, value in THRESHOLDS.items()},
        "joint": common,
        "vision": (*common, "train.freeze=[language]"),
        "both": (*common, "train.freeze=[]"),
        "off-policy": (*common, "train.minibatches_per_step=8", "train.optimizer.lr=5.0e-5"),
        **{f"specialist {task}": (*share, sources([task])) for task in TASKS},
    }


def sources(tasks: Iterable[str], iou: str = "") -> str:
    """The override that leaves these tasks; `iou` is the threshold of their rewards, a number or a schedule."""
    params = {task: f", params: {{{BOXES[task]}: {{iou: {iou}}}}}" if iou else "" for task in tasks}
    return (
        f"data.sources=[{', '.join(f'{{name: embedded/{task}/*{more}}}' for task, more in params.items())}]"
    )


GROUPS: Mapping[Group, tuple[str, ...]] = {
    "iou": tuple(f"iou {name}" for name in THRESHOLDS),
    "modules": ("joint", "vision", "both"),
    "joint": ("joint", *(f"specialist {task}" for task in TASKS)),
    "policy": ("joint", "off-policy"),
}
"""The arms of each question; the others are compared with the first."""


# -- running -----------------------------------------------------------------------------------------------------


def train(command: Sequence[str], folder: Path, log: Path) -> None:
    """`triune COMMAND --run-dir FOLDER` with one thread; raises TriuneError if it fails, naming its output."""
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "triune.cli", *command, "--run-dir", str(folder)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        raise TriuneError(f"`{shlex.join(['triune', *command])}` failed; its output is in {log}")


def run(arm: str, seed: int, overrides: Sequence[str], out: Path) -> Run:
    """The figures of a run, which is made unless it was finished earlier with the same command."""
    folder = out / f"{arm.replace(' ', '-').replace('/', '-')}-{seed}"
    command = ["train", "quickstart", *overrides, f"seed={seed}"]
    marker = folder / "finished.json"
    if not marker.exists() or json.loads(marker.read_text())["command"] != command:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped, or of another scale
        out.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        train(command, folder, out / f"{folder.name}.log")
        seconds = time.monotonic() - started
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        marker.write_text(json.dumps({"command": command, "seconds": round(seconds, 1)}))
        print(f"{time.strftime('%H:%M:%S')} {folder.name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return figures(folder) | {"seconds": json.loads(marker.read_text())["seconds"]}


def figures(folder: Path) -> Run:
    """What a finished run's store says.

    `informative` is the share of groups in which the main check (not the format) tells one rollout from another,
    `informative_reward` the same for the whole reward. Held-out: `accuracy` by task, and what was measured of boxes, each
    source counting once. `grad_norm` by layer and by module, and `clipped`, the share of tokens whose ratio left the clip
    range, are means over optimiser steps.
    """
    with Store(folder, readonly=True) as store:
        flat = _main_checks(store, "frac_component_zero_std")
        informative = [1 - share for share in flat]  # every step has as many groups
        bounds = [len(flat) * i // 10 for i in range(11)] if len(flat) > 10 else range(len(flat) + 1)
        tenths = [mean(informative[start:end]) for start, end in itertools.pairwise(bounds)]
        boxes: dict[str, float] = {}
        for name in ("iou", "iou@75", "f1@75", "f1@50"):
            found = store.latest(f"verifier/{name}", phase="eval", by=("source", "component"))
            means = [point.mean for (_, part), point in found.items() if part in BOXES.values()]
            boxes |= {name: mean(means)} if means else {}
        accuracy = store.latest("accuracy", phase="eval", by=("task",))
        norms = store.series("grad_norm/layer", by=("layer",)) | store.series("grad_norm", by=("module",))
        return {
            "informative": mean(informative),
            "informative_by_tenth": tenths,
            "informative_reward": 1 - mean(_curve(store, "frac_reward_zero_std")),
            "boxes": boxes,
            "accuracy": {task: point.mean for (task,), point in accuracy.items()},
            "mean_accuracy": mean([point.mean for point in accuracy.values()]),
            "heldout_samples": sum(point.count for point in accuracy.values()),
            "grad_norm": {part: mean([p.mean for p in points]) for (part,), points in norms.items()},
            "clipped": sum(mean(_curve(store, f"clip_frac/{side}")) for side in ("low", "high")),
            "grad_skipped": store.latest("grad_skipped", by=())[()].max,
        }


def _curve(store: Store, name: str) -> list[float]:
    return [point.mean for point in store.series(name, by=())[()]]


def _main_checks(store: Store, name: str) -> list[float]:
    """A metric's mean per step, over all components but the formats."""
    sums: dict[int, tuple[int, float]] = {}
    for (component,), points in store.series(name, by=("component",)).items():
        for point in points if not component.startswith("format") else ():
            count, total = sums.get(point.step, (0, 0.0))
            sums[point.step] = count + point.count, total + point.count * point.mean
    return [total / count for _, (count, total) in sorted(sums.items()) if count]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# -- what came out -----------------------------------------------------------------------------------------------

Measure = Callable[[Run], float]


def iou_at_75(run: Run) -> float:
    return float(run["boxes"]["iou@75"])


def mean_accuracy(run: Run) -> float:
    return float(run["mean_accuracy"])


def values(results: Results, arm: str, measure: Measure) -> list[float]:
    """By seed."""
    return [measure(results[arm][seed]) for seed in sorted(results[arm])]


def spread(measured: Sequence[float], digits: int = 3) -> str:
    """`mean (seed 0, seed 1, ...)`."""
    each = ", ".join(f"{v:.{digits}f}" for v in measured)
    return f"{mean(measured):.{digits}f} ({each})"


def difference(mine: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean difference of runs of equal seed (equal prompts, equal held-out samples), and its 95 % interval by Student's t
    over the seeds: what another seed would give, not only another test set. No interval from a single seed."""
    gaps = [a - b for a, b in zip(mine, other, strict=True)]
    if len(gaps) < 2:
        return mean(gaps), None
    half = float(student.ppf(0.975, len(gaps) - 1)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return mean(gaps), (mean(gaps) - half, mean(gaps) + half)


def against(mine: Sequence[float], other: Sequence[float]) -> str:
    gap, interval = difference(mine, other)
    return f"{gap:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def named(arm: str) -> str:
    return {"joint": "language (the recipe)", "vision": "vision and connector", "both": "all three"}.get(
        arm, arm
    )


def table_iou(results: Results) -> str:
    first, *_ = chosen = GROUPS["iou"]
    rows = [["untrained", "", "", spread(values(results, "untrained", iou_at_75)), "", "", ""]]
    for arm in chosen:
        mine = values(results, arm, iou_at_75)
        rows.append(
            [
                arm.removeprefix("iou "),
                spread(values(results, arm, lambda run: run["informative_by_tenth"][0]), 2),
                spread(values(results, arm, lambda run: run["informative"]), 2),
                spread(mine),
                "" if arm == first else against(mine, values(results, first, iou_at_75)),
                f"{mean(values(results, arm, lambda run: run['boxes']['iou'])):.3f}",
                f"{mean(values(results, arm, lambda run: run['boxes']['f1@75'])):.3f}",
            ]
        )
    header = ("threshold", "informative groups, first tenth", "whole run", "final IoU@75", "against fixed .5 [95 %]",
              "IoU", "F1@75")  # fmt: skip
    return markdown(header, rows)


def table_arms(results: Results, chosen: Sequence[str], name: Callable[[str], str]) -> str:
    """Mean held-out accuracy of whole arms, against the first, and of each task."""
    rows = []
    for arm in ("untrained", *chosen):
        mine = values(results, arm, mean_accuracy)
        gap = (
            ""
            if arm in ("untrained", chosen[0])
            else against(mine, values(results, chosen[0], mean_accuracy))
        )
        tasks = [f"{mean(values(results, arm, _accuracy(task))):.2f}" for task in TASKS]
        rows.append([name(arm), spread(mine), gap, *tasks])
    return markdown(("arm", "mean accuracy", f"against {name(chosen[0])} [95 %]", *TASKS), rows)


def _accuracy(task: str) -> Measure:
    return lambda run: float(run["accuracy"][task])


def table_layers(results: Results) -> str:
    """Gradient norm by layer and of whole modules, mean over optimiser steps and seeds; '-' where it is frozen."""
    chosen = GROUPS["modules"]

    def cell(arm: str, part: str) -> str:
        norms = [run["grad_norm"][part] for run in results[arm].values() if part in run["grad_norm"]]
        return f"{mean(norms):.3f}" if norms else "-"

    parts = layers(run for arm in chosen for run in results[arm].values())
    rows = [[part, *(cell(arm, part) for arm in chosen)] for part in parts]
    rows += [[f"**{part}**", *(cell(arm, part) for arm in chosen)] for part in ("vision", "language", "all")]
    return markdown(("layer", *(named(arm) for arm in chosen)), rows)


def layers(runs: Iterable[Run]) -> list[str]:
    """In the order in which a token passes through them."""

    def depth(layer: str) -> tuple[int, float]:
        module, _, place = layer.partition(".")
        block = {"embed": -1.0, "": 0.0, "head": math.inf}.get(place)
        return ("vision", "connector", "language").index(module), float(place) if block is None else block

    # The connector is a layer and a module.
    return sorted(
        {part for run in runs for part in run["grad_norm"] if "." in part or part == "connector"}, key=depth
    )


def table_joint(results: Results) -> str:
    """One policy for all tasks against one for each."""
    rows = []
    joint, alone = (
        {task: values(results, arm.format(task), _accuracy(task)) for task in TASKS}
        for arm in ("joint", "specialist {}")
    )
    for task in TASKS:
        start = mean(values(results, "untrained", _accuracy(task)))
        rows.append(
            [
                task,
                f"{start:.3f}",
                spread(joint[task]),
                spread(alone[task]),
                against(joint[task], alone[task]),
            ]
        )
    start = mean(values(results, "untrained", lambda run: run["mean_accuracy"]))
    together, apart = ([mean(column) for column in zip(*by.values(), strict=True)] for by in (joint, alone))
    rows.append(["**mean**", f"{start:.3f}", spread(together), spread(apart), against(together, apart)])
    return markdown(("task", "untrained", "joint", "specialist", "joint - specialist [95 %]"), rows)


def tables(results: Results, only: Iterable[Group]) -> str:
    """The tables of docs/ablations.md."""
    made: dict[Group, Callable[[], Sequence[tuple[str, str]]]] = {
        "iou": lambda: [("IoU threshold", table_iou(results))],
        "modules": lambda: [
            ("What is trained", table_arms(results, GROUPS["modules"], named)),
            ("Gradient norm by layer", table_layers(results)),
        ],
        "joint": lambda: [("Joint training and specialists", table_joint(results))],
        "policy": lambda: [
            (
                "On- and off-policy",
                table_arms(results, GROUPS["policy"], lambda a: {"joint": "on-policy"}.get(a, a)),
            )
        ],
    }
    return "\n".join(f"## {title}\n\n{text}" for group in only for title, text in made[group]())


def document(results: Results, commands: Mapping[str, Sequence[str]], scale: Scale) -> dict[str, Any]:
    """The results as committed: when and on what, the command of each arm, every run, and the comparisons."""
    compared: dict[str, Any] = {}
    for group, (first, *others) in GROUPS.items():
        for arm in others:
            task = arm.removeprefix("specialist ")
            name, measure = {
                "iou": ("iou@75", lambda run: run["boxes"]["iou@75"]),
                "joint": (f"accuracy of {task}", _accuracy(task)),
            }.get(group, ("mean_accuracy", lambda run: run["mean_accuracy"]))
            if first in results and arm in results:
                gap, interval = difference(values(results, arm, measure), values(results, first, measure))
                compared[f"{arm} - {first}"] = {"of": name, "mean": gap, "ci95": interval}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("triune", "torch", "transformers", "numpy")},
        "scale": {
            "steps": scale.steps,
            "prompts_per_step": scale.prompts,
            "heldout_per_source": scale.heldout,
        },
        "commands": {arm: shlex.join(["triune", "train", "quickstart", *commands[arm]]) for arm in results},
        "layers": layers(run for by_seed in results.values() for run in by_seed.values()),
        "differences": compared,
        "runs": {arm: {str(seed): run for seed, run in runs.items()} for arm, runs in results.items()},
    }


def hardware() -> str:
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor()}, {os.cpu_count()} cores, one thread a run"


# -- the command -------------------------------------------------------------------------------------------------


def main(
    only: tuple[Group, ...] = ("iou", "modules", "joint", "policy"),
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 100,
    prompts: int = 16,
    heldout: int = 100,
    jobs: int = 2,
    out: Path = Path("runs/ablations"),
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    show: bool = False,
) -> None:
    """Runs what is not there yet, and prints the tables.

    Args:
        only: which questions.
        seeds: of the runs; each arm is run with each.
        steps: rollout batches of a run.
        prompts: per step, of a run on all tasks; a specialist has an eighth.
        heldout: held-out samples per source.
        jobs: runs at a time, each with one thread.
        out: where the runs go, without their weights.
        json_file: where the figures of all runs go; benchmarks/ablations_figure.py draws them.
        show: print the commands instead, one per arm and seed.
    """
    if prompts % len(TASKS):
        raise RecipeError(
            f"--prompts {prompts} must be a multiple of {len(TASKS)}: every task has an equal share"
        )
    scale = Scale(steps, prompts, heldout)
    overrides = arms(scale)
    wanted = dict.fromkeys(["untrained", *(arm for group in only for arm in GROUPS[group])])
    plan = [(arm, seed) for seed in seeds for arm in wanted]
    if show:
        for arm, seed in plan:
            command = shlex.join(["triune", "train", "quickstart", *overrides[arm], f"seed={seed}"])
            print(f"# {arm}\n{command}")
        return
    with ThreadPoolExecutor(jobs) as pool:  # a thread only waits for its process
        runs = list(pool.map(lambda job: run(job[0], job[1], overrides[job[0]], out), plan))
    results: Results = {arm: {} for arm in wanted}
    for (arm, seed), found in zip(plan, runs, strict=True):
        results[arm][seed] = found
    print(tables(results, only))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(document(results, overrides, scale), indent=1) + "\n")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except TriuneError as error:
        sys.exit(f"error: {error}")
