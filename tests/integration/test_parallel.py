"""Two processes take the step that one takes: weights, metrics, checkpoints, errors and deaths."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from triune.core.recipe import Recipe
from triune.core.sample import Check, EnvSpec
from triune.monitor.store import Store
from triune.testing.actor import grid_samples
from triune.testing.models import picture, sample, write

CREW = """
# Imports once, for all tests of this file. Each line is a list of jobs; a job is run by as many forked processes as it
# asks for, that find each other as torchrun's do.
import json, os, sys, time
from pathlib import Path
import torch
from triune.core.errors import TriuneError
from triune.core.recipe import Recipe
from triune.core.schedule import Progress
from triune.testing.table import TableFamily, recipe, scored, trajectory
from triune.train.learner import Learner
import triune.loop

torch.set_num_threads(1)


def train(plan, run, resume=False):
    triune.loop.train(Recipe.load(plan), Path(run), resume=resume)


def table(file, budget, **algo):
    # Three updates from the same rollouts, with many micro-batches, in two mini-batches each.
    family, writer = TableFamily(), TableFamily()
    plan = recipe(algo=algo, token_budget=budget, minibatches_per_step=2)
    learner = Learner(family, plan, exact=False)
    rows = [
        scored(
            trajectory([(i + k) % 5 for k in range(2 + i % 3)], id=f"{i}", turn=list(range(2 + i % 3)), group=f"{i // 3}",
                       source=f"s{i % 2}", family=writer), (i % 4) / 3
        )
        for i in range(12)
    ]
    for step in range(1, 4):
        progress = Progress(step=step, total_steps=10)
        report = learner.step(lambda: rows, plan.at(progress), progress)
    torch.save({
        "weights": {name: m.weight.detach() for name, m in family.modules().items()},
        "metrics": {f"{m.name}{m.labels}": (m.count, m.mean) for m in report.metrics},
        "passes": family.evaluations,
    }, f"{file}.{os.environ['RANK']}")


def work(job):
    port, size = job.pop("port"), job.pop("size")
    children = {}
    for rank in range(size):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": str(port)}
            code = 0
            try:
                globals()[job.pop("do")](**job)
            except TriuneError as error:
                print(f"process {rank}: {type(error).__name__}: {error}", flush=True)
                code = 2
            except BaseException as error:
                print(f"process {rank}: {error!r}", flush=True)
                code = 3
            sys.stdout.flush()
            os._exit(code)
        children[child] = rank
    ends = {}
    while children:
        child, status = os.wait()
        ends[children.pop(child)] = status
    print("ended", [ends[rank] for rank in range(size)], flush=True)


for line in sys.stdin:
    for job in json.loads(line):
        work(job)
    print("all done", flush=True)
"""

WORLD = '''
"""Shows a picture after the first turn; turns are paid by their length. A marked text breaks the world."""

import os, signal
from triune.envs import ENVIRONMENTS, Observation, Turn
from triune.testing.models import picture


@ENVIRONMENTS.register("shared_world")
class SharedWorld:
    def reset(self, sample, seed):
        self.turn, self.sample = 0, sample
        if os.environ.get("RANK") == "1" and (mark := sample.env.params.get("mark")):
            if mark == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            from triune.core.errors import RecipeError
            raise RecipeError("this world exists in the other process only")

    def step(self, text):
        self.turn += 1
        paid = (("gain", (len(text) % 7) / 7),)
        if self.turn == 2 and len(text) % 2:
            return Turn(events=paid, ending="stop_env")
        return Turn(Observation(("Look", picture(seed=len(self.sample.id) + self.turn))), events=paid)

    def close(self):
        pass
'''


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Crew:
    """One process that has imported everything, and forks for each job."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CREW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __call__(self, *jobs: dict[str, Any]) -> str:
        """Runs the jobs one after the other; what they printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = [{"port": free_port(), **job} for job in jobs]
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        late = Timer(300, self.process.kill)
        late.start()
        said = []
        while (line := self.process.stdout.readline()) and line != "all done\n":
            said.append(line)
        late.cancel()
        assert line, "".join(said)
        return "".join(said)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.process.kill()
    crew.process.communicate()


def recipe_file(folder: Path, mark: str = "", **more: Any) -> Path:
    """A tiny vision-language policy with a critic in a world of two turns, four prompts of two rollouts a step."""
    rows, world, base = folder / f"rows{mark}.jsonl", folder / "shared_world.py", folder / "base"
    made = []
    for number in range(4):
        one = sample(
            "s" * (number + 1), picture(seed=10 + number), env="shared_world", text=f"How many {number}?"
        )
        env = EnvSpec(name="shared_world", params={"mark": mark} if number == 3 and mark else {})
        made.append(one.model_copy(update={"checks": (Check(verifier="env/gain"),), "env": env}))
    rows.write_text("\n".join(one.model_dump_json() for one in made))
    world.write_text(WORLD)
    if not base.exists():
        write("qwen", base)
        config = json.loads((base / "generation_config.json").read_text())
        config["eos_token_id"] = list(range(0, 300, 2))  # a babbler that ends its turns
        (base / "generation_config.json").write_text(json.dumps(config))
    plan = {
        "name": "shared",
        "plugins": [str(world)],
        "data": {"sources": [{"name": "tiny", "path": str(rows), "heldout_path": str(rows)}]},
        "policy": {
            "kind": "language", "path": str(base), "attention": "eager", "critic": {"level": "token"},
            "token_budget": 400,
        },
        "rollout": {"kind": "native", "max_tokens": 6, "max_turns": 2},
        "algo": {"kind": "policy_gradient", "preset": "ppo"},
        "train": {
            "total_steps": 2, "prompts_per_step": 4, "rollouts_per_prompt": 2, "minibatches_per_step": 2,
            "checkpoint_every": 1, "eval_every": 2, "freeze": ["vision"],
            "optimizer": {"lr": 1e-4, "lr_by_module": {"critic": 1e-3}, "warmup_fraction": 0.0},
        },
        "judge": {"workers": 0},
        "monitor": {"sinks": []},
        **more,
    }  # fmt: skip
    path = folder / f"shared{mark}.yaml"
    path.write_text(yaml.safe_dump(Recipe.model_validate(plan).dump()))
    return path


def weights(run: Path, step: int = 2) -> dict[str, torch.Tensor]:
    files = sorted((run / "checkpoints" / f"step-{step:06d}" / "model").glob("*.safetensors"))
    assert files
    return {f"{file.name}/{name}": t for file in files for name, t in load_file(file).items()}


def largest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def whole(run: Path) -> None:
    """Every rollout's pictures, those that the world showed too, its sample, tokens and advantages can be looked at."""
    by_token = 0
    with Store(run, readonly=True) as store:
        for phase, step in (("train", 1), ("train", 2), ("eval", 0), ("eval", 2)):
            for one in store.rollouts(phase, step):
                assert len(one.seen) > len(one.media) == 1
                for seen in one.seen:
                    path = store.media(seen.sha256)
                    assert path is not None
                    assert hashlib.sha256(path.read_bytes()).hexdigest() == seen.sha256
                sample = store.sample(one.sample_sha)
                assert sample is not None
                assert (sample.id, sample.media[0].image().size) == (one.sample, one.seen[0].original)
                assert one.ids is not None
                assert store.pieces(one.ids.tolist()).keys() == set(one.ids.tolist())
                assert one.events
                if one.token_advantage is not None:
                    by_token += 1
                    assert phase == "train"
                    sampled = np.isfinite(one.logp)
                    assert one.token_advantage.shape == one.logp.shape
                    assert one.token_advantage[sampled].mean() == pytest.approx(one.advantage, abs=1e-6)
    assert by_token


OWN = ("seconds", "judge/seconds", "tokens_per_second", "peak_rss_mb", "layout/")
"""What is measured of the machine, and how many micro-batches there are: every process has at least one."""


def measured(run: Path) -> dict[tuple[str, str, int, tuple[str, ...]], tuple[int, float]]:
    found = {}
    with Store(run, readonly=True) as store:
        for phase in store.phases():
            for name in store.names(phase):
                if name.startswith(OWN):
                    continue
                for key, points in store.series(name, phase=phase).items():
                    for point in points:
                        found[phase, name, point.step, key] = point.count, point.mean
    return found


def same_numbers(one: dict[Any, tuple[int, float]], other: dict[Any, tuple[int, float]]) -> None:
    assert one.keys() == other.keys()
    for key, (count, mean) in one.items():
        assert other[key][0] == count, key
        assert other[key][1] == pytest.approx(mean, rel=1e-4, abs=1e-6), key


def test_two_processes_train_as_one_does_and_resume(crew: Crew, tmp_path: Path) -> None:
    plan = str(recipe_file(tmp_path))
    runs = {name: tmp_path / name for name in ("one", "two", "cut")}
    train = {"do": "train", "plan": plan}
    said = crew(
        {**train, "size": 1, "run": str(runs["one"])},
        {**train, "size": 2, "run": str(runs["two"])},
        {**train, "size": 2, "run": str(runs["cut"])},
    )
    assert said.count("ended [0]") == 1, said
    assert said.count("ended [0, 0]") == 2, said
    assert largest(weights(runs["one"]), weights(runs["two"])) <= 1e-6
    assert largest(weights(runs["one"], 1), weights(runs["one"])) > 1e-4  # it did move
    same_numbers(measured(runs["one"]), measured(runs["two"]))
    # Stopped after the first step and continued: by two processes bit for bit, by one within rounding.
    alone = shutil.copytree(runs["cut"], tmp_path / "alone")
    for run in (runs["cut"], alone):
        shutil.rmtree(run / "checkpoints" / "step-000002")
    said = crew(
        {**train, "size": 2, "run": str(runs["cut"]), "resume": True},
        {**train, "size": 1, "run": str(alone), "resume": True},
    )
    assert "ended [0, 0]" in said, said
    assert largest(weights(runs["two"]), weights(runs["cut"])) == 0
    assert largest(weights(runs["two"]), weights(alone)) <= 1e-6
    # What was written is what one process writes, also of what happened elsewhere or before the break.
    for run in runs.values():
        whole(run)
    assert sorted(p.name for p in runs["one"].iterdir()) == sorted(p.name for p in runs["two"].iterdir())


def test_a_learners_step_does_not_depend_on_the_number_of_processes(crew: Crew, tmp_path: Path) -> None:
    algo = {
        "advantage": {"kind": "gae", "gamma": 0.9},
        "terms": {"policy": {"kind": "ppo_clip"}, "value": {"kind": "value"}, "entropy": {"kind": "entropy", "coef": 0.01}},
    }  # fmt: skip
    budgets = [1 << 30, 9]
    jobs = [
        {"do": "table", "size": size, "file": str(tmp_path / f"{budget}-{size}"), "budget": budget, **algo}
        for budget in budgets
        for size in (1, 2, 3)
    ]
    said = crew(*jobs)
    assert said.count("ended [0, 0, 0]") == 2, said
    for budget in budgets:
        one = torch.load(tmp_path / f"{budget}-1.0")
        known = {name: value for name, value in one["metrics"].items() if not name.startswith("layout/")}
        for size in (2, 3):
            seen = [torch.load(tmp_path / f"{budget}-{size}.{rank}") for rank in range(size)]
            for each in seen:
                assert largest(one["weights"], each["weights"]) <= 1e-6
                assert largest(seen[0]["weights"], each["weights"]) == 0
                same_numbers(known, {k: v for k, v in each["metrics"].items() if not k.startswith("layout/")})
            if budget == 9:  # as many passes as one process makes, dealt out
                assert sum(each["passes"] for each in seen) == one["passes"]
                assert max(each["passes"] for each in seen) < one["passes"]


def test_what_one_process_raises_all_raise_and_none_outlives_another(crew: Crew, tmp_path: Path) -> None:
    train = {"do": "train", "size": 2}
    said = crew(
        *(
            {**train, "plan": str(recipe_file(tmp_path, mark)), "run": str(tmp_path / mark)}
            for mark in ("raise", "die")
        )
    )
    for rank in (0, 1):
        assert f"process {rank}: RecipeError: this world exists in the other process only" in said
    assert "ended [512, 512]" in said  # exit code 2
    assert "process 0: ProcessLost: another process of this run has ended" in said
    assert "ended [512, 9]" in said


def test_an_alarm_stops_all_processes_and_each_says_why(crew: Crew, tmp_path: Path) -> None:
    rule = {"window": 1, "groups": 1, "share": 0.001, "over": 0.0005}
    monitor = {"sinks": [], "alarms": {"zero_variance": rule}, "stop_on": ["zero_variance"]}
    plan = str(recipe_file(tmp_path, monitor=monitor))
    said = crew({"do": "train", "size": 2, "plan": plan, "run": str(tmp_path / "run")})
    for rank in (0, 1):
        assert re.search(rf"process {rank}: Stopped: .* by an alarm: zero_variance \(tiny\)", said), said
    assert "ended [512, 512]" in said


def test_torchrun_starts_it(tmp_path: Path) -> None:
    """The command of the documentation, on the toy agent: two processes, one run, one folder."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(one.model_dump_json() for one in grid_samples(8)))
    plan = {
        "name": "grid",
        "data": {"sources": [{"name": "grid", "path": str(rows)}]},
        "plugins": [str(tmp_path / "grid_toys.py")],
        "policy": "actor", "rollout": "grid", "algo": {"kind": "policy_gradient", "preset": "ppo"},
        "train": {"total_steps": 1, "prompts_per_step": 4, "rollouts_per_prompt": 2},
        "judge": {"workers": 0}, "monitor": {"sinks": []},
    }  # fmt: skip
    (tmp_path / "grid_toys.py").write_text("import triune.testing.actor\n")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(plan))
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    done = subprocess.run(
        [sys.executable, *command, "-m", "triune", "train", "grid.yaml", "--run-dir", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run run") == 1
    assert (tmp_path / "run" / "checkpoints" / "step-000001" / "state.json").is_file()
