"""docs/metrics.md lists what runs log, with its labels: nothing is missing, and nothing is there that no run logs."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from triune.algo.advantages.group import GroupRelative
from triune.algo.collect.difficulty import PassRate
from triune.algo.collect.dynamic_sampling import DynamicSampling
from triune.algo.collect.replay import Replay
from triune.algo.options import ADVANTAGES
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.core.sample import Check, EnvSpec, Message, Response, Sample, Text
from triune.core.schedule import Linear, Progress
from triune.core.verdict import Call
from triune.data import parquet
from triune.data.mixture import Mixture
from triune.envs import ENVIRONMENTS, Turn
from triune.evaluation.probes import look
from triune.loop import Loop
from triune.monitor.metric import Metric, Scored
from triune.monitor.monitor import Monitor
from triune.monitor.sinks.guard import QUEUED
from triune.testing.actor import grid_samples
from triune.testing.table import scored, trajectory

from .pages import ROOT

Names = dict[str, set[str]]
"""The labels of a metric, by its name."""


def documented() -> Names:
    """From the page's tables; the labels that a section gives to all of its rows are added."""
    found: Names = {}
    for section in (ROOT / "docs/metrics.md").read_text().split("\n## "):
        if section.startswith("Look at these first"):
            continue
        common = {"source", "task"} if "All have the labels `source` and `task`" in section else set()
        rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
        for names, labels, *_ in rows:
            for name in re.findall(r"`([^`]+)`", names):
                assert name not in found, f"{name} is documented twice"
                found[name] = common | set(re.findall(r"`([^`]+)`", labels))
    return found


def logged(run_dir: Path) -> Names:
    with contextlib.closing(sqlite3.connect(run_dir / "metrics.sqlite")) as db:
        rows = db.execute("SELECT DISTINCT name, source, task, component, labels FROM metrics").fetchall()
    found: Names = {}
    for name, *columns, labels in rows:
        given = zip(("source", "task", "component"), columns, strict=True)
        found.setdefault(name, set()).update({label for label, value in given if value}, json.loads(labels))
    return found


KEYS = (
    "train.total_steps=2", "train.prompts_per_step=8", "train.rollouts_per_prompt=4", "rollout.max_tokens=40",
    "data.heldout_per_source=2", "judge.workers=0", "monitor.sinks=[]",
)  # fmt: skip


def seeing(run_dir: Path) -> None:
    """nano on two tasks, with an evaluation on the way."""
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            "train.eval_every=2",
            "train.eval_probes=[blind]",
            "monitor.rollouts_every=2",
            "data.sources=[{name: embedded/counting/*}, {name: embedded/grounding/digit}]",
            "algo.terms=[{kind: ppo_clip}, {kind: entropy, coef: 0.01}]",
            'monitor.words=["1"]',  # which some answers hold, and some do not
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.run()


def shaped(run_dir: Path) -> None:
    """Rewards with a price on length and on distance from a reference, against a greedy answer."""
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            "data.sources=[{name: embedded/counting/*}]",
            "policy.lora={rank: 2}",
            "algo.advantage={kind: remax}",
            "algo.collect={greedy: {kind: greedy}}",
            "algo.shape={rate: {kind: pairwise}, kl: {kind: kl_in_reward}, long: {kind: soft_overlong, max_length: 40, "
            "buffer: 20}, length: {kind: length_penalty}}",
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.step()


def looking(run_dir: Path) -> None:
    """What the policy says without the real pictures, masked and noised."""
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            "data.sources=[{name: embedded/counting/*}]",
            "algo.views={masked: {kind: corrupted}, noised: {kind: corrupted, corruption: {kind: noise}}}",
            "algo.terms=[{kind: ppo_clip}, {kind: perception_kl}, {kind: branch_entropy, view: noised, coef: 0.0}, "
            "{kind: branch_entropy, form: sampled}]",
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.step()


def taught(run_dir: Path) -> None:
    """Demonstrations, a hint, a teacher and one's own successes, behind two gates."""
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            "data.sources=[{name: embedded/counting/*}]",
            "algo.collect={shown: {kind: demonstrations}, hints: {kind: prefix}}",
            "algo.views={teacher: {kind: frozen, path: nano}}",
            "algo.advantage={kind: prefix_rft}",
            "algo.adjust={distill: {kind: distill, beta: 0.01}, srft: {kind: srft}, gate: {kind: gate_below, below: 2}, "
            "draw: {kind: gate_draw, gamma: 1.0e9, warmup: 1}}",  # the first step imitates, the second does not
            "algo.terms=[{kind: ppo_clip}, {kind: self_imitation}, {kind: prefix_tokens}, {kind: imitation}, {kind: luffy}]",
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.step()
        loop.step()


def corrected(run_dir: Path) -> None:
    """Weights, rejections and masks for an engine that differs from the learner, and every way to look at a ratio."""
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            "data.sources=[{name: embedded/counting/*}]",
            "algo.adjust={weights: {kind: mismatch, level: token, mode: mask, cap: 2.0, floor: 0.5}, reject: {kind: reject, "
            "level: token, form: k3, high: 0.1}, stale: {kind: stale, max_lag: 4}, certain: {kind: top_entropy, share: 0.5}, "
            "cov: {kind: clip_cov}}",
            "algo.terms=[{kind: ppo_clip, ratio: sequence_geomean, dual: 3.0, max_drift: 0.5}, {kind: topr, against: old}, "
            "{kind: kl, form: k2, view: old}, {kind: entropy, form: sampled, coef: 0.01}]",
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.step()


def comparing(run_dir: Path) -> None:
    """Recorded answers, in pairs, lists and one by one, and the same answer to another picture."""
    rows = []
    for sample in Mixture.of(Recipe.load(find_recipe("quickstart"), KEYS)).batch(1):
        said = [Response(text=f"\\boxed{{{n}}}", label="chosen" if n else "rejected") for n in range(2)]
        rows.append(sample.model_copy(update={"responses": tuple(said), "source": "pairs"}).model_dump_json())
    run_dir.parent.joinpath("pairs.jsonl").write_text("\n".join(rows))
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            f"data.sources=[{{name: pairs, path: {run_dir.parent / 'pairs.jsonl'}}}]",
            "policy.lora={rank: 2}",
            "rollout.kind=recorded",
            "algo.preset=opa-dpo",
            "algo.collect={other: {kind: mismatched}}",
            "algo.adjust={point: {kind: reference_point, rows: mismatched}}",
            "algo.terms={single: {kind: kto}, list: {kind: plackett_luce}}",
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.step()


def playing(run_dir: Path) -> None:
    """Against the policy's own greedy answers."""
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            "data.sources=[{name: embedded/counting/*}]",
            "policy.lora={rank: 2}",
            "algo={kind: policy_gradient, preset: nash-md, terms: {policy: {beta: 0.1}}}",
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.step()


class Fragile:
    """Counts as a tool call; every third world breaks."""

    made = 0

    def reset(self, sample: Sample, seed: int) -> None:
        type(self).made += 1

    def step(self, text: str) -> Turn:
        if self.made % 3 == 0:
            raise OSError("broken")
        return Turn(calls=(Call(turn=0, name="look"),))

    def close(self) -> None:
        return


class Forgetful(GroupRelative):
    """Leaves the first decision of a step out."""

    kind: Literal["forgetful"] = "forgetful"  # type: ignore[assignment]

    def __call__(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        credit = super().__call__(*args, **kwargs)
        credit.masked = torch.arange(len(credit.advantage)) == 0
        return credit


def troubled(run_dir: Path) -> None:
    """Worlds that break, an estimator that masks, and a prompt that does not fit."""
    drawn = Mixture.of(
        Recipe.load(find_recipe("quickstart"), ("data.sources=[{name: embedded/counting/*}]",))
    )
    samples = [drawn.draw(n).model_copy(update={"env": EnvSpec(name="fragile")}) for n in range(7)]
    long = Message(role="user", content=(*samples[0].messages[-1].content, Text(text="and so on, " * 4000)))
    samples.append(samples[0].model_copy(update={"id": "long", "messages": (long,)}))
    gated = Check(
        verifier="overlong", gate=samples[0].checks[0].name, schedule={"weight": Linear(start=1.0, end=0.5)}
    )
    samples = [one.model_copy(update={"checks": (*one.checks, gated)}) for one in samples]
    run_dir.mkdir()
    parquet.write(run_dir / "rows.parquet", samples, Sample)
    recipe = Recipe.load(
        find_recipe("quickstart"),
        (
            *KEYS,
            f"data.sources=[{{name: rows, path: {run_dir / 'rows.parquet'}}}]",
            "data.on_bad_row=skip",
            "algo.advantage={kind: forgetful}",
            "judge.max_failure_rate=1.0",
        ),
    )
    with Loop(recipe, run_dir) as loop:
        loop.step()


def acting(run_dir: Path) -> None:
    """An actor with a critic."""
    run_dir.mkdir()
    rows = run_dir / "rows.jsonl"
    rows.write_text("\n".join(sample.model_dump_json() for sample in grid_samples(8)))
    recipe = Recipe.model_validate(
        {
            "name": "grid",
            "data": {"sources": [{"name": "grid", "path": str(rows)}]},
            "policy": "actor",
            "rollout": "grid",
            "algo": {
                "kind": "policy_gradient",
                "advantage": {"kind": "gae"},
                "adjust": {"warmup": {"kind": "critic_warmup", "steps": 1}},
                "terms": [{"kind": "ppo_clip"}, {"kind": "value", "clip": 0.5}],
            },
            "train": {"total_steps": 1, "prompts_per_step": 8},
            "judge": {"workers": 0},
            "monitor": {"sinks": []},
        }
    )
    with Loop(recipe, run_dir) as loop:
        loop.run()


def collecting(run_dir: Path) -> None:
    """Collectors over rollouts of a table: groups that teach nothing, successes to come back to, prompts to pass over."""

    def group(prompt: str, rewards: Sequence[float], version: int = 0, **fields: Any) -> list[Scored]:
        rows = (
            trajectory(id=f"{prompt}{i}/{version}", group=prompt, sample=prompt, version=version, **fields)
            for i in range(len(rewards))
        )
        return [scored(one, reward) for one, reward in zip(rows, rewards, strict=True)]

    first, second = (Progress(step=n, total_steps=2) for n in (1, 2))
    dull, sharp = group("a", [0, 0]), group("b", [0, 1])
    metrics = DynamicSampling(max_batches=1, pad=True).select(dull + sharp, list, first)[1]
    replay = Replay(capacity=1)
    cut = group("c", [1, 1], step_offset=1)
    metrics += replay.select(group("a", [1, 1]) + cut, list, first)[1]
    metrics += replay.select(group("a", [0, 0], version=1), list, second)[1]
    for revisit in (0.0, 1.0):
        window = PassRate(low=0.5, revisit=revisit)
        window.admit([dull[0].sample], first)
        window.select(dull, list, first)
        window.admit([dull[0].sample], second)
        metrics += window.select([], lambda: dull + sharp, second)[1]
    metrics += look("swapped", [sharp[0].sample]).metrics((), ())  # without a picture
    with Monitor(run_dir) as monitor:
        monitor.log_step(1, "train", scalars=metrics)


class Stuck:
    """A sink that takes one step, and only when it is told to; then it fails."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def log(self, step: int, phase: str, metrics: Sequence[Metric]) -> None:
        self.told.wait(30)
        raise ConnectionError

    def repeated(self) -> int:
        return 1

    def close(self) -> None: ...


def untracked(run_dir: Path) -> None:
    """A tracker that does not keep up, and fails."""
    stuck = Stuck()
    with Monitor(run_dir, [stuck]) as monitor:
        for step in range(1, QUEUED + 4):
            monitor.log_step(step, "train")
        monitor.flush()
        stuck.told.set()
        assert monitor._sinks[0].flush()
        monitor.log_step(QUEUED + 4, "train")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Names:
    """What small runs log, with mishaps that not every run has."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    names: Names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENTS._items, "fragile", Fragile)
        patch.setitem(ADVANTAGES._items, "forgetful", Forgetful)
        for make in (
            seeing,
            looking,
            taught,
            shaped,
            corrected,
            comparing,
            playing,
            troubled,
            acting,
            collecting,
            untracked,
        ):
            make(folder / make.__name__)
            for name, labels in logged(folder / make.__name__).items():
                names.setdefault(name, set()).update(labels)
    return names


def matching(name: str, patterns: Sequence[str]) -> list[str]:
    return [pattern for pattern in patterns if fnmatchcase(name, pattern)]


def test_every_metric_of_a_run_is_on_the_page_with_its_labels(found: Names) -> None:
    page = documented()
    assert len(found) > 60
    missing = [name for name in found if not matching(name, list(page))]
    assert not missing, f"docs/metrics.md says nothing about {missing}"
    for name, labels in found.items():
        (pattern,) = matching(name, list(page))
        assert labels <= page[pattern], f"{name} has the labels {sorted(labels)}"


def test_every_metric_on_the_page_is_logged(found: Names) -> None:
    for pattern, labels in documented().items():
        seen = [found[name] for name in found if fnmatchcase(name, pattern)]
        assert seen, f"no run logs {pattern}"
        assert set.union(*seen) == labels, f"{pattern}: the page gives the labels {sorted(labels)}"


def test_the_first_table_names_metrics_that_exist() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    table = text.split("## Look at these first")[1].split("\n## ")[0]
    phases = {"eval", "max"}
    for name in set(re.findall(r"`([^`]+)`", table)) - phases:
        assert name in documented(), name
