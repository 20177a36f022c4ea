"""Runs that were never trained: curves that are known, written as a run writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.monitor.metric import Metric, scalar
from triune.monitor.store import Event, Store

Value = Callable[[int, int], float]
"""A value for (step, number of the source)."""


def recipe(run_dir: Path, *overrides: str) -> None:
    """Puts the quickstart's recipe with these keys beside a run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "recipe.yaml").write_text(_recipe(overrides), encoding="utf-8")


@cache
def _recipe(overrides: tuple[str, ...]) -> str:
    return Recipe.load(find_recipe("quickstart"), overrides).to_yaml()


def step(sources: Iterable[str], number: int, reward: Value) -> list[Metric]:
    """The rewards of one step."""
    return [
        metric
        for n, source in enumerate(sources)
        for metric in (
            Metric.of("reward", [reward(number, n), reward(number, n)], source=source, task="task"),
            Metric.of("status", [1.0], source=source, task="task", status="ok"),
        )
    ]


def synthetic(
    run_dir: Path,
    *overrides: str,
    sources: Iterable[str] = ("counting", "ocr"),
    steps: int = 10,
    reward: Value = lambda step, n: step / 10 + n,
    accuracy: Value = lambda step, n: 0.2 + step / 100,
    eval_every: int = 5,
    events: Iterable[Event] = (),
) -> None:
    """A run of so many steps, with a recipe."""
    recipe(run_dir, f"train.total_steps={steps}", *overrides)
    sources = list(sources)
    with Store(run_dir) as store:
        for number in range(1, steps + 1):
            store.log_step(
                number, "train", [*step(sources, number, reward), scalar("loss/policy", 1.0 / number)]
            )
            if number % eval_every == 0:
                found = [
                    scalar("accuracy", accuracy(number, n), source=s, task="task")
                    for n, s in enumerate(sources)
                ]
                store.log_step(number, "eval", found)
        for event in events:
            store.log_event(event)
