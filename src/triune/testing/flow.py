"""A toy image generator: flow matching in the plane with classifier-free guidance, trained on its denoising steps.

It shows that a denoiser needs nothing of the core that a language model does not: every stochastic step is a decision
with a Gaussian log-prob (Flow-GRPO, Liu et al. 2025), and guidance and noise are part of the recorded rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from pydantic import Field, JsonValue
from scipy.special import ndtri
from torch import Tensor, nn

from triune.algo.options import ViewOptions
from triune.algo.types import Batch, Evaluated
from triune.core.base import Frozen
from triune.core.errors import DataError
from triune.core.sample import Check, Message, Sample, Text
from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
from triune.core.verdict import Outcome
from triune.policy.options import POLICIES
from triune.policy.views import View, undeclared
from triune.rollout.engine import derive_seed, uniforms
from triune.rollout.generator import Demand, Episode
from triune.rollout.options import ROLLOUTS
from triune.verify.verifier import Case, Context, InvalidReference, Score, Unparsed, Verifier, register


@POLICIES.register("flow")
class FlowOptions(Frozen):
    kind: Literal["flow"] = "flow"
    conditions: int = Field(
        4, ge=1, description="prompts that the model knows: condition 0, condition 1, ..."
    )
    width: int = Field(32, ge=1, description="units of a hidden layer")
    noise_level: float = Field(0.7, gt=0, description="a of Flow-GRPO: how much noise a step adds")
    path: str = Field("", description="directory written by a checkpoint; none: random weights")

    def build(self) -> FlowFamily:
        family = FlowFamily(self)
        if self.path:
            family.load(Path(self.path))
        return family


@ROLLOUTS.register("flow")
class FlowRollouts(Frozen):
    kind: Literal["flow"] = "flow"
    temperature: float = Field(1.0, ge=0, description="variance of a step's noise; 0: the most likely step")
    steps: int = Field(5, ge=1, description="denoising steps")
    guidance: float | None = Field(
        2.0, description="scale of classifier-free guidance; none: conditional branch only"
    )
    guidance_gradient: Literal["both", "conditional", "none"] = Field(
        "both", description="branches that are trained"
    )
    noise: Literal["flow_sde", "constant"] = Field(
        "flow_sde", description="how noise depends on the time of a step"
    )

    def build(self, family: FlowFamily) -> FlowSampler:
        return FlowSampler(family, self)


def sde_step(
    x: Tensor, velocity: Tensor, time: Tensor, level: float, noise: str | None
) -> tuple[Tensor, Tensor]:
    """Mean [n, 2] and std [n, 1] of one step of the SDE that has the flow's marginals (Flow-GRPO).

    `time` [n, 3]: sigma before and after the step (1 is noise, 0 is data), and the schedule's second sigma, which
    replaces a sigma of 1 where the noise would be infinite. With `constant` noise it is DanceGRPO's step.
    """
    sigma, after, second = time[:, :1], time[:, 1:2], time[:, 2:]
    scale = level * (sigma / (1 - torch.minimum(sigma, second))).sqrt() if noise == "flow_sde" else level
    dt = after - sigma
    drift = scale**2 * dt / (2 * sigma)
    return x * (1 + drift) + velocity * (dt + drift * (1 - sigma)), scale * (-dt).sqrt()


class FlowFamily:
    """Payload: `latents` f32[N + 1, 2] from noise to data, `sigmas` f32[N + 1], and the condition's number."""

    provides: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()

    def __init__(self, options: FlowOptions) -> None:
        self.options, width = options, options.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            inner = (nn.Linear(3 + options.conditions, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
            self.net = nn.Sequential(*inner, nn.Linear(width, 2))

    def declare(self, name: str, view: ViewOptions) -> View:
        raise undeclared(name)

    def modules(self) -> Mapping[str, nn.Module]:
        return {"velocity": self.net}

    def check(self, sample: Sample) -> None:
        self.condition(sample)

    def begin_step(self, samples: Sequence[Sample]) -> None:
        return

    def cost(self, trajectory: Trajectory) -> int:
        return len(trajectory.decisions)

    def vision_cost(self, trajectory: Trajectory) -> int:
        return 0

    def condition(self, sample: Sample) -> int:
        number = sample.messages[-1].text.removeprefix("condition ")
        if not number.isdigit() or int(number) >= self.options.conditions:
            raise DataError(
                f"sample {sample.id!r}: the prompt must be 'condition N', N < {self.options.conditions}"
            )
        return int(number)

    def step(self, x: Tensor, time: Tensor, condition: Tensor, rule: SamplingRule) -> tuple[Tensor, Tensor]:
        """Mean and std of a denoising step under a rule. `guidance_gradient` none trains the conditional branch as if
        there were no guidance; a temperature of 0, which has no density, is scored at 1."""
        given = nn.functional.one_hot(condition, self.options.conditions).float()
        velocity = conditional = self.net(torch.cat([x, time[:, :1], given], 1))
        if rule.guidance is not None:
            free = self.net(torch.cat([x, time[:, :1], torch.zeros_like(given)], 1))
            free = free.detach() if rule.guidance_gradient == "conditional" else free
            velocity = free + rule.guidance * (conditional - free)
            if rule.guidance_gradient == "none":
                velocity = conditional + (velocity - conditional).detach()
        mean, std = sde_step(x, velocity, time, self.options.noise_level, rule.noise)
        return mean, std * math.sqrt(rule.temperature or 1.0)

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        before: list[Tensor] = []
        after: list[Tensor] = []
        time: list[Tensor] = []
        condition: list[int] = []
        rules: dict[SamplingRule, list[int]] = {}
        for one in trajectories:
            start, size = sum(map(len, before)), len(one.decisions)
            x, sigmas = (torch.from_numpy(one.payload.arrays[name].copy()) for name in ("latents", "sigmas"))
            before.append(x[:-1])
            after.append(x[1:])
            time.append(torch.stack([sigmas[:-1], sigmas[1:], sigmas[1].expand(size)], 1))
            condition += [cast(int, one.payload.info["condition"])] * size
            ends = [*(first for first, _ in one.rules[1:]), size]
            for (first, rule), end in zip(one.rules, ends, strict=True):
                rules.setdefault(rule, []).extend(range(start + first, start + end))
        return Batch.of(
            trajectories,
            (torch.cat(before), torch.cat(after), torch.cat(time), torch.tensor(condition), rules),
        )

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        before, after, time, condition, rules = batch.payload
        logp = torch.zeros(len(before))
        for rule, mine in rules.items():
            mean, std = self.step(before[mine], time[mine], condition[mine], rule)
            logp = logp.index_put((torch.tensor(mine),), gaussian(after[mine], mean, std))
        return Evaluated(logp)

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        torch.save(self.net.state_dict(), path / "flow.pt")

    def load(self, path: Path) -> None:
        self.net.load_state_dict(torch.load(path / "flow.pt", weights_only=True))


def gaussian(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density f32[n] of points [n, 2]."""
    return (-0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(1)


class FlowSampler:
    """Denoises all rollouts of a step together; each has its own counter-based noise."""

    exact = True

    def __init__(self, family: FlowFamily, options: FlowRollouts) -> None:
        self.family, self.options = family, options

    def load(self, version: int) -> None:
        return

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        kept = {name: getattr(self.options, name) for name in ("guidance", "guidance_gradient", "noise")}
        rule = demand.rule.model_copy(update=kept)
        keys = [(sample, rank) for sample in samples for rank in range(demand.rollouts)]
        seeds = [derive_seed(demand.seed, demand.version, sample.id, rank) for sample, rank in keys]
        condition = torch.tensor([self.family.condition(sample) for sample, _ in keys])
        sigmas = torch.linspace(1, 0, self.options.steps + 1)
        latents, logps = [noise(seeds, 0)], []
        for n in range(self.options.steps):
            time = torch.stack([sigmas[n], sigmas[n + 1], sigmas[1]]).expand(len(keys), 3)
            mean, std = self.family.step(latents[-1], time, condition, rule)
            latents.append(mean if rule.greedy else mean + std * noise(seeds, n + 1))
            logps.append(gaussian(latents[-1], mean, std))
        episodes = []
        for (sample, rank), seed, path, logp in zip(
            keys, seeds, torch.stack(latents, 1).numpy(), torch.stack(logps, 1).tolist(), strict=True
        ):
            trajectory = Trajectory(
                id=f"{sample.id}#{rank}",
                sample=sample.id,
                source=sample.source,
                task=sample.task,
                group=sample.id,
                rank=rank,
                rules=((0, rule),),
                decisions=Decisions.of(logp, version=demand.version),
                payload=Payload(
                    family="flow",
                    arrays={"latents": path, "sigmas": sigmas.numpy()},
                    info={"condition": self.family.condition(sample)},
                ),
                seed=seed,
            )
            text = f"{path[-1, 0]:.6f} {path[-1, 1]:.6f}"
            outcome = Outcome(id=trajectory.id, text=text, num_tokens=len(logp), rank=rank)
            episodes.append(Episode(sample, trajectory, outcome))
        return [episodes[i : i + demand.rollouts] for i in range(0, len(episodes), demand.rollouts)]


def noise(seeds: Sequence[int], step: int) -> Tensor:
    """Standard normal f32[n, 2]: a pure function of each rollout's seed and the step."""
    drawn = [uniforms(np.asarray(seeds, np.uint64), 2 * step + axis) for axis in range(2)]
    return torch.from_numpy(ndtri(np.stack(drawn, 1) + 2.0**-54)).float()  # 0 has no quantile


class NearParams(Frozen):
    width: float = Field(1.0, gt=0, description="distance at which the reward has fallen to exp(-1/2)")


@register("toy/near")
class Near(Verifier[NearParams, np.ndarray]):
    """exp(-d^2 / (2 width^2)) of the distance d between the generated point and the truth."""

    Params = NearParams
    threshold = 0.5
    cases = (
        Case("0.0 1.0", 1.0, truth=[0, 1]),
        Case("1.0 1.0", math.exp(-0.5), truth=[0, 1]),
        Case("east", 0.0, truth=[0, 1], status="unparsed"),
    )

    def prepare(self, truth: JsonValue, sample: Sample, params: NearParams) -> np.ndarray:
        point = _point(truth)
        if point is None:
            raise InvalidReference(f"the truth must be a point [x, y], got {truth!r}"[:200])
        return point

    def example(self, truth: JsonValue, params: NearParams) -> str:
        return " ".join(map(str, np.asarray(truth)))

    def score(self, outcome: Outcome, reference: np.ndarray, params: NearParams, context: Context) -> Score:
        point = _point(outcome.text[:200].split())
        if point is None:
            raise Unparsed(f"not a point: {outcome.text[:40]!r}")
        distance = math.dist(point, reference) / params.width
        return Score(math.exp(-(min(distance, 100.0) ** 2) / 2))


def _point(given: object) -> np.ndarray | None:
    try:
        point = np.asarray(given, np.float64).reshape(2)
    except (TypeError, ValueError, OverflowError):
        return None
    return point if np.isfinite(point).all() else None


def flow_samples(conditions: int = 4, radius: float = 1.5) -> list[Sample]:
    """One sample per condition; the targets lie evenly on a circle."""
    angles = [2 * math.pi * number / conditions for number in range(conditions)]
    return [
        Sample(
            id=f"flow/{number}",
            source="flow",
            task="generation",
            messages=(Message(role="user", content=(Text(text=f"condition {number}"),)),),
            truth=[radius * math.cos(angle), radius * math.sin(angle)],
            checks=(Check(verifier="toy/near"),),
        )
        for number, angle in enumerate(angles)
    ]
