"""Which sample is drawn when: a pure function of (sources, weights, seed, step), so that resuming needs no state."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from triune.core.errors import RecipeError
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.data.source import Source, Split, TableSource, open_sources, stored

CYCLE = 4096
"""Draws after which every source has had exactly its share; weights are honoured to within 1/CYCLE."""


class Mixture:
    """Sources mixed by weight. Draw number n (from 0) is always the same sample.

    Sources are spread evenly (every stretch of draws, hence every batch, has close to the declared shares), in an
    order that the seed decides. A finite source is permuted anew for each pass over it, so that no sample comes twice
    within an epoch; one that draws without end is read on.
    """

    def __init__(self, sources: Sequence[tuple[Source, float]], seed: int, prompts_per_step: int = 1) -> None:
        if not sources or any(weight <= 0 for _, weight in sources):
            raise RecipeError("a mixture needs at least one source, each with a positive weight")
        if len(sources) > CYCLE:
            raise RecipeError(f"a mixture holds at most {CYCLE} sources, got {len(sources)}")
        self.sources = tuple(source for source, _ in sources)
        self.seed, self.prompts_per_step = seed, prompts_per_step
        self._counts = _apportion([weight for _, weight in sources], CYCLE)
        self._order = lru_cache(maxsize=4)(self._order_of)
        self._permutation = lru_cache(maxsize=2 * len(sources))(self._permutation_of)

    @classmethod
    def of(cls, recipe: Recipe, split: Split = "train") -> Mixture:
        """The mixture that a recipe describes. Raises DataError or RecipeError when its data is unusable."""
        return cls(open_sources(recipe.data, recipe.seed, split), recipe.seed, recipe.train.prompts_per_step)

    @property
    def samples_per_epoch(self) -> int | None:
        """All samples of all sources; None if one of them draws without end."""
        counts = [source.num_samples for source in self.sources]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def shares(self) -> dict[str, float]:
        """The share of the prompts that each source name has, as samples bear it: a file may hold rows of many."""
        found: dict[str, float] = {}
        for source, count in zip(self.sources, self._counts.tolist(), strict=True):
            named = Counter(sample.source for sample in self._named(source))
            for name, number in named.items():
                found[name] = found.get(name, 0.0) + count / CYCLE * number / named.total()
        return found

    def _named(self, source: Source) -> Iterable[Sample]:
        """Samples that bear every name of a source: all, or the first of one that draws without end."""
        return [source.sample(0)] if source.num_samples is None else stored(source)

    @property
    def skipped(self) -> dict[str, Counter[str]]:
        """Rows that were skipped, by source and reason."""
        tables = [source for source in self.sources if isinstance(source, TableSource)]
        return {table.name: table.skipped for table in tables if table.skipped}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """sha256 by source, over all its samples in order (but for where their media lie: those count by their own
        hash); of a source that draws without end, over the first. What a resumed run compares."""
        found = {}
        for source in self.sources:
            digest = hashlib.sha256()
            for index in range(1 if source.num_samples is None else source.num_samples):
                plain = source.sample(index).model_dump_json(exclude={"media": {"__all__": {"uri", "data"}}})
                digest.update(plain.encode())
            found[source.name] = digest.hexdigest()
        return found

    def firsts(self) -> Iterator[Sample]:
        """The first sample of each source name; a file may hold rows of many."""
        known = set[str]()
        for source in self.sources:
            for sample in self._named(source):
                if sample.source not in known:
                    known.add(sample.source)
                    yield sample

    def batch(self, number: int, earlier: Sequence[Sample] = ()) -> list[Sample]:
        """The samples of batch number `number`, counted from 1; `earlier` are those of other batches of the same step."""
        if number < 1:
            raise ValueError(f"batches count from 1, got {number}")
        start = (number - 1) * self.prompts_per_step
        taken = {sample.id for sample in earlier}
        drawn = []
        for i in range(self.prompts_per_step):
            sample = again = self.draw(start + i)
            # A small source may come round twice in one step: the second time is a group, and seeds, of its own.
            for count in itertools.count(2):
                if again.id not in taken:
                    break
                again = sample.model_copy(update={"id": f"{sample.id}~{count}"})
            taken.add(again.id)
            drawn.append(again)
        return drawn

    def draw(self, number: int) -> Sample:
        """Draw number `number`, counted from 0."""
        source, index = self.locate(number)
        return self.sources[source].sample(index)

    def locate(self, number: int) -> tuple[int, int]:
        """(source, index in the source) of a draw."""
        cycle, offset = divmod(number, CYCLE)
        order = self._order(cycle)
        source = int(order[offset])
        # How often this source came before: its share of the full cycles, and its places in this one.
        earlier = cycle * int(self._counts[source]) + int(np.count_nonzero(order[:offset] == source))
        num_samples = self.sources[source].num_samples
        if num_samples is None:
            return source, earlier
        epoch, place = divmod(earlier, num_samples)
        return source, int(self._permutation(source, epoch)[place])

    def _order_of(self, cycle: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, cycle])
        owner = np.repeat(np.arange(len(self.sources)), self._counts)
        rank = np.concatenate([np.arange(count) for count in self._counts])
        # Draw j of a source with n draws falls at a random point of the j-th of n equal stretches.
        order: NDArray[np.int64] = owner[
            np.argsort((rank + rng.random(CYCLE)) / self._counts[owner], kind="stable")
        ]
        return order

    def _permutation_of(self, source: int, epoch: int) -> NDArray[np.int64]:
        name, count = self.sources[source].name, self.sources[source].num_samples
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode()), epoch])
        order: NDArray[np.int64] = rng.permutation(count or 0)
        return order


def heldout(recipe: Recipe, seed: int | None = None, samples: int | None = None) -> dict[str, list[Sample]]:
    """The held-out samples of every source that has any: `data.heldout_per_source` (or `samples`) of each, the same
    ones at every evaluation. `seed` draws other ones; default: the recipe's."""
    seed = recipe.seed if seed is None else seed
    wanted = recipe.data.heldout_per_source if samples is None else samples
    chosen: dict[str, list[Sample]] = {}
    for source, _ in open_sources(recipe.data, seed, "heldout"):
        count = source.num_samples
        if count is None:
            indices: Sequence[int] = range(wanted)
        else:
            indices = (
                np.random.default_rng([seed, zlib.crc32(source.name.encode())])
                .permutation(count)[:wanted]
                .tolist()
            )
        chosen[source.name] = [source.sample(index) for index in indices]
    return chosen


def _apportion(weights: Sequence[float], total: int) -> NDArray[np.int64]:
    """Whole numbers that add up to `total`, nearest to the weights' shares (largest remainders), each at least 1."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    counts: NDArray[np.int64] = np.maximum(1, np.floor(exact)).astype(np.int64)
    while counts.sum() > total:  # tiny weights were rounded up; the largest pay
        counts[np.argmax(counts)] -= 1
    remainders = np.argsort(counts - exact, kind="stable")
    counts[remainders[: total - int(counts.sum())]] += 1
    return counts
