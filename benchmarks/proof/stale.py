"""Data that another policy drew: a fixed set with an arm that is never in it, engines that err, rollouts that are late."""

from __future__ import annotations

from typing import Any

import torch

from proof.bandit import Bandit, Game, Match, judged, played, rollout
from proof.harness import arm, proof
from triune.monitor.metric import Scored

# -- a fixed set, and an invalid arm ---------------------------------------------------------------------------------

ARMS, GOOD, INVALID = 10, 0, 9


def invalid_arm(seed: int) -> tuple[Game, list[Scored]]:
    """Ten arms. The last holds half of the mass and is in no row; the other nine are in one row each, drawn by a policy
    that liked them alike. The first is worth +1, all others -1."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(ARMS, generator=generator) * 0.3
    start[INVALID] = start[:INVALID].logsumexp(0)
    game = Game(start.view(1, 1, -1), lambda context, arms: 1.0 if arms[0] == GOOD else -1.0)
    (sample,) = game.samples()
    seen = float(torch.tensor(1 / INVALID).log())
    rows = [rollout(Bandit(game), sample, [a], [seen], rank=a) for a in range(INVALID)]
    return game, [judged(row, game.reward(*played(row))) for row in rows]


def offline(seed: int, algo: dict[str, Any], good_only: bool = False, steps: int = 4000) -> dict[str, float]:
    game, rows = invalid_arm(seed)
    if good_only:
        rows = [one for one in rows if one.verdict.reward == 1]
    # Denominators count the rows: with one instead of nine the rate keeps each row's share.
    match = Match(game, algo, seed=seed, rate=0.5 * len(rows) / INVALID, steps=steps, offline=rows).run()
    p, logits = match.probabilities[0, 0], match.family.table().detach()[0, 0]
    return {"good": float(p[GOOD]), "invalid": float(p[INVALID]), "lowest_logit": float(logits.min())}


RAW = {"kind": "raw"}


@arm("invalid-arm/topr")
def _topr(seed: int) -> dict[str, float]:
    return offline(seed, {"preset": "topr", "advantage": RAW})


@arm("invalid-arm/naive")
def _naive(seed: int) -> dict[str, float]:
    return offline(seed, {"advantage": RAW, "terms": [{"kind": "reinforce"}]})


@arm("invalid-arm/positives")
def _positives(seed: int) -> dict[str, float]:
    return offline(seed, {"advantage": RAW, "terms": [{"kind": "reinforce"}]}, good_only=True)


proof(
    "topr/invalid-arm",
    shows="Tapered weights learn from negative data; untapered REINFORCE pushes all mass onto the arm that nobody tried.",
    metric="probability of the good arm",
    higher_is_better=True,
    arm="invalid-arm/topr",
    control="invalid-arm/naive",
    key="good",
    told="0.9988 / 0.0000",
)
proof(
    "topr/logits",
    shows="The push on bad arms fades once they are unlikely: no logit runs away.",
    metric="lowest logit",
    higher_is_better=True,
    arm="invalid-arm/topr",
    control="invalid-arm/naive",
    key="lowest_logit",
    told="above -1.1 / -222",
)
proof(
    "topr/negatives",
    shows="Negative rows help beside positive ones alone.",
    metric="probability of the good arm",
    higher_is_better=True,
    arm="invalid-arm/topr",
    control="invalid-arm/positives",
    key="good",
    told="0.9988 / 0.9959",
)


@arm("invalid-arm/truncated")
def _truncated(seed: int) -> dict[str, float]:
    weights = {"kind": "mismatch", "level": "token", "mode": "truncate", "cap": 2.0, "floor": 0.0}
    term = {"kind": "reinforce", "against": "old"}
    return offline(seed, {"advantage": RAW, "terms": [term], "adjust": {"engine": weights}})


proof(
    "mismatch/invalid-arm",
    shows="The same rows with truncated importance weights: they too let the push on unlikely arms fade.",
    metric="probability of the good arm",
    higher_is_better=True,
    arm="invalid-arm/truncated",
    control="invalid-arm/naive",
    key="good",
)

# -- a reward that hardly ever comes ------------------------------------------------------------------------------------


def sparse(seed: int, collect: dict[str, Any]) -> dict[str, float]:
    """Eight prompts of which one answer in a hundred is right: steps until they are solved nine times out of ten (all 600,
    if they never are), and the share of groups that taught anything."""
    start = torch.tensor([0.01, 0.33, 0.33, 0.33]).log().view(1, 1, 4).repeat(8, 1, 1)
    game = Game(start, lambda context, arms: float(arms[0] == 0))
    terms = {"policy": {"kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.2}}
    match = Match(game, {"terms": terms, "collect": collect}, seed=seed, rate=4.0, steps=600)
    while match.done < match.recipe.train.total_steps and match.probabilities[:, 0, 0].mean() < 0.9:
        match.step()
    return {"steps": float(match.done)}


@arm("sparse/replay")
def _replay(seed: int) -> dict[str, float]:
    return sparse(seed, {"replay": {"kind": "replay"}})


@arm("sparse/grpo")
def _sparse(seed: int) -> dict[str, float]:
    return sparse(seed, {})


proof(
    "replay/sparse",
    shows="A stored success in a group that failed altogether teaches again what was once found.",
    metric="steps until nine of ten answers are right (at most 600)",
    higher_is_better=False,
    arm="sparse/replay",
    control="sparse/grpo",
    key="steps",
)
