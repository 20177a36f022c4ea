"""What a policy did: trajectories of decisions, in columns. A decision is one stochastic choice with a log-probability."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from triune.core.base import F32, I32, AnyArray, Bool, Frozen
from triune.core.verdict import Ending, RewardEvent

BASELINE = "baseline"
"""The component of rollouts that others are compared with (ReMax's greedy answers): in no loss, in no statistics."""


class SamplingRule(Frozen):
    """How decisions were drawn: recorded per segment by the engine, replayed by `evaluate`.

    The behaviour log-prob is that of the distribution this rule describes: temperature applied, banned ids removed
    and the rest renormalised. Truncated support (top-p, top-k) is part of the rule for the same reason.
    `guidance` is the scale of classifier-free guidance and `guidance_gradient` says which branch is trained;
    `noise` names the rule that adds noise to a denoiser's step.
    """

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    banned: tuple[int, ...] = ()
    guidance: float | None = None
    guidance_gradient: Literal["both", "conditional", "none"] = "both"
    noise: str | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class Decisions(Frozen):
    """A columnar table of N decisions, in order.

    logp f32[N] behaviour log-prob (NaN where forced), version i32[N] weights that drew it, turn i32[N], time i32[N]
    position within the episode (token, denoising step, environment step), forced bool[N] (placed, not sampled).
    """

    logp: F32
    version: I32
    turn: I32
    time: I32
    forced: Bool

    def __len__(self) -> int:
        return int(self.logp.shape[0])

    @model_validator(mode="after")
    def _aligned(self) -> Decisions:
        lengths = {name: getattr(self, name).shape for name in type(self).model_fields}
        if set(lengths.values()) != {self.logp.shape} or self.logp.ndim != 1:
            raise ValueError(f"columns must be one-dimensional and of one length, got {lengths}")
        if not np.isfinite(self.logp[~self.forced]).all():
            raise ValueError("a sampled decision has a non-finite behaviour log-prob")
        if np.any(np.diff(self.turn) < 0):
            raise ValueError("turns must not go backwards")
        return self

    @classmethod
    def of(
        cls,
        logp: AnyArray | list[float],
        *,
        version: int | list[int] = 0,
        turn: int | list[int] = 0,
        time: list[int] | None = None,
        forced: bool | list[bool] = False,
    ) -> Decisions:
        """Builds a table, repeating scalars; time defaults to 0..N-1."""
        n = len(logp)
        return cls(
            logp=logp,
            version=np.broadcast_to(version, (n,)),
            turn=np.broadcast_to(turn, (n,)),
            time=np.arange(n) if time is None else time,
            forced=np.broadcast_to(forced, (n,)),
        )


class Payload(Frozen):
    """What the family generated and needs again to evaluate it: token ids and where each came from, latents, frames,
    action chunks. Only the family that wrote it reads it. `media` names large inputs by content hash, in order."""

    family: str
    arrays: dict[str, AnyArray] = Field(default_factory=dict)
    media: tuple[str, ...] = ()
    info: dict[str, JsonValue] = Field(default_factory=dict)


class Trajectory(Frozen):
    """One episode, or a fragment or branch of one.

    `group` is the key that baselines are formed over: mostly the sample, elsewhere a role, a task or a subgoal.
    `parent` and `fork`: this is a branch that shares the parent's first `fork` decisions, and owns only those after.
    `step_offset`: the episode's decisions before this fragment. `depends_on`: episodes whose outcome this one's prompt
    was made from. `terminated` (the task ended) and `truncated` (a limit cut it) are different facts.
    `rules` holds (first decision, rule) per segment. `resolved` holds what schedules said at dispatch.
    `component` names the loss it is trained by (RL, imitation, ...), so that one batch may mix them.
    """

    id: str
    sample: str
    source: str
    task: str
    group: str
    rank: int = 0
    episode: str = ""
    step_offset: int = 0
    parent: str | None = None
    fork: int = 0
    depends_on: tuple[str, ...] = ()
    ending: Ending = "answered"
    terminated: bool = True
    truncated: bool = False
    rules: tuple[tuple[int, SamplingRule], ...] = ((0, SamplingRule()),)
    decisions: Decisions
    payload: Payload
    events: tuple[RewardEvent, ...] = ()
    component: str = "policy"
    resolved: dict[str, float] = Field(default_factory=dict)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Trajectory:
        if (self.parent is None) != (self.fork == 0) and self.parent is None:
            raise ValueError(f"trajectory {self.id!r} forks at {self.fork} but names no parent")
        starts = [start for start, _ in self.rules]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"trajectory {self.id!r}: rule segments must start at 0 and rise, got {starts}")
        return self


class Group(Frozen):
    """Trajectories under one key: the unit over which a group-relative baseline is formed."""

    key: str
    trajectories: tuple[Trajectory, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_key(self) -> Group:
        wrong = [t.id for t in self.trajectories if t.group != self.key]
        if wrong:
            raise ValueError(f"trajectories {wrong} do not belong to group {self.key!r}")
        return self
