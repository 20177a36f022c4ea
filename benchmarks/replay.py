"""How fast saved rollouts are judged again: `python benchmarks/replay.py [--json FILE]`.

Answers of all kinds to the embedded tasks are recorded as a run, with a threshold that moves and a verifier that sees a whole
group, and replayed in this process. Prints and writes rollouts per second of CPU time, and how many verdicts differ (none may).
"""

from __future__ import annotations

import json as encoding
import tempfile
import time
from pathlib import Path

import tyro

from triune.core.loading import find_recipe
from triune.core.provenance import save_provenance
from triune.core.recipe import Recipe
from triune.core.sample import Check, Sample
from triune.core.schedule import Progress
from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.core.verdict import Outcome
from triune.data.mixture import Mixture
from triune.monitor.metric import Scored
from triune.monitor.monitor import Monitor
from triune.monitor.replay.run import replay
from triune.verify.judge import Judge
from triune.verify.trial import answers


def record(folder: Path, steps: int, prompts: int) -> None:
    """A run of `steps`, with six answers to each of `prompts` samples a step."""
    recipe = Recipe.load(find_recipe("quickstart"), [f"train.total_steps={steps}", "monitor.sinks=[]"])
    mixture = Mixture.of(recipe)
    with Judge(workers=0) as judge, Monitor(folder) as monitor:
        for step in range(1, steps + 1):
            drawn = [mixture.draw(step * prompts + number) for number in range(prompts)]
            samples = [
                one.model_copy(update={"checks": (*one.checks, Check(verifier="diversity", weight=0.1))})
                for one in drawn
            ]
            requests = [(sample, outcomes(sample)) for sample in samples]
            verdicts = judge.judge_many(requests, Progress(step=step, total_steps=steps))
            scored = [
                Scored(sample, trajectory(sample, outcome), outcome, verdict)
                for (sample, said), many in zip(requests, verdicts, strict=True)
                for outcome, verdict in zip(said, many, strict=True)
            ]
            monitor.log_step(step, "train", scored)
    save_provenance(folder, recipe)


def outcomes(sample: Sample) -> list[Outcome]:
    texts = [*answers(sample)[:4], "no idea", ""]
    return [Outcome(id=f"{sample.id}#{rank}", text=text, rank=rank) for rank, text in enumerate(texts)]


def trajectory(sample: Sample, outcome: Outcome) -> Trajectory:
    return Trajectory(
        id=outcome.id, sample=sample.id, source=sample.source, task=sample.task, group=sample.id, rank=outcome.rank,
        decisions=Decisions.of([-1.0]), payload=Payload(family="text"),
    )  # fmt: skip


def main(steps: int = 25, prompts: int = 64, json: Path | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        record(run, steps, prompts)
        started = time.process_time()
        result = replay(run)
        seconds = time.process_time() - started
    found = {
        "rollouts": result.rollouts,
        "changed": result.changed,
        "rollouts_per_s": result.rollouts / seconds,
    }
    print(
        f"{result.rollouts} rollouts, {found['rollouts_per_s']:.0f} per CPU second, {result.changed} differ"
    )
    if json is not None:
        json.write_text(encoding.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
