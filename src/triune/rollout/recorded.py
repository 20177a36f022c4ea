"""A generator that draws nothing: the answers that samples carry, as episodes. Offline training runs through the same loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

from triune.core.errors import DataError
from triune.core.sample import Response, Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.core.verdict import RewardEvent
from triune.rollout.generator import Demand, Episode, Generator
from triune.rollout.placed import place

Answers = Literal["responses", "expert"]
EMPHASIS = "emphasis"
"""Name of the events that hold the weight of a recorded answer's tokens; no check asks for them as rewards."""


class Recorded:
    """Every recorded answer of a sample is a row of its group, all of its decisions placed; `expert` is the demonstration.

    How many there are is the data's matter, not the recipe's `rollouts_per_prompt`. Evaluation is greedy answers of the generator
    that `draw` makes.
    `exact`: nothing was sampled, so there is no behaviour to differ from; `draws` False says so to the checks of a start.
    """

    exact = True
    draws = False

    def __init__(self, family: Any, draw: Callable[[], Generator], answers: Answers) -> None:
        self.family, self.draw, self.answers = family, draw, answers
        self.version = 0

    @cached_property
    def drawn(self) -> Generator:
        """What evaluation draws with: built when it is first asked for, as not every policy has an engine."""
        generator = self.draw()
        generator.load(self.version)
        return generator

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        """See Generator. Raises DataError naming a sample without an answer, or whose answer cannot be said."""
        if demand.progress.phase == "eval":
            return self.drawn.generate(samples, demand)
        return [recorded(self.family, sample, demand, self.answers) for sample in samples]

    def check(self, sample: Sample) -> None:
        """Raises DataError when the sample has no answer that could be trained on."""
        demand = Demand(0, SamplingRule(), 0, 0, Progress(step=1, total_steps=1))
        recorded(self.family, sample, demand, self.answers)

    def load(self, version: int) -> None:
        self.version = version
        if "drawn" in vars(self):
            self.drawn.load(version)


def recorded(family: Any, sample: Sample, demand: Demand, answers: Answers = "responses") -> list[Episode]:
    """The recorded answers of a sample as episodes of one group. Raises DataError naming a sample that has none."""
    found = sample.responses
    if answers == "expert":
        found = () if sample.expert is None else (Response(text=sample.expert),)
    if not found:
        column = "`expert` answer" if answers == "expert" else "`responses`"
        raise DataError(
            f"sample {sample.id!r} has no {column}, and rollout.kind recorded draws none. Name their column in the adapter's "
            "options, or use another generator"
        )
    said: dict[str, Response] = {}
    for answer in found:
        other = said.setdefault(answer.text.strip(), answer)
        if (other.label, other.score) != (answer.label, answer.score):
            raise DataError(
                f"sample {sample.id!r}: the answer {answer.text[:60]!r} is recorded twice, and not as equally good: there is no "
                "preference in that"
            )
    return [_episode(family, sample, answer, number, demand) for number, answer in enumerate(found)]


def _episode(family: Any, sample: Sample, answer: Response, number: int, demand: Demand) -> Episode:
    made = place(family, sample, answer.text, demand, component="policy", number=number)
    events = _emphasis(family, answer) if answer.emphasis else ()
    # Judged, and known again, by the text as it was recorded: decoding may spell it otherwise.
    return Episode(
        sample,
        made.trajectory.model_copy(update={"rank": number, "events": events}),
        made.outcome.model_copy(update={"rank": number, "text": answer.text}),
    )


def _emphasis(family: Any, answer: Response) -> tuple[RewardEvent, ...]:
    """The weight of every token that begins inside an emphasised span, at its decision; the others weigh 1."""
    ids, events = family.encode(answer.text), []
    for index, _ in enumerate(ids):
        # A token begins where the text before it ends.
        begins = len(family.decode(ids[:index]))
        for start, end, weight in answer.emphasis:
            if start <= begins < end:
                events.append(RewardEvent(decision=index, name=EMPHASIS, value=weight))
    return tuple(events)
