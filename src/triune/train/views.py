"""The passes of a step besides the one that is trained: by other weights, or over other pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from triune.algo.options import ViewOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.views.frozen import FrozenPolicy
from triune.core.errors import RecipeError
from triune.policy.family import Family


class Views:
    """What a run's parts need, and the family's way to it. `extras` are those of the current pass.

    Raises RecipeError for a need that is neither a declared view nor an extra that the family provides.
    """

    def __init__(
        self, family: Family, declared: Mapping[str, ViewOptions], needs: Collection[str], exact: bool
    ) -> None:
        self.family = family
        self.declared = dict(declared)
        if any(need.split(".")[0] == "reference" for need in needs):
            self.declared.setdefault("reference", FrozenPolicy())
        self.extras = frozenset(need for need in needs if need in family.provides)
        self.wanted: dict[str, frozenset[str]] = {"old": self.extras & {"value"}}
        self.placed = "old.placed" in needs
        unknown = []
        for need in sorted(set(needs) - self.extras - {"old.placed"}):
            name, _, extra = need.partition(".")
            if (name != "old" and name not in self.declared) or (extra and extra not in family.provides):
                unknown.append(need)
            self.wanted[name] = self.wanted.get(name, frozenset()) | ({extra} if extra else set())
        if unknown:
            raise RecipeError(
                f"the objective needs {unknown} but the policy provides {sorted(family.provides)} and algo.views declares "
                f"{sorted(self.declared)}; choose other terms, declare the view or take another policy"
            )
        for name in sorted(self.wanted.keys() - {"old"}):
            view = self.declared[name]
            kind = getattr(view, "kind", name)
            if kind not in family.views:
                raise RecipeError(
                    f"algo.views.{name} is of kind {kind!r}, which this policy cannot give; it offers "
                    f"{', '.join(sorted(family.views)) or 'no views'}"
                )
            family.declare(name, view)
        self.known = exact and not self.wanted["old"]
        # What an exact engine's log-probs leave to be evaluated are a critic's values.
        self.reads: Callable[[Batch], torch.Tensor] | None = (
            getattr(family, "read", None) if exact and self.wanted["old"] == {"value"} else None
        )
        self.live = {n for n, want in self.wanted.items() if n != "old" and self._live(n, want)}

    def _live(self, name: str, want: Collection[str]) -> bool:
        """A distribution per decision is too large to be kept for a whole step."""
        return self.declared[name].live or "distribution" in want

    @property
    def passes(self) -> int:
        """Forward passes of a step over its rollouts besides the one that is trained."""
        return len(self.wanted) - self.known

    def step(self, micros: Sequence[Batch], whole: Batch) -> dict[str, Evaluated]:
        """Flat vectors of every view that is not live, without gradient. An exact engine's behaviour log-probs *are* the
        old ones: no pass is spent on them, unless a part asks for those of placed decisions, which no engine drew."""
        drawn = not self.placed or bool(whole.sampled.all())
        views = {"old": Evaluated(logp=whole.logp_behavior)} if self.known and drawn else {}
        if self.reads is not None and drawn:
            with torch.no_grad():
                values = torch.cat([self.reads(micro) for micro in micros])
            views["old"] = Evaluated(logp=whole.logp_behavior, value=values)
        for name in sorted(self.wanted.keys() - views.keys() - self.live):
            with torch.no_grad():
                view = "current" if name == "old" else name
                seen = [self.family.evaluate(micro, want=self.wanted[name], view=view) for micro in micros]
            views[name] = _joined(seen)
        return views

    def now(self, micro: Batch) -> dict[str, Evaluated]:
        """The live views of one micro-batch, by the weights of this moment; with gradient where a view carries one."""
        found = {}
        for name in sorted(self.live):
            with torch.set_grad_enabled(self.declared[name].live):
                found[name] = self.family.evaluate(micro, want=self.wanted[name], view=name)
        return found


def _joined(seen: Sequence[Evaluated]) -> Evaluated:
    def one(name: str) -> torch.Tensor | None:
        found = [value for each in seen if (value := getattr(each, name)) is not None]
        return torch.cat(found) if found else None

    logp = one("logp")
    assert logp is not None
    extras = {key: torch.cat([each.extras[key] for each in seen]) for key in seen[0].extras}
    return Evaluated(logp=logp, entropy=one("entropy"), value=one("value"), extras=extras)
