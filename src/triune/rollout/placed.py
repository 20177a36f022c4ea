"""Answers that the policy did not sample: a recorded one as an episode of its own, or the start of one that it continues.

What is placed becomes forced decisions: the prompt is rendered as for every rollout and never trained on, the answer's ids
follow and, where the whole answer is placed, the token that ends a turn. Nothing is cut to fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from triune.core.errors import DataError, RecipeError, WindowExceeded
from triune.core.sample import Sample
from triune.rollout.conversation import Conversation
from triune.rollout.generator import Demand, Episode


def place(
    family: Any, sample: Sample, text: str, demand: Demand, *, component: str, number: int = 0
) -> Episode:
    """The episode in which the policy said `text`: in the group of the sample's own rollouts, trained by the terms of
    `component`. `number` tells several answers of one sample apart.

    Raises DataError naming the sample for an answer that cannot be said (pictures, an end of turn inside), that fits
    no window (WindowExceeded), or that belongs to an environment; RecipeError for a policy that says no text.
    """
    if not hasattr(family, "encode"):
        raise RecipeError(
            f"{type(family).__name__} says no text: it cannot be shown recorded answers (algo.collect)"
        )
    if sample.env is not None:
        raise DataError(
            f"sample {sample.id!r} runs in the environment {sample.env.name!r}: a recorded answer is one turn, and what the "
            "environment would have said to it is not known"
        )
    ids = answer(family, sample, text)
    if not ids:
        raise DataError(f"sample {sample.id!r}: the recorded answer is empty")
    talk = Conversation.begin(sample, family.prompt(sample), family.window)
    _append(talk, ids, demand.version, room=0)
    talk.finish("answered")
    banned = tuple(sorted({*demand.rule.banned, *getattr(family, "banned", ())}))
    demand = replace(demand, rule=demand.rule.model_copy(update={"banned": banned}))
    rank = demand.rollouts + number
    made = talk.episode(rank, demand, 0, family)
    name = f"{sample.id}#{component}-{number}"
    trajectory = made.trajectory.model_copy(update={"id": name, "episode": name, "component": component})
    return Episode(sample, trajectory, made.outcome.model_copy(update={"id": name}))


def answer(family: Any, sample: Sample, text: str) -> list[int]:
    """The ids of a recorded answer with the token that ends a turn. Raises DataError naming the sample."""
    ids: list[int] = family.encode(text)
    stops = set(family.stop_ids)
    if not ids or ids[-1] not in stops:
        ids += _turn_end(family)
    for token in ids[: -1 if stops else None]:
        if token in stops or token in getattr(family, "banned", ()):
            raise DataError(
                f"sample {sample.id!r}: the recorded answer contains {family.decode([token])!r}, which the policy cannot say "
                "within a turn; take it out of the text"
            )
    return ids


def begin(talks: Sequence[Sequence[Conversation]], demand: Demand, family: Any) -> None:
    """Lets rollouts, a row per sample by rank, begin with the starts that `demand` has for some; what became of these is
    recorded as resolved. Raises WindowExceeded where one leaves no room to go on."""
    for row in talks if demand.starts else ():
        for rank, talk in enumerate(row):
            if (start := demand.starts.get((talk.sample.id, rank))) is not None:
                ids = start.cut(answer(family, talk.sample, start.text))
                _append(talk, ids, demand.version, room=1)
                talk.resolved |= {"prefix.share": start.share, "prefix.tokens": float(len(ids))}


def alike(talks: Sequence[Any]) -> list[list[Any]]:
    """Rollouts of one sample by what was placed in them: those that begin alike are one request."""
    found: dict[tuple[int, ...], list[Any]] = {}
    for live in talks:
        found.setdefault(tuple(live.talk.ids[place] for place in live.talk.at), []).append(live)
    return list(found.values())


def _append(talk: Conversation, ids: Sequence[int], version: int, room: int) -> None:
    if len(talk.ids) + len(ids) + room > talk.window:
        raise WindowExceeded(
            f"sample {talk.sample.id!r}: the prompt has {len(talk.ids)} tokens, the recorded answer {len(ids)} and the window "
            f"{talk.window}; raise policy.window or leave the answer out. Nothing is truncated."
        )
    talk.append_placed(ids, version)


def _turn_end(family: Any) -> list[int]:
    """The token that the template ends a turn with, else any that stops the policy; none where turns have no end."""
    chat = getattr(family, "chat", None)
    end = chat.turn_end() if chat is not None else None
    return [end] if end is not None else list(family.stop_ids[:1])
