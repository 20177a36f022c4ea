"""Recipes of the paper on a small Qwen2.5-VL with random weights and ten rows of every source: each runs a step as it is
written, but for paths and sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from triune.core.loading import list_recipes
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.verdict import Outcome, Seen
from triune.data.mixture import Mixture, heldout
from triune.data.source import open_sources
from triune.loop import Loop
from triune.rollout.generator import Demand, Episode
from triune.testing.models import write
from triune.testing.orsta import write_orsta
from triune.testing.table import TableFamily, recipe, scored, trajectory
from triune.train.learner import Learner
from triune.verify.judge import Judge

ORSTA = [name for name in list_recipes() if name.startswith("orsta/")]
SIZES = (
    "train.prompts_per_step=8",
    "train.rollouts_per_prompt=2",
    "rollout.max_tokens=4",
    "data.heldout_per_source=2",
    "policy.min_pixels=256",
    "policy.max_pixels=1600",
    "judge.workers=0",
    "monitor.sinks=[]",
)
REASONING = {"math", "puzzle", "science", "chart"}
PERCEPTION = {"detection", "grounding", "counting", "ocr"}


@pytest.fixture(scope="module")
def supplied(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What the reader of a recipe supplies: the model and the data."""
    folder = tmp_path_factory.mktemp("orsta")
    write_orsta(folder / "data", rows=10)
    return f"policy.path={write('qwen', folder / 'model')}", f"data.root={folder / 'data'}"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Told:
    """Lets the policy sample, and writes another answer under every second rollout: the truth, its boxes
    narrower (IoU .92). A policy with random weights would earn nothing, and nothing is learnt from that."""

    def __init__(self, generator: Any) -> None:
        self.generator, self.exact = generator, generator.exact

    def load(self, version: int) -> None:
        self.generator.load(version)

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        return [
            [e if e.outcome.rank % 2 else replace(e, outcome=told(e.sample, e.outcome)) for e in row]
            for row in self.generator.generate(samples, demand)
        ]


def told(sample: Sample, outcome: Outcome) -> Outcome:
    truth = cast(Any, sample.truth)
    if isinstance(truth, str):
        return outcome.model_copy(update={"text": f"So it is \\boxed{{{truth}}}."})
    scale = np.array([*outcome.media[0].processed] * 2) / 1000
    items = [
        {"bbox_2d": list(np.array([x1, y1, x1 + 0.92 * (x2 - x1), y2]) * scale), "label": label}
        for (x1, y1, x2, y2), label in zip(truth["boxes"], truth["labels"], strict=True)
    ]
    return outcome.model_copy(update={"text": f"<answer>\n{json.dumps(items)}\n</answer>"})


@pytest.fixture
def loops(supplied: tuple[str, str], tmp_path: Path) -> Iterator[Any]:
    opened: list[Loop] = []

    def open_loop(name: str, *overrides: str) -> Loop:
        loop = Loop(Recipe.load(list_recipes()[name], (*supplied, *SIZES, *overrides)), tmp_path / "run")
        loop.generator = Told(loop.generator)
        opened.append(loop)
        return loop

    yield open_loop
    for loop in opened:
        loop.__exit__()


def trained(loop: Loop) -> dict[str, list[Tensor]]:
    """What the optimiser works on, by module: the weights, or their wide copies (a step of 1e-6 is not seen in bfloat16)."""
    groups = loop.update.optimizer.adamw.param_groups  # type: ignore[attr-defined]
    return {g["name"]: [p.detach().clone() for p in g["params"]] for g in groups}


def moved(loop: Loop, before: dict[str, list[Tensor]]) -> set[str]:
    after = trained(loop)
    return {
        name
        for name in after
        if any(not torch.equal(a, b) for a, b in zip(after[name], before[name], strict=True))
    }


@pytest.mark.parametrize("name", ORSTA)
def test_each_recipe_runs_a_step(name: str, loops: Any) -> None:
    loop = loops(name)
    train = loop.recipe.train
    before = trained(loop)
    rows = loop.step()
    assert moved(loop, before) == set(before) - set(train.freeze)
    assert len(rows) == 16
    assert all(one.verdict.reward is not None for one in rows)
    store = loop.monitor.store
    sources = {source for (source,) in store.series("reward")}
    assert sources == {one.sample.source for one in rows}
    assert sources <= {spec.name for spec in loop.recipe.data.sources if spec.path}
    rates = store.series("learning_rate", by=("module",))
    assert {module for (module,) in rates} == set(before) - set(train.freeze)
    for (point,) in rates.values():  # warm-up: a twentieth of 138 steps is 7, and the first is not at rate 0
        assert point.mean == pytest.approx(train.optimizer.lr / 8)
    assert store.series("grad_skipped")[("",)][0].mean == 0


@pytest.mark.parametrize(("step", "threshold"), [(13, 0.85), (14, 0.95), (34, 0.95), (35, 0.99)])
def test_dynamic_iou_by_step(step: int, threshold: float, loops: Any) -> None:
    loop = loops("orsta/7b", "data.train_on=[detection/*]", "train.prompts_per_step=1")
    loop.done = step - 1
    for one in loop.step():
        assert one.trajectory.resolved == {"detection/iou_max_label_first.iou": threshold}
        if one.outcome.rank % 2 == 0:
            found = one.verdict.main.value
            assert found == (pytest.approx(0.7 * 0.92 + 0.3) if threshold == 0.85 else 0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("iou-50", {"iou_max_label_first": 0.944}),
        ("iou-99", {"iou_max_label_first": 0.0}),
        ("iou-average", {"iou_max_label_first": 0.944 * 9 / 11}),
        ("reward-label-first", {"iou_max_label_first": 0.944}),
        ("reward-iou-first", {"iou_max_iou_first": 0.944}),
        ("reward-map", {"map": 0.9}),
        ("reward-label-first-map", {"iou_max_label_first": 0.944, "map": 0.9}),
        ("reward-label-first-map-map50", {"iou_max_label_first": 0.944, "map": 0.9, "map50": 1.0}),
    ],
)
def test_what_a_box_of_iou_92_earns(name: str, values: dict[str, float], supplied: tuple[str, str]) -> None:
    loaded = Recipe.load(list_recipes()[f"orsta/ablations/{name}"], (*supplied, *SIZES))
    (source, _), *_ = open_sources(
        loaded.data.model_copy(update={"train_on": ("grounding/*",)}), loaded.seed, "train"
    )
    sample = source.sample(0)
    seen = Seen(sha256=sample.media[0].sha256, original=sample.media[0].size, processed=(56, 84))
    outcome = Outcome(id="a", media=(seen,), frame="pixels_processed")
    with Judge(workers=0) as judge:
        (verdict,) = judge.judge(
            sample, [told(sample, outcome)], Progress(step=1, total_steps=138, phase="train")
        )
    parts = {c.name: c for c in verdict.components}
    for part, value in values.items():
        assert parts[f"detection/{part}"].value == pytest.approx(value)
        assert parts[f"detection/{part}"].weight == pytest.approx(1 / len(values))
    assert parts["format_json"].weight == pytest.approx(0.1)
    assert verdict.reward == pytest.approx((sum(values.values()) / len(values) + 0.1) / 1.1)


@pytest.mark.parametrize(("name", "tasks"), [("reasoning", REASONING), ("perception", PERCEPTION)])
def test_a_subset_is_trained_on_and_everything_is_tested(
    name: str, tasks: set[str], supplied: tuple[str, str]
) -> None:
    chosen = Recipe.load(list_recipes()[f"orsta/ablations/data-{name}"], supplied)
    assert {source.name.split("/")[0] for source in Mixture.of(chosen).sources} == tasks
    assert set(heldout(chosen)) == {"test/megabench_math", "test/megabench_chart", "test/coco_multi"}


def test_the_online_test_runs_before_every_five_steps_and_after(loops: Any) -> None:
    loop = loops("orsta/7b", "train.total_steps=6", "train.prompts_per_step=1", "data.train_on=[counting/*]")
    loop.run()
    series = loop.monitor.store.series("reward", phase="eval")
    assert {source for (source,) in series} == {
        "test/megabench_math",
        "test/megabench_chart",
        "test/coco_multi",
    }
    for points in series.values():
        assert [(p.step, p.count) for p in points] == [(0, 2), (5, 2), (6, 2)]
    thresholds = loop.monitor.store.series("verifier/iou_threshold", phase="eval")[("test/coco_multi",)]
    assert [p.mean for p in thresholds] == [0.99] * 3  # frozen at its last value, from the start


def test_the_arithmetic_is_the_papers() -> None:
    for name in ORSTA:
        train = Recipe.load(list_recipes()[name]).train
        epoch = 47_700 // 1024
        assert train.total_steps == 3 * epoch == 138
        assert train.prompts_per_step * train.rollouts_per_prompt == 8192
        backward = train.prompts_per_step // train.minibatches_per_step
        assert backward == (128 if "off-policy" in name else 1024)
        rate = 5e-7 if "off-policy" in name else float(name.split("-lr-")[1]) if "-lr-" in name else 1e-6
        assert train.optimizer.lr == rate


def test_the_documented_keys_are_the_ablations() -> None:
    """docs/orsta.md gives each ablation as a recipe and as keys."""
    page = (Path(__file__).parents[2] / "docs" / "orsta.md").read_text()
    rows = [re.findall(r"`([^`]+)`", line) for line in page.splitlines() if re.match(r"\|.*\| `orsta/", line)]
    shipped = list_recipes()
    for name, *keys in rows:
        wanted = Recipe.load(shipped[name])
        assert Recipe.load(shipped["orsta/7b"], (*keys, f"name={wanted.name}")) == wanted
    ablations = {name for name in ORSTA if "/ablations/" in name}
    assert ablations | {"orsta/7b-off-policy"} == {name for name, *_ in rows}


@pytest.mark.parametrize("exact", [True, False])
def test_off_policy_ratios_are_to_the_weights_that_sampled(exact: bool) -> None:
    """Two mini-batches of one group each: at the second the weights have moved, the old log-probs have not."""
    family = TableFamily()
    chosen = recipe(
        minibatches_per_step=2,
        prompts_per_step=2,
        optimizer={"lr": 0.3, "warmup_fraction": 0.0, "clip_norm": 1e9},
    )
    rollouts = [
        trajectory(ids, id=f"{group}{i}", group=group, sample=group, family=family)
        for group in "ab"
        for i, ids in enumerate([(1, 2), (3, 4)])
    ]
    old = torch.cat([torch.tensor(t.decisions.logp) for t in rollouts[2:]])
    learner = Learner(family, chosen, exact)
    weights: list[Tensor] = []
    gradients: list[Tensor] = []

    def keep(*_: Any) -> None:
        weights.append(family.table.weight.detach().clone())
        gradients.append(cast(Tensor, family.table.weight.grad).clone())

    learner.optimizer.adamw.register_step_pre_hook(keep)
    rows = [scored(t, reward) for t, reward in zip(rollouts, (1.0, 0.0, 1.0, 0.0), strict=True)]
    report = learner.step(lambda: rows, chosen, Progress(step=1, total_steps=10))
    (ratios,) = [m for m in report.metrics if m.name == "ratio"]
    assert ratios.max > 1.01
    assert len(gradients) == 2

    # By hand, at the weights of the second optimiser step: -mean over the four tokens of min(r A, clip(r) A).
    table = weights[1].clone().requires_grad_()
    logp = torch.stack([table[a].log_softmax(-1)[b] for a, b in ((0, 1), (1, 2), (0, 3), (3, 4))])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0]) * (0.5 / (0.5**0.5 + 1e-6))
    ratio = (logp - old).exp()
    assert not torch.allclose(ratio, torch.ones(4), atol=1e-2)
    loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).mean()
    (expected,) = torch.autograd.grad(loss, table)
    assert torch.allclose(gradients[1], expected, atol=1e-6)
