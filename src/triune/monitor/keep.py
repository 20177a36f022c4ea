"""Which rollouts a run keeps, as its recipe declares it, and the count of those that it does not.

Evaluations are always kept, and of training steps whole groups: what was compared with each other is seen together.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from triune.core.errors import RecipeError
from triune.core.media import Media
from triune.core.sample import Sample
from triune.monitor.metric import Metric, Scored

Reason = Literal["", "every", "declared", "buffer"]
"""Why a rollout is not kept: its step, its source or task, or a disk that is slower than the run; '' for one that is."""

_PER_DECISION = 17
"""Bytes of a decision: log-prob, version, turn and time in four each, and whether it was forced."""
_OVERHEAD = 4096
"""Bytes that the Python objects of one rollout take besides its arrays and texts, about."""


@dataclass(frozen=True, slots=True)
class Keep:
    """`every`: steps between training steps whose rollouts are kept, 0 for none. `shares`: of the groups of a source, or
    else of a task, in [0, 1]; 1 where neither is named."""

    every: int = 1
    shares: Mapping[str, float] = field(default_factory=dict)

    def reasons(self, step: int, phase: str, scored: Sequence[Scored]) -> list[Reason]:
        """One per rollout. A pure function of step and group, so that a run which resumes keeps the same ones."""
        if phase != "train":
            return [""] * len(scored)
        if not self.every or step % self.every:
            return ["every"] * len(scored)
        if not self.shares:
            return [""] * len(scored)
        return ["" if self._wanted(step, one) else "declared" for one in scored]

    def _wanted(self, step: int, one: Scored) -> bool:
        share = self.shares.get(one.sample.source, self.shares.get(one.sample.task, 1.0))
        # Of the step too: the same few samples of a small source would be kept, or none of it ever.
        digest = hashlib.blake2b(f"{step}\n{one.trajectory.group}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big") < share * 2**48

    def refuse_unknown(self, samples: Iterable[Sample]) -> None:
        """Raises RecipeError where a key is neither the source nor the task of any of these."""
        if not self.shares:
            return
        tasks: dict[str, set[str]] = defaultdict(set)
        for sample in samples:
            tasks[sample.task].add(sample.source)
        sources = sorted(set().union(*tasks.values()))
        for key in self.shares:
            if key not in tasks and key not in sources:
                raise RecipeError(
                    f"monitor.keep: {key!r} is no source and no task of this run. Sources: {', '.join(sources)}; "
                    f"tasks: {', '.join(sorted(tasks))}"
                )


def kept_metrics(scored: Sequence[Scored], reasons: Sequence[Reason]) -> list[Metric]:
    """Per source and task: the share that is kept, and one value 1 for each rollout that is not, by reason."""
    by_source: dict[tuple[str, str], list[Reason]] = defaultdict(list)
    for one, reason in zip(scored, reasons, strict=True):
        by_source[one.sample.source, one.sample.task].append(reason)
    found = []
    for (source, task), here in by_source.items():
        kept = [float(not reason) for reason in here]
        found.append(Metric.of("rollouts/kept", kept, source=source, task=task))
        for reason in sorted(set(here) - {""}):
            lost = [1.0] * here.count(reason)
            found.append(Metric.of("rollouts/unkept", lost, source=source, task=task, reason=reason))
    return found


def footprint(scored: Iterable[Scored], pictures: Iterable[Media] = ()) -> int:
    """The bytes that these rollouts, and these pictures, hold in memory, about: arrays, texts, pictures of the samples, which
    count once for all that share them."""
    total = sum(len(medium.data or b"") for medium in pictures)
    samples: dict[int, Sample] = {}
    for one in scored:
        samples[id(one.sample)] = one.sample
        total += len(one.trajectory.decisions) * _PER_DECISION + len(one.outcome.text) + _OVERHEAD
        total += sum([array.nbytes for array in one.trajectory.payload.arrays.values()])
    return total + sum(len(medium.data or b"") for sample in samples.values() for medium in sample.media)
