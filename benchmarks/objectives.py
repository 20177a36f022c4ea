"""What one optimiser step of each preset costs: time of the processor and peak memory, against GRPO on the same prompts.

    python benchmarks/objectives.py --json objectives.json
    python benchmarks/objectives.py --only papo dvrp --rounds 3

nano on counting, eight prompts of eight rollouts (recorded pairs, for presets that learn from these). Each preset has a
process of its own with one thread. Its rollouts are drawn and judged once; then its update and GRPO's take turns on the
same weights, and a share is the time of the one over that of the other. What is drawn is no part of the time.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from scipy.stats import t as student

from triune.algo import preset
from triune.core.errors import TriuneError

PROMPTS, ROLLOUTS = 8, 8
BASE = "grpo"
MIB = 1 << 20


def recipe(name: str, folder: Path) -> dict[str, Any]:
    """The preset on nano, with the example's values for what no source states, and with what it asks of policy and rollouts
    (adapters apart: they would change what is trained)."""
    from triune.core.loading import merge, tree
    from triune.core.response import Response
    from triune.data.source import EmbeddedSource

    found = preset.load(name)
    asked = {
        k: v
        for k, v in found.recipe.items()
        if k.startswith(("policy.critic", "rollout.kind", "rollout.answers"))
    }
    source = EmbeddedSource("embedded/counting/shapes", 0, "train")
    rows = []
    for sample in map(source.sample, range(4 * PROMPTS)):
        truth = int(str(sample.truth))
        answers = (
            Response(text=f"\\boxed{{{truth}}}", label="chosen", score=1.0, branch="a"),
            Response(text=f"\\boxed{{{truth + 1}}}", label="rejected", score=0.0, branch="b"),
        )
        rows.append(sample.model_copy(update={"responses": answers}).model_dump_json())
    (folder / "rows.jsonl").write_text("\n".join(rows))
    whole: dict[str, Any] = {
        "name": name,
        "data": {"sources": [{"name": "shapes", "path": str(folder / "rows.jsonl")}]},
        "policy": {"kind": "language", "path": "nano", "attention": "eager"},
        "rollout": {"kind": "native", "max_tokens": 24},
        "algo": found.tried(),
        "train": {
            "total_steps": 1000,
            "prompts_per_step": PROMPTS,
            "rollouts_per_prompt": ROLLOUTS,
            "freeze": ["vision", "connector"],
            "probe": False,
            "optimizer": {"lr": 1e-6, "warmup_fraction": 0.0},
        },
        "judge": {"workers": 0},
        "monitor": {"sinks": [], "rollouts_every": 0},
    }
    asked_for = tree(asked)
    if asked_for.get("rollout", {}).get("kind") == "recorded":
        whole["rollout"] = {}
    return merge(whole, asked_for)


def kib(field: str) -> int:
    """A line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise TriuneError(f"/proc/self/status has no {field}: memory can only be measured on Linux")


def child(name: str, rounds: int) -> dict[str, Any]:
    """What a process of its own measures."""
    import torch

    from triune.core.recipe import Recipe
    from triune.core.schedule import Progress
    from triune.core.trajectory import SamplingRule
    from triune.loop import Loop
    from triune.monitor.metric import Scored
    from triune.rollout.generator import Demand
    from triune.rollout.options import NativeOptions
    from triune.train.learner import Learner

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made = Recipe.model_validate(recipe(name, folder))
        base = Recipe.model_validate({**made.dump(), "algo": preset.load(BASE).tried()})
        with Loop(made, folder / "run") as loop:
            rows: list[Sequence[Scored]] = []
            plain: list[Scored] = []
            learner: Any = loop.update
            update = learner.step

            def drawn() -> list[Scored]:
                """What GRPO would have drawn for the same prompts: its pictures are known while the step goes on."""
                demand = Demand(ROLLOUTS, SamplingRule(), 0, 0, Progress(step=1, total_steps=1000))
                samples = loop.mixture.batch(1)
                made = NativeOptions(max_tokens=24).build(loop.family).generate(samples, demand)
                asked = [(row[0].sample, tuple(e.outcome for e in row)) for row in made]
                said = loop.judge.judge_many(asked, demand.progress)
                return [
                    Scored(e.sample, e.trajectory, e.outcome, v)
                    for row, verdicts in zip(made, said, strict=True)
                    for e, v in zip(row, verdicts, strict=True)
                ]

            def once(source: Callable[[], Sequence[Scored]], *arguments: Any) -> Any:
                rows.append(source())
                plain.extend(drawn())
                return update(lambda: rows[0], *arguments)

            learner.step = once
            loop.step()
            progress = Progress(step=2, total_steps=1000)
            Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is this step's
            before = kib("VmRSS")
            update(lambda: rows[0], made, progress)
            peak = kib("VmHWM")

            other = Learner(loop.family, base, True)
            seconds: dict[str, list[float]] = {name: [], BASE + "/base": []}
            for number in range(rounds + 1):
                for key, run, recipe_, given in (
                    (name, update, made, rows[0]),
                    (BASE + "/base", other.step, base, plain),
                ):
                    started = time.process_time()
                    run(lambda given=given: given, recipe_, progress)
                    if number:  # the first warms up
                        seconds[key].append(time.process_time() - started)
    ratios = [a / b for a, b in zip(seconds[name], seconds[BASE + "/base"], strict=True)]
    views = learner.views
    return {
        "preset": name,
        "share": statistics.median(ratios),
        "ci95": interval(ratios),
        "shares": [round(r, 3) for r in ratios],
        "seconds": statistics.median(seconds[name]),
        "seconds_grpo": statistics.median(seconds[BASE + "/base"]),
        "peak_mib": peak * 1024 / MIB,
        "step_mib": (peak - before) * 1024 / MIB,
        "passes": views.passes,
        "views": sorted(views.wanted.keys() - ({"old"} if views.known else set())),
        "differentiated": views.differentiated,
        "distributions": views.distributions,
        "rows": len(rows[0]),
        "tokens": sum(len(one.trajectory.decisions) for one in rows[0]),
    }


def interval(ratios: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean share, by Student's t over the rounds; none from a single one."""
    if len(ratios) < 2:
        return None
    half = float(student.ppf(0.975, len(ratios) - 1)) * statistics.stdev(ratios) / math.sqrt(len(ratios))
    middle = statistics.fmean(ratios)
    return [middle - half, middle + half]


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One preset in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", name, "--rounds", str(rounds)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"preset": name, "failed": last[:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """The table of docs/proofs.md."""
    lines = [
        "| preset | time / GRPO's [95 %] | peak MiB | extra passes | differentiated | rows | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in found:
        if "failed" in one:
            lines.append(f"| {one['preset']} | not measured: {one['failed']} | | | | | |")
            continue
        low, high = one["ci95"] or (math.nan, math.nan)
        named = f" ({', '.join(one['views'])})" if one["views"] else ""
        lines.append(
            f"| {one['preset']} | {one['share']:.2f} [{low:.2f}, {high:.2f}] | {one['peak_mib']:.0f} | "
            f"{one['passes']}{named} | {one['differentiated']} | {one['rows']} | {one['tokens']} |"
        )
    return "\n".join(lines)


def main(
    only: tuple[str, ...] = (),
    rounds: int = 7,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    child_of: Annotated[str, tyro.conf.arg(name="child")] = "",
) -> None:
    """Measures presets and prints the table.

    Args:
        only: presets; all if it is empty.
        rounds: pairs of updates per preset.
        json_file: where the figures go.
        child_of: used by the script itself.
    """
    if child_of:
        print(json.dumps(child(child_of, rounds)))
        return
    found = []
    for name in only or preset.names():
        preset.load(name)
        found.append(measure(name, rounds))
        print(f"{name}: {found[-1].get('failed', found[-1].get('share'))}", file=sys.stderr, flush=True)
    print(table(found))
    if json_file is not None:
        from proofs import about

        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(
            json.dumps({"presets": found, "rounds": rounds, "measured": about()}, indent=1) + "\n"
        )


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except TriuneError as error:
        sys.exit(f"error: {error}")
