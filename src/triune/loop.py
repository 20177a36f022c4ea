"""One run: data, generator, judge, update and monitor, put together once and stepped until done.

Read `Loop.step`: it is the whole algorithm, for every policy family. What differs between families, engines and
objectives is behind the protocols it calls.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from triune.core.errors import DataError, RecipeError, Stopped
from triune.core.media import Media
from triune.core.provenance import save_provenance
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule
from triune.data.mixture import Mixture, heldout
from triune.evaluate import answer
from triune.evaluation.probes import look
from triune.monitor.metric import Scored, scalar
from triune.monitor.monitor import Monitor
from triune.policy.family import Family
from triune.rollout.beside import beside
from triune.rollout.generator import Demand, Generator
from triune.rollout.remembers import go_back, state_of
from triune.runtime.process import Clock, Interrupt, Interrupted
from triune.runtime.world import world
from triune.serve.build import build_judge
from triune.train import checkpoint, parallel, startup
from triune.train.position import Position
from triune.train.update import Update
from triune.verify.guard import FailureGuard


class Loop:
    """A run under `run_dir`. `step` and `evaluate` may be called by hand; `run` does what the recipe says."""

    def __init__(self, recipe: Recipe, run_dir: Path, monitor: Monitor | None = None) -> None:
        self.recipe, self.run_dir = recipe, run_dir
        self.mixture = Mixture.of(recipe)
        self.family: Family = recipe.policy.build()  # type: ignore[attr-defined]
        self.generator: Generator = parallel.generator(recipe.rollout.build(self.family), self.family)  # type: ignore[attr-defined]
        self.judge = parallel.judge(build_judge(recipe.judge, FailureGuard(recipe.judge.max_failure_rate)))
        self.update: Update = recipe.algo.build(self.family, recipe, self.generator.exact)  # type: ignore[attr-defined]
        self.monitor = monitor or parallel.monitor(run_dir, recipe, self.mixture)
        self.monitor.spell = getattr(self.family, "pieces", None)
        self.done = 0
        self.batches = 0
        self.seen: tuple[int, Sequence[Scored]] = (-1, ())
        self.skipped: Counter[str] = Counter()

    # -- one step ----------------------------------------------------------------------------------------------

    def step(self) -> list[Scored]:
        """Samples -> episodes -> verdicts -> update -> new weights in the engine -> monitor."""
        progress = Progress(step=self.done + 1, total_steps=self.recipe.train.total_steps)
        recipe = self.recipe.at(progress)
        clock = Clock()
        known: list[Sample] = []

        def fresh() -> Sequence[Scored]:
            self.batches += 1
            samples = self.update.admit(self.mixture.batch(self.batches, known), progress)
            clock.tick("data")
            try:
                return judged(samples)
            except DataError:
                return judged(self.usable(samples))

        def judged(samples: Sequence[Sample]) -> Sequence[Scored]:
            if not samples:
                return []
            if not known:  # a later batch adds to what the step holds of media
                self.family.begin_step(samples)
            rule = SamplingRule(temperature=recipe.rollout.temperature)  # type: ignore[attr-defined]
            demand = Demand(recipe.train.rollouts_per_prompt, rule, recipe.seed, self.done, progress)
            demand = self.update.demand(demand, samples)
            drawn = self.generator.generate(samples, demand) + beside(self.generator, samples, demand)
            episodes = [row for row in (*drawn, *self.update.place(samples, demand)) if row]
            known.extend(samples)
            clock.tick("rollout", sum(e.outcome.num_tokens for row in episodes for e in row))
            requests = [(row[0].sample, tuple(e.outcome for e in row)) for row in episodes]
            verdicts = self.judge.judge_many(requests, progress)
            clock.tick("verify")
            return [
                Scored(e.sample, e.trajectory, e.outcome, v)
                for row, said in zip(episodes, verdicts, strict=True)
                for e, v in zip(row, said, strict=True)
            ]

        report = self.update.step(fresh, recipe, progress)
        clock.tick("update", sum(self.family.cost(one.trajectory) for one in report.trained))
        self.done += 1
        self.generator.load(self.done)
        skipped = (scalar("rows_skipped", n, source=s) for s, n in self.skipped.items())
        measured = [*report.metrics, *clock.metrics(), *skipped]
        self.monitor.log_step(self.done, "train", report.scored, measured, report.credit, self._shown())
        return report.scored

    def usable(self, samples: Sequence[Sample], *, drawn: bool = True) -> list[Sample]:
        """The samples that can be run. The first that cannot raises DataError, unless the recipe has bad rows skipped:
        then it is said, and counted per source, if it was `drawn` and not only looked at."""
        kept = []
        for sample in samples:
            try:
                self.judge.check(sample)
                self.family.check(sample)
                if (check := getattr(self.generator, "check", None)) is not None:
                    check(sample)
                kept.append(sample)
            except DataError as error:
                if self.recipe.data.on_bad_row == "error":
                    raise
                if not drawn:
                    continue
                self.skipped[sample.source] += 1
                self.monitor.say(
                    f"skipped: {error}",
                    kind="skipped",
                    step=self.done + 1,
                    source=sample.source,
                    sample=sample.id,
                )
        if not kept:
            raise DataError(
                f"step {self.done + 1}: no sample of the batch can be run; see the run's messages"
            )
        return kept

    def _shown(self) -> list[Media]:
        return [medium for _, medium in getattr(self.family, "shown", {}).values()]

    # -- a whole run -------------------------------------------------------------------------------------------

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends the judge's processes and closes the monitor's files."""
        self.judge.close()
        self.monitor.close()

    def run(self) -> None:
        """From the current step to the last, with evaluations and checkpoints on the way."""
        train = self.recipe.train
        with Interrupt() as interrupt:
            if train.eval_every and not self.done:
                self.evaluate_all()
            while self.done < train.total_steps:
                self.step()
                last = self.done == train.total_steps
                if train.eval_every and (last or self.done % train.eval_every == 0):
                    self.evaluate_all()
                if last:
                    self.monitor.look()
                stop = world().first(lambda: self.monitor.stopping)
                due = train.checkpoint_every and self.done % train.checkpoint_every == 0
                asked = world().any(interrupt.asked)
                if last or due or asked or stop:
                    self.save()
                if stop:
                    raise Stopped(
                        f"stopped after step {self.done} by an alarm: {stop}\n"
                        f"continue all the same with: triune train --resume {self.run_dir}"
                    )
                if asked and not last:
                    raise Interrupted(
                        f"stopped after step {self.done}; continue with: triune train --resume {self.run_dir}"
                    )

    def check(self) -> None:
        """Everything that can be known before compute is spent; raises what forbids the run (train/startup.py)."""
        startup.check(self)

    @cached_property
    def heldout(self) -> list[Sample]:
        """The recipe's held-out samples, read once: every evaluation asks the same."""
        return [sample for many in heldout(self.recipe).values() for sample in many]

    def evaluate_all(self) -> None:
        """The recipe's evaluation, and each of its probes."""
        self.evaluate("eval")
        for probe in self.recipe.train.eval_probes:
            self.evaluate(f"eval-{probe}", probe=probe)

    def evaluate(
        self, phase: str, samples: Sequence[Sample] | None = None, *, probe: str = ""
    ) -> list[Scored]:
        """Greedy answers to the held-out samples (or to `samples`), logged under `phase`; with a `probe` to these as it shows
        them, and how far accuracy drops against the last evaluation without one, if that was of the same weights."""
        chosen = self.heldout if samples is None else samples
        if not chosen:
            raise RecipeError(
                "nothing is held out to evaluate on: give a source heldout_path or heldout_fraction"
            )
        started = time.monotonic()
        progress = Progress(step=max(1, self.done), total_steps=self.recipe.train.total_steps, phase="eval")
        parts = self.family, self.generator, self.judge
        try:
            probed = look(probe, chosen)
            scored = answer(*parts, probed, progress=progress, version=self.done)
        except DataError:
            probed = look(probe, self.usable(chosen))
            scored = answer(*parts, probed, progress=progress, version=self.done)
        seconds = scalar("seconds", time.monotonic() - started, phase="eval")
        step, seen = self.seen
        compared = probed.metrics(scored, seen if step == self.done else ()) if probe else []
        self.monitor.log_step(self.done, phase, scored, [seconds, *compared], shown=self._shown())
        if not probe:
            self.seen = self.done, scored
        return scored

    def save(self) -> Path:
        parallel.same_weights(self.family)
        position = Position.of(
            self.done, self.batches, self.mixture, self.judge.guard, self.monitor.store, self.skipped
        )
        state = {**self.update.state(), "generator": state_of(self.generator)}
        parts = position, self.family, state, self.recipe
        return world().first(lambda: checkpoint.write(self.run_dir, *parts))

    def restore(self, path: Path) -> None:
        """Goes back to a checkpoint; what the monitor holds beyond it is forgotten."""
        position, state, said = checkpoint.resume(path, self.family, self.recipe, self.mixture)
        self.update.restore(state)
        self.done, self.batches, self.skipped = position.step, position.batches, Counter(position.skipped)
        go_back(self.generator, state.get("generator", {}), self.done)
        self.monitor.rewind(self.done)
        position.put_back(self.judge.guard, self.monitor, said)


def train(recipe: Recipe, run_dir: Path, resume: bool = False) -> None:
    """Runs a recipe under `run_dir`; `resume` continues its newest checkpoint, or begins again where there is none. Under
    torchrun, all its processes run it together (`train/parallel.py`)."""
    run_dir, saved = world().first(lambda: (run_dir, checkpoint.begin(run_dir, resume)))
    world().same("the recipe", recipe.to_yaml())
    with Loop(recipe, run_dir) as loop:
        if saved:
            loop.restore(saved)
        else:
            loop.monitor.rewind(0)
            loop.check()
            world().first(lambda: save_provenance(run_dir, recipe))
        loop.run()


__all__ = ["Interrupted", "Loop", "train"]
