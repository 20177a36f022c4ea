"""The smallest policy there is, a table of next-token logits, and rollouts written by hand.

For tests of objectives, learner and core types: every number can be worked out on paper, and a pass takes microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from triune.algo.options import TERMS, ViewOptions
from triune.algo.share import Share
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.algo.views.frozen import FrozenPolicy
from triune.core.base import Frozen
from triune.core.recipe import Recipe
from triune.core.sample import Check, Frame, Message, Sample, Text
from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
from triune.core.verdict import Component, Outcome, RewardEvent, Verdict
from triune.monitor.metric import Scored
from triune.policy.logprob import rule_logprobs
from triune.policy.options import POLICIES
from triune.policy.views import KeptView, Still, View
from triune.rollout.conversation import Segment
from triune.train.batching import rewards


@POLICIES.register("table")
class TableOptions(Frozen):
    views: ClassVar[frozenset[str]] = frozenset({"frozen", "corrupted"})

    kind: Literal["table"] = "table"
    vocabulary: int = Field(5, ge=2, description="tokens")
    token_budget: int = Field(1 << 30, ge=1, description="tokens of one micro-batch")

    def build(self) -> TableFamily:
        return TableFamily(self.vocabulary)


class TableFamily:
    """log p(next | last token) = log_softmax(table[last]); the value before a turn is critic[last].

    Payload: `ids` i32[T], the prompt included, and `at` i32[N], the places of the decisions. Read-outs precede the
    first decision of every turn; an episode that did not terminate has one more at its last token.
    A text is its tokens' numbers ("1 2"), a prompt the numbers in the last message (0 where there are none); turns have
    no end token. The first id of a rollout with `media` is its picture: a corrupted view, whatever its corruption, reads
    id 0 in its place.
    """

    provides = frozenset({"entropy", "value", "distribution", "collision"})
    views = TableOptions.views
    frame: Frame = "pixels_original"
    window = 1 << 20
    stop_ids: tuple[int, ...] = ()

    def __init__(self, vocabulary: int = 5, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table, self.critic = nn.Embedding(vocabulary, vocabulary), nn.Embedding(vocabulary, 1)
        for module in (self.table, self.critic):
            module.weight.data = torch.randn(module.weight.shape, generator=generator)
        self.evaluations = 0
        self.declared: dict[str, tuple[ViewOptions, _Kept | _Blank]] = {}

    def declare(self, name: str, view: ViewOptions) -> View:
        known = self.declared.get(name, (None, None))
        if known[0] == view and known[1] is not None:
            return known[1]
        made: _Kept | _Blank = _Blank(self)
        if isinstance(view, FrozenPolicy):
            made = known[1] if isinstance(known[1], _Kept) else _Kept(self, view)
            made.follow(view)
        self.declared[name] = view, made
        return made

    def modules(self) -> Mapping[str, nn.Module]:
        return {"table": self.table, "critic": self.critic}

    def check(self, sample: Sample) -> None:
        return

    def begin_step(self, samples: Sequence[Sample]) -> None:
        return

    def prompt(self, sample: Sample) -> Segment:
        ids = [int(n) for n in re.findall(r"\d+", sample.messages[-1].text)] or [0]
        return Segment(np.asarray(ids, np.int32), np.zeros(len(ids), np.bool_), (), ())

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def cost(self, trajectory: Trajectory) -> int:
        return len(trajectory.payload.arrays["ids"])

    def vision_cost(self, trajectory: Trajectory) -> int:
        return 0

    def pack(self, trajectories: Sequence[Trajectory]) -> Batch:
        rows, turns, lasts = [], [], []
        for row, one in enumerate(trajectories):
            ids, at = one.payload.arrays["ids"], one.payload.arrays["at"]
            first = np.flatnonzero(np.diff(one.decisions.turn, prepend=-1))
            rows += [row] * len(first)
            turns += one.decisions.turn[first].tolist()
            lasts += ids[at[first] - 1].tolist()
            if not one.terminated and len(at):
                rows.append(row)
                turns.append(int(one.decisions.turn[-1]) + 1)
                lasts.append(int(ids[-1]))
        ends, owner, before = (torch.tensor(values, dtype=torch.long) for values in (lasts, rows, turns))
        return Batch.of(trajectories, ends, value_trajectory=owner, value_turn=before)

    def evaluate(
        self, batch: Batch, *, want: frozenset[str] = frozenset(), view: str = "current"
    ) -> Evaluated:
        self.evaluations += 1
        return self.score(batch, want) if view == "current" else self.declared[view][1].evaluate(batch, want)

    def score(self, batch: Batch, want: frozenset[str], blank: bool = False) -> Evaluated:
        """What the table says, of the pictures or without them."""
        chosen, spread = [], []
        for one in batch.trajectories:
            ids, at = torch.tensor(one.payload.arrays["ids"]).long(), torch.tensor(one.payload.arrays["at"])
            before = ids.clone()
            if blank and one.payload.media:
                before[0] = 0
            spread.append(rule_logprobs(self.table(before[at - 1]), one.rules[0][1]))
            chosen.append(ids[at.long()])
        distribution, ids = torch.cat(spread), torch.cat(chosen)
        extras = {"distribution": distribution, "collision": distribution.detach().exp().square().sum(-1)}
        return Evaluated(
            distribution.gather(1, ids[:, None])[:, 0],
            torch.special.entr(distribution.exp()).sum(-1) if "entropy" in want else None,
            self.critic(batch.payload)[:, 0] if "value" in want else None,
            extras={name: values for name, values in extras.items() if name in want},
        )

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        torch.save({name: m.state_dict() for name, m in self.modules().items()}, path / "table.pt")

    def load(self, path: Path) -> None:
        for _, view in self.declared.values():
            view.keep()
        state = torch.load(path / "table.pt", weights_only=True)
        for name, module in self.modules().items():
            module.load_state_dict(state[name])


class _Kept(KeptView):
    def __init__(self, family: TableFamily, view: FrozenPolicy) -> None:
        self.family = family
        named = {f"{n}.{key}": p for n, m in family.modules().items() for key, p in m.named_parameters()}
        super().__init__(named, view)

    def evaluate(self, batch: Batch, want: frozenset[str]) -> Evaluated:
        with torch.no_grad(), self.kept.in_place():
            return self.family.score(batch, want)


class _Blank(Still):
    def __init__(self, family: TableFamily) -> None:
        self.family = family

    def evaluate(self, batch: Batch, want: frozenset[str]) -> Evaluated:
        return self.family.score(batch, want, blank=True)


def trajectory(
    ids: Sequence[int] = (1, 2),
    *,
    prompt: Sequence[int] = (0,),
    id: str = "t",
    logp: Sequence[float] | None = None,
    turn: Sequence[int] | int = 0,
    forced: Sequence[bool] | bool = False,
    version: Sequence[int] | int = 0,
    media: Sequence[str] = (),
    family: TableFamily | None = None,
    **fields: Any,
) -> Trajectory:
    """A rollout of the decisions `ids` after `prompt`. The behaviour log-probs are `logp`, or those of `family`."""
    placed = np.broadcast_to(forced, (len(ids),))
    spread: dict[str, Any] = {"turn": turn, "forced": forced, "version": version}
    fields = {
        "sample": "s",
        "source": "source",
        "task": "task",
        "group": "g",
        "rules": ((0, SamplingRule()),),
    } | fields
    whole = np.asarray([*prompt, *ids], np.int32)
    arrays = {"ids": whole, "at": np.arange(len(prompt), len(whole), dtype=np.int32)}
    payload = Payload(family="table", arrays=arrays, media=tuple(media))
    values = np.full(len(ids), -1.0) if logp is None else np.asarray(logp, np.float64)
    made = Trajectory(
        id=id,
        decisions=Decisions.of(np.where(placed, np.nan, values).tolist(), **spread),
        payload=payload,
        **fields,
    )
    if family is None:
        return made
    with torch.no_grad():
        values = family.evaluate(family.pack([made])).logp.double().numpy()
    table = Decisions.of(np.where(placed, np.nan, values).tolist(), **spread)
    return made.model_copy(update={"decisions": table})


def verdict(id: str, reward: float | None, events: Sequence[RewardEvent] = ()) -> Verdict:
    """The judgement by one check of weight 1; None abstains."""
    status = "ok" if reward is not None else "unavailable"
    part = Component(name="check", value=reward, weight=1.0, status=status, events=tuple(events))
    return Verdict(id=id, reward=reward, components=(part,))


def scored(one: Trajectory, reward: float | None, events: Sequence[RewardEvent] = ()) -> Scored:
    """The rollout as the loop hands it to an update."""
    message = Message(role="user", content=(Text(text="?"),))
    sample = Sample(
        id=one.sample,
        source=one.source,
        task=one.task,
        messages=(message,),
        checks=(Check(verifier="check"),),
    )
    outcome = Outcome(id=one.id, ending=one.ending, num_tokens=int((~one.decisions.forced).sum()))
    return Scored(sample, one, outcome, verdict(one.id, reward, events))


def batch_of(trajectories: Sequence[Trajectory], totals: Sequence[float | None]) -> tuple[Batch, Rewards]:
    """A batch without payload, and what a judge said of its rollouts."""
    batch = Batch.of(trajectories, None)
    return batch, rewards(batch, [verdict(t.id, r) for t, r in zip(trajectories, totals, strict=True)])


def share(
    batch: Batch, credit: Credit, mode: str = "token-mean", rows: torch.Tensor | None = None, **term: Any
) -> Share:
    """What a term counts (default: a clipped surrogate) of the mini-batch `rows`."""
    options = {"kind": "ppo_clip", "aggregate": mode, **term}
    rows = torch.ones(len(batch.trajectories), dtype=torch.bool) if rows is None else rows
    judged = Rewards(torch.zeros(len(batch.trajectories)).double(), torch.zeros(batch.num_decisions))
    found: Share = TERMS[options["kind"]].model_validate(options).share(batch, credit, judged, rows)
    return found


def recipe(*, algo: Mapping[str, Any] | None = None, token_budget: int = 1 << 30, **train: Any) -> Recipe:
    """A recipe for a learner over a TableFamily; its data and rollouts are never opened."""
    settings = {
        "total_steps": 10,
        "prompts_per_step": 4,
        "optimizer": {"lr": 0.1, "warmup_fraction": 0.0},
    } | train
    return Recipe.model_validate(
        {
            "name": "table",
            "data": {"sources": [{"name": "none", "path": "none"}]},
            "policy": {"kind": "table", "token_budget": token_budget},
            "rollout": "native",
            "algo": {"kind": "policy_gradient", **(algo or {})},
            "train": settings,
        }
    )
