"""Frozen views of the language family: the policy at the start of the run, and a teacher from another checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from triune.algo.types import Batch, Evaluated
from triune.algo.views.frozen import FrozenPolicy
from triune.core.errors import RecipeError, WindowExceeded
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.policy.layout import Layout
from triune.policy.views import KeptView, Still, View, fingerprint

if TYPE_CHECKING:
    from triune.policy.language import LanguageFamily


def frozen(family: LanguageFamily, name: str, view: FrozenPolicy, known: View | None) -> FrozenCopy | Teacher:
    """What a family keeps of a frozen view. A copy that it has already is the one of the start, whatever else changed."""
    if view.path is not None:
        return Teacher(family, name, view.path)
    if isinstance(known, FrozenCopy):
        known.follow(view)
        return known
    return FrozenCopy(family, view)


class FrozenCopy(KeptView):
    """The policy with the weights that it had when the view was declared; with adapters, with the adapters that it had.

    Its pictures have features of their own, computed once per step, unless tower and connector are shared.
    """

    def __init__(self, family: LanguageFamily, view: FrozenPolicy) -> None:
        self.family = family
        trained = {id(p) for part in family.modules().values() for p in part.parameters()}
        named: dict[str, nn.Parameter] = {
            n: p for n, p in family.model.named_parameters() if id(p) in trained
        }
        seeing = {id(p) for part in ("vision", "connector") for p in family.modules()[part].parameters()}
        self._eyes = {name for name, p in named.items() if id(p) in seeing}
        self._features: dict[str, Tensor] = {}
        super().__init__(named, view)

    def begin(self, seed: int, progress: Progress) -> None:
        super().begin(seed, progress)
        self._features = {k: v for k, v in self._features.items() if k in self.family.pictures}

    def end(self, progress: Progress) -> None:
        moves = self.kept.moves
        super().end(progress)
        if self.kept.moves > moves:
            self._features.clear()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """The model is this one for a while: its weights, and the pictures as they see them."""
        own = not self._eyes.isdisjoint(self.kept.held)
        pictures = self.family.pictures.apart(self._features) if own else nullcontext()
        with torch.no_grad(), self.kept.in_place(), pictures:
            yield

    def evaluate(self, batch: Batch, want: frozenset[str]) -> Evaluated:
        with self.speaking():
            return self.family.score(batch, want)

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._features.clear()


class Teacher(Still):
    """Another checkpoint that reads the same ids. It prepares the pictures itself, as its own processor does; ids that it
    has beyond the policy's are taken out of its distribution.

    Raises RecipeError when it cannot be loaded, or has another vocabulary or picture token.
    """

    def __init__(self, family: LanguageFamily, name: str, path: str) -> None:
        self.family = family
        self.where = where = f"algo.views.{name}.path {path!r}"
        options = family.options.model_copy(update={"path": path, "lora": None, "critic": None})
        try:
            self.teacher = type(family).from_pretrained(options)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from error
        self.teacher.model.requires_grad_(False)
        self._fingerprint = ""
        mine, its = (f.tokenizer.get_vocab() for f in (family, self.teacher))
        if differ := sorted(t for t in mine.keys() | its.keys() if mine.get(t) != its.get(t)):
            raise RecipeError(
                f"{where} has another vocabulary than the policy: {differ[0]!r} is id {its.get(differ[0])} there and "
                f"{mine.get(differ[0])} here, and so on for {len(differ)} tokens: it cannot score the policy's ids"
            )
        if self.teacher.image_id != family.image_id:
            raise RecipeError(
                f"{where} has another picture token than the policy: {self.teacher.image_id}, not {family.image_id}"
            )
        rows, own = (int(f.head.weight.shape[0]) for f in (family, self.teacher))
        self._rows, self._own, self._beyond = rows, own, tuple(range(rows, own))

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        return sum(p.nbytes for p in self.teacher.model.parameters())

    def begin(self, seed: int, progress: Progress) -> None:
        self.teacher.begin_step(())

    def evaluate(self, batch: Batch, want: frozenset[str]) -> Evaluated:
        for one in batch.trajectories:
            if (length := len(one.payload.arrays["ids"])) > self.teacher.window:
                raise WindowExceeded(
                    f"rollout {one.id!r} has {length} tokens, and a teacher's window holds {self.teacher.window}: "
                    "set policy.window to that"
                )
            for sha in one.payload.media:
                self.teacher.pictures.adopt(self.family.pictures, sha, one.sample)
        with torch.no_grad():
            own = self.teacher.pack(batch.trajectories)
            layout: Layout = own.payload
            layout.rules = [self._rule(rule) for rule in layout.rules]
            found = self.teacher.score(own, want)
        if "distribution" in found.extras:
            wide = found.extras["distribution"][:, : self._rows]
            short = self._rows - wide.shape[1]
            found.extras = {"distribution": nn.functional.pad(wide, (0, short), value=float("-inf"))}
        return found

    def _rule(self, rule: SamplingRule) -> SamplingRule:
        banned = (*(i for i in rule.banned if i < self._own), *self._beyond)
        return rule.model_copy(update={"banned": banned})

    def state(self) -> dict[str, Any]:
        if not self._fingerprint:
            self._fingerprint = fingerprint(dict(self.teacher.model.named_parameters()))
        return {"fingerprint": self._fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state != self.state():
            raise RecipeError(f"{self.where} holds other weights than when the run began")
