"""Facts about estimators and losses that training shows in seconds: noise that is no signal, length, clipping, KL forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from proof.bandit import Game, Match
from proof.harness import arm, proof
from triune.algo.objective import TermResult
from triune.algo.options import ADVANTAGES, TERMS, Options, TermOptions
from triune.algo.types import Batch, Credit, Evaluated, Rewards

# -- equal rewards ----------------------------------------------------------------------------------------------------


@ADVANTAGES.register("proof_float32_group")
class Float32Group(Options):
    """A defect, as a control: GRPO's advantages in float32 without asking whether the rewards differ at all."""

    kind: Literal["proof_float32_group"] = "proof_float32_group"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        groups = [t.group for t in batch.trajectories]
        advantage = torch.zeros(len(groups))
        for name in dict.fromkeys(groups):
            mine = torch.tensor([g == name for g in groups])
            reward = rewards.total[mine].float()
            mean = reward.sum() / len(reward)  # one rounding off, eight times alike
            advantage[mine] = (reward - mean) / (reward.std() + 1e-6)
        everyone = torch.ones(len(groups), dtype=torch.bool)
        none = torch.zeros(len(dict.fromkeys(groups)), dtype=torch.bool)
        return Credit(advantage[batch.trajectory], everyone, everyone, [""] * len(groups), none)


def equal_rewards(seed: int, advantage: dict[str, Any]) -> dict[str, float]:
    """Every answer is worth .7. How far the policy moves all the same: mean total variation from where it began."""
    start = torch.randn(8, 1, 6, generator=torch.Generator().manual_seed(seed))
    game = Game(start, lambda context, arms: 0.7)
    match = Match(game, {"advantage": advantage}, seed=seed, rate=4.0, steps=300).run()
    moved = (match.probabilities - start.double().softmax(-1)).abs().sum(-1) / 2
    return {"moved": float(moved.mean())}


@arm("equal-rewards/exact")
def _exact(seed: int) -> dict[str, float]:
    return equal_rewards(seed, {"kind": "group"})


@arm("equal-rewards/float32")
def _float32(seed: int) -> dict[str, float]:
    return equal_rewards(seed, {"kind": "proof_float32_group"})


proof(
    "zero-variance/drift",
    shows="A group whose rewards are equal teaches nothing. Means in float32 are off by one rounding, the std is as small, "
    "and every answer that happens to be drawn is taught.",
    metric="total variation from the start after 300 steps in which every answer is worth .7",
    higher_is_better=False,
    arm="equal-rewards/exact",
    control="equal-rewards/float32",
    key="moved",
    told="advantages 0 / .056 for all",
)

# -- a divergence in the loss -------------------------------------------------------------------------------------------


@TERMS.register("proof_k1")
class K1InLoss(TermOptions):
    """A mistake, as a control: log pi - log pi_ref in the loss. The mean of its gradient is 0."""

    kind: Literal["proof_k1"] = "proof_k1"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"teacher"})

    def __call__(self, batch: Batch, current: Evaluated, views: Mapping[str, Evaluated]) -> TermResult:
        return TermResult(((current.logp - views["teacher"].logp) * batch.weight).sum(), [])


def anchored(seed: int, term: dict[str, Any]) -> dict[str, float]:
    """All answers are worth the same: KL(policy, anchor) when nothing but the anchor's term has pulled for 300 steps."""
    generator = torch.Generator().manual_seed(seed)
    start, anchor = torch.randn(2, 4, 1, 6, generator=generator)
    game = Game(start, lambda context, arms: 0.0, teacher=anchor)
    algo = {"terms": [term], "views": {"teacher": {"kind": "frozen", "path": "of the game"}}}
    match = Match(game, algo, seed=seed, rate=1.0, steps=300, rollouts=32).run()
    p, q = match.probabilities, anchor.double().softmax(-1)
    return {"kl": float((p * (p.log() - q.log())).sum(-1).mean())}


@arm("anchored/k2")
def _k2(seed: int) -> dict[str, float]:
    return anchored(seed, {"kind": "kl", "form": "k2", "view": "teacher"})


@arm("anchored/k1")
def _k1(seed: int) -> dict[str, float]:
    return anchored(seed, {"kind": "proof_k1"})


proof(
    "kl/k1-in-loss",
    shows="k2 in the loss pulls to the reference; k1 in the loss only shakes the policy, so a recipe that asks for it is "
    "refused.",
    metric="KL(policy, reference) after 300 steps of the term alone",
    higher_is_better=False,
    arm="anchored/k2",
    control="anchored/k1",
    key="kl",
    told="E[grad k1] = 0, E[grad k2] = grad KL",
)

# -- the length of wrong answers -----------------------------------------------------------------------------------------

LONGEST = 40


def lengths(seed: int, algo: dict[str, Any]) -> dict[str, float]:
    """Each group has four right and four wrong answers, whatever their length, with a chance to stop after each token that
    the policy may change in either. Tokens of a wrong answer at the end, .1 to stop at the start."""
    start = torch.tensor([0.1, 0.9]).log().view(1, 1, 2).repeat(2, 1, 1)
    game = Game(start, lambda context, arms: float(context == 0), stop=0, groups=["pair", "pair"])
    match = Match(game, algo, seed=seed, rate=1.0, steps=300, rollouts=4, copies=8, length=LONGEST).run()
    goes_on = match.probabilities[:, 0, 1]
    right, wrong = ((1 - goes_on**LONGEST) / (1 - goes_on)).tolist()
    return {"wrong": wrong, "right": right}


@arm("lengths/dr-grpo")
def _dr_grpo(seed: int) -> dict[str, float]:
    return lengths(seed, {"preset": "dr-grpo", "constant": 10})


@arm("lengths/grpo")
def _grpo(seed: int) -> dict[str, float]:
    # Its divergence would hold the length: only the mean over an answer's tokens is what is looked at.
    return lengths(seed, {"preset": "grpo", "terms": {"kl": None}})


proof(
    "dr-grpo/length",
    shows="Where length has nothing to do with being right, a mean over each answer's tokens makes wrong answers longer: the "
    "longer they are, the less each token is blamed. A constant divisor does not.",
    metric=f"tokens of a wrong answer after 300 steps (9.9 at the start, at most {LONGEST})",
    higher_is_better=False,
    arm="lengths/dr-grpo",
    control="lengths/grpo",
    key="wrong",
)
