"""Corrections for an engine that differs from the learner, for old weights, and masks over single decisions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from triune.algo.objective import Objective
from triune.algo.options import ADJUSTMENTS
from triune.algo.step import Step
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.errors import RecipeError
from triune.core.schedule import Progress
from triune.core.trajectory import Trajectory
from triune.testing.table import TableFamily, recipe, share, trajectory
from triune.train.learner import Learner

LOGS = [[0.1, -0.2, 0.3], [1.0], [-0.9, 0.0]]  # of learner over engine
ONES = torch.ones(3, dtype=torch.bool)


def rows(**fields: Any) -> list[Trajectory]:
    return [
        trajectory([1] * len(logs), id=f"{i}", source="even" if i % 2 == 0 else "odd", **fields)
        for i, logs in enumerate(LOGS)
    ]


def step(made: list[Trajectory] | None = None, at: int = 1, entropy: list[float] | None = None) -> Step:
    """The engine gave -1 to everything, the learner LOGS more; the advantages are 1, 2, 3, ..."""
    batch = Batch.of(made or rows(), None)
    old = torch.tensor([x for logs in LOGS for x in logs]) - 1.0
    count = batch.num_decisions
    judged = Rewards(torch.zeros(3).double(), torch.zeros(count))
    credit = Credit(torch.arange(1.0, count + 1), ONES.clone(), ONES.clone(), [""] * 3, ~ONES[:1])
    view = Evaluated(old, entropy=None if entropy is None else torch.tensor(entropy))
    return Step(batch, [], judged, {"old": view}, Progress(step=at, total_steps=99), credit)


def adjusted(options: dict[str, Any], given: Step | None = None) -> tuple[Credit, dict[tuple[str, str], Any]]:
    given = given or step()
    part = ADJUSTMENTS[options["kind"]].model_validate(options)
    metrics = part(given)
    assert given.credit is not None
    return given.credit, {(m.name, m.label("source")): m for m in metrics}


def mismatch(**options: Any) -> dict[str, Any]:
    return {"kind": "mismatch", "level": "token", "mode": "truncate", "cap": None, "floor": None, **options}


def exp(*logs: float) -> Any:
    return pytest.approx([math.exp(x) for x in logs], rel=1e-6)


def scale(options: dict[str, Any], given: Step | None = None) -> list[float]:
    credit, _ = adjusted(options, given)
    assert credit.scale is not None
    return credit.scale.tolist()


def test_weights_are_of_a_decision_its_row_or_its_rows_mean() -> None:
    assert scale(mismatch()) == exp(0.1, -0.2, 0.3, 1.0, -0.9, 0.0)
    assert scale(mismatch(level="sequence_product")) == exp(0.2, 0.2, 0.2, 1.0, -0.9, -0.9)
    assert scale(mismatch(level="sequence_geomean")) == exp(*[0.2 / 3] * 3, 1.0, -0.45, -0.45)


def test_truncation_clamps_and_a_mask_drops_on_both_sides() -> None:
    assert scale(mismatch(cap=1.2, floor=0.9)) == pytest.approx(
        [math.exp(0.1), 0.9, 1.2, 1.2, 0.9, 1.0], rel=1e-6
    )
    masked = scale(mismatch(cap=1.2, floor=0.9, mode="mask"))
    assert masked == pytest.approx([math.exp(0.1), 0.0, 0.0, 0.0, 0.0, 1.0], rel=1e-6)


def test_what_is_masked_stays_in_the_denominators_unless_told_to_leave() -> None:
    band = mismatch(cap=1.2, floor=0.9, mode="mask")
    given = step()
    credit, _ = adjusted(band, given)
    assert credit.masked is None
    assert share(given.batch, credit).weight.tolist() == pytest.approx([1 / 6] * 6)
    given = step()
    credit, _ = adjusted({**band, "leave_denominators": True}, given)
    assert credit.masked is not None
    assert credit.masked.tolist() == [False, True, True, True, True, False]
    assert share(given.batch, credit).weight.tolist() == pytest.approx([1 / 2, 0, 0, 0, 0, 1 / 2])
    with pytest.raises(ValidationError, match="mode: mask"):
        ADJUSTMENTS["mismatch"](**mismatch(leave_denominators=True))


@pytest.mark.parametrize("level", ["token", "sequence_product"])
def test_normalised_weights_have_the_mean_one(level: str) -> None:
    """Over decisions, or over rows, each of which counts once."""
    weight = torch.tensor(scale(mismatch(level=level, normalize=True, cap=2.0)))
    counted = weight if level == "token" else weight[[0, 3, 4]]
    assert float(counted.mean()) == pytest.approx(1.0)


def test_extreme_log_ratios_are_clamped_and_reported() -> None:
    made = step()
    made.views["old"].logp[0] = 99.0
    credit, said = adjusted(mismatch(), made)
    assert credit.scale is not None
    assert float(credit.scale[0]) == pytest.approx(math.exp(20))
    assert said["mismatch/log_ratio_abs", "even"].max == 100.0


def test_only_sampled_decisions_of_the_component_are_weighted() -> None:
    made = rows()
    made[1] = trajectory([1], id="1", component="expert", forced=True)
    made[2] = trajectory([1, 1], id="2", forced=[True, False], logp=[0.0, -1.0])
    given = step(made)
    assert given.credit is not None
    given.views["old"].logp[4] = float("-inf")  # placed: it may be impossible
    assert scale(mismatch(level="sequence_product"), given) == exp(0.2, 0.2, 0.2, 0.0, 0.0, 0.0)
    given.credit.scale = None
    band = mismatch(mode="mask", floor=1.15)  # no weight of 1 would pass it
    assert scale(band, given) == pytest.approx([0.0, 0.0, math.exp(0.3), 1.0, 1.0, 0.0])


def test_weights_of_several_parts_multiply() -> None:
    given = step()
    adjusted(mismatch(), given)
    assert scale(mismatch(), given) == exp(0.2, -0.4, 0.6, 2.0, -1.8, 0.0)


def test_mismatch_is_reported_by_source() -> None:
    _, said = adjusted(mismatch(cap=2.0))
    assert said["mismatch/ratio", "odd"].max == pytest.approx(math.e)
    assert said["mismatch/weight", "odd"].max == 2.0
    assert said["mismatch/outside", "odd"].mean == 1.0
    assert said["mismatch/outside", "even"].mean == 0.0
    assert said["mismatch/kl", "odd"].mean == pytest.approx(math.e - 2)
    assert said["mismatch/ess", "odd"].mean == pytest.approx(1.0)
    w = torch.tensor([0.1, -0.2, 0.3, -0.9, 0.0]).double().exp()
    assert said["mismatch/ess", "even"].mean == pytest.approx(float(w.sum() ** 2 / (5 * w.square().sum())))


K3 = [math.exp(x) - 1 - x for logs in LOGS for x in logs]


@pytest.mark.parametrize(
    ("level", "form", "bounds", "gone"),
    [
        ("token", "k1", {"high": 1.25}, [0, 0, 1, 1, 1, 0]),
        (
            "token",
            "k1",
            {"high": 1.25, "low": 0.3},
            [0, 0, 0, 0, 1, 0],
        ),  # of engine over learner: e^.9 is too high
        ("token", "k2", {"high": 0.03}, [0, 0, 1, 1, 1, 0]),
        ("token", "k3", {"high": 0.3}, [0, 0, 0, 1, 1, 0]),
        ("seq_sum", "k1", {"high": 2.0}, [0, 0, 0, 1, 1, 1]),
        ("seq_mean", "k1", {"high": 2.0}, [0, 0, 0, 1, 0, 0]),
        ("seq_sum", "k2", {"high": 0.45}, [0, 0, 0, 1, 0, 0]),
        ("seq_mean", "k2", {"high": 0.1}, [0, 0, 0, 1, 1, 1]),
        ("seq_max", "k2", {"high": 0.4}, [0, 0, 0, 1, 1, 1]),
        ("seq_max", "k3", {"high": 0.04}, [1, 1, 1, 1, 1, 1]),
        ("seq_mean", "k3", {"high": sum(K3[:3]) / 3 + 1e-6}, [0, 0, 0, 1, 1, 1]),
        ("seq_sum", "k3", {"high": sum(K3[4:]) + 1e-6}, [0, 0, 0, 1, 0, 0]),
    ],
)
def test_rejection(level: str, form: str, bounds: dict[str, float], gone: list[int]) -> None:
    given = step()
    credit, said = adjusted({"kind": "reject", "level": level, "form": form, **bounds}, given)
    assert credit.masked is not None
    assert credit.masked.int().tolist() == gone
    assert said[f"rejected/{level}_{form}", "odd"].mean == gone[3]
    weight = share(given.batch, credit).weight
    assert (weight > 0).tolist() == [not g for g in gone]


def test_rejections_all_have_to_agree_to_keep_a_decision() -> None:
    given = step()
    adjusted({"kind": "reject", "level": "token", "form": "k1", "high": 1.25}, given)
    credit, _ = adjusted({"kind": "reject", "level": "token", "form": "k1", "high": 1.05}, given)
    assert credit.masked is not None
    assert credit.masked.int().tolist() == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": "seq_max", "form": "k1", "high": 2.0}, "has a sign"),
        ({"level": "token", "form": "k2", "high": 2.0, "low": 0.5}, "has no `low`"),
        ({"level": "token", "form": "k1", "high": 0.5, "low": 0.7}, "above high"),
    ],
)
def test_a_rejection_that_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ADJUSTMENTS["reject"](**options)


def learner(algo: dict[str, Any]) -> Learner:
    return Learner(TableFamily(), recipe(algo=algo), exact=False)


def test_a_ratio_against_the_engine_is_not_corrected_twice() -> None:
    both = {"adjust": {"tis": mismatch()}, "terms": [{"kind": "ppo_clip", "against": "behavior"}]}
    with pytest.raises(RecipeError, match="ppo_clip takes its ratio against the engine"):
        learner(both)
    learner({**both, "adjust": {}})
    learner({**both, "terms": [{"kind": "ppo_clip"}]})
    other = {"kind": "ppo_clip", "against": "behavior", "component": "opponent"}
    learner({**both, "terms": [{"kind": "ppo_clip"}, other]})


def test_weights_do_not_touch_regularisers() -> None:
    """As in verl and TRL: the divergence and the entropy keep their own scale."""
    given = step()
    credit, _ = adjusted(mismatch(), given)
    objective = Objective.of(
        [{"kind": "ppo_clip"}, {"kind": "kl", "form": "k2"}, {"kind": "entropy", "coef": 1.0}]
    )
    found = objective.shares(given.batch, credit, given.rewards)
    assert credit.scale is not None
    assert torch.allclose(found["ppo_clip"].weight, credit.scale / 6)
    assert found["kl"].weight.tolist() == found["entropy"].weight.tolist() == pytest.approx([1 / 6] * 6)


def test_old_decisions_leave_the_loss_and_are_counted() -> None:
    """The weights of step 7 have number 6; a lag of 2 is allowed."""
    made = [
        trajectory([1, 1, 1], id="0", source="even", version=[6, 4, 3]),
        trajectory([1], id="1", source="odd", version=0),
        trajectory([1, 1], id="2", source="even", version=[5, 6]),
    ]
    given = step(made, at=7)
    credit, said = adjusted({"kind": "stale", "max_lag": 2}, given)
    assert credit.masked is not None
    assert credit.masked.int().tolist() == [0, 0, 1, 1, 0, 0]
    assert credit.in_loss.all()
    assert said["stale/lag", "odd"].mean == 6
    assert said["stale/dropped", "even"].mean == pytest.approx(1 / 5)
    given = step(made, at=7)
    credit, said = adjusted({"kind": "stale", "max_lag": 2, "drop": "row"}, given)
    assert credit.masked is None
    assert credit.in_loss.tolist() == [False, False, True]
    assert credit.reasons == ["stale", "stale", ""]
    assert credit.in_baseline.all()
    assert said["stale/dropped", "even"].mean == pytest.approx(3 / 5)


def test_what_is_on_policy_is_never_stale() -> None:
    given = step(rows(version=0), at=1)
    credit, said = adjusted({"kind": "stale", "max_lag": 0}, given)
    assert credit.masked is not None
    assert not credit.masked.any()
    assert said["stale/lag", "even"].max == 0


def test_the_most_certain_decisions_lose_their_gradient() -> None:
    entropy = [0.1, 0.9, 0.5, 0.2, 0.8, 0.3]
    assert scale({"kind": "top_entropy", "share": 0.5}, step(entropy=entropy)) == [0, 1, 1, 0, 1, 0]
    assert scale({"kind": "top_entropy", "share": 1.0}, step(entropy=entropy)) == [1] * 6
    credit, said = adjusted(
        {"kind": "top_entropy", "share": 0.5, "leave_denominators": True}, step(entropy=entropy)
    )
    assert credit.masked is not None
    assert credit.masked.int().tolist() == [1, 0, 0, 1, 0, 1]
    assert said["top_entropy/kept", "odd"].mean == 0.0


def test_the_entropy_of_decisions_outside_the_loss_is_not_looked_at() -> None:
    given = step(entropy=[0.1, 0.9, 0.5, math.nan, 0.8, 0.3])
    assert given.credit is not None
    given.credit.in_loss[1] = False
    assert scale({"kind": "top_entropy", "share": 0.4}, given) == [0, 1, 0, 1, 1, 0]


def covariances(given: Step) -> list[float]:
    """By hand: (A - mean A)(logp - mean logp) of the policy before the step."""
    assert given.credit is not None
    a, logp = given.credit.advantage.double(), given.views["old"].logp.double()
    return ((a - a.mean()) * (logp - logp.mean())).tolist()


def test_clip_cov_silences_a_share_of_those_within_the_bounds_reproducibly() -> None:
    found = covariances(step())
    able = [0.0 < c < 0.5 for c in found]
    assert 1 < sum(able) < 6
    options = {"kind": "clip_cov", "low": 0.0, "high": 0.5, "share": 1.0}
    assert scale(options) == [0.0 if yes else 1.0 for yes in able]
    one = scale({**options, "share": 1e-9})
    assert sum(value == 0 for value in one) == 1
    assert one == scale({**options, "share": 1e-9})
    drawn = {tuple(scale({**options, "share": 1e-9}, step(at=at))) for at in range(1, 30)}
    assert len(drawn) == sum(able)  # the draw is the step's
    assert scale({**options, "low": 90.0, "high": 91.0}) == [1.0] * 6


def test_kl_cov_holds_back_the_decisions_of_largest_covariance_alone() -> None:
    given = step()
    assert given.credit is not None
    given.batch.logp_behavior = given.views["old"].logp
    best = max(range(6), key=covariances(given).__getitem__)
    logp = (given.views["old"].logp + 0.5).requires_grad_()
    objective = Objective.of([{"kind": "kl_cov", "top": 1e-9}])
    total = objective.whole(given.batch, given.credit, Evaluated(logp), given.views).total
    total.backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == pytest.approx([1 / 6 if i == best else 0.0 for i in range(6)])


def test_kl_cov_never_picks_a_decision_outside_the_loss() -> None:
    """Two decisions whose covariance is negative, and a placed one, which counts 0."""
    batch = Batch.of([trajectory([1, 1, 1], forced=[True, False, False], logp=[0.0, -1.0, -2.0])], None)
    credit = Credit(torch.tensor([0.0, -1.0, 1.0]), ONES[:1], ONES[:1], [""], ~ONES[:1])
    logp = torch.tensor([-9.0, -0.5, -1.5], requires_grad=True)
    old = Evaluated(torch.tensor([-1.0, -1.0, -2.0]))
    Objective.of([{"kind": "kl_cov", "top": 1e-9}]).whole(
        batch, credit, Evaluated(logp), {"old": old}
    ).total.backward()
    assert logp.grad is not None
    assert sorted(logp.grad.tolist()) == pytest.approx([0.0, 0.0, 0.5])
    assert logp.grad[0] == 0.0


@pytest.mark.parametrize(
    "options",
    [
        mismatch(normalize=True),
        mismatch(level="sequence_product", mode="mask", cap=3.0, leave_denominators=True),
        {"kind": "reject", "level": "seq_max", "form": "k3", "high": 0.1},
        {"kind": "stale", "max_lag": 0, "drop": "row"},
        {"kind": "top_entropy", "share": 0.2},
        {"kind": "clip_cov"},
    ],
    ids=lambda options: options["kind"],
)
def test_a_step_in_which_nothing_is_trained_passes(options: dict[str, Any]) -> None:
    given = step(entropy=[0.0] * 6)
    assert given.credit is not None
    given.credit.in_loss[:] = False
    credit, said = adjusted(options, given)
    assert not said
    if credit.scale is not None:
        assert credit.scale.isfinite().all()
