"""Registries of the algorithm's plug-ins, and its options. Imports no torch, so that a recipe can be read without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from triune.core.base import Frozen
from triune.core.errors import RecipeError
from triune.core.registry import Registry
from triune.core.schedule import Progress, Schedule, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from triune.algo.share import Share
    from triune.algo.step import Step
    from triune.algo.types import Batch, Credit, Rewards
    from triune.core.sample import Sample
    from triune.monitor.metric import Metric, Scored
    from triune.rollout.generator import Demand, Episode


class Options(Frozen):
    """A part of the algorithm: parameters that a plug-in owns, `kind` being the name it is registered under, and what it
    does. A part that remembers something between steps keeps it in a private attribute and overrides the last three.
    """

    @property
    def needs(self) -> frozenset[str]:
        """Names of views (`old` declares itself; `old.placed`: of placed decisions too), extras of the current pass (`entropy`,
        `value`, `distribution`), and extras of a view (`masked.entropy`)."""
        return frozenset()

    @property
    def grouped(self) -> bool:
        """Whether it compares the rollouts of a prompt with each other, and has nothing to say of one that is alone."""
        return False

    def agree(self, parts: Mapping[str, Any]) -> None:
        """Raises RecipeError where another part (`adjust.NAME`, `terms.NAME`, ...) contradicts it."""

    def alone(self, progress: Progress) -> frozenset[str]:
        """Modules of the policy that alone are trained at this step; empty: no module is singled out."""
        return frozenset()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of it: tensors and plain data."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""

    def observe(self, metrics: Sequence[Metric]) -> None:
        """Called after every step with what it measured."""


class CollectOptions(Options):
    """What a step is made of: asked before its rollouts are drawn, beside them, and after they were judged.

    Called with the batches of a step in order. What `admit` or `select` leaves out is counted by the part.
    """

    def admit(self, samples: Sequence[Sample], progress: Progress) -> list[Sample]:
        """The prompts of a batch that rollouts are drawn for."""
        return list(samples)

    def demand(self, demand: Demand, samples: Sequence[Sample]) -> Demand:
        """What is asked of the generator for these samples."""
        return demand

    def place(self, samples: Sequence[Sample], demand: Demand, family: Any) -> list[list[Episode]]:
        """Rows beside those that are drawn, judged like them, every list as a group of its own."""
        return []

    def select(
        self, scored: Sequence[Scored], more: Any, progress: Progress
    ) -> tuple[list[Scored], list[Metric]]:
        """The rollouts that are trained on. `more()` gives the judged rollouts of another batch of fresh prompts."""
        return list(scored), []


class ViewOptions(Options):
    """A named pass over the step's decisions by something else than the current policy on what it saw."""

    @property
    def live(self) -> bool:
        """Whether it is evaluated in every micro-batch, by the weights of that moment; if not, once per step before
        anything moves."""
        return self.differentiable

    @property
    def differentiable(self) -> bool:
        """Whether losses move what it says; if not, it is a constant to them."""
        return False


class ShapeOptions(Options):
    """Changes rewards before credit is given."""

    def __call__(self, step: Step) -> tuple[Rewards, list[Metric]]:
        raise NotImplementedError


class AdjustOptions(Options):
    """Changes the credit of a step, in place: masks decisions, scales their loss, adds to advantages."""

    def __call__(self, step: Step) -> list[Metric]:
        raise NotImplementedError


Aggregate = Literal[
    "token-mean", "group-token-mean", "seq-mean-token-mean", "seq-mean-token-mean-all", "seq-mean-token-sum", "sum-const",
    "seq-mean-token-sum-const",
]  # fmt: skip


class TermOptions(Options):
    """What every objective term has. A term sees the decisions (and value read-outs, rows, pairs) of its component only,
    and owns its mask and its denominator.

    `tokens`: which decisions of its component it trains: those that the policy sampled, those that were placed (a
    demonstration's), or both. `couples`: it compares the rollouts of a group, which then stay in one micro-batch.
    `scaled`: the factors of the credit (importance weights, gates) multiply it; regularisers are as they are.
    """

    tokens: ClassVar[Literal["sampled", "placed", "all"]] = "sampled"
    couples: ClassVar[bool] = False
    scaled: ClassVar[bool] = True

    coef: float | Schedule = Field(
        default=1.0, description="weight of the term in the loss, or a schedule of it"
    )
    component: str = Field(default="policy", description="trajectories that it trains, by their `component`")
    aggregate: Aggregate | None = Field(
        default=None, description="how it is averaged; null: as algo.aggregate says"
    )
    constant: float | None = Field(
        default=None, gt=0, description="L of the modes that end in const; null: algo.constant"
    )

    def coefficient(self, progress: Progress) -> float:
        """Its weight at this progress."""
        return self.coef if isinstance(self.coef, (int, float)) else resolve(self.coef, progress)

    def share(self, batch: Batch, credit: Credit, rewards: Rewards, rows: Tensor) -> Share:
        """What it counts of the mini-batch `rows` bool[B], given the whole step."""
        from triune.algo.weights import decisions

        return decisions(self, batch, credit, rows)


ADVANTAGES: Registry[Any] = Registry("advantage", "triune.algo.advantages")
TERMS: Registry[Any] = Registry("objective term", "triune.algo.terms")
COLLECTORS: Registry[Any] = Registry("collector", "triune.algo.collect")
VIEWS: Registry[Any] = Registry("view", "triune.algo.views")
SHAPES: Registry[Any] = Registry("reward shape", "triune.algo.shape")
ADJUSTMENTS: Registry[Any] = Registry("adjustment", "triune.algo.adjust")

Parts = dict[str, dict[str, Any] | None]
"""Options of plug-ins by a name of the recipe's choice; null takes out what a preset put in."""


def _parts(what: str) -> Any:
    return Field(default_factory=dict, description=what)


def _v_triune() -> Parts:
    return {"ppo_clip": {"kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.28}}


class PolicyGradient(Frozen):
    """Policy optimisation: what a step is made of, an advantage, and a sum of objective terms.

    Without a preset it is V-Triune's: group-relative advantage, clip .2/.28, no KL, no reference model, no entropy bonus, and
    token-mean over the global batch as in its code (the preset `v-triune` averages per group, as its paper's equation does).
    """

    kind: Literal["policy_gradient"] = "policy_gradient"
    preset: str | None = Field(
        default=None,
        description="a published update rule that the other keys are laid on; `triune recipes` lists them",
    )
    collect: Parts = _parts("what a step is made of besides fresh rollouts, by name")
    views: Parts = _parts("further passes over what was sampled, by the name that terms refer to")
    shape: Parts = _parts("changes of rewards before credit is given, in order, by name")
    advantage: dict[str, Any] = Field(
        default_factory=lambda: {"kind": "group"}, description="estimator and its parameters"
    )
    adjust: Parts = _parts("changes of credit: masks, importance weights, gates, in order, by name")
    terms: Parts = Field(
        default_factory=_v_triune,
        description="objective terms by name (a list is named by kinds), each with its own parameters and coefficient",
    )
    aggregate: Aggregate = Field(
        default="token-mean",
        description="denominators are global: the whole mini-batch, whatever the micro-batches",
    )
    constant: float | None = Field(
        default=None, gt=0, description="L of the modes that end in const, mostly the longest response"
    )
    logp_floor: float | None = Field(
        default=None,
        lt=0,
        description="stands for the log-prob of a trained decision that became impossible (-30); null: that is an error",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """What the preset says, below what the recipe says."""
        if not isinstance(values, Mapping) or values.get("preset") is None:
            return values
        from triune.algo.preset import load
        from triune.core.loading import merge

        given = {key: _named(value) if key == "terms" else value for key, value in values.items()}
        # Without kind and preset, a recipe that names them would replace what the preset says whole.
        named = {"kind": "policy_gradient", "preset": values["preset"]}
        return merge({**named, **load(str(values["preset"])).algo}, given)

    @field_validator("terms", mode="before")
    @classmethod
    def _by_name(cls, terms: Any) -> Any:
        return _named(terms)

    def parts(self, key: str) -> dict[str, Any]:
        """The plug-ins under `key` (`terms`, `views`, ...), built, by name. Raises RecipeError for a kind that is missing or
        unknown, and for a bad parameter. Not done when a recipe is read, because most parts need torch."""
        found = getattr(self, key)
        return {n: _part(_REGISTRIES[key], o, f"algo.{key}.{n}") for n, o in found.items() if o is not None}

    def estimator(self) -> Any:
        """The advantage, built; raises as `parts` does."""
        return _part(ADVANTAGES, self.advantage, "algo.advantage")

    def build(self, family: Any, recipe: Any, exact: bool) -> Any:
        """The update that `loop.py` calls: triune.train.learner.Learner."""
        from triune.train.learner import Learner

        return Learner(family, recipe, exact)


_REGISTRIES = {
    "collect": COLLECTORS,
    "views": VIEWS,
    "shape": SHAPES,
    "adjust": ADJUSTMENTS,
    "terms": TERMS,
}


def _named(terms: Any) -> Any:
    """A list of terms by the names of their kinds; the second of a kind is `kind-2`."""
    if not isinstance(terms, (list, tuple)):
        return terms
    named: dict[str, Any] = {}
    for term in terms:
        kind = str(term.get("kind", "?")) if isinstance(term, Mapping) else "?"
        same = sum(name == kind or name.startswith(f"{kind}-") for name in named)
        named[f"{kind}-{same + 1}" if same else kind] = term
    return named


def _part(registry: Registry[Any], options: Mapping[str, Any], where: str) -> Any:
    """One plug-in; errors name it."""
    kind = options.get("kind")
    if not isinstance(kind, str) or kind not in registry:
        said = "has no kind" if kind is None else f"unknown {registry.kind} {kind!r}"
        raise RecipeError(f"{where}: {said}; {registry.hint(str(kind or ''))}")
    try:
        return registry[kind].model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join((where, *map(str, first["loc"])))
        said = "is required: its value is not public" if first["type"] == "missing" else first["msg"]
        raise RecipeError(f"{key}: {said.removeprefix('Value error, ')}") from error


ALGOS: Registry[type[Frozen]] = Registry("algo", "triune.algo.options")
ALGOS.register("policy_gradient")(PolicyGradient)
