"""The processes of one run: how many there are, which this one is, and how they put their work together.

Started by `torchrun`, every process holds the whole step's rollouts and flat vectors, which are ids and numbers, and
computes its share of what is expensive. What one of them raises, all of them raise; when one dies, the others end.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from triune.core.errors import ProcessLost, TriuneError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a process waits for one that lives and does not answer. One that has died is noticed at once."""
_BUCKET = 1 << 24
"""Numbers that are summed in one message."""


@dataclass(frozen=True, slots=True)
class _Raised:
    error: BaseException


class World:
    """`rank` counts from 0 to `size` - 1. Alone (`size` 1), nothing is sent and torch.distributed is not touched.

    Every method but `mine` is collective: all processes must call it, in the same order. Raises ProcessLost when one of
    them has ended.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, judges and speaks."""
        return self.rank == 0

    def mine(self, number: int) -> bool:
        """Whether piece `number` of a step's work is this process's."""
        return number % self.size == self.rank

    def all(self, run: Callable[[], T]) -> list[T]:
        """What `run` gives in every process, in their order. What it raises in one is raised in all."""
        if self.size == 1:
            return [run()]
        found: list[Any] = [None] * self.size
        mine = _tried(run)
        _reached("all_gather_object", found, mine)
        found[self.rank] = mine  # its errors keep where they were raised
        return [_opened(each, rank) for rank, each in enumerate(found)]

    def each(self, numbers: Sequence[int], run: Callable[[int], T]) -> list[T]:
        """What `run` gives for each of these pieces, in order: every process runs its own."""
        if self.size == 1:
            return [run(number) for number in numbers]
        found: dict[int, T] = {}
        for part in self.all(lambda: {number: run(number) for number in numbers if self.mine(number)}):
            found |= part
        return [found[number] for number in numbers]

    def first(self, run: Callable[[], T]) -> T:
        """What `run` gives in the process that leads; only there it is run."""
        if self.size == 1:
            return run()
        found: list[Any] = [_tried(run) if self.leads else None]
        _reached("broadcast_object_list", found, src=0)
        result: T = _opened(found[0], 0)
        return result

    def any(self, flag: bool) -> bool:
        """Whether it is true in at least one process."""
        return any(self.all(lambda: flag))

    def same(self, what: str, value: Hashable) -> None:
        """Raises TriuneError when a value that must be one differs between processes."""
        if len(set(self.all(lambda: value))) > 1:
            raise TriuneError(
                f"{what} must be the same in all processes of a run, and differs: they cannot train together"
            )

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Puts the sum over all processes into each tensor; added up in 32 bits, a few millions of numbers at a time."""
        if self.size == 1:
            return
        import torch

        waiting: list[Tensor] = []
        for number, tensor in enumerate(tensors):
            waiting.append(tensor)
            following = tensors[number + 1] if number + 1 < len(tensors) else None
            full = sum(t.numel() for t in waiting) >= _BUCKET
            if full or following is None or following.device != tensor.device:
                flat = torch.cat([t.float().flatten() for t in waiting])
                _reached("all_reduce", flat)
                for one, summed in zip(waiting, flat.split([t.numel() for t in waiting]), strict=True):
                    one.copy_(summed.view_as(one))
                waiting = []


@cache
def world() -> World:
    """The processes that this one was started with: by torchrun's environment, else alone. Joined at the first call."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        return World()
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    if not dist.is_initialized():
        _reached("init_process_group", backend, timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Closes the connections; the next `world()` joins again."""
    if world.cache_info().currsize and world().size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
    world.cache_clear()


def _tried(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some errors cannot travel: their words can
            return _Raised(TriuneError(f"{type(error).__name__}: {error}"))
        return _Raised(error)


def _opened(found: Any, rank: int) -> Any:
    if not isinstance(found, _Raised):
        return found
    if not isinstance(found.error, TriuneError):
        found.error.add_note(f"raised in process {rank} of this run")
    raise found.error


def _reached(name: str, *args: Any, **options: Any) -> None:
    """Calls a function of torch.distributed; raises ProcessLost when another process cannot be reached."""
    import torch.distributed as dist

    try:
        getattr(dist, name)(*args, **options)
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(
            f"another process of this run has ended or cannot be reached ({str(error).splitlines()[0]}). Its own message says "
            "why; continue with `triune train --resume`, by as many processes as you like"
        ) from error
