"""A recipe: everything that a run depends on, in one validated, printable, reproducible object.

Policy, rollout, algorithm and data adapters are plug-ins that own their parameters: the recipe only knows where to
look their options up. What is declared here is the core, which a test keeps small.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, JsonValue, PrivateAttr, ValidationError, model_validator

from triune.core.base import Frozen
from triune.core.dataspec import DataSpec
from triune.core.judgespec import JudgeSpec
from triune.core.monitorspec import MonitorSpec
from triune.core.plugin import PlugIn
from triune.core.schedule import Progress
from triune.core.trainspec import TrainSpec
from triune.core.userfile import UserFile

PolicyOptions = Annotated[BaseModel, PlugIn("triune.policy.options:POLICIES")]
RolloutOptions = Annotated[BaseModel, PlugIn("triune.rollout.options:ROLLOUTS")]
AlgoOptions = Annotated[BaseModel, PlugIn("triune.algo.options:ALGOS")]


class Stage(Frozen):
    """Overrides that hold until a fraction of the run is done, as the run would have been given them by `a.b=c`."""

    until: float = Field(gt=0, le=1, description="fraction of the run (inclusive) that this stage ends at")
    overrides: dict[str, JsonValue] = Field(
        description="dotted keys under algo or train.optimizer, rollout.temperature, train.freeze"
    )


STAGED = ("algo.", "rollout.temperature", "train.optimizer.", "train.freeze")
"""What may change while a run goes on. Data order, batch sizes and the policy's shape may not: resuming depends on them."""


class Recipe(Frozen):
    """See the fields' descriptions, or `triune train --help`."""

    name: str = Field(min_length=1, description="names the run")
    seed: int = Field(0, ge=0, description="of everything that is drawn")
    plugins: tuple[UserFile, ...] = Field((), description="Python files of your own that register plug-ins")
    data: DataSpec
    policy: PolicyOptions = Field(description="what is trained")
    rollout: RolloutOptions = Field(description="how it answers while it learns")
    algo: AlgoOptions = Field(description="how credit is given and what is minimised")
    train: TrainSpec
    judge: JudgeSpec = JudgeSpec()
    monitor: MonitorSpec = Field(default_factory=MonitorSpec)
    stages: tuple[Stage, ...] = Field(
        (), description="overrides over time; after the last one the recipe as it is"
    )

    _staged: tuple[tuple[float, Recipe], ...] = PrivateAttr(())

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Reads a recipe file; `overrides` are `a.b=c` with YAML values. Raises RecipeError naming file, line and key."""
        from triune.core.loading import load

        return load(Path(path), overrides)

    @model_validator(mode="after")
    def _stages_hold(self) -> Recipe:
        bounds = [stage.until for stage in self.stages]
        if bounds != sorted(set(bounds)):
            raise ValueError(f"stages must end at rising fractions of the run, got {bounds}")
        self._staged = tuple(
            (s.until, self._overridden(f"stages[{i}]", s)) for i, s in enumerate(self.stages)
        )
        return self

    def _overridden(self, where: str, stage: Stage) -> Recipe:
        from triune.core.loading import merge, tree

        for key in stage.overrides:
            if not key.startswith(STAGED) or key.endswith(".kind"):
                raise ValueError(
                    f"{where}: {key!r} cannot change during a run; what can: {', '.join(STAGED)}"
                )
        whole = {**self.dump(), "stages": ()}
        try:
            return Recipe.model_validate(merge(whole, tree(stage.overrides)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error

    def at(self, progress: Progress) -> Recipe:
        """The recipe as it stands at this progress: the first stage whose bound is >= it, else this recipe."""
        # The same tolerance as in schedules: a bound of 0.1 includes step 10 of 100.
        return next((staged for until, staged in self._staged if progress.fraction <= until + 1e-9), self)

    def dump(self) -> dict[str, Any]:
        """Plain data that validates back to an equal recipe."""
        data: dict[str, Any] = json.loads(self.model_dump_json())
        return data

    def to_yaml(self) -> str:
        """The resolved recipe: every key, every default."""
        return yaml.safe_dump(self.dump(), sort_keys=False, allow_unicode=True, width=110)

    def arithmetic(self, samples_per_epoch: int | None = None) -> list[tuple[str, str]]:
        """The batch arithmetic in words, printed when a run starts: (label, value) rows. What an epoch is, is known
        once the data is open: `Mixture.samples_per_epoch`."""
        t = self.train
        rollouts = t.prompts_per_step * t.rollouts_per_prompt
        prompts = t.prompts_per_step * t.total_steps
        rows = [
            ("rollouts per step", f"{t.prompts_per_step} prompts x {t.rollouts_per_prompt} rollouts = {rollouts}"),
            ("optimiser steps per rollout batch", f"{t.minibatches_per_step} of {rollouts // t.minibatches_per_step} rollouts"),
            ("in total", f"{t.total_steps} steps, {prompts} prompts, {rollouts * t.total_steps} rollouts, "
             f"{t.minibatches_per_step * t.total_steps} optimiser steps"),
            ("warm-up", f"{round(t.optimizer.warmup_fraction * t.total_steps)} steps"),
        ]  # fmt: skip
        if samples_per_epoch is not None:
            return [
                *rows,
                ("samples per epoch", f"{samples_per_epoch}; {prompts / samples_per_epoch:.2f} epochs"),
            ]
        if all(source.path is None for source in self.data.sources):
            return [*rows, ("samples per epoch", "unlimited (drawn on demand)")]
        return rows
