from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from triune.core.sample import Check
from triune.core.verdict import Call, Component
from triune.monitor.metric import Metric, merge, scalar
from triune.monitor.source import REFLECTION_WORDS, rollout_metrics

from .making import group, make_sample, make_scored, metrics_of


def test_nothing_observed_is_no_metric() -> None:
    with pytest.raises(ValueError, match="has no values"):
        Metric.of("reward", [])
    assert rollout_metrics([]) == []


def test_moments() -> None:
    metric = Metric.of("reward", [1.0, 2.0, 4.0], source="s")
    assert (metric.count, metric.mean, metric.min, metric.max) == (3, 7 / 3, 1.0, 4.0)
    assert metric.std == pytest.approx(math.sqrt(14 / 9))
    assert metric.label("source") == "s"
    assert metric.label("task") == ""


@pytest.mark.parametrize("value", [0.1, 1e300, 5e-324, -1 / 3, 0.0])
def test_equal_values_deviate_by_exactly_nothing(value: float) -> None:
    metric = Metric.of("reward", [value] * 7)
    assert metric.std == 0.0
    assert metric.mean == value


def test_values_that_are_not_finite_are_counted_and_kept_out() -> None:
    metric = Metric.of("loss", [1.0, math.nan, math.inf, 3.0])
    assert (metric.count, metric.nonfinite, metric.mean) == (2, 2, 2.0)
    lost = scalar("loss", math.nan)
    assert lost.nonfinite == 1
    assert math.isnan(lost.mean)
    assert math.isnan(lost.std)
    assert lost.merge(scalar("loss", 5.0)).mean == 5.0


def test_labels_that_do_not_apply_are_absent_and_order_does_not_matter() -> None:
    assert scalar("x", 1.0, source="", task="t").labels == (("task", "t"),)
    assert scalar("x", 1.0, a="1", b="2") == scalar("x", 1.0, b="2", a="1")


def test_different_metrics_do_not_merge() -> None:
    with pytest.raises(ValueError, match="not one metric"):
        scalar("x", 1.0, source="a").merge(scalar("x", 1.0, source="b"))


def test_merge_over_labels() -> None:
    metrics = [Metric.of("r", [0.0, 1.0], source="a", task="t"), Metric.of("r", [1.0], source="b", task="t")]
    (by_task,) = merge(metrics, by=("task",))
    assert by_task == Metric.of("r", [0.0, 1.0, 1.0], task="t")
    assert [m.label("source") for m in merge(reversed(metrics))] == ["a", "b"]


def test_reward_and_components_of_a_group() -> None:
    found = metrics_of(group([1.0, 0.0, 0.5, 0.0]))
    assert found["reward"].mean == pytest.approx(0.1 + 0.9 * 0.375)
    assert found["reward"].labels == (("source", "counting/shapes"), ("task", "counting"))
    assert found["component{count}"].mean == 0.375
    assert found["component/share_at_min{count}"].mean == 0.5
    assert found["component/share_at_max{count}"].mean == 0.25
    assert found["reward/share_at_min"].mean == 0.0  # the format part is always paid
    assert found["reward/share_at_max"].mean == 0.25
    assert found["component/share_at_max{format_boxed}"].mean == 1.0
    assert found["component_std{count}"].mean == pytest.approx(math.sqrt(0.171875))
    assert found["reward_std"].mean == pytest.approx(0.9 * math.sqrt(0.171875))
    assert found["correct"].mean == 0.25
    assert found["frac_reward_zero_std"].mean == 0.0


def test_within_group_deviation_is_a_mean_over_groups_not_over_rollouts() -> None:
    spread, flat = group([0.0, 1.0], make_sample(0)), group([0.0, 0.0, 0.0, 0.0], make_sample(1))
    found = metrics_of(spread + flat)
    assert found["reward_std"].count == 2
    assert found["component_std{count}"].mean == pytest.approx(0.25)
    assert found["frac_reward_zero_std"].mean == 0.5
    assert found["frac_component_zero_std{count}"].mean == 0.5
    assert (
        found["frac_component_zero_std{format_boxed}"].mean == 1.0
    )  # paid to all: it tells none from another


def test_noise_in_the_last_bit_is_not_a_learning_signal() -> None:
    noisy = group([0.3, 0.1 + 0.2])
    assert metrics_of(noisy)["frac_reward_zero_std"].mean == 1.0


def test_a_single_rollout_has_no_group_metrics() -> None:
    found = metrics_of(group([1.0]))
    assert "reward_std" not in found
    assert "frac_reward_zero_std" not in found


def test_correct_is_the_verifiers_own_threshold() -> None:
    """V-Triune counts reward == 1, which a box almost never reaches (defect V6)."""
    boxes = make_sample(
        source="grounding/digit", checks=(Check(verifier="box_iou"), Check(verifier="format_json"))
    )
    found = metrics_of([make_scored(0.7, boxes, correct=True, metrics={"iou": 0.7, "iou@50": 1.0}, tokens=9)])
    assert found["correct"].mean == 1.0
    assert found["component/correct{box_iou}"].mean == 1.0
    assert found["verifier/iou{box_iou}"].mean == 0.7
    assert found["verifier/iou@50{box_iou}"].mean == 1.0
    assert found["completions/length_correct"].mean == 9.0
    assert "completions/length_wrong" not in found


def test_a_rollout_that_nobody_could_judge_is_counted_and_not_scored() -> None:
    found = metrics_of([*group([1.0, 0.0]), make_scored(None, rank=2, reason="timeout")])
    assert found["reward"].count == 2
    assert found["correct"].count == 2
    assert found["component{count}"].count == 2
    assert found["component/not_ok{count}"].mean == pytest.approx(1 / 3)
    assert found["status{timeout}"].mean == pytest.approx(1 / 3)
    assert found["status{ok}"].mean == pytest.approx(2 / 3)
    assert found["status{error}"].mean == 0.0
    assert found["dropped/loss"].mean == pytest.approx(1 / 3)
    assert found["dropped/baseline"].mean == pytest.approx(1 / 3)
    assert found["dropped/reason{timeout}"].count == 1


def test_an_unreadable_answer_is_scored() -> None:
    found = metrics_of([make_scored(0.0, status="unparsed")])
    assert found["reward"].count == 1
    assert found["status{unparsed}"].mean == 1.0


def test_rollouts_outside_the_baseline_do_not_count_for_groups() -> None:
    found = metrics_of([*group([1.0, 1.0]), make_scored(0.0, rank=2, reason="overlong")])
    assert found["frac_reward_zero_std"].mean == 1.0
    assert found["reward"].count == 3


def test_lengths_and_truncation() -> None:
    found = metrics_of(
        [
            make_scored(1.0, tokens=10),
            make_scored(0.0, tokens=30, rank=1, outcome={"truncated": True, "ending": "overlong_turn"}),
        ]
    )
    assert found["prompts/length"].mean == 10.0
    assert found["completions/length"].mean == 20.0
    assert found["completions/length_correct"].mean == 10.0
    assert found["completions/length_wrong"].mean == 30.0
    assert found["completions/clipped_ratio"].mean == 0.5
    assert found["completions/clipped_ratio_wrong"].mean == 1.0
    assert found["ending{overlong_turn}"].mean == 0.5


def test_reflection() -> None:
    """Substrings of the lower-cased text, as in V-Triune: 'Waiting' holds 'wait'."""
    found = metrics_of(
        [
            make_scored(1.0, text="Wait, wait. Let me RE-CHECK: 3"),
            make_scored(0.0, text="Waiting for it", rank=1),
            make_scored(1.0, text="3", rank=2),
            make_scored(0.0, text="4", rank=3),
            make_scored(0.0, text="5", rank=4),
        ]
    )
    assert found["reflection/ratio"].mean == pytest.approx(2 / 5)
    assert found["reflection/ratio_correct"].mean == 0.5
    assert found["reflection/ratio_wrong"].mean == pytest.approx(1 / 3)
    assert found["reflection/correct_with"].mean == 0.5
    assert found["reflection/correct_without"].mean == pytest.approx(1 / 3)
    assert found["reflection/word{wait}"].mean == pytest.approx(3 / 5)
    assert found["reflection/word{re-check}"].max == 1.0
    assert len(REFLECTION_WORDS) == len(set(REFLECTION_WORDS)) == 15
    custom = metrics_of([make_scored(text="hmm")], words=("hmm",))
    assert custom["reflection/ratio"].mean == 1.0
    assert [name for name in custom if name.startswith("reflection/word")] == ["reflection/word{hmm}"]


def test_tools() -> None:
    calls = (Call(turn=0, name="crop"), Call(turn=1, name="crop", ok=False, error="outside"))
    found = metrics_of([make_scored(outcome={"calls": calls, "num_turns": 3})])
    assert found["tools/ok{crop}"].mean == 0.5
    assert found["tools/ok{crop}"].count == 2
    assert found["episode/turns"].mean == 3.0


def test_sources_do_not_mix() -> None:
    """Dropping one source must not change another's metrics."""
    first, second = group([1.0, 0.0], make_sample(0, "a/x")), group([0.0, 0.0], make_sample(0, "b/y"))
    alone = rollout_metrics(first)
    together = [m for m in rollout_metrics(first + second) if m.label("source") == "a/x"]
    assert together == alone


def test_parts_that_split_no_group_merge_into_the_whole() -> None:
    scored = [one for index in range(6) for one in group([1.0, 0.3, None, 1 / 3], make_sample(index))]
    whole = rollout_metrics(scored)
    assert (
        merge([*rollout_metrics(scored[:8]), *rollout_metrics(scored[8:12]), *rollout_metrics(scored[12:])])
        == whole
    )


def test_penalties_have_a_range_too() -> None:
    checks = (Check(verifier="count", weight=1.0), Check(verifier="length", weight=-0.5))
    parts = (
        Component(name="count", value=0.0, weight=1.0, correct=False),
        Component(name="length", value=1.0, weight=-0.5),
    )
    found = metrics_of([make_scored(sample=make_sample(checks=checks, normalize=False), components=parts)])
    assert found["reward"].mean == -0.5
    assert found["reward/share_at_min"].mean == 1.0
    assert found["component/share_at_max{length}"].mean == 1.0


def test_every_name_is_documented() -> None:
    scored = [*group([1.0, 0.0, None]), make_scored(0.0, rank=3, reason="overlong", metrics={"iou": 0.5})]
    scored.append(make_scored(rank=4, text="wait", outcome={"calls": (Call(turn=0, name="crop"),)}))
    documented = set(
        re.findall(r"`([^`\s]+)`", (Path(__file__).parents[3] / "docs" / "metrics.md").read_text())
    )
    names = {re.sub(r"^verifier/.*", "verifier/*", metric.name) for metric in rollout_metrics(scored)}
    assert len(names) > 25
    assert names <= documented
