"""Replay of successes: a prompt that the policy fails altogether is shown what it once did right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from triune.algo.collect.groups import Counts, by_group, unaided, value
from triune.algo.options import COLLECTORS, CollectOptions
from triune.core.sample import Media, Sample
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.core.verdict import Outcome, Verdict
from triune.monitor.metric import Metric, Scored
from triune.rollout.engine import derive_seed
from triune.rollout.generator import Demand, Episode

LAG = "replay.lag"
"""Among what a trajectory has `resolved`: updates since it was drawn. Its old log-probs are those recorded with it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored success: what was done, said of it and seen before it (`asked`), the weights that drew it, and the pictures that
    tools made on the way."""

    asked: str
    version: int
    trajectory: Trajectory
    outcome: Outcome
    verdict: Verdict
    pictures: tuple[Media, ...] = ()

    def plain(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).model_dump_json() for name in ("trajectory", "outcome", "verdict")}
        pictures = [medium.model_dump_json() for medium in self.pictures]
        return {"asked": self.asked, "version": self.version, "pictures": pictures, **parts}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Entry:
        return cls(
            plain["asked"],
            plain["version"],
            Trajectory.model_validate_json(plain["trajectory"]),
            Outcome.model_validate_json(plain["outcome"]),
            Verdict.model_validate_json(plain["verdict"]),
            tuple(map(Media.model_validate_json, plain["pictures"])),
        )

    def in_place_of(self, one: Scored, lag: int) -> Scored:
        """This row in the group, and at the rank, of another rollout of the prompt: a prompt may come twice in a step."""
        name = f"{one.trajectory.id}@{self.version}"
        given = {"group": one.trajectory.group, "rank": one.trajectory.rank, "sample": one.sample.id}
        resolved = {**self.trajectory.resolved, LAG: float(lag)}
        trajectory = self.trajectory.model_copy(
            update={"id": name, "episode": name, "resolved": resolved, **given}
        )
        outcome = self.outcome.model_copy(update={"id": name, "rank": one.trajectory.rank})
        return Scored(one.sample, trajectory, outcome, self.verdict.model_copy(update={"id": name}))


def prompt_key(sample: Sample) -> str:
    """A prompt, however often it came round in a step."""
    return f"{sample.source}\x1f{re.sub(r'~[0-9]+$', '', sample.id)}"


def asked(sample: Sample) -> str:
    """What a prompt shows, and what is wanted: a success on another one is no success."""
    shown = sample.model_dump_json(include={"messages", "truth", "checks", "env"})
    return str(derive_seed(shown, *(medium.sha256 for medium in sample.media)))


@COLLECTORS.register("replay")
class Replay(CollectOptions):
    """Keeps successes by prompt, and puts a stored one into a group that failed altogether (ARPO, arXiv 2505.16282).

    A group whose `metric` has a std (of the population) below `std_below` and a mean below `mean_below` has `replace`
    one of its rollouts give way to a stored one, drawn at random. Then the buffer takes in the step's successes, `metric`
    above `store_above`: first in, first out, `capacity` per prompt, `total` in all, none older than `max_lag` updates.

    With `replay_is: stored_logprob_clip` the old log-probs of the row are those recorded when it was drawn: the ratio
    of the policy term is active, and clipped. With `none` (ARPO's released code) they are computed anew by the current weights,
    at the cost of one forward pass over the replayed rows: the ratio starts at 1, and nothing corrects for who drew them.
    Either way engine and old policy agree on the row, so that mismatch weights are 1.

    Replayed rows say nothing of how good the policy is: source metrics leave them out, and count the rollout that gave
    way. Prompts must come round again: sources that draw without end (the embedded ones) never fill a buffer that is used.
    """

    kind: Literal["replay"] = "replay"
    metric: str = Field(
        default="accuracy", description="accuracy (of the main check), reward, or a check's name"
    )
    store_above: float = Field(default=0.1, description="a rollout above this is a success")
    std_below: float = Field(default=0.05, ge=0, description="a group that failed: std of the metric below")
    mean_below: float = Field(default=0.2, description="and mean below")
    replace: Literal["longest_failure", "random"] = Field(
        default="longest_failure", description="which rollout gives way"
    )
    replay_is: Literal["stored_logprob_clip", "none"] = Field(
        default="stored_logprob_clip",
        description="old log-probs of a replayed row: as recorded, or computed anew",
    )
    capacity: int = Field(default=8, ge=1, description="successes kept per prompt")
    total: int = Field(default=4096, ge=1, description="successes kept in all; the oldest go first")
    max_lag: int | None = Field(
        default=None, ge=1, description="updates after which a success is dropped (prime-rl: 8); null: never"
    )

    _entries: dict[str, list[Entry]] = PrivateAttr(default_factory=dict)
    _family: Any = PrivateAttr(None)

    def place(self, samples: Sequence[Sample], demand: Demand, family: Any) -> list[list[Episode]]:
        self._family = family
        return []

    def select(
        self, scored: Sequence[Scored], more: Callable[[], Sequence[Scored]], progress: Progress
    ) -> tuple[list[Scored], list[Metric]]:
        counts, version = Counts(), progress.step - 1
        self._forget(version, counts)
        out: list[Scored] = []
        for group in by_group(scored).values():
            out += self._repaired(group, version, counts)
        for one in scored:
            self._store(one, counts)
        self._bound(counts)
        held: dict[str, int] = {}
        for key, entries in self._entries.items():
            source = key.split("\x1f")[0]
            held[source] = held.get(source, 0) + len(entries)
        for source, size in held.items():
            counts.add("replay/size", source, number=size)
        return out, counts.metrics()

    # -- injecting ---------------------------------------------------------------------------------------------

    def _repaired(self, group: list[Scored], version: int, counts: Counts) -> list[Scored]:
        rows = [one for one in unaided(group) if value(one, self.metric) is not None]
        values = np.asarray([value(one, self.metric) for one in rows])
        if not rows or values.std() >= self.std_below or values.mean() >= self.mean_below:
            return group
        sample = rows[0].sample
        counts.add("replay/failed_groups", sample.source)
        key, same = prompt_key(sample), asked(sample)
        stored = self._entries.get(key, [])
        fit = [entry for entry in stored if entry.asked == same]
        if len(fit) < len(stored):
            counts.add("replay/evicted", sample.source, "changed", len(stored) - len(fit))
            self._entries[key] = fit
        if not fit:
            return group
        number = derive_seed("replay", version, group[0].trajectory.group)
        entry = fit[number % len(fit)]
        gone = rows[number // len(fit) % len(rows)]
        if self.replace == "longest_failure":
            gone = max(rows, key=lambda one: (one.outcome.num_tokens, -one.trajectory.rank))
        row = entry.in_place_of(gone, version - entry.version)
        for medium in entry.pictures:
            self._family.show(medium, sample.id)
        if self.replay_is == "none":
            row = self._anew(row)
        counts.add("replay/injected", sample.source)
        counts.add("replay/lag", sample.source, number=version - entry.version)
        whole = gone.trajectory.episode or gone.trajectory.id
        return [*(o for o in group if (o.trajectory.episode or o.trajectory.id) != whole), row]

    def _anew(self, row: Scored) -> Scored:
        """The row with the current policy's log-probs in place of those that were recorded."""
        import torch

        with torch.no_grad():
            logp = self._family.evaluate(self._family.pack([row.trajectory])).logp.double().numpy()
        table = row.trajectory.decisions
        table = table.model_copy(update={"logp": np.where(table.forced, np.nan, logp).astype(np.float32)})
        trajectory = row.trajectory.model_copy(update={"decisions": table})
        return Scored(row.sample, trajectory, row.outcome, row.verdict)

    # -- storing -----------------------------------------------------------------------------------------------

    def _store(self, one: Scored, counts: Counts) -> None:
        found = value(one, self.metric)
        if found is None or not found > self.store_above or not unaided([one]):
            return
        trajectory, source = one.trajectory, one.sample.source
        if LAG in trajectory.resolved:
            return
        if trajectory.parent is not None or trajectory.step_offset or not len(trajectory.decisions):
            counts.add("replay/not_stored", source, "fragment")
            return
        made = sorted(set(trajectory.payload.media) - {medium.sha256 for medium in one.sample.media})
        if made and not hasattr(self._family, "medium"):
            counts.add("replay/not_stored", source, "pictures")
            return
        pictures = tuple(self._family.medium(sha, one.sample.id) for sha in made)
        version = int(trajectory.decisions.version.min())
        entry = Entry(asked(one.sample), version, trajectory, one.outcome, one.verdict, pictures)
        kept = self._entries.setdefault(prompt_key(one.sample), [])
        kept.append(entry)
        counts.add("replay/stored", source)
        if len(kept) > self.capacity:
            counts.add("replay/evicted", source, "capacity", len(kept) - self.capacity)
            del kept[: -self.capacity]

    def _forget(self, version: int, counts: Counts) -> None:
        """Drops what is too old."""
        for key, entries in list(self._entries.items()):
            fresh = [e for e in entries if self.max_lag is None or version - e.version <= self.max_lag]
            if len(fresh) < len(entries):
                counts.add("replay/evicted", key.split("\x1f")[0], "stale", len(entries) - len(fresh))
            self._entries[key] = fresh
        self._entries = {key: entries for key, entries in self._entries.items() if entries}

    def _bound(self, counts: Counts) -> None:
        surplus = sum(map(len, self._entries.values())) - self.total
        if surplus <= 0:
            return
        ages = sorted(
            (entry.version, order, key)
            for order, (key, entries) in enumerate(self._entries.items())
            for entry in entries
        )
        for _, _, key in ages[:surplus]:
            self._entries[key].pop(0)
            counts.add("replay/evicted", key.split("\x1f")[0], "total")
        self._entries = {key: entries for key, entries in self._entries.items() if entries}

    # -- memory ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"entries": {key: [e.plain() for e in entries] for key, entries in self._entries.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._entries = {
            key: [Entry.of(plain) for plain in entries] for key, entries in state.get("entries", {}).items()
        }
