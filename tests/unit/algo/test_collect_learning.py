"""What collectors are worth: the same training with them and without, on a table of logits, through the real learner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from triune.core.sample import Check, Message, Sample, Text
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.core.verdict import Component, Outcome, Verdict
from triune.monitor.metric import Scored
from triune.rollout.generator import Demand
from triune.testing.table import TableFamily, recipe, trajectory
from triune.train.learner import Learner

STEPS = 400


class World:
    """Contexts in which one token of `vocabulary` is right; each step shows `prompts` of them, in turn. `start` is the
    probability of the right token, by context; one of 0 is never right, whatever is said."""

    def __init__(
        self,
        seed: int,
        start: list[float],
        collect: Mapping[str, Any],
        *,
        prompts: int,
        rollouts: int = 8,
        vocabulary: int = 100,
        lr: float = 0.05,
    ) -> None:
        self.family, self.start, self.prompts, self.rollouts = (
            TableFamily(vocabulary),
            start,
            prompts,
            rollouts,
        )
        table = self.family.table.weight.data
        table.zero_()
        for context, p in enumerate(start):
            if p:
                table[context, context] = np.log(p * (vocabulary - 1) / (1 - p))
        self.generator = torch.Generator().manual_seed(seed)
        self.recipe = recipe(
            algo={"collect": collect},
            total_steps=STEPS,
            prompts_per_step=prompts,
            rollouts_per_prompt=rollouts,
            optimizer={"lr": lr, "warmup_fraction": 0.0, "weight_decay": 0.0},
        )
        self.learner = Learner(self.family, self.recipe, True)
        self.done = self.drawn = 0

    @torch.no_grad()
    def p(self, context: int) -> float:
        """How likely the right token is."""
        return float(self.family.table.weight[context].softmax(-1)[context])

    def fresh(self) -> list[Scored]:
        """Judged rollouts of the next prompts."""
        contexts = [(self.drawn + i) % len(self.start) for i in range(self.prompts)]
        self.drawn += self.prompts
        message = Message(role="user", content=(Text(text="?"),))
        samples = [
            Sample(id=f"c{c}", source="toy", task="toy", messages=(message,), checks=(Check(verifier="x"),))
            for c in contexts
        ]
        progress = Progress(step=self.done + 1, total_steps=STEPS)
        self.learner.place(samples, Demand(self.rollouts, SamplingRule(), 0, self.done, progress))
        return [one for c, s in zip(contexts, samples, strict=True) for one in self.group(c, s)]

    def group(self, context: int, sample: Sample) -> list[Scored]:
        logp = self.family.table.weight[context].detach().log_softmax(-1)
        said = torch.multinomial(logp.exp(), self.rollouts, replacement=True, generator=self.generator)
        out = []
        for rank, token in enumerate(said.tolist()):
            name = f"{sample.id}#{rank}/{self.drawn}"
            one = trajectory(
                [token], prompt=(context,), id=name, group=f"{sample.id}/{self.drawn}", sample=sample.id,
                rank=rank, version=self.done, logp=[float(logp[token])],
            )  # fmt: skip
            value = float(token == context and self.start[context] > 0)
            part = Component(name="x", value=value, weight=1.0, correct=value == 1, main=True)
            verdict = Verdict(id=name, reward=value, components=(part,), correct=value == 1)
            out.append(Scored(sample, one, Outcome(id=name, num_tokens=1, rank=rank), verdict))
        return out

    def step(self) -> list[list[float]]:
        """One step; the rewards of every group that was trained on."""
        progress = Progress(step=self.done + 1, total_steps=STEPS)
        report = self.learner.step(self.fresh, self.recipe, progress)
        self.done += 1
        groups: dict[str, list[float]] = {}
        for one in report.trained:
            groups.setdefault(one.trajectory.group, []).append(one.verdict.reward or 0.0)
        return list(groups.values())


def informative(groups: list[list[float]]) -> int:
    return sum(max(rewards) > min(rewards) for rewards in groups)


def sparse(seed: int, collect: Mapping[str, Any]) -> tuple[float, int]:
    """Two contexts, the right token one of a hundred: the share of groups that teach something in the first 60 steps, and
    the steps until the right token has a probability of .9 on average."""
    world = World(seed, [0.01, 0.01], collect, prompts=2)
    shares, reached = [], 0
    while not reached and world.done < STEPS:
        found = world.step()
        shares.append(informative(found) / len(found))
        if (world.p(0) + world.p(1)) / 2 > 0.9:
            reached = world.done
    return float(np.mean(shares[:60])), reached or STEPS


def mixed(seed: int, collect: Mapping[str, Any]) -> float:
    """A third of the prompts is solved, a third cannot be: groups that teach something per step of six, in 15 steps."""
    world = World(seed, [0.0, 0.3, 0.999] * 8, collect, prompts=6, lr=0.01)
    return float(np.mean([informative(world.step()) for _ in range(15)]))


NONE: dict[str, Any] = {}
STORED: dict[str, Any] = {"replay": {"kind": "replay"}}
RELEASE: dict[str, Any] = {"replay": {"kind": "replay", "replay_is": "none"}}
DYNAMIC: dict[str, Any] = {"dynamic": {"kind": "dynamic_sampling", "max_batches": 6}}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_replay_makes_failed_groups_teach(seed: int) -> None:
    control, later = sparse(seed, NONE)
    for collect in (STORED, RELEASE):
        share, steps = sparse(seed, collect)
        assert share > 2 * control
        assert steps < later


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dynamic_sampling_fills_a_step_with_what_teaches(seed: int) -> None:
    assert mixed(seed, NONE) < 2.5
    assert mixed(seed, DYNAMIC) > 5.5


if __name__ == "__main__":  # the figures of docs/objectives.md
    for name, collect in {"without": NONE, "stored_logprob_clip": STORED, "none": RELEASE}.items():
        print(f"replay, {name}: share of groups and steps {[sparse(seed, collect) for seed in range(3)]}")
    for name, collect in {"without": NONE, "with": DYNAMIC}.items():
        print(
            f"{name} dynamic sampling: groups that teach {[round(mixed(seed, collect), 2) for seed in range(3)]}"
        )
