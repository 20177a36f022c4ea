"""What a family keeps of each view that was declared: other weights for the same model, another model, other pictures.

A view is asked for by `family.evaluate(batch, view=NAME)`. Around that it is told when a step begins and ends, because
some views are drawn or move, and it has a place in checkpoints, because a reference that a resumed run forgot would be
another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from triune.algo.types import Batch, Evaluated
from triune.algo.views.frozen import FrozenPolicy
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.monitor.metric import Metric


class View(Protocol):
    """A declared view. `nbytes` of weights that are held for it."""

    @property
    def nbytes(self) -> int: ...

    def begin(self, seed: int, progress: Progress) -> None:
        """Before the views of a step are evaluated; `seed` is the run's."""
        ...

    def end(self, progress: Progress) -> None:
        """After the weights have moved."""
        ...

    def keep(self) -> None:
        """Before other weights are loaded into the policy: what is shared with it must not change."""
        ...

    def evaluate(self, batch: Batch, want: frozenset[str]) -> Evaluated:
        """See Family."""
        ...

    def metrics(self, batches: Sequence[Batch]) -> list[Metric]:
        """What is worth knowing of it, after a step over these micro-batches."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Kept:
    """The values that parameters had at some moment, which can stand in for the live ones.

    A parameter that is frozen and still has its value is not held twice: it is shared for as long as it is frozen.
    Moves are made in 32 bits, because a small step towards a narrow weight would be rounded away.
    """

    def __init__(self, live: Mapping[str, nn.Parameter]) -> None:
        self.live = dict(live)
        self.held = {name: p.detach().clone() for name, p in self.live.items()}
        self.moves = 0
        self._wide: dict[str, Tensor] = {}
        self._fingerprint = ""

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.held.values(), *self._wide.values()))

    def settle(self) -> None:
        """To be called before weights move, when it is known which are frozen: shares those, holds the others."""
        for name, parameter in self.live.items():
            if parameter.requires_grad:
                self.hold(name)
            elif name in self.held and torch.equal(self.held[name], parameter):
                del self.held[name]

    def hold(self, *names: str) -> None:
        """Holds what is shared, of these or of all: to be called before live values are replaced."""
        for name in names or self.live:
            if name not in self.held:
                self.held[name] = self.live[name].detach().clone()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """With the kept values in the model. Nothing that autograd has saved of the live ones is touched."""
        live = {name: self.live[name].data for name in self.held}
        try:
            for name, tensor in self.held.items():
                self.live[name].data = tensor
            yield
        finally:
            for name, tensor in live.items():
                self.live[name].data = tensor

    @torch.no_grad()
    def move(self, mix: float) -> None:
        """kept = mix * live + (1 - mix) * kept."""
        self.moves += 1
        for name, tensor in self.held.items():
            live = self.live[name].detach()
            if mix == 1:
                tensor.copy_(live)
            elif tensor.dtype == torch.float32:
                tensor.lerp_(live, mix)
            else:
                wide = self._wide.setdefault(name, tensor.float())
                tensor.copy_(wide.lerp_(live.float(), mix))

    def state(self) -> dict[str, Any]:
        """The values, if they have moved; else what tells whether they are those of the start again."""
        if self.moves:
            self.hold()
            return {"moves": self.moves, "values": dict(self.held), "wide": dict(self._wide)}
        if not self._fingerprint:
            self._fingerprint = fingerprint({**self.live, **self.held})
        return {"fingerprint": self._fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises RecipeError when the values of the start are not those that the state was saved with."""
        if "values" in state:
            self.hold()
            self.moves = int(state["moves"])
            for name, tensor in state["values"].items():
                self.held[name].copy_(tensor)
            self._wide = {n: t.to(self.held[n].device, copy=True) for n, t in state["wide"].items()}
        elif self.moves or state != self.state():
            raise RecipeError(
                "a frozen view does not hold the weights that the run began with: give policy.path the checkpoint that it "
                "was started from"
            )


def fingerprint(named: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(named):
        tensor = named[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Still:
    """What most views have in common: nothing happens around a step, and nothing has to be saved."""

    nbytes = 0

    def begin(self, seed: int, progress: Progress) -> None:
        return

    def end(self, progress: Progress) -> None:
        return

    def keep(self) -> None:
        return

    def metrics(self, batches: Sequence[Batch]) -> list[Metric]:
        return []

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        return


class KeptView(Still):
    """A view by kept weights: what `frozen` without a path is, for any family."""

    def __init__(self, live: Mapping[str, nn.Parameter], view: FrozenPolicy) -> None:
        self.kept = Kept(live)
        self.follow(view)

    def follow(self, view: FrozenPolicy) -> None:
        """Takes over other options, as a stage of the run may have them; the weights stay."""
        self.sync_every, self.mix = view.sync_every, view.mix

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        return self.kept.nbytes

    def begin(self, seed: int, progress: Progress) -> None:
        self.kept.settle()

    def end(self, progress: Progress) -> None:
        if self.sync_every and progress.step % self.sync_every == 0:
            self.kept.move(self.mix)

    def keep(self) -> None:
        self.kept.hold()

    def state(self) -> dict[str, Any]:
        return self.kept.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.kept.restore(state)


def undeclared(name: str) -> RecipeError:
    return RecipeError(f"view {name!r} was not declared: name it in algo.views")
