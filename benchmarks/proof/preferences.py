"""Preference losses on games in which the best policy, or the right order of things, can be worked out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from proof.bandit import Bandit, Game, Match, judged, played, rollout
from proof.harness import arm, proof
from triune.monitor.metric import Scored
from triune.rollout.generator import Episode


def recorded(
    game: Game, arms: Sequence[int], group: str = "", rewards: Sequence[float] | None = None
) -> list[Scored]:
    """Answers to the first prompt that somebody else gave, one row each, as one group; their log-probs are the start's. They
    are worth what the game says, or `rewards`."""
    sample = game.samples()[0]
    logits = game.start if game.features is None else game.start @ game.features.T
    logp = logits[0, 0].log_softmax(0).tolist()
    rows = [
        rollout(Bandit(game), sample, [a], [logp[a]], rank=i, id=f"{group}{i}", group=group or sample.id)
        for i, a in enumerate(arms)
    ]
    worth = rewards or [game.reward(*played(row)) for row in rows]
    return [judged(row, value) for row, value in zip(rows, worth, strict=True)]


def divergence(p: Tensor, q: Tensor) -> float:
    """KL(p, q)."""
    return float((p * (p.log() - q.log())).sum())


# -- CoPG: any two scored answers, whoever drew them -----------------------------------------------------------------

BETA = 0.5
SKEWED = [0] * 8 + [1] * 4 + [2] * 2 + [3, 4]
"""Sixteen answers from a behaviour policy of its own."""


def fixed_answers(seed: int, terms: list[dict[str, Any]], steps: int = 1500) -> dict[str, float]:
    """KL to the optimum of E[r] - beta KL(policy, start), which is start * exp(r / beta) / Z whatever drew the answers."""
    worth = torch.rand(5, generator=torch.Generator().manual_seed(seed))
    game = Game(torch.zeros(1, 1, 5), lambda context, arms: float(worth[arms[0]]))
    algo = {"advantage": {"kind": "raw"}, "terms": terms}
    match = Match(game, algo, seed=seed, rate=1.0, steps=steps, offline=recorded(game, SKEWED)).run()
    best = (worth.double() / BETA).softmax(0)
    return {"kl": divergence(match.probabilities[0, 0], best)}


@arm("fixed-answers/copg")
def _copg(seed: int) -> dict[str, float]:
    return fixed_answers(seed, [{"kind": "copg", "beta": BETA}])


@arm("fixed-answers/no-baseline")
def _no_baseline(seed: int) -> dict[str, float]:
    # -(r - beta (l - l_ref)) grad l for each answer alone: CoPG's gradient without its partner.
    return fixed_answers(seed, [{"kind": "nash_md", "beta": BETA}])


proof(
    "copg/optimum",
    shows="From answers that a skewed policy drew once, CoPG finds the regularised optimum; the same gradient without the "
    "partner as a baseline does not.",
    metric="KL(policy, optimum)",
    higher_is_better=False,
    arm="fixed-answers/copg",
    control="fixed-answers/no-baseline",
    key="kl",
    told="9e-17 / 0.248",
)

# -- RPO: an answer that was never compared --------------------------------------------------------------------------

TIED = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 1.0]])
"""Chosen, rejected, never compared: what is better about the chosen one, the third has twice as much of."""


def uncovered(seed: int, eta: float) -> dict[str, float]:
    start = torch.randn(1, 1, 2, generator=torch.Generator().manual_seed(seed)) * 0.1
    game = Game(start, lambda context, arms: float(arms[0] == 0), features=TIED)
    terms: dict[str, Any] = {"dpo": {"kind": "dpo", "beta": 1.0}}
    if eta:
        terms["sft"] = {"kind": "chosen_nll", "beta": 1.0, "coef": eta}
    match = Match(
        game, {"terms": terms}, seed=seed, rate=1.0, steps=3000, offline=recorded(game, [0, 1])
    ).run()
    chosen, rejected, other = match.probabilities[0, 0].tolist()
    return {"chosen": chosen, "rejected": rejected, "uncovered": other}


@arm("uncovered/dpo")
def _dpo_uncovered(seed: int) -> dict[str, float]:
    return uncovered(seed, 0.0)


@arm("uncovered/rpo-.05")
def _rpo_little(seed: int) -> dict[str, float]:
    return uncovered(seed, 0.05)


@arm("uncovered/rpo-.5")
def _rpo_much(seed: int) -> dict[str, float]:
    return uncovered(seed, 0.5)


for eta, told in ((".05", "0.505 / 0"), (".5", "0.755 / 0")):
    proof(
        f"rpo/chosen-{eta}",
        shows="DPO moves all mass to an answer that was never compared but shares the winner's features; the likelihood of "
        "the chosen answer holds it.",
        metric=f"probability of the chosen arm, eta = {eta}",
        higher_is_better=True,
        arm=f"uncovered/rpo-{eta}",
        control="uncovered/dpo",
        key="chosen",
        told=told,
    )

# -- VPO: optimism and pessimism about it ----------------------------------------------------------------------------


def unseen(seed: int, sign: str | None) -> dict[str, float]:
    """Four arms of which three are compared: of four judges of a pair three prefer the first. How likely is the fourth?"""
    start = torch.randn(1, 1, 4, generator=torch.Generator().manual_seed(seed)) * 0.1
    game = Game(start, lambda context, arms: 0.0)
    rows = [
        one
        for pair in ([0, 1], [1, 2], [0, 2])
        for judge, said in enumerate(([1, 0], [1, 0], [1, 0], [0, 1]))
        for one in recorded(game, pair, f"{pair}{judge}", said)
    ]
    terms: dict[str, Any] = {"dpo": {"kind": "dpo", "beta": 1.0}}
    if sign is not None:
        terms["vpo"] = {"kind": "vpo", "alpha": 0.02, "beta": 1.0, "sign": sign, "calibration": "rows"}
    match = Match(game, {"terms": terms}, seed=seed, rate=0.1, steps=300, offline=rows).run()
    return {"unseen": float(match.probabilities[0, 0, 3])}


@arm("unseen/dpo")
def _dpo_unseen(seed: int) -> dict[str, float]:
    return unseen(seed, None)


@arm("unseen/online")
def _vpo_online(seed: int) -> dict[str, float]:
    return unseen(seed, "online")


@arm("unseen/offline")
def _vpo_offline(seed: int) -> dict[str, float]:
    return unseen(seed, "offline")


for sign, better, told in (("online", True, "0.2141 / 0.1595"), ("offline", False, "0.1260 / 0.1595")):
    proof(
        f"vpo/{sign}",
        shows="The same term with either sign: optimism where data is fresh, pessimism where it is not.",
        metric="probability of the arm that was never compared",
        higher_is_better=better,
        arm=f"unseen/{sign}",
        control="unseen/dpo",
        key="unseen",
        told=told,
    )

# -- games without a best arm ----------------------------------------------------------------------------------------

WINS = torch.tensor([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]], dtype=torch.float64)
"""Rock, paper, scissors: how often a row beats a column."""


def exploited(p: Tensor) -> float:
    """How often the best answer to this policy beats it; 1/2 cannot be undercut."""
    return float((WINS @ p).max())


def cyclic(seed: int, term: dict[str, Any], mix: float, steps: int = 1500) -> Match:
    """Rollouts against an opponent that is pi^(1 - mix) start^mix, judged by their exact chance to win."""
    start = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(seed))
    game = Game(start, lambda context, arms: 0.0)

    def judge(match: Match, row: Sequence[Episode]) -> list[float]:
        now = match.family.table().detach()[0, 0].double()
        opponent = ((1 - mix) * now).softmax(0)
        return [float(WINS[played(one)[1][0]] @ opponent) for one in row]

    advantage = {"kind": "raw", "baseline": 0.5}
    algo = {"advantage": advantage, "terms": [term], "views": {"teacher": {"kind": "frozen"}}}
    game = Game(start, game.reward, teacher=torch.zeros(1, 1, 3))
    return Match(game, algo, seed=seed, rate=0.1, steps=steps, rollouts=64, judge=judge)


def last_iterate(seed: int, beta: float, mix: float) -> dict[str, float]:
    """The policy at the end against its best response."""
    match = cyclic(seed, {"kind": "nash_md", "beta": beta, "reference": "teacher"}, mix).run()
    return {"exploited": exploited(match.probabilities[0, 0])}


@arm("cyclic/nash-md")
def _nash(seed: int) -> dict[str, float]:
    return last_iterate(seed, beta=0.5, mix=0.25)


@arm("cyclic/self-play")
def _self_play(seed: int) -> dict[str, float]:
    return last_iterate(seed, beta=0.0, mix=0.0)


proof(
    "nash-md/exploited",
    shows="Against a mixture with the reference, and tied to it, the last policy settles where nothing beats it; plain "
    "self-play goes round from corner to corner.",
    metric="how often the best response beats the last policy (least: 1/2)",
    higher_is_better=False,
    arm="cyclic/nash-md",
    control="cyclic/self-play",
    key="exploited",
    told="regularised exploitability 1.3e-6 / goes round",
)


def win_rates(seed: int, against: str) -> dict[str, float]:
    """Rewards are win rates: against the other rollouts of the group, or against answers of the policy of the start."""
    game = Game(
        torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(seed)) * 0.5, lambda context, arms: 0.0
    )
    first = game.start[0, 0].double().softmax(0)

    def judge(match: Match, row: Sequence[Episode]) -> list[float]:
        arms = torch.tensor([played(one)[1][0] for one in row])
        if against == "start":
            return (WINS[arms] @ first).tolist()
        table = WINS[arms][:, arms]
        others = (table.sum(1) - table.diagonal()) / (len(arms) - 1)
        return others.tolist()

    algo = {"advantage": {"kind": "group", "scale": "none"}, "aggregate": "token-mean"}
    match = Match(game, algo, seed=seed, rate=0.1, steps=1500, rollouts=32, judge=judge)
    total = torch.zeros(3, dtype=torch.float64)
    while match.done < match.recipe.train.total_steps:
        match.step()
        total += match.probabilities[0, 0]
    return {"exploited": exploited(total / match.done)}


@arm("win-rates/spo")
def _spo(seed: int) -> dict[str, float]:
    return win_rates(seed, "group")


@arm("win-rates/fixed")
def _fixed(seed: int) -> dict[str, float]:
    return win_rates(seed, "start")


proof(
    "spo/average",
    shows="The reward of an answer is its win rate against the others of its group: where preferences go round, the average "
    "policy is hard to beat. A fixed opponent, like a fitted scale of worth, makes one answer the best.",
    metric="how often the best response beats the average policy (least: 1/2)",
    higher_is_better=False,
    arm="win-rates/spo",
    control="win-rates/fixed",
    key="exploited",
    told="0.507 / -",
)

# -- what moves a policy far: negatives, and answers of its own -------------------------------------------------------

PLACES = torch.arange(100.0)
PEAK, BEGIN = 70.0, 30.0


def far(seed: int, how: str, steps: int = 300) -> dict[str, float]:
    """Two weights make a distribution over 0..99 that begins around 30; rewards peak at 70."""
    scaled = (PLACES - 50) / 25
    spread = 4.0 / 25
    start = torch.tensor([(BEGIN - 50) / 25 / spread**2, -0.5 / spread**2]).view(1, 1, 2)
    worth = (-0.5 * ((PLACES - PEAK) / 13.0).square()).exp().double()
    game = Game(
        start, lambda context, arms: float(worth[arms[0]]), features=torch.stack([scaled, scaled**2], 1)
    )
    beginning = (start @ torch.stack([scaled, scaled**2]))[0, 0].softmax(0)
    drawn = torch.multinomial(beginning, 128, True, generator=torch.Generator().manual_seed(seed)).tolist()
    pairs = [one for i in range(0, 128, 2) for one in recorded(game, drawn[i : i + 2], f"{i}")]
    positives = {"advantage": {"kind": "raw"}, "terms": [{"kind": "reinforce"}]}
    algo, offline = {
        "offline-mle": (positives, pairs),
        "offline-dpo": ({"terms": [{"kind": "dpo", "beta": 0.1}]}, pairs),
        "online-positives": (positives, []),
        "online-negatives": ({"advantage": {"kind": "group"}, "terms": [{"kind": "reinforce"}]}, []),
    }[how]
    match = Match(game, algo, seed=seed, rate=4.0, steps=steps, rollouts=64, offline=offline).run()
    p = match.probabilities[0, 0]
    return {"reward": float(p @ worth), "mean": float(p @ PLACES.double())}


for _how in ("offline-mle", "offline-dpo", "online-positives", "online-negatives"):
    arm(f"far/{_how}")(partial(far, how=_how))

for _with, _without, _told in (
    ("offline-dpo", "offline-mle", "mean 59.8 after 1,000 steps / 32.7"),
    ("online-negatives", "online-positives", "0.828 / 0.778"),
    ("online-negatives", "offline-dpo", "mean 69.6 / 67.1 after 3,000 steps"),
):
    proof(
        f"negatives/{_with}-{_without}",
        shows="A negative gradient, and answers of the policy's own, move it to a peak that it hardly reaches at first.",
        metric="expected reward after 300 steps",
        higher_is_better=True,
        arm=f"far/{_with}",
        control=f"far/{_without}",
        key="reward",
        told=_told,
    )
