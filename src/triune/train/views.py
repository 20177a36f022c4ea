"""The passes of a step besides the one that is trained: by other weights, or over other pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from triune.algo.options import ViewOptions
from triune.algo.types import Batch, Evaluated
from triune.algo.views.frozen import FrozenPolicy
from triune.algo.weights import replayed
from triune.core.errors import RecipeError
from triune.core.recipe import Recipe
from triune.core.schedule import Progress
from triune.monitor.metric import Metric, scalar
from triune.policy.family import Family
from triune.policy.options import POLICIES
from triune.policy.views import View
from triune.runtime.world import world


class Views:
    """What a run's parts need, and the family's way to it. `extras` are those of the current pass; `seed` is the run's.

    A view lives as long as the run, also through stages that do not need it: a reference is the policy at the start.
    """

    def __init__(self, family: Family, seed: int, exact: bool) -> None:
        self.family, self.seed, self.exact = family, seed, exact
        self.declared: dict[str, ViewOptions] = {}
        self.held: dict[str, View] = {}
        self.extras = frozenset[str]()
        self.early: set[str] = set()
        self.wanted: dict[str, frozenset[str]] = {"old": frozenset()}
        self.placed = False
        self.reads: Callable[[Batch], torch.Tensor] | None = None

    def need(
        self, declared: Mapping[str, ViewOptions], needs: Collection[str], early: Collection[str] = ()
    ) -> None:
        """Takes over what the parts need, and declares it to the family. `early` is what is needed before mini-batches are
        cut, by shapes, the advantage and adjustments: such a view is evaluated then, and again where it is live.

        Raises RecipeError for a need that is neither a declared view nor an extra that the family provides, for a view
        that it cannot give, and for a loss on a view that carries no gradient.
        """
        provides = self.family.provides
        self.declared = dict(declared)
        if any(need.split(".")[0] == "reference" for need in needs):
            self.declared.setdefault("reference", FrozenPolicy())
        for name in declared:
            if name in (*provides, "old", "current") or not name.isidentifier():
                raise RecipeError(f"algo.views.{name}: a view cannot have this name; choose another word")
        self.extras = frozenset(need for need in needs if need in provides)
        self.early = {need.split(".")[0] for need in early}
        # The critic's values of before the step are a part of `old`.
        asked = {need.split(".")[0] for need in needs} & {"old", "value"}
        self.wanted = {"old": self.extras & {"value"}} if asked else {}
        self.placed = "old.placed" in needs
        unknown = []
        for need in sorted(set(needs) - self.extras - {"old.placed"}):
            name, _, extra = need.partition(".")
            if (name != "old" and name not in self.declared) or (
                extra and extra not in {*provides, "gradient"}
            ):
                unknown.append(need)
            elif extra == "gradient" and not self._differentiable(name):
                raise RecipeError(
                    f"a term presses on view {name!r}, which carries no gradient: the term would change nothing. Set "
                    f"algo.views.{name}.gradient: true, or the term's coef: 0, which only watches"
                )
            self.wanted[name] = self.wanted.get(name, frozenset()) | ({extra} - {"", "gradient"})
        if unknown:
            raise RecipeError(
                f"the objective needs {unknown} but the policy provides {sorted(provides)} and algo.views declares "
                f"{sorted(self.declared)}; choose other terms, declare the view or take another policy"
            )
        for name in sorted(self.wanted.keys() - {"old"}):
            self.held[name] = self._declare(name)
        # What an exact engine's log-probs leave to be evaluated are a critic's values.
        alone = self.exact and self.wanted.get("old") == frozenset({"value"})
        self.reads = getattr(self.family, "read", None) if alone else None

    def _declare(self, name: str) -> View:
        view = self.declared[name]
        kind = str(getattr(view, "kind", name))
        if kind not in self.family.views:
            able = [policy for policy in POLICIES if kind in getattr(POLICIES[policy], "views", ())]
            raise RecipeError(
                f"algo.views.{name} is of kind {kind!r}, which this policy cannot give; it offers "
                f"{', '.join(sorted(self.family.views)) or 'no views'}. Policies that can: {', '.join(able) or 'none'}"
            )
        return self.family.declare(name, view)

    def _differentiable(self, name: str) -> bool:
        return name in self.declared and self.declared[name].differentiable

    @property
    def known(self) -> bool:
        """Whether an exact engine's behaviour log-probs are all that is asked of the old policy."""
        return self.exact and self.wanted.get("old") == frozenset()

    @property
    def live(self) -> list[str]:
        """Views that are evaluated in every micro-batch; a distribution per decision is too large to be kept for a step."""
        return [
            name
            for name, want in sorted(self.wanted.items())
            if name != "old" and (self.declared[name].live or "distribution" in want)
        ]

    @property
    def passes(self) -> int:
        """Forward passes of a step over its rollouts besides the one that is trained."""
        return len(self.wanted) - self.known + len(self.early.intersection(self.live))

    @property
    def differentiated(self) -> int:
        """How many of them are differentiated as well: each keeps as many activations as the one that is trained."""
        return sum(map(self._differentiable, self.wanted))

    @property
    def distributions(self) -> int:
        """How many distributions over the vocabulary a micro-batch holds per decision, the current one included."""
        return sum("distribution" in want for want in (self.extras, *self.wanted.values()))

    @property
    def nbytes(self) -> int:
        """Weights that are held for views."""
        return sum(view.nbytes for view in self.held.values())

    def begin(self, progress: Progress) -> None:
        for held in self.held.values():
            held.begin(self.seed, progress)

    @torch.no_grad()
    def gaps(self, batch: Batch, progress: Progress) -> dict[str, float]:
        """How far every view is from the policy on a batch: mean change of a log-prob. What a view cannot do (a teacher that
        takes other pictures) is raised here as in a step."""
        self.begin(progress)
        now, live = self.family.evaluate(batch).logp, batch.sampled
        views = {name: self.family.evaluate(batch, view=name).logp for name in sorted(self.held)}
        return {name: float((logp - now)[live].abs().mean()) for name, logp in views.items()}

    def step(self, micros: Sequence[Batch], whole: Batch, progress: Progress) -> dict[str, Evaluated]:
        """Flat vectors of every view that is not live, without gradient. An exact engine's behaviour log-probs *are* the
        old ones: no pass is spent on them, unless a part asks for those of placed decisions, which no engine drew. Without a
        part that needs `old` (every ratio is against the engine, or there is none) it is not among them."""
        self.begin(progress)
        drawn = not self.placed or bool(whole.sampled.all())
        views = {"old": Evaluated(logp=whole.logp_behavior)} if self.known and drawn else {}
        if (read := self.reads) is not None and drawn:
            with torch.no_grad():
                values = world().each(range(len(micros)), lambda m: read(micros[m]))
            views["old"] = Evaluated(logp=whole.logp_behavior, value=torch.cat(values))
        for name in sorted(self.wanted.keys() - views.keys() - (set(self.live) - self.early)):
            asked, want = "current" if name == "old" else name, self.wanted[name] - {"distribution"}
            views[name] = self._seen(micros, want, asked)
        # What older weights drew, and is replayed, is clipped against those weights.
        if (old := views.get("old")) is not None:
            old.logp = torch.where(replayed(whole)[whole.trajectory], whole.logp_behavior, old.logp)
        return views

    @torch.no_grad()
    def _seen(self, micros: Sequence[Batch], want: frozenset[str], view: str) -> Evaluated:
        evaluate = self.family.evaluate
        return _joined(world().each(range(len(micros)), lambda m: evaluate(micros[m], want=want, view=view)))

    def now(self, micro: Batch) -> dict[str, Evaluated]:
        """The live views of one micro-batch, by the weights of this moment; with gradient where a view carries one."""
        found = {}
        for name in self.live:
            with torch.set_grad_enabled(self._differentiable(name)):
                found[name] = self.family.evaluate(micro, want=self.wanted[name], view=name)
        return found

    def end(self, micros: Sequence[Batch], progress: Progress) -> list[Metric]:
        """To be called when the weights have moved: moves the views that follow, and says what was seen."""
        found = [
            metric
            for name in self.wanted.keys() & self.held.keys()
            for metric in self.held[name].metrics(micros)
        ]
        for view in self.held.values():
            view.end(progress)
        if self.held:
            found.append(scalar("view/passes", self.passes))
        return found

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of the views."""
        return {name: kept for name, view in self.held.items() if (kept := view.state())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises RecipeError naming the view when its weights are others than when the run began."""
        for name, kept in state.items():
            if name in self.held:
                try:
                    self.held[name].restore(kept)
                except RecipeError as error:
                    raise RecipeError(f"algo.views.{name}: {error}") from error


def staged(recipe: Recipe) -> list[Recipe]:
    """The recipe as each of its stages makes it."""
    fine = 10**6
    return [recipe.at(Progress(step=int(s.until * fine), total_steps=fine)) for s in recipe.stages]


def _joined(seen: Sequence[Evaluated]) -> Evaluated:
    def one(name: str) -> torch.Tensor | None:
        found = [value for each in seen if (value := getattr(each, name)) is not None]
        return torch.cat(found) if found else None

    logp = one("logp")
    assert logp is not None
    extras = {key: torch.cat([each.extras[key] for each in seen]) for key in seen[0].extras}
    return Evaluated(logp=logp, entropy=one("entropy"), value=one("value"), extras=extras)
