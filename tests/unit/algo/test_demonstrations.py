"""Demonstrations, hints and one's own successes: what is placed, what it is worth, and that it leaves the rest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from triune.algo.advantages.prefix_rft import prefixes
from triune.algo.collect.semi_off_policy import shortest_correct
from triune.algo.objective import Objective
from triune.algo.options import ADVANTAGES, COLLECTORS
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.errors import DataError, RecipeError, WindowExceeded
from triune.core.sample import Check, Message, Response, Sample, Text
from triune.core.schedule import Progress
from triune.core.trajectory import SamplingRule, Trajectory
from triune.monitor.metric import Scored
from triune.monitor.source import rollout_metrics
from triune.rollout.generator import Demand
from triune.rollout.placed import place
from triune.testing.table import TableFamily, batch_of, recipe, scored, trajectory, verdict
from triune.train.learner import Learner

SUM = {"aggregate": "sum-const", "constant": 1.0}


def sample(name: str, expert: str | None = "1 2 3", **fields: Any) -> Sample:
    return Sample(
        id=name, source="source", task="toy", messages=(Message(role="user", content=(Text(text="0"),)),),
        checks=(Check(verifier="check"),), expert=expert, **fields,
    )  # fmt: skip


def demand(rollouts: int = 4, step: int = 1, total: int = 100) -> Demand:
    return Demand(rollouts, SamplingRule(), 0, step - 1, Progress(step=step, total_steps=total))


def judged(rows: Sequence[tuple[Trajectory, float | None]]) -> tuple[Batch, Rewards]:
    batch, rewards = batch_of([row for row, _ in rows], [reward for _, reward in rows])
    rewards.correct = torch.where(torch.isnan(rewards.total), rewards.total, (rewards.total == 1).double())
    return batch, rewards


def gradient(
    terms: Mapping[str, Any], batch: Batch, credit: Credit, rewards: Rewards, logp: Tensor, **views: Evaluated
) -> Tensor:
    logp = logp.clone().requires_grad_()
    entropy = torch.linspace(0.1, 1.1, len(logp), dtype=logp.dtype)
    current = Evaluated(logp, entropy)
    old = {"old": Evaluated(logp.detach() - 0.1)}
    total = Objective.of(terms).whole(batch, credit, current, {**old, **views}, rewards).total
    (found,) = torch.autograd.grad(total, logp)
    return found


# -- terms -------------------------------------------------------------------------------------------------------------

WEIGHTS: dict[str, Any] = {
    "sft": lambda p, h: torch.ones_like(p),
    "sft_is": lambda p, h: p,
    "chord_phi": lambda p, h: p * (1 - p),
    "srft": lambda p, h: 0.5 * torch.exp(-h),
    "hellinger": lambda p, h: p.sqrt(),
    "pearson": lambda p, h: (1 / p).clamp(max=4.0),
}


@pytest.mark.parametrize("weight", sorted(WEIGHTS))
@pytest.mark.parametrize("credit", ["one", "advantage", "reward"])
def test_imitation_has_the_gradient_that_its_weight_says(weight: str, credit: str) -> None:
    shown = {"forced": True, "component": "expert"}
    rows = [(trajectory([1] * 3, id="a", **shown), 0.5), (trajectory([1] * 2, id="b", **shown), None)]
    batch, rewards = judged(rows)
    given = ADVANTAGES["group"]()(batch, rewards, {})
    given.advantage = torch.tensor([0.3, -0.2, 0.5, 1.0, -1.0], dtype=torch.float64)
    logp = torch.tensor([-0.1, -2.0, -0.7, -3.0, -0.02], dtype=torch.float64)
    term = {"kind": "imitation", "weight": weight, "credit": credit, **SUM}
    if weight == "pearson":
        term["most"] = 4.0
    entropy = torch.linspace(0.1, 1.1, 5, dtype=torch.float64)
    mean = torch.cat([entropy[:3].mean().expand(3), entropy[3:].mean().expand(2)])
    worth = {
        "one": torch.ones(5), "advantage": given.advantage, "reward": torch.tensor([0.5] * 3 + [0.0] * 2)
    }[credit]  # fmt: skip
    expected = -WEIGHTS[weight](logp.exp(), mean) * worth
    assert torch.allclose(
        gradient({"expert": term}, batch, given, rewards, logp), expected.double(), atol=1e-9
    )


def test_a_cutoff_stops_pulling_what_is_certain_enough() -> None:
    batch, rewards = judged([(trajectory([1] * 3, id="a", forced=True, component="expert"), 1.0)])
    given = ADVANTAGES["group"]()(batch, rewards, {})
    logp = torch.tensor([-0.1, -2.0, -0.7], dtype=torch.float64)
    found = gradient({"expert": {"kind": "imitation", "cutoff": 0.6, **SUM}}, batch, given, rewards, logp)
    assert found.tolist() == pytest.approx([0.0, -1.0, -1.0])
    for options in ({"weight": "pearson"}, {"most": 2.0}):
        with pytest.raises(RecipeError, match="pearson"):
            Objective.of({"expert": {"kind": "imitation", **options}})


def test_demonstrations_leave_the_gradient_of_reinforcement_as_it_is_to_the_last_bit() -> None:
    own = [(trajectory([1, 2, 3], id=f"{i}"), float(i)) for i in range(4)]
    shown = [(trajectory([4] * n, id=f"demo {n}", forced=True, component="expert"), 1.0) for n in (1, 5)]
    logp = torch.linspace(-2, -0.1, 18, dtype=torch.float64)
    for mode in ("token-mean", "seq-mean-token-mean", "group-token-mean", "seq-mean-token-sum"):
        policy, expert = {"kind": "ppo_clip", "aggregate": mode}, {"kind": "imitation", "aggregate": mode}
        batch, rewards = judged(own)
        alone = gradient(
            {"policy": policy}, batch, ADVANTAGES["group"]()(batch, rewards, {}), rewards, logp[:12]
        )
        batch, rewards = judged(own + shown)
        credit = ADVANTAGES["group"]()(batch, rewards, {})
        both = gradient({"policy": policy, "expert": expert}, batch, credit, rewards, logp)
        assert torch.equal(both[:12], alone)
        batch, rewards = judged(shown)
        imitation = gradient(
            {"expert": expert}, batch, ADVANTAGES["group"]()(batch, rewards, {}), rewards, logp[12:]
        )
        assert torch.equal(both[12:], imitation)
        half = gradient({"policy": {**policy, "coef": 0.5}, "expert": expert}, *(batch_credit := judged(own + shown))[:1],
                        credit, batch_credit[1], logp)  # fmt: skip
        assert torch.equal(half[:12], 0.5 * alone)


def test_masked_demonstrations_may_hold_anything() -> None:
    shown = [(trajectory([1, 2], id="a", forced=True, component="expert"), 1.0)]
    batch, rewards = judged(shown)
    credit = ADVANTAGES["group"]()(batch, rewards, {})
    credit.masked = torch.tensor([False, True])
    logp = torch.tensor([-1.0, float("-inf")], dtype=torch.float64)
    for term in ({"kind": "imitation"}, {"kind": "imitation", "weight": "srft"}, {"kind": "luffy"}):
        assert torch.isfinite(gradient({"expert": term}, batch, credit, rewards, logp)).all()
    credit.in_loss[:] = False
    assert gradient({"expert": {"kind": "imitation"}}, batch, credit, rewards, logp).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("form", "pull"), [("ratio", 1), ("clip", 1), ("logp", 0), ("luffy", 2)])
def test_a_prefix_is_trained_by_its_own_term_alone(form: str, pull: int) -> None:
    rows = [
        (trajectory([1, 2, 3], id="p", forced=[True, True, False]), 1.0),
        (trajectory([1, 2, 3], id="o"), 0.0),
        # Placed in a later turn by the world: no prefix.
        (trajectory([1, 2, 3], id="w", turn=[0, 1, 1], forced=[False, True, False]), 0.0),
    ]
    batch, rewards = judged(rows)
    credit = ADVANTAGES["prefix_rft"](top_entropy=1.0)(batch, rewards, {})
    assert prefixes(batch).tolist() == [True, True] + [False] * 7
    assert credit.advantage.tolist() == [1.0] * 3 + [0.0] * 6
    logp = torch.linspace(-2, -0.1, 9, dtype=torch.float64)
    found = gradient({"prefix": {"kind": "prefix_tokens", "form": form, **SUM}}, batch, credit, rewards, logp)
    p, ratio = logp[:2].exp(), torch.full((2,), 0.1, dtype=torch.float64).exp()
    expected = [torch.ones_like(p), ratio, 0.1 * p / (p + 0.1) ** 2][pull]
    assert torch.allclose(found[:2], -expected, atol=1e-9)
    assert not found[2:].any()
    policy = gradient({"policy": {"kind": "reinforce", **SUM}}, batch, credit, rewards, logp)
    assert policy.tolist() == [0.0, 0.0, -1.0] + [0.0] * 6
    share = Objective.of({"prefix": {"kind": "prefix_tokens"}}).shares(batch, credit, rewards)["prefix"]
    assert share.weight.tolist() == pytest.approx([0.5, 0.5] + [0.0] * 7)


def test_only_the_most_uncertain_prefix_tokens_keep_their_advantage() -> None:
    rows = [
        (trajectory([1] * 6, id=f"p{i}", forced=[True] * 5 + [False], sample=f"{i}", group=f"{i}"), 1.0)
        for i in range(2)
    ]
    rows += [(trajectory([1], id=f"o{i}", sample=f"{i}", group=f"{i}"), 0.0) for i in range(2)]
    batch, rewards = judged(rows)
    entropy = torch.tensor([0.1, 0.9, 0.2, 0.3, 0.8, 9.0, 0.1, 0.2, 0.3, 0.4, 0.5, 9.0, 9.0, 9.0])
    view = {"old": Evaluated(batch.logp_behavior, entropy)}
    estimator = ADVANTAGES["prefix_rft"](top_entropy=0.2)
    assert estimator.needs == {"old.entropy"}
    credit = estimator(batch, rewards, view)
    kept = [i for i in range(14) if credit.advantage[i]]
    assert kept == [1, 4, 5, 11]  # .9 and .8 of ten prefix tokens, and what follows the prefixes
    # The others stay in the denominator.
    share = Objective.of({"prefix": {"kind": "prefix_tokens"}}).shares(batch, credit, rewards)["prefix"]
    assert int(share.live.sum()) == 10


def test_several_rollouts_of_one_prefix_are_a_group_of_their_own() -> None:
    rows = [(trajectory([1, 2], id=f"p{i}", forced=[True, False]), r) for i, r in enumerate((1.0, 0.0))]
    rows += [(trajectory([1, 2], id=f"o{i}"), r) for i, r in enumerate((0.25, 0.75, None))]
    batch, rewards = judged(rows)
    credit = ADVANTAGES["prefix_rft"](top_entropy=1.0)(batch, rewards, {})
    assert credit.advantage.tolist() == [0.25, 0.5, -0.25, -0.5, -0.25, -0.25, 0.25, 0.25, 0.0, 0.0]
    assert credit.reasons == ["prefixed", "prefixed", "", "", "abstained"]
    assert credit.in_baseline.tolist() == [False, False, True, True, False]
    # Without anything to compare with there is no signal.
    batch, rewards = judged([rows[0], (trajectory([1], id="x"), None)])
    credit = ADVANTAGES["prefix_rft"](top_entropy=1.0)(batch, rewards, {})
    assert not credit.advantage.any()
    assert credit.degenerate.tolist() == [True]
    equal = [(t, 0.7) for t, _ in rows]
    batch, rewards = judged(equal)
    assert not ADVANTAGES["prefix_rft"](top_entropy=1.0)(batch, rewards, {}).advantage.any()


@pytest.mark.parametrize(("keep", "kept"), [("correct", "ad"), ("best", "a"), ("positive", "ad")])
def test_self_imitation_learns_from_successes_and_counts_only_them(keep: str, kept: str) -> None:
    rows = [
        (trajectory([1] * n, id=id), r)
        for id, n, r in (("a", 2, 1.0), ("b", 3, 0.0), ("c", 1, None), ("d", 4, 1.0))
    ]
    rows += [(trajectory([1], id=id, group="same", sample="same"), 0.5) for id in ("e", "f")]
    rows += [(trajectory([1] * 5, id="demo", forced=True, component="expert"), 1.0)]
    batch, rewards = judged(rows)
    credit = ADVANTAGES["group"]()(batch, rewards, {})
    terms = {"self": {"kind": "self_imitation", "keep": keep}, "expert": {"kind": "imitation"}}
    share = Objective.of(terms).shares(batch, credit, rewards)["self"]
    found = {batch.trajectories[i].id for i in batch.trajectory[share.live].tolist()}
    assert found == set(kept)
    assert float(share.weight.sum()) == pytest.approx(1.0)


# -- estimators --------------------------------------------------------------------------------------------------------


def test_a_joint_group_gives_failures_a_gradient() -> None:
    rows = [(trajectory([1, 2], id=f"{i}"), 0.0) for i in range(3)]
    demo = trajectory([1, 2, 3], id="demo", forced=True, component="expert")
    batch, rewards = judged([*rows, (demo, 1.0)])
    for scale, unit in (("none", 1.0), ("std", 0.5 + 1e-6)):
        credit = ADVANTAGES["joint"](scale=scale)(batch, rewards, {})
        assert credit.advantage.tolist() == pytest.approx([-0.25 / unit] * 6 + [0.75 / unit] * 3)
        assert credit.degenerate.tolist() == [False]
    batch, rewards = judged([*rows, (demo, None)])
    credit = ADVANTAGES["joint"]()(batch, rewards, {})
    assert not credit.advantage.any()
    assert credit.degenerate.tolist() == [True]
    batch, rewards = judged([*rows, (demo, 0.0)])
    assert not ADVANTAGES["joint"]()(batch, rewards, {}).advantage.any()


# -- collectors --------------------------------------------------------------------------------------------------------


def as_scored(rows: Sequence[Sequence[Any]]) -> list[Scored]:
    return [
        Scored(e.sample, e.trajectory, e.outcome, verdict(e.trajectory.id, 1.0)) for row in rows for e in row
    ]


def test_demonstrations_are_rows_of_their_samples_groups() -> None:
    family, collector = TableFamily(), COLLECTORS["demonstrations"]()
    many = [sample("a"), sample("b", None), sample("c", "4")]
    assert collector.demand(demand(), many) == demand()
    rows = collector.place(many, demand(), family)
    assert [[e.trajectory.id for e in row] for row in rows] == [["a#expert-0"], ["c#expert-0"]]
    assert [row[0].trajectory.group for row in rows] == ["a", "c"]
    assert rows[0][0].trajectory.payload.arrays["ids"].tolist() == [0, 1, 2, 3]
    own = [scored(trajectory([1], id=f"{s.id}0", sample=s.id, group=s.id), 0.0) for s in many]
    kept, metrics = collector.select([*own, *as_scored(rows)], None, demand().progress)
    assert len(kept) == 5
    (missing,) = metrics
    assert (missing.name, missing.label("source"), missing.count) == ("demonstrations/missing", "source", 3)
    assert missing.mean == pytest.approx(1 / 3)
    assert len(COLLECTORS["demonstrations"](limit=1).place(many, demand(), family)) == 1
    assert COLLECTORS["demonstrations"](only=True).demand(demand(), many).rollouts == 0


def test_missing_demonstrations_are_loud() -> None:
    family = TableFamily()
    with pytest.raises(RecipeError, match=r"none of the 1 samples of this step has .*'b'.*`expert`"):
        COLLECTORS["demonstrations"]().place([sample("b", None)], demand(), family)
    with pytest.raises(DataError, match="sample 'b' has no answer"):
        COLLECTORS["demonstrations"](missing="error").place(
            [sample("a"), sample("b", None)], demand(), family
        )
    chosen = (
        Response(text="1", label="chosen"),
        Response(text="2", label="rejected"),
        Response(text="3", label="chosen"),
    )
    rows = COLLECTORS["demonstrations"](use="chosen").place([sample("a", responses=chosen)], demand(), family)
    assert [row[0].outcome.text for row in rows] == ["1", "3"]
    assert len({row[0].trajectory.id for row in rows}) == 2


def test_an_answer_that_cannot_be_placed_is_an_error_or_missing() -> None:
    family = TableFamily()
    many = [sample("a"), sample("b", "1 " * 50)]
    family.window = 20
    with pytest.raises(WindowExceeded, match="sample 'b'"):
        COLLECTORS["demonstrations"]().place(many, demand(), family)
    collector = COLLECTORS["demonstrations"](unusable="missing")
    rows = collector.place(many, demand(), family)
    assert [row[0].trajectory.sample for row in rows] == ["a"]
    own = [replace(scored(trajectory([1], id=s.id, sample=s.id, group=s.id), 0.0), sample=s) for s in many]
    (missing,) = collector.select([*own, *as_scored(rows)], None, demand().progress)[1]
    assert missing.mean == 0.5
    with pytest.raises(RecipeError, match="none of the 1 samples"):
        collector.place(many[1:], demand(), family)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([("aaaa", 1, "x"), ("bb", 1, "x"), ("c", 0, "x")], "bb"),  # 2 of 3
        ([("aa", 1, "x"), ("bb", 1, "x"), ("c", 0, "y")], "aa"),  # ties: the first
        ([("a", 1, "x"), ("b", 0, "x")], None),  # 1/2 does not exceed 1/2
        (
            [("a", 1, "x"), ("b", 0, "x"), ("long", 1, "y")],
            "long",
        ),  # shorter ones of a bad description do not count
        ([("a", 0, "x"), ("b", 0, "y")], None),
        ([], None),
        ([("a", None, "x")], None),
    ],
)
def test_the_shortest_right_answer_of_a_good_description(
    answers: list[tuple[str, float | None, str]], expected: str | None
) -> None:
    given = [Response(text=t, score=s, branch=b) for t, s, b in answers]
    found = shortest_correct(given, 0.5)
    assert (found.text if found else None) == expected


def test_what_semi_off_policy_data_must_say() -> None:
    with pytest.raises(ValidationError, match="alpha"):
        COLLECTORS["semi_off_policy"]()
    collector, family = COLLECTORS["semi_off_policy"](alpha=0.5), TableFamily()
    with pytest.raises(DataError, match="sample 'a': the recorded answer '1 2' has no score"):
        collector.place([sample("a", responses=(Response(text="1 2"),))], demand(), family)
    # Shortest in tokens, not in letters.
    answers = (Response(text="100", score=1.0), Response(text="1 2", score=1.0))
    (row,) = collector.place([sample("a", responses=answers)], demand(), family)
    assert row[0].outcome.text == "100"


def test_hints_are_drawn_anew_and_shorter_as_the_run_goes_on() -> None:
    collector = COLLECTORS["prefix"](rollouts=2)
    many = [sample(f"{n}") for n in range(200)] + [sample("bare", None)]

    def shares(step: int) -> list[float]:
        asked = collector.demand(demand(step=step), many)
        assert {rank for _, rank in asked.starts} == {2, 3}
        assert ("bare", 3) not in asked.starts
        assert all(asked.starts[f"{n}", 2] == asked.starts[f"{n}", 3] for n in range(200))
        assert asked == collector.demand(demand(step=step), many)
        return [asked.starts[f"{n}", 3].share for n in range(200)]

    for step in (1, 50, 100):
        low = collector.least_share(Progress(step=step, total_steps=100))
        found = shares(step)
        assert low <= min(found) <= max(found) <= 0.95 + 1e-12
        assert sum(found) / 200 == pytest.approx((low + 0.95) / 2, abs=0.05)
    assert shares(98) != shares(99)
    with pytest.raises(RecipeError, match="4 of 4 rollouts would continue"):
        COLLECTORS["prefix"](rollouts=4).demand(demand(), many)
    with pytest.raises(RecipeError, match="none of the 1 samples"):
        collector.demand(demand(), many[-1:])
    own = [scored(trajectory([1], id=f"{s.id}0", sample=s.id, group=s.id), 0.0) for s in many[:3]]
    own = [replace(one, sample=s) for one, s in zip(own, many, strict=False)]
    with pytest.raises(RecipeError, match="this generator cannot begin with given tokens"):
        collector.select(own, None, demand().progress)


# -- a whole step ------------------------------------------------------------------------------------------------------


def stepped(budget: int, algo: Mapping[str, Any], minibatches: int = 1) -> tuple[Tensor, list[Scored]]:
    family = TableFamily(5, seed=1)
    many = [sample(f"s{n}", "1 2 3 4") for n in range(4)]
    rows = []
    for n, one in enumerate(many):
        for rank in range(4):
            row = trajectory(
                [1 + (n + rank) % 4, rank],
                id=f"{n}.{rank}",
                sample=one.id,
                group=one.id,
                rank=rank,
                family=family,
            )
            rows.append(replace(scored(row, float((rank + n) % 2)), sample=one))
        rows += [
            replace(made, verdict=verdict(made.trajectory.id, 1.0))
            for made in as_scored(
                [[place(family, one, "1 2 3 4", demand(), component=c)] for c in algo["placed"]]
            )
        ]
    plan = recipe(
        algo={k: v for k, v in algo.items() if k != "placed"},
        token_budget=budget,
        minibatches_per_step=minibatches,
    )
    learner = Learner(family, plan, exact=True)
    report = learner.step(lambda: rows, plan, Progress(step=1, total_steps=10))
    return family.table.weight.detach().clone(), report.scored


MIXTURES: list[dict[str, Any]] = [
    {
        "placed": ["expert"],
        "terms": {
            "policy": {"kind": "ppo_clip"},
            "expert": {"kind": "imitation", "weight": "srft", "coef": 0.3},
        },
    },
    {
        "placed": ["expert", "off_policy"],
        "advantage": {"kind": "joint", "component": "off_policy"},
        "adjust": {"gate": {"kind": "gate_soft", "table": [[2, 0.5, 1, 0.5], [3, 1, 0.25, 0]]}},
        "terms": {
            "policy": {"kind": "ppo_clip"},
            "expert": {"kind": "imitation"},
            "off_policy": {"kind": "luffy", "component": "off_policy"},
        },
    },
    {
        "placed": ["expert"],
        "advantage": {"kind": "grao"},
        "terms": {"policy": {"kind": "reinforce"}, "expert": {"kind": "imitation", "credit": "advantage"}},
        "aggregate": "seq-mean-token-mean",
    },
]


@pytest.mark.parametrize("algo", MIXTURES)
@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_mixture_does_not_depend_on_how_the_step_is_cut(algo: dict[str, Any], minibatches: int) -> None:
    whole, one = stepped(1 << 30, algo, minibatches)
    cut, other = stepped(7, algo, minibatches)
    torch.testing.assert_close(whole, cut, atol=1e-6, rtol=0)
    assert {o.trajectory.id: o.reason for o in one} == {o.trajectory.id: o.reason for o in other}


def test_what_was_placed_says_nothing_of_the_policy() -> None:
    own = [scored(trajectory([1, 2], id=f"{i}"), float(i)) for i in range(2)]
    family = TableFamily()
    shown = as_scored([[place(family, sample("s"), "1 2 3", demand(), component="expert")]])
    hinted = scored(trajectory([1, 2, 3], id="p", forced=[True, False, False]), 1.0)
    alone = {(m.name, m.labels): m for m in rollout_metrics(own)}
    found = {(m.name, m.labels): m for m in rollout_metrics([*own, *shown, hinted])}
    assert {key: found[key] for key in alone} == alone
    more = {name for name, _ in found.keys() - alone.keys()}
    assert {"placed/reward", "placed/tokens", "placed/unjudged"} <= more
    assert all(name.startswith(("placed/", "dropped/", "schedule")) for name in more)
    by_component = {
        dict(labels)["component"]: m.mean for (name, labels), m in found.items() if name == "placed/tokens"
    }
    assert by_component == {"expert": 3.0, "prefix": 1.0}
