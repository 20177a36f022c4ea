"""Registries of the algorithm's plug-ins, and its options. Imports no torch, so that a recipe can be read without it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from triune.core.base import Frozen
from triune.core.registry import Registry


class Options(Frozen):
    """Parameters that a plug-in owns; `kind` is the name it is registered under."""


class TermOptions(Options):
    """What every objective term has. A term sees the decisions (and value read-outs) of its component only.

    `placed`: the term trains decisions that were placed rather than sampled (the tokens of a demonstration); every
    other term trains what the policy sampled.
    """

    placed: ClassVar[bool] = False

    coef: float = Field(default=1.0, description="weight of the term in the loss")
    component: str = Field(default="policy", description="trajectories that it trains, by their `component`")


ADVANTAGES: Registry[Any] = Registry("advantage", "triune.algo")
TERMS: Registry[Any] = Registry("objective term", "triune.algo.terms")


class PolicyGradient(Frozen):
    """Group or value based policy-gradient training: an advantage and a sum of objective terms.

    The default is V-Triune's paper preset: group-relative advantage, clip .2/.28, token-mean over the global batch,
    no KL, no reference model, no entropy bonus.
    """

    kind: Literal["policy_gradient"] = "policy_gradient"
    advantage: dict[str, Any] = Field(
        default_factory=lambda: {"kind": "group"}, description="estimator and its parameters"
    )
    terms: tuple[dict[str, Any], ...] = Field(
        default_factory=lambda: ({"kind": "ppo_clip", "clip_low": 0.2, "clip_high": 0.28},),
        description="objective terms, each with its own parameters and coefficient",
    )
    aggregate: Literal["token-mean", "seq-mean-token-mean"] = Field(
        default="token-mean",
        description="denominators are global: the whole mini-batch, whatever the micro-batches",
    )
    drop_truncated: bool = Field(
        default=False, description="truncated rollouts leave the loss (not the baseline)"
    )

    def build(self, family: Any, recipe: Any, exact: bool) -> Any:
        """The update that `loop.py` calls: triune.train.learner.Learner."""
        from triune.train.learner import Learner

        return Learner(family, recipe, exact)


ALGOS: Registry[type[Frozen]] = Registry("algo", "triune.algo.options")
ALGOS.register("policy_gradient")(PolicyGradient)
