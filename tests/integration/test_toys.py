"""Two families that are no language models train through the same loop: a denoiser with guidance, and an actor-critic
with action chunks. Each must learn, and must not learn under its negative control."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule, Trajectory
from triune.evaluate import evaluate
from triune.loop import Loop, train
from triune.policy.family import Family
from triune.rollout.generator import Demand, Generator
from triune.testing.actor import ActorOptions, GridRollouts, grid_samples
from triune.testing.flow import FlowOptions, FlowRollouts, flow_samples, sde_step

PROGRESS = Progress(step=1, total_steps=1)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def write(path: Path, samples: Sequence[Sample]) -> Path:
    path.write_text("\n".join(sample.model_dump_json() for sample in samples))
    return path


def flow_recipe(folder: Path, advantage: str, steps: int, **rollout: Any) -> Recipe:
    rows = str(write(folder / "rows.jsonl", flow_samples()))
    return Recipe.model_validate(
        {
            "name": "flow",
            "data": {"sources": [{"name": "flow", "path": rows, "heldout_path": rows}]},
            "policy": "flow",
            "rollout": {"kind": "flow", **rollout},
            "algo": {"kind": "policy_gradient", "advantage": {"kind": advantage}},
            "train": {
                "total_steps": steps,
                "prompts_per_step": 4,
                "rollouts_per_prompt": 16,
                "optimizer": {"lr": 1e-2, "warmup_fraction": 0.0},
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": [], "rollouts_every": 0},
        }
    )


def grid_recipe(folder: Path, advantage: str, steps: int) -> Recipe:
    rows = str(write(folder / "rows.jsonl", grid_samples(32)))
    return Recipe.model_validate(
        {
            "name": "grid",
            "data": {"sources": [{"name": "grid", "path": rows, "heldout_path": rows}]},
            "policy": "actor",
            "rollout": "grid",
            "algo": {
                "kind": "policy_gradient",
                "advantage": {"kind": advantage},
                "terms": [{"kind": "ppo_clip"}, {"kind": "value"}, {"kind": "entropy", "coef": 0.001}],
            },
            "train": {
                "total_steps": steps,
                "prompts_per_step": 16,
                "rollouts_per_prompt": 8,
                "minibatches_per_step": 8,
                "optimizer": {"lr": 1e-2, "warmup_fraction": 0.0},
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": [], "rollouts_every": 0},
        }
    )


def curve(recipe: Recipe, folder: Path) -> list[float]:
    """Mean reward of every step, after the checks that a run starts with."""
    with Loop(recipe, folder / "run") as loop:
        loop.check()
        return [
            statistics.fmean(one.verdict.reward or 0.0 for one in loop.step())
            for _ in range(recipe.train.total_steps)
        ]


def test_the_flow_learns_and_its_control_does_not(tmp_path: Path) -> None:
    learned = curve(flow_recipe(tmp_path, "group", 36), tmp_path)
    assert statistics.fmean(learned[-3:]) > learned[0] + 0.5
    (tmp_path / "control").mkdir()
    control = curve(flow_recipe(tmp_path, "shuffled_group", 20), tmp_path / "control")
    assert statistics.fmean(control[-3:]) < learned[0] + 0.15
    assert control[0] == learned[0]  # the same rollouts from the same seed


def test_the_actor_learns_and_its_control_does_not(tmp_path: Path) -> None:
    learned = curve(grid_recipe(tmp_path, "gae", 20), tmp_path)
    assert learned[0] < 0
    assert statistics.fmean(learned[-3:]) > 0.6
    (tmp_path / "control").mkdir()
    control = curve(grid_recipe(tmp_path, "shuffled_gae", 20), tmp_path / "control")
    assert statistics.fmean(control[-3:]) < 0


@pytest.mark.parametrize("make", [flow_recipe, grid_recipe], ids=["flow", "grid"])
def test_a_resumed_run_equals_the_uninterrupted_one(make: Any, tmp_path: Path) -> None:
    recipe = make(tmp_path, "group" if make is flow_recipe else "gae", 4)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoint_every": 2})})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole)
    with Loop(recipe, parts) as loop:
        loop.check()
        loop.step()
        loop.step()
        loop.save()
    train(recipe, parts, resume=True)
    name = "flow.pt" if make is flow_recipe else "actor.pt"
    models = [(run / "checkpoints/step-000004/model" / name).read_bytes() for run in (whole, parts)]
    assert models[0] == models[1]
    greedy = evaluate(whole / "checkpoints/step-000004")
    assert greedy[recipe.name]["n"] == (4 if make is flow_recipe else 32)
    assert greedy == evaluate(parts / "checkpoints/step-000004")


# -- the contract: with unchanged weights, evaluate gives the behaviour log-probs ------------------------------------


def rollouts(generator: Generator, samples: Sequence[Sample], rule: SamplingRule) -> list[Trajectory]:
    demand = Demand(4, rule, seed=3, version=7, progress=PROGRESS)
    return [e.trajectory for row in generator.generate(samples, demand) for e in row]


def gap(family: Family, trajectories: Sequence[Trajectory]) -> float:
    with torch.no_grad():
        batch = family.pack(trajectories)
        return float((family.evaluate(batch).logp - batch.logp_behavior).abs().max())


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("guidance", [None, 0.0, 3.0])
@pytest.mark.parametrize("noise", ["flow_sde", "constant"])
def test_the_flow_replays_what_it_sampled(temperature: float, guidance: float | None, noise: Any) -> None:
    family = FlowOptions().build()
    sampler = FlowRollouts(guidance=guidance, noise=noise).build(family)
    made = rollouts(sampler, flow_samples(), SamplingRule(temperature=temperature))
    assert {rule for t in made for _, rule in t.rules} == {
        SamplingRule(temperature=temperature, guidance=guidance, noise=noise)
    }
    assert gap(family, made) < 1e-5
    assert gap(family, made[5:6]) < 1e-5  # whatever the company
    other = [t.model_copy(update={"rules": ((0, SamplingRule(guidance=9.0, noise=noise)),)}) for t in made]
    assert gap(family, other) > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("chunk", [1, 3])
def test_the_actor_replays_what_it_sampled(temperature: float, chunk: int) -> None:
    family = ActorOptions(chunk=chunk).build()
    made = rollouts(GridRollouts().build(family), grid_samples(), SamplingRule(temperature=temperature))
    assert gap(family, made) < 1e-5
    assert gap(family, made[5:6]) < 1e-5


def test_rollouts_do_not_depend_on_their_company() -> None:
    for family, generator, samples in (
        (f := FlowOptions().build(), FlowRollouts().build(f), flow_samples()),
        (a := ActorOptions().build(), GridRollouts().build(a), grid_samples()),
    ):
        assert gap(family, rollouts(generator, samples, SamplingRule())) < 1e-5
        together, alone = (
            rollouts(generator, samples, SamplingRule())[4:8],
            rollouts(generator, samples[1:2], SamplingRule()),
        )
        for one, other in zip(together, alone, strict=True):
            assert one.seed == other.seed
            for name, array in one.payload.arrays.items():
                np.testing.assert_allclose(array, other.payload.arrays[name], atol=1e-5)


# -- the flow's own equations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "level", "noise", "mean", "std"),
    [
        ([0.8, 0.6, 0.9], 0.7, "flow_sde", [0.1783, -0.8297], 0.62609903),
        ([1.0, 0.9, 0.9], 0.7, "flow_sde", [0.2975, -0.785], 0.7),
        ([0.8, 0.6, 0.9], 0.3, "constant", [0.332575, -1.049425], 0.13416408),
    ],
)
def test_the_step_of_the_sde(
    time: list[float], level: float, noise: str, mean: list[float], std: float
) -> None:
    """Numbers worked out by hand from Flow-GRPO's and DanceGRPO's equations."""
    x, velocity = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.8, 0.3]])
    found, spread = sde_step(x, velocity, torch.tensor([time]), level, noise)
    assert found[0].tolist() == pytest.approx(mean, abs=1e-6)
    assert spread.item() == pytest.approx(std, abs=1e-6)


def test_the_gradient_goes_through_the_branches_that_the_rule_names() -> None:
    family = FlowOptions().build()
    made = rollouts(FlowRollouts(guidance=3.0).build(family), flow_samples(), SamplingRule())

    def graded(guidance: float | None, mode: str, scale: float = 1.0) -> torch.Tensor:
        rule = SamplingRule(guidance=guidance, guidance_gradient=mode, noise="flow_sde")  # type: ignore[arg-type]
        batch = family.pack([t.model_copy(update={"rules": ((0, rule),)}) for t in made])
        weight = torch.arange(batch.num_decisions) / batch.num_decisions
        family.net.zero_grad()
        logp = family.evaluate(batch).logp
        values.append(logp.detach())
        (scale * weight * logp).sum().backward()
        return torch.cat([p.grad.flatten() for p in family.net.parameters() if p.grad is not None])

    values: list[torch.Tensor] = []
    both, conditional, none = (graded(3.0, mode) for mode in ("both", "conditional", "none"))
    assert torch.equal(values[0], values[1])
    assert torch.allclose(values[0], values[2], atol=1e-5)
    # d guided / d conditional is 3 where only that branch is trained, and 1 where guidance is left out of the gradient.
    assert torch.allclose(conditional, 3 * none, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both, conditional, rtol=0.1, atol=1e-2)


def test_a_rule_holds_for_its_segment() -> None:
    family = FlowOptions().build()
    first, second = (
        rollouts(FlowRollouts(guidance=g).build(family), flow_samples()[:1], SamplingRule())[0]
        for g in (1.0, 3.0)
    )
    mixed = first.model_copy(update={"rules": ((0, first.rules[0][1]), (2, second.rules[0][1]))})
    with torch.no_grad():
        alone = [
            family.evaluate(family.pack([first.model_copy(update={"rules": one.rules})])).logp
            for one in (first, second)
        ]
        logp = family.evaluate(family.pack([second, mixed])).logp[len(second.decisions) :]
    assert torch.allclose(logp, torch.cat([alone[0][:2], alone[1][2:]]))


# -- the actor's world -------------------------------------------------------------------------------------------


def test_endings_events_and_read_outs() -> None:
    family = ActorOptions(chunk=2).build()
    made = rollouts(GridRollouts(time_limit=6).build(family), grid_samples(), SamplingRule())
    cut, over = [t for t in made if t.truncated], [t for t in made if t.terminated]
    assert cut
    assert over
    assert len(cut) + len(over) == len(made)
    for one in made:
        turns = len(one.decisions) // 2
        assert [e.decision for e in one.events if e.name == "time"] == list(range(1, 2 * turns, 2))
        assert [e.decision for e in one.events if e.name == "goal"] == (
            [2 * turns - 1] if one.terminated else []
        )
        batch = family.pack([one])
        assert batch.value_turn.tolist() == list(range(turns + one.truncated))
        assert batch.action.tolist() == np.repeat(np.arange(turns), 2).tolist()
