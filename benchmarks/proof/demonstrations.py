"""Demonstrations beside the policy's own answers: what each mixture learns from them, and what it forgets."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from proof.bandit import Game, Match
from proof.harness import arm, proof

# -- two styles, and prompts that the policy cannot solve --------------------------------------------------------------

EASY = [0.3, 0.05, 0.25, 0.2, 0.2]
"""The policy's own style, the expert's style, three wrong answers."""
HARD = [0.002, 0.398, 0.3, 0.2, 0.1]
"""The right answer, which the expert gives, and four wrong ones."""
PROMPTS = 5
"""Of each kind."""


def conflict() -> Game:
    """Easy prompts have two right answers, hard ones one; the expert knows all, in a style that is not the policy's."""
    start = torch.tensor([EASY] * PROMPTS + [HARD] * PROMPTS).log()[:, None]

    def reward(context: int, arms: Any) -> float:
        return float(arms[0] == 0 or (context < PROMPTS and arms[0] == 1))

    return Game(start, reward, experts=[[1]] * PROMPTS + [[0]] * PROMPTS)


def styles(seed: int, algo: dict[str, Any], steps: int = 600) -> dict[str, float]:
    """How often hard and easy prompts are solved, and how much of the mass on right answers keeps the policy's style."""
    match = Match(conflict(), algo, seed=seed, rate=3.0, steps=steps).run()
    p = match.probabilities[:, 0]
    easy = p[:PROMPTS]
    return {
        "hard": float(p[PROMPTS:, 0].mean()),
        "easy": float(easy[:, :2].sum(1).mean()),
        "own": float((easy[:, 0] / easy[:, :2].sum(1)).mean()),
    }


MIXTURES: dict[str, dict[str, Any]] = {
    "grpo": {"preset": "grpo", "terms": {"kl": None}},
    "static": {"preset": "hpt", "constant": 1, "adjust": {"gate": None}},
    "chord-mu": {"preset": "chord-mu"},
    "chord-phi": {"preset": "chord-phi"},
    "hpt": {"preset": "hpt", "constant": 1},
    "ahpo": {"preset": "ahpo", "adjust": {"gate": {"below": 2}}},
}

for _name in MIXTURES:
    arm(f"styles/{_name}")(partial(styles, algo=MIXTURES[_name]))

for _name, _arm, _control, _key, _metric, _told, _shows in (
    ("chord-mu/hard", "chord-mu", "grpo", "hard", "accuracy on the hard prompts", "0.996 / 0.214",
     "Demonstrations whose weight decays teach what the policy never finds."),
    ("chord-phi/own-style", "chord-phi", "chord-mu", "own", "share of right answers in the policy's own style",
     "1.000 / 0.001", "Weighing each token by p (1 - p) leaves alone what the policy is sure enough of; CHORD-mu overwrites it."),
    ("chord-mu/hard-against-phi", "chord-mu", "chord-phi", "hard", "accuracy on the hard prompts", "0.996 / 0.224",
     "The limit of CHORD-phi: where p is nearly 0 so is p (1 - p), and the demonstration is not learnt."),
    ("hpt/own-style", "hpt", "static", "own", "share of right answers in the policy's own style", "1.000 / 0.000",
     "Imitating only where no rollout is right keeps the policy's own right answers; the plain sum of both losses does not."),
    ("hpt/hard", "hpt", "grpo", "hard", "accuracy on the hard prompts", "0.996 / 0.214",
     "The gate opens where the policy fails."),
    ("ahpo/own-style", "ahpo", "static", "own", "share of right answers in the policy's own style", "0.966 / 0.000",
     "A gate by the number of successes beside RL that always runs; a constant coefficient overwrites the policy."),
    ("ahpo/hard", "ahpo", "grpo", "hard", "accuracy on the hard prompts", "0.996 / 0.214",
     "The gate opens where the policy fails."),
):  # fmt: skip
    proof(
        _name,
        shows=_shows,
        metric=_metric,
        higher_is_better=True,
        arm=f"styles/{_arm}",
        control=f"styles/{_control}",
        key=_key,
        told=_told,
    )

# -- a chain of twelve tokens -------------------------------------------------------------------------------------------

LENGTH = 12


def chain(seed: int, algo: dict[str, Any], steps: int = 400) -> dict[str, float]:
    """Twelve choices between two, worth 1 if all are right: the probability of that at the end."""
    game = Game(torch.zeros(1, LENGTH, 2), lambda context, arms: float(not any(arms)), experts=[[0] * LENGTH])
    match = Match(game, algo, seed=seed, rate=6.0, steps=steps, length=LENGTH).run()
    return {"success": float(match.probabilities[0, :, 0].prod())}


@arm("chain/prefix-rft")
def _prefix(seed: int) -> dict[str, float]:
    return chain(seed, {"preset": "prefix-rft", "constant": LENGTH})


@arm("chain/dr-grpo")
def _alone(seed: int) -> dict[str, float]:
    return chain(seed, {"preset": "dr-grpo", "constant": LENGTH})


proof(
    "prefix-rft/chain",
    shows="One rollout of eight continues a demonstration that gets shorter: the end is learnt first, and the beginning once "
    "there is something to reach.",
    metric="probability of twelve right tokens after 400 steps",
    higher_is_better=True,
    arm="chain/prefix-rft",
    control="chain/dr-grpo",
    key="success",
    told="0.942 to 0.949 / at most 0.0017",
)

# -- a teacher that is right where the policy is wrong, and wrong where it is right ------------------------------------


def taught(seed: int, algo: dict[str, Any], steps: int = 600) -> dict[str, float]:
    """Ten prompts. On seven the teacher is right (.9) and the policy nearly never (.002); on three it is the other way
    round (.005 and .4). Accuracy where the teacher is right, and where it is wrong."""
    policy = torch.tensor([[0.002, 0.6, 0.398]] * 7 + [[0.4, 0.3, 0.3]] * 3).log()[:, None]
    teacher = torch.tensor([[0.9, 0.05, 0.05]] * 7 + [[0.005, 0.99, 0.005]] * 3).log()[:, None]
    game = Game(policy, lambda context, arms: float(arms[0] == 0), teacher=teacher)
    match = Match(game, algo, seed=seed, rate=2.5, steps=steps).run()
    p = match.probabilities[:, 0, 0]
    return {"teacher_right": float(p[:7].mean()), "teacher_wrong": float(p[7:].mean())}


def _distilled(**how: Any) -> dict[str, Any]:
    views = {"teacher": {"path": "of the game"}}
    return {"preset": "kdrl", "views": views, "adjust": {"distill": {"beta": 0.2, **how}}}


TEACHINGS: dict[str, dict[str, Any]] = {
    "grpo": {"preset": "kdrl", "views": {"teacher": None}, "adjust": {"distill": None}},
    "distill": _distilled(beta=1.0, replace=True),
    "kdrl": _distilled(),
    "kdrl-failed": _distilled(on="failed"),
    "kdrl-failed-groups": _distilled(on="failed_groups"),
}

for _name in TEACHINGS:
    arm(f"taught/{_name}")(partial(taught, algo=TEACHINGS[_name]))

for _name, _told in (
    ("kdrl", "0.992, 0.989"),
    ("kdrl-failed", "0.992, 0.995"),
    ("kdrl-failed-groups", "0.993, 0.995"),
):
    proof(
        f"{_name}/teacher-right",
        shows="A teacher's opinion of each token, added to the advantage, teaches what reward alone hardly finds.",
        metric="accuracy where the teacher is right",
        higher_is_better=True,
        arm=f"taught/{_name}",
        control="taught/grpo",
        key="teacher_right",
        told=f"{_told.split(', ')[0]} / 0.238",
    )
    proof(
        f"{_name}/teacher-wrong",
        shows="Reward keeps the policy from following the teacher where it is wrong; distillation alone does not.",
        metric="accuracy where the teacher is wrong",
        higher_is_better=True,
        arm=f"taught/{_name}",
        control="taught/distill",
        key="teacher_wrong",
        told=f"{_told.split(', ')[1]} / 0.005",
    )
