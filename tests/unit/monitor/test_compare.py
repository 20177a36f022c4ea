"""Several runs beside each other: seeds and configurations, recipes, held-out answers paired by sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from triune.core.errors import DataError, RecipeError, StorageError
from triune.monitor.compare import Evaluation, evaluation, gather, paired, recipe_diff
from triune.monitor.monitor import Monitor
from triune.monitor.stats import Score, paired_gains

from .making import make_sample, make_scored


def make_run(
    path: Path, recipe: Mapping[str, Any] | None, values: Sequence[float | None] = (), first: int = 0, **sample: Any
) -> Path:  # fmt: skip
    """A run with one evaluation: sample `first + i` of two sources in turn has the accuracy `values[i]`."""
    with Monitor(path) as monitor:
        scored = [
            make_scored(value, make_sample(first + i, ("a/x", "b/y")[i % 2], **sample))
            for i, value in enumerate(values)
        ]
        if scored:
            monitor.log_step(7, "eval-after", scored)
    if recipe is not None:
        (path / "recipe.yaml").write_text(yaml.safe_dump(dict(recipe)))
    return path


def last(path: Path) -> Evaluation:
    ((run,),) = [one.runs for one in gather([path])]
    with run.store() as store:
        found = evaluation(store, run.label)
    assert found is not None
    return found


def recipe(seed: int, name: str = "base", **train: Any) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "train": {"lr": 1e-5, **train},
        "data": {"sources": [{"name": "a/x"}]},
    }


# Which runs belong together


def test_runs_that_differ_in_name_and_seed_are_seeds_of_one_configuration(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / "one", recipe(0)),
        make_run(tmp_path / "other", recipe(0, lr=1e-4)),
        make_run(tmp_path / "two", recipe(1, name="base again")),
        make_run(tmp_path / "same", recipe(1)),
        make_run(tmp_path / "bare", None),
    ]
    found = {one.label: [run.label for run in one.runs] for one in gather(paths)}
    # The second run of seed 1 says nothing of the spread between seeds, and stands alone.
    assert found == {"base": ["one", "two"], "other": ["other"], "same": ["same"], "bare": ["bare"]}


def test_two_configurations_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / f"{lr}-{seed}", recipe(seed, lr=lr)) for lr in (1, 2) for seed in (0, 1)]
    assert [one.label for one in gather(paths)] == ["base train.lr=1", "base train.lr=2"]


def test_runs_of_one_folder_name_are_told_apart_by_the_folders_above(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / above / "run", None) for above in ("a", "b")]
    assert [one.label for one in gather(paths)] == ["a/run", "b/run"]


def test_what_is_not_a_run_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", None, [1.0])
    with pytest.raises(StorageError, match=r"nothing is not the folder of a run"):
        gather([run, tmp_path / "nothing"])
    with pytest.raises(StorageError, match="are one run; name it once"):
        gather([run, run.parent / "run" / "rollouts" / ".."])
    (run / "recipe.yaml").write_text("- a list")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: a recipe is a mapping"):
        gather([run])
    assert gather([]) == []


def test_the_recipes_differences_are_dotted_keys_with_each_value(tmp_path: Path) -> None:
    other = recipe(1, lr=1e-4, warmup=5)
    other["data"]["sources"].append({"name": "$b|`"})
    paths = [
        make_run(tmp_path / "a", recipe(0)),
        make_run(tmp_path / "b", other),
        make_run(tmp_path / "c", None),
    ]
    rows = recipe_diff([run for one in gather(paths) for run in one.runs])
    assert {row.key: dict(row.values) for row in rows} == {
        "seed": {"a": 0, "b": 1},
        "train.lr": {"a": 1e-5, "b": 1e-4},
        "train.warmup": {"b": 5},
        "data.sources[1].name": {"b": "$b|`"},
    }


# Held-out answers


def test_two_runs_are_compared_as_two_evaluations_of_one_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((2, 40)).round(3).tolist()
    a, b = (last(make_run(tmp_path / name, None, of)) for name, of in zip("ab", values, strict=True))
    scores = [
        [Score(f"s{i:02}", ("a/x", "b/y")[i % 2], "ab"[i % 2], value) for i, value in enumerate(of)]
        for of in values
    ]
    found, known = paired([a], [b]), paired_gains(*scores)
    assert found.mean.gain == pytest.approx(known.mean.gain)
    assert found.mean.n == 40
    assert found.mean.covers == "samples"
    assert found.tasks.keys() == known.tasks.keys() == {"a", "b"}
    for name, gain in known.sources.items():
        assert found.sources[name].gain == pytest.approx(gain.gain)
        assert found.sources[name].ci95 == pytest.approx(gain.ci95, abs=0.02)


def test_samples_without_a_partner_are_counted(tmp_path: Path) -> None:
    a = last(make_run(tmp_path / "a", None, [1.0, 1.0, None, 0.0, 0.0, 1.0]))
    b = last(make_run(tmp_path / "b", None, [0.0, 1.0, 1.0, 1.0]))
    found = paired([a], [b])
    assert (found.mean.n, found.mean.unpaired) == (3, 3)
    assert (found.sources["a/x"].n, found.sources["a/x"].unpaired) == (1, 2)
    assert (found.tasks["b"].n, found.tasks["b"].unpaired, found.tasks["b"].gain) == (2, 1, 0.5)


def test_other_samples_are_refused_with_what_differs(tmp_path: Path) -> None:
    a = last(make_run(tmp_path / "a", None, [1.0, 0.0]))
    other = last(make_run(tmp_path / "b", None, [1.0, 0.0], first=100))
    with pytest.raises(DataError, match=r"b answered 2 samples of a/x, b/y, the first 'a/x/100'"):
        paired([a], [other])
    changed = last(make_run(tmp_path / "c", None, [1.0, 0.0], truth=4))
    with pytest.raises(
        DataError, match=r"c was evaluated on .* \(2\): sample 'a/x/0' of a/x is not the same in a: truth;"
    ):
        paired([a], [changed])
    unjudged = last(make_run(tmp_path / "d", None, [None, None]))
    with pytest.raises(DataError, match="d answered 2 samples, none of them judged"):
        paired([a], [unjudged])
    with pytest.raises(DataError, match="on either side"):
        paired([a], [])


def test_seeds_on_the_same_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values = rng.random((5, 30)).tolist()
    runs = [last(make_run(tmp_path / str(i), None, of)) for i, of in enumerate(values)]
    first, second = runs[:2], runs[2:]
    found = paired(first, second)
    table = np.array(values)
    by_task = [[table[part][:, task::2].mean() for task in (0, 1)] for part in (slice(0, 2), slice(2, 5))]
    assert found.mean.gain == pytest.approx(np.mean(by_task[1]) - np.mean(by_task[0]))
    assert found.mean.covers == "seeds and samples"
    assert found.mean.n == 30
    # Wider than what covers samples alone.
    low, high = found.mean.ci95 or (0.0, 0.0)
    alone = paired(first[:1], second).mean
    assert alone.covers == "samples"
    assert low < found.mean.gain < high


def test_seeds_with_samples_of_their_own_are_paired_seed_by_seed(tmp_path: Path) -> None:
    runs = {
        (side, seed): last(
            make_run(
                tmp_path / f"{side}{seed}", None, [0.25 * side + 0.125 * seed * side] * 8, first=100 * seed
            )
        )
        for side in (0, 1)
        for seed in (0, 1, 2)
    }
    first, second = ([runs[side, seed] for seed in (0, 1, 2)] for side in (0, 1))
    found = paired(first, second)
    differences = np.array([0.25, 0.375, 0.5])
    half = (
        4.302652729911275 * differences.std(ddof=1) / np.sqrt(3)
    )  # Student's quantile for two degrees of freedom
    assert found.mean.gain == pytest.approx(0.375)
    assert found.mean.ci95 == pytest.approx((0.375 - half, 0.375 + half))
    assert (found.mean.n, found.mean.unpaired, found.mean.covers) == (24, 0, "seeds and samples")
    # A seed that only one side has is no pair.
    assert paired(first[:2], second).mean.unpaired == 8
    # The order in which runs are named changes nothing.
    assert paired(first[::-1], second) == found


def test_a_configuration_before_and_after_is_compared_run_by_run(tmp_path: Path) -> None:
    before = [last(make_run(tmp_path / f"b{i}", None, [0.1 * i] * 6)) for i in (1, 5)]
    after = [last(make_run(tmp_path / f"a{i}", None, [0.1 * i + 0.2] * 6)) for i in (1, 5)]
    independent = paired(before, after).mean.ci95
    named = [
        [Evaluation(run, one.phase, one.step, one.rollouts) for run, one in zip("rs", side, strict=True)]
        for side in (before, after)
    ]
    low, high = paired(*named).mean.ci95 or (0.0, 0.0)
    # Each run gained exactly .2: its own level cancels, as it does not between independent runs.
    assert (low, high) == pytest.approx((0.2, 0.2))
    assert independent is not None
    assert independent[1] - independent[0] > 1.0


def test_without_an_evaluation_there_is_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", None)
    ((found,),) = [one.runs for one in gather([run])]
    with found.store() as store:
        assert evaluation(store, found.label) is None
