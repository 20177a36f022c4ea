"""What a step is made of: fresh rollouts as the collectors leave them, and what became of the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from triune.algo.options import CollectOptions
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, Scored
from triune.rollout.conversation import FAULTS


class Gathering:
    """One step's rollouts. Collectors work in order: what one asks for besides has been through those before it.

    `placed` holds the ids of rows that were put beside the drawn ones; it grows while `source` is called.
    """

    def __init__(
        self,
        source: Callable[[], Sequence[Scored]],
        collectors: Mapping[str, CollectOptions],
        progress: Progress,
        placed: Collection[str],
    ) -> None:
        self.metrics: list[Metric] = []
        self._source, self._collectors = source, list(collectors.items())
        self._progress, self._placed = progress, placed
        self._seen: dict[str, Scored] = {}
        self._left: dict[str, str] = {}

    def trained(self) -> list[Scored]:
        """What the last collector leaves; only rows that the policy drew for this step count as `drawn`."""
        kept = self._after(len(self._collectors))
        return [replace(one, drawn=self._drawn(one)) for one in kept]

    def others(self) -> list[Scored]:
        """What was drawn and is not trained on, with the name of the collector that left it out as its reason. It is in no
        loss, but it was judged and compared: who looks only at what is kept sees a policy that is not the one that runs."""
        return [
            replace(
                one,
                in_loss=False,
                in_baseline=one.verdict.reward is not None and one.trajectory.ending not in FAULTS,
                reason=self._left[key],
                drawn=self._drawn(one),
            )
            for key, one in self._seen.items()
            if key in self._left
        ]

    def _drawn(self, one: Scored) -> bool:
        return one.trajectory.id in self._seen and one.trajectory.id not in self._placed

    def _after(self, number: int) -> list[Scored]:
        """Another batch of fresh prompts after the first `number` collectors."""
        if not number:
            fresh = list(self._source())
            self._seen.update({one.trajectory.id: one for one in fresh})
            return fresh
        name, collector = self._collectors[number - 1]
        offered: set[str] = set()

        def more() -> list[Scored]:
            found = self._after(number - 1)
            offered.update(one.trajectory.id for one in found)
            return found

        kept, said = collector.select(more(), more, self._progress)
        self.metrics += said
        self._left.update(dict.fromkeys(offered - {one.trajectory.id for one in kept}, name))
        return kept
