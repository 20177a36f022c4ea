"""Gates: which components train on a prompt, by how well the policy already does there.

A gate looks at each sample's rollouts and says with what factor every component of them counts. A factor of 0 takes rows
out of the loss (reason `gated`; they stay in the baseline), any other multiplies the loss of their decisions and leaves
the denominators alone. What each group's fate was is counted per source (`gate/share` by mode).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from triune.algo.options import ADJUSTMENTS, AdjustOptions
from triune.algo.step import Step
from triune.core.trajectory import Trajectory
from triune.monitor.metric import Metric


@dataclass(frozen=True, slots=True)
class Mode:
    """A group's fate: `factors` by component; components that are not named are left alone."""

    name: str
    factors: Mapping[str, float]


@dataclass(slots=True)
class Group:
    """The rows of one sample: the policy's own, and those that were placed, by component."""

    source: str
    own: list[int]
    placed: dict[str, list[int]]


class Gate(AdjustOptions):
    """What gates share. A group without a placed row stays with the policy (mode `undemonstrated`); one of whose rollouts
    nobody could judge trains nothing (`unjudged`): a failure to judge is not a failure to solve."""

    policy: str = Field(default="policy", description="component of the policy's own rollouts")
    expert: str = Field(default="expert", description="component of the demonstrations")
    counts: Literal["policy", "all"] = Field(
        default="policy",
        description="whether a demonstration that is correct counts as one more correct answer",
    )

    @abstractmethod
    def mode(self, correct: int) -> Mode:
        """The fate of a group in which so many answers were correct."""

    @property
    @abstractmethod
    def modes(self) -> tuple[str, ...]:
        """Every fate that `mode` may give: all are reported, so that a share of 0 is a number too."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Components of placed rows that the gate is about."""
        return (self.expert,)

    def __call__(self, step: Step) -> list[Metric]:
        fates: dict[str, list[str]] = defaultdict(list)
        solved: dict[str, list[float]] = defaultdict(list)
        for group in groups(step, self.policy, self.shown):
            mode = self._fate(step, group, solved)
            apply(step, group, mode, self.policy)
            fates[group.source].append(mode.name)
        return [
            *shares(fates, [*self.modes, "undemonstrated", "unjudged"]),
            *(Metric.of("gate/correct", seen, source=source) for source, seen in solved.items() if seen),
        ]

    def _fate(self, step: Step, group: Group, solved: dict[str, list[float]]) -> Mode:
        if not any(group.placed.values()):
            return Mode("undemonstrated", {})
        # An episode that lies in several rows is one answer.
        answers = {one.episode or one.id: row for row in group.own if (one := step.batch.trajectories[row])}
        seen = step.rewards.correct[list(answers.values())]
        if not bool((~torch.isnan(seen)).any()):
            return Mode("unjudged", dict.fromkeys((self.policy, *self.shown), 0.0))
        correct = int((seen == 1).sum())
        if self.counts == "all":
            shown = [row for rows in group.placed.values() for row in rows]
            correct += bool((step.rewards.correct[shown] == 1).any())
        solved[group.source].append(correct)
        return self.mode(correct)


@ADJUSTMENTS.register("gate_switch")
class GateSwitch(Gate):
    """HPT's switch: imitation where at most `at_most` rollouts are correct, reinforcement elsewhere (arXiv 2509.04419).

    Imitating, the rollouts leave the loss; reinforcing, the demonstration does. With `off_at_most`, a demonstration of up
    to so many correct rollouts is used by the terms of component `off_policy` instead: off-policy reinforcement, without the
    rollouts (`switch_gate_off` of the released code). The count is over the policy's own rollouts: 0 is none.
    """

    kind: Literal["gate_switch"] = "gate_switch"
    at_most: int = Field(
        default=0, ge=0, description="correct rollouts up to which the demonstration is imitated"
    )
    off_at_most: int | None = Field(
        default=None,
        ge=0,
        description="correct rollouts up to which it is off-policy reinforcement; null: never",
    )
    off_policy: str = Field(default="off_policy", description="component of the demonstrations for that")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.off_at_most is not None and self.off_at_most < self.at_most:
            raise ValueError(
                f"off_at_most {self.off_at_most} is below at_most {self.at_most}: the band is empty"
            )
        return self

    @property
    def shown(self) -> tuple[str, ...]:
        return (self.expert,) if self.off_at_most is None else (self.expert, self.off_policy)

    @property
    def modes(self) -> tuple[str, ...]:
        return ("sft", "rl") if self.off_at_most is None else ("sft", "off", "rl")

    def mode(self, correct: int) -> Mode:
        name = "sft" if correct <= self.at_most else "rl"
        if name == "rl" and self.off_at_most is not None and correct <= self.off_at_most:
            name = "off"
        chosen = {"sft": self.expert, "off": self.off_policy, "rl": self.policy}[name]
        return Mode(name, {component: float(component == chosen) for component in (self.policy, *self.shown)})


@ADJUSTMENTS.register("gate_soft")
class GateSoft(Gate):
    """HPT's soft strategy: three factors by the number of correct answers, the demonstration counted (arXiv 2509.04419).

    `table` holds (answers, on, off, sft): up to so many correct answers, the factors of the policy's rollouts, of the
    demonstration as off-policy reinforcement (component `off_policy`) and of imitation. Counting the demonstration, 1 means
    that no rollout is correct. The default is the released code's type 1.
    """

    kind: Literal["gate_soft"] = "gate_soft"
    counts: Literal["policy", "all"] = Field(
        default="all", description="whether a demonstration that is correct counts as one more correct answer"
    )
    off_policy: str = Field(
        default="off_policy", description="component of the demonstrations as off-policy reinforcement"
    )
    table: tuple[tuple[int, float, float, float], ...] = Field(
        default=((1, 0, 1, 1), (2, 0.125, 1, 0.5), (3, 0.25, 1, 0.25), (4, 0.5, 1, 0.125), (5, 1, 1, 0)),
        min_length=1,
        description="correct answers, and the factors up to there; the last row holds for more",
    )

    @model_validator(mode="after")
    def _rising(self) -> Self:
        counts = [row[0] for row in self.table]
        if counts != sorted(set(counts)):
            raise ValueError(f"the table's numbers of correct answers must rise, got {counts}")
        return self

    @property
    def shown(self) -> tuple[str, ...]:
        return self.expert, self.off_policy

    @property
    def modes(self) -> tuple[str, ...]:
        return tuple(str(row[0]) for row in self.table)

    def mode(self, correct: int) -> Mode:
        most, on, off, sft = next((row for row in self.table if correct <= row[0]), self.table[-1])
        return Mode(f"{most}", {self.policy: on, self.off_policy: off, self.expert: sft})


@ADJUSTMENTS.register("gate_below")
class GateBelow(Gate):
    """AHPO's gate: the demonstration is imitated, beside reinforcement, while fewer than `below` rollouts are correct
    (MM-HELIX, 2025, section 3.3).

    With `shared_z` both kinds of tokens of a group have one normaliser, as in the paper's combined equation: their
    factors are then n / (n + m) and m / (n + m) for n tokens of rollouts and m of demonstration. That makes one mean of
    the two terms' `group-token-mean`, as long as they have the same groups in their denominators.
    """

    kind: Literal["gate_below"] = "gate_below"
    below: int = Field(
        ge=1, description="correct rollouts from which on it is not imitated (the paper's is not public)"
    )
    shared_z: bool = Field(
        default=False, description="rollouts and demonstration share one token count per group"
    )

    @property
    def modes(self) -> tuple[str, ...]:
        return "both", "rl"

    def mode(self, correct: int) -> Mode:
        open_ = correct < self.below
        return Mode("both" if open_ else "rl", {self.policy: 1.0, self.expert: float(open_)})

    def _fate(self, step: Step, group: Group, solved: dict[str, list[float]]) -> Mode:
        mode = super()._fate(step, group, solved)
        if not self.shared_z or mode.name != "both":
            return mode
        own = tokens(step, group.own, placed=False)
        shown = tokens(step, group.placed[self.expert], placed=True)
        total = max(1, own + shown)
        return Mode(mode.name, {self.policy: own / total, self.expert: shown / total})


def tokens(step: Step, rows: Sequence[int], *, placed: bool) -> int:
    """How many decisions of these rows are trained: those that were placed, or those that were sampled."""
    assert step.credit is not None
    trained = [row for row in rows if bool(step.credit.in_loss[row])]
    live = torch.isin(step.batch.trajectory, torch.tensor(trained, dtype=torch.long))
    live &= ~step.batch.sampled if placed else step.batch.sampled
    return int((live if step.credit.masked is None else live & ~step.credit.masked).sum())


def groups(step: Step, policy: str, shown: Sequence[str]) -> list[Group]:
    """The step's samples with their rows. Rollouts that continue a demonstration are not the policy's own success."""
    found: dict[str, Group] = {}
    for row, one in enumerate(step.batch.trajectories):
        group = found.setdefault(one.sample, Group(one.source, [], {name: [] for name in shown}))
        if one.component in group.placed:
            group.placed[one.component].append(row)
        elif one.component == policy and not _begun(one):
            group.own.append(row)
    return list(found.values())


def _begun(one: Trajectory) -> bool:
    return bool(one.decisions.forced[:1].any())


def apply(step: Step, group: Group, mode: Mode, policy: str) -> None:
    """Lets a group's rows count as the mode says."""
    credit = step.credit
    assert credit is not None
    for component, factor in mode.factors.items():
        rows = group.own if component == policy else group.placed.get(component, [])
        if factor == 1 or not rows:
            continue
        if factor == 0:
            for row in rows:
                if bool(credit.in_loss[row]):
                    credit.in_loss[row] = False
                    credit.reasons[row] = "gated"
            continue
        mine = torch.isin(step.batch.trajectory, torch.tensor(rows))
        step.weigh(torch.where(mine, factor, 1.0))


def shares(fates: Mapping[str, Sequence[str]], modes: Sequence[str]) -> list[Metric]:
    """The share of each source's groups in each mode."""
    return [
        Metric.of("gate/share", [fate == mode for fate in seen], source=source, mode=mode)
        for source, seen in fates.items()
        for mode in modes
    ]
