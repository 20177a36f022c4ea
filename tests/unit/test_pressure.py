"""What agents, tools and other families ask of the core types: each pressure test is one behaviour, end to end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor

from triune.algo.advantages.gae import GeneralisedAdvantage
from triune.algo.advantages.group import GroupRelative
from triune.algo.options import ADVANTAGES
from triune.algo.types import Batch, Credit, Evaluated, Rewards
from triune.core.sample import Check, EnvSpec, Frame, Message, Sample, Text
from triune.core.schedule import Linear, Progress, resolve
from triune.core.trajectory import Group, SamplingRule, Trajectory
from triune.core.verdict import Component, Outcome, RewardEvent, Seen, Verdict
from triune.envs import ENVIRONMENTS, Observation, Turn
from triune.monitor.metric import Scored
from triune.rollout.conversation import Segment
from triune.rollout.engine import Completion, Request
from triune.rollout.episode import Conversations
from triune.rollout.generator import Demand, Episode
from triune.rollout.plan import by_group, run_plan
from triune.testing.table import TableFamily, recipe, scored, share, trajectory
from triune.train.batching import join, rewards
from triune.train.learner import Learner
from triune.train.update import Report
from triune.verify.boxes import DYNAMIC_IOU
from triune.verify.judge import Judge
from triune.verify.verifier import Context, GroupVerifier, NoParams, Score, Unavailable, Verifier, verifiers

NOW = Progress(step=1, total_steps=10)


@pytest.fixture(autouse=True)
def _plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered here must not be seen by tests that go through whole registries."""
    for verifier in (Briefest, Service):
        monkeypatch.setitem(verifiers._items, verifier.name, verifier)
    monkeypatch.setitem(ENVIRONMENTS._items, "test_letters", Echo)
    monkeypatch.setitem(ADVANTAGES._items, "test_fresh", Fresh)


def sample(*checks: Check, id: str = "s", text: str = "?", **fields: Any) -> Sample:
    message = Message(role="user", content=(Text(text=text),))
    return Sample(id=id, source="source", task="task", messages=(message,), checks=checks, **fields)


def learn(rows: Sequence[Scored], **algo: Any) -> tuple[TableFamily, dict[str, Tensor], Report]:
    """One step over the initial table: the family, the gradient of each module, and the report."""
    family = TableFamily()
    plan = recipe(algo=algo, optimizer={"clip_norm": 1e9})
    learner = Learner(family, plan, exact=True)
    seen: dict[str, Tensor] = {}

    def keep(adamw: Any, args: Any, kwargs: Any) -> None:
        seen.update(
            {
                g["name"]: g["params"][0].grad.clone()
                for g in adamw.param_groups
                if g["params"][0].grad is not None
            }
        )

    learner.optimizer.adamw.register_step_pre_hook(keep)
    return family, seen, learner.step(lambda: rows, plan, NOW)


# -- 1. rewards that see the whole group -----------------------------------------------------------------------------


class Briefest(GroupVerifier[NoParams, None]):
    """1 for the right answers that took the fewest tokens among the right ones."""

    name = "test_briefest"

    def prepare(self, truth: JsonValue, sample: Sample, params: NoParams) -> None:
        return

    def score_group(
        self, outcomes: Sequence[Outcome], reference: None, params: NoParams, context: Context
    ) -> list[Score]:
        right = [bool(scores["count"].correct) for scores in context.scores]
        least = min((o.num_tokens for o, ok in zip(outcomes, right, strict=True) if ok), default=0)
        return [Score(float(ok and o.num_tokens == least)) for o, ok in zip(outcomes, right, strict=True)]


def test_1_a_reward_term_sees_the_whole_group() -> None:
    """Trajectory terms, then group terms that read them, then gates, then the total; what another rollout did decides."""
    one = sample(Check(verifier="count"), Check(verifier="test_briefest", weight=0.5, gate="count"), truth=3)

    def judged(*answers: tuple[str, int]) -> list[float | None]:
        outcomes = [
            Outcome(id=f"{i}", text=f"<answer>{text}</answer>", num_tokens=n, rank=i)
            for i, (text, n) in enumerate(answers)
        ]
        with Judge(workers=0) as judge:
            return [v.reward for v in judge.judge(one, outcomes, NOW)]

    assert judged(("3", 9), ("3", 5), ("4", 1)) == [1.0, 1.5, 0.0]
    assert judged(("3", 9), ("3", 12), ("4", 1)) == [1.5, 1.0, 0.0]


# -- 2 and 3. conversations of a family whose tokens are letters -----------------------------------------------------


class Letters:
    """Renders a conversation as it is: an observation is written into the running message, without a change of role."""

    frame: Frame = "per_mille"
    window = 64
    stop_ids = (ord("."),)
    reads = None

    def prompt(self, sample: Sample) -> Segment:
        return self._segment(sample.messages[0].text)

    def observation(self, observation: Observation, owner: str) -> Segment:
        return self._segment("".join(f"<{block}>" for block in observation.blocks))

    def _segment(self, text: str) -> Segment:
        return Segment(np.asarray(self.encode(text), np.int32), np.zeros(len(text), bool), (), ())

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


class Script:
    """An engine that says what it is told to, turn after turn, with the table's log-probs."""

    exact = True

    def __init__(self, family: TableFamily, *turns: str) -> None:
        self.family, self.turns = family, list(turns)

    def effective(self, rule: SamplingRule) -> SamplingRule:
        return rule

    def load(self, version: int) -> None:
        return

    def complete(self, requests: Sequence[Request], rule: SamplingRule) -> list[list[Completion]]:
        ids = [ord(c) for c in self.turns.pop(0)]
        done = []
        for request in requests:
            before = torch.tensor([int(request.ids[-1]), *ids[:-1]])
            logp = (
                self.family.table(before).detach().log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
            )
            done.append([Completion(list(ids), logp.tolist(), stopped=True) for _ in request.seeds])
        return done


class Echo:
    """Shows `seen` once, pays .25 for looking, and may put words into the policy's mouth."""

    def reset(self, sample: Sample, seed: int) -> None:
        assert sample.env is not None
        self.prefill, self.shown = str(sample.env.params["prefill"]), False

    def step(self, text: str) -> Turn:
        if self.shown:
            return Turn()
        self.shown = True
        return Turn(Observation(("seen",)), events=(("look", 0.25),), prefill=self.prefill)

    def close(self) -> None:
        return


def converse(*turns: str, prefill: str = "") -> tuple[TableFamily, Episode]:
    family = TableFamily(vocabulary=128)
    talk = Conversations(Letters(), Script(family, *turns), max_tokens=32, max_turns=4)
    one = sample(
        Check(verifier="env/look"), text="q:", env=EnvSpec(name="test_letters", params={"prefill": prefill})
    )
    return family, talk.generate([one], Demand(1, SamplingRule(), 0, 0, NOW))[0][0]


def test_2_a_turn_is_not_a_message() -> None:
    """One message holds two turns with an observation between them; the value is read and credit given per turn, and
    the policy's own `<seen>` is its own, however much it looks like an observation."""
    family, episode = converse("a<seen>.", "yes.")
    one = episode.trajectory
    assert Letters().decode(one.payload.arrays["ids"].tolist()) == "q:a<seen>.<seen>yes."
    assert one.decisions.turn.tolist() == [0] * 8 + [1] * 4
    assert not one.decisions.forced.any()
    batch = family.pack([one])
    with torch.no_grad():
        found = family.evaluate(batch, want=frozenset({"value"}))
    assert torch.allclose(found.logp, batch.logp_behavior, atol=1e-6)
    assert batch.value_turn.tolist() == [0, 1]
    with Judge(workers=0) as judge:
        verdicts = judge.judge(episode.sample, [episode.outcome], NOW)
    views = {"old": Evaluated(found.logp, value=torch.zeros(2))}
    credit = GeneralisedAdvantage(whiten=False, gamma=0.5, lam=1.0)(batch, rewards(batch, verdicts), views)
    assert credit.advantage.tolist() == [0.25] * 8 + [0.0] * 4
    assert credit.in_loss.all()


def test_3_forced_tokens_inside_a_turn_are_never_in_the_loss() -> None:
    family, episode = converse("a.", "b.", prefill="ZZ")
    one = episode.trajectory
    assert one.decisions.forced.tolist() == [False, False, True, True, False, False]
    assert one.decisions.turn.tolist() == [0, 0, 1, 1, 1, 1]
    assert episode.outcome.num_tokens == 4
    family.table.weight.data[:, ord("Z")] = -math.inf  # not even when the policy could never have said it
    batch = family.pack([one])
    ones = torch.ones(1, dtype=torch.bool)
    credit = Credit(torch.ones(batch.num_decisions), ones, ones, [""], ~ones)
    weight = share(batch, credit).weight
    assert weight.tolist() == [0.25, 0.25, 0.0, 0.0, 0.25, 0.25]
    logp = family.evaluate(batch).logp
    torch.where(weight > 0, logp * weight, 0.0).sum().backward()
    gradient = family.table.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    # Rows are what was said before a decision: only the first forced token follows the observation.
    assert gradient[ord(">")].abs().sum() == 0
    assert gradient[ord("Z")].abs().sum() > 0


# -- 4. several policy versions inside one turn ----------------------------------------------------------------------


class Fresh(GroupRelative):
    """Trains only what the newest weights drew."""

    kind: Literal["test_fresh"] = "test_fresh"  # type: ignore[assignment]

    def __call__(self, batch: Batch, rewards: Rewards, views: Mapping[str, Evaluated]) -> Credit:
        credit = super().__call__(batch, rewards, views)
        credit.masked = batch.version < batch.version.max()
        return credit


def test_4_one_turn_of_several_policy_versions() -> None:
    """A rollout that was interrupted by an update: tokens of older weights can be told apart and masked one by one."""
    family = TableFamily()
    resumed = trajectory([1, 2, 3, 4], id="a", version=[4, 4, 5, 5], family=family)
    fresh = trajectory([2], id="b", version=5, family=family)
    rows = [scored(resumed, 1.0), scored(fresh, 0.0)]
    _, all_of_it, _ = learn(rows)
    _, newest, report = learn(rows, advantage={"kind": "test_fresh"})
    touched = {
        name: found["table"].abs().sum(1) > 0 for name, found in {"all": all_of_it, "newest": newest}.items()
    }
    assert touched["all"].tolist() == [True, True, True, True, False]  # the tokens before each decision
    assert touched["newest"].tolist() == [True, False, True, True, False]
    (dropped,) = [m for m in report.metrics if m.name == "dropped/decisions"]
    assert (dropped.count, dropped.mean) == (5, 2 / 5)
    # Loss tokens are the sampled ones less the masked ones: three, each with a third of the weight.
    batch = family.pack([resumed, fresh])
    credit = Fresh()(batch, Rewards(torch.tensor([1.0, 0.0]).double(), torch.zeros(5)), {})
    assert share(batch, credit).weight.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])


# -- 5. in the loss, in the baseline ---------------------------------------------------------------------------------


def test_5_leaving_the_loss_is_not_leaving_the_baseline() -> None:
    family = TableFamily()
    cut = trajectory(
        [4, 4], id="cut", ending="overlong_turn", terminated=False, truncated=True, family=family
    )
    demo = trajectory([3], prompt=[2], id="demo", forced=True, component="expert")
    broken = trajectory([1, 1], id="broken", ending="env_error", family=family)
    rows = [
        scored(trajectory([1], id="good", family=family), 1.0),
        scored(cut, 0.0),
        scored(demo, 1.0),
        scored(broken, 0.0),
    ]
    terms = [{"kind": "ppo_clip"}, {"kind": "imitation"}]
    _, gradient, report = learn(
        rows,
        adjust={"overlong": {"kind": "mask_truncated"}},
        terms=terms,
        advantage={"kind": "group", "scale": "none"},
    )
    fates = {o.trajectory.id: (o.in_loss, o.in_baseline, o.reason) for o in report.scored}
    assert fates == {
        "good": (True, True, ""),
        "cut": (False, True, "truncated"),
        "demo": (True, False, "placed"),
        "broken": (False, False, "env_error"),
    }
    # The truncated rollout's zero is in the baseline of the good one; its own tokens get no gradient.
    assert report.advantages[0] == 0.5
    table = gradient["table"].abs().sum(1)
    assert (table > 0).tolist() == [True, False, True, False, False]


# -- 6. the group key is not the prompt ------------------------------------------------------------------------------


def test_6_a_group_is_not_a_prompt() -> None:
    """Two games of a clue-giver and a guesser: baselines are per role, over different prompts, and may take in a
    rollout that an older policy left behind."""
    family = TableFamily()
    made = {}
    for game, (clue, guess) in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        for role, prompt, total in (("giver", 0, clue), ("guesser", 1, guess)):
            name = f"{role}/{game}"
            made[name] = scored(
                trajectory(
                    [game + 2], prompt=[prompt, game], id=name, sample=name, group=role, family=family
                ),
                total,
            )
    old = trajectory([4], id="replayed", sample="guesser/9", group="guesser", version=-3, family=family)
    rows = [*made.values(), scored(old, 0.2)]
    episodes = [Episode(one.sample, one.trajectory, one.outcome) for one in rows]
    keyed = {group.key: [e.trajectory.id for e in many] for group, many in by_group(episodes)}
    assert keyed == {"giver": ["giver/0", "giver/1"], "guesser": ["guesser/0", "guesser/1", "replayed"]}
    with pytest.raises(ValueError, match="do not belong"):
        Group(key="giver", trajectories=(old,))
    _, _, report = learn(rows, advantage={"kind": "group", "scale": "none"})
    advantages = dict(zip([one.trajectory.id for one in report.scored], report.advantages, strict=True))
    assert advantages == pytest.approx(
        {"giver/0": 0.5, "giver/1": -0.5, "guesser/0": -0.4, "guesser/1": 0.6, "replayed": -0.2}
    )


# -- 7. different objectives in one batch ----------------------------------------------------------------------------


def test_7_rows_of_different_objectives_share_a_batch() -> None:
    """RL rows (after token 0) and demonstrations without any log-prob (after token 3): as many more of the one as
    there may be, the gradient of the other stays the same."""
    family = TableFamily()
    terms = [{"kind": "ppo_clip"}, {"kind": "imitation", "coef": 0.5}]

    def gradient(games: int, demos: int) -> Tensor:
        rows = []
        for n in range(games):
            rows += [
                scored(trajectory([1], id=f"won {n}", group=f"{n}", family=family), 1.0),
                scored(trajectory([2], id=f"lost {n}", group=f"{n}", family=family), 0.0),
            ]
        for n in range(demos):
            demo = trajectory([4], prompt=[3], id=f"demo {n}", group="demo", forced=True, component="expert")
            assert np.isnan(demo.decisions.logp).all()
            rows.append(scored(demo, None))
        return learn(rows, terms=terms)[1]["table"]

    once, more_demos, more_games = gradient(1, 1), gradient(1, 5), gradient(4, 1)
    assert once[0].abs().sum() > 0
    assert once[3].abs().sum() > 0
    for other in (more_demos, more_games):
        assert torch.allclose(once, other, atol=1e-6)
    expected = 0.5 * (family.table.weight[3].detach().softmax(0) - torch.eye(5)[4])  # d(-log p)/d logits
    assert torch.allclose(once[3], expected, atol=1e-6)


# -- 8. episodes that depend on episodes -----------------------------------------------------------------------------


@dataclass
class Writing:
    """A stage: one prompt made from what the stages before it wrote."""

    name: str
    after: Sequence[str] = ()

    def samples(self, done: Mapping[str, list[list[Episode]]]) -> list[Sample]:
        sources = [episode for stage in self.after for row in done[stage] for episode in row]
        text = " + ".join([self.name, *(e.outcome.text for e in sources)])
        made_from: list[JsonValue] = [e.trajectory.id for e in sources]
        return [sample(Check(verifier="env/none"), id=self.name, text=text, meta={"made_from": made_from})]


class Scribe:
    """Answers a prompt with its length, and says which episodes the prompt was made from."""

    exact = True

    def __init__(self) -> None:
        self.order: list[str] = []

    def load(self, version: int) -> None:
        return

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        self.order += [one.id for one in samples]
        rows = []
        for one in samples:
            sources = one.meta["made_from"]
            assert isinstance(sources, list)
            made = trajectory(
                id=f"{one.id}#0", sample=one.id, group=one.id, depends_on=tuple(map(str, sources))
            )
            text = f"{one.id}:{len(one.messages[0].text)}"
            rows.append([Episode(one, made, Outcome(id=made.id, text=text))])
        return rows


def test_8_episodes_are_made_from_episodes() -> None:
    """A refinement waits for a draft and for the critique of that draft, whatever order they are listed in."""
    stages = [Writing("refined", ["draft", "critique"]), Writing("critique", ["draft"]), Writing("draft")]
    scribe = Scribe()
    demand = Demand(1, SamplingRule(), 0, 0, NOW)
    done = run_plan(stages, scribe, demand)
    assert scribe.order == ["draft", "critique", "refined"]
    refined = done["refined"][0][0]
    assert refined.sample.messages[0].text == "refined + draft:5 + critique:18"
    assert refined.trajectory.depends_on == ("draft#0", "critique#0")
    assert Trajectory.model_validate_json(refined.trajectory.model_dump_json()) == refined.trajectory
    with pytest.raises(ValueError, match="wait for each other"):
        run_plan([Writing("a", ["b"]), Writing("b", ["a"])], scribe, demand)


# -- 9. branches -----------------------------------------------------------------------------------------------------


def test_9_branches_share_a_prefix_and_train_every_token_once() -> None:
    """A parent of four tokens and a branch from its second: seven sampled tokens in all, two of them shared."""
    family = TableFamily()
    parent = trajectory([1, 2, 3, 4], id="parent", family=family)
    path = trajectory([1, 2, 0, 3, 1], id="branch", family=family)  # what the branch looks like from the root
    own = path.model_copy(
        update={
            "parent": "parent",
            "fork": 2,
            "decisions": type(path.decisions).of(path.decisions.logp[2:].tolist(), time=[2, 3, 4]),
            "payload": path.payload.model_copy(
                update={"arrays": {**path.payload.arrays, "at": path.payload.arrays["at"][2:]}}
            ),
        }
    )
    branch = Trajectory.model_validate_json(own.model_dump_json())
    batch = family.pack([parent, branch])
    assert batch.num_decisions == 7
    found = family.evaluate(batch).logp
    assert torch.allclose(found.detach(), batch.logp_behavior, atol=1e-6)
    # Events index the episode: the one on a shared token belongs to the row that owns the token.
    event = RewardEvent(decision=3, name="e", value=0.5)
    part = Component(name="c", value=0.75, weight=1.0, events=(event,))
    said = [Verdict(id=one.id, reward=0.75, components=(part,)) for one in (parent, branch)]
    assert rewards(batch, said).placed.tolist() == [0, 0, 0, 0.5 + 0.25, 0, 0.5, 0.25]
    # Gradient of the batch = gradient of the sum over the tree's seven tokens, each counted once.
    credit = GroupRelative()(batch, Rewards(torch.tensor([1.0, 0.0]).double(), torch.zeros(7)), {})
    assert credit.in_baseline.tolist() == [True, True]
    weight = share(batch, credit).weight
    (found * weight).sum().backward()
    logp = family.table.weight.detach().clone().requires_grad_()
    tree = [(0, 1), (1, 2), (2, 3), (3, 4), (2, 0), (0, 3), (3, 1)]
    (torch.stack([logp.log_softmax(1)[before, after] for before, after in tree]).sum() / 7).backward()
    assert logp.grad is not None
    assert family.table.weight.grad is not None
    assert torch.allclose(family.table.weight.grad, logp.grad, atol=1e-6)


# -- 10. where values are read ---------------------------------------------------------------------------------------


def test_10_values_are_read_where_the_policy_was_about_to_choose() -> None:
    """Before the first token of each turn, and once more where an episode was cut; not at every decision."""
    family = TableFamily()
    over = trajectory([1, 2, 3], id="over", turn=[0, 0, 1], family=family)
    cut = trajectory(
        [4], prompt=[3], id="cut", terminated=False, truncated=True, ending="max_turns", family=family
    )
    batch = join([family.pack([over]), family.pack([cut])])
    assert batch.num_decisions == 4
    assert batch.value_trajectory.tolist() == [0, 0, 1, 1]
    assert batch.value_turn.tolist() == [0, 1, 0, 1]
    rows = [scored(over, 1.0), scored(cut, 0.0)]
    terms = [{"kind": "value", "coef": 1.0}]
    _, gradient, _ = learn(rows, advantage={"kind": "gae", "gamma": 0.5, "lam": 0.0}, terms=terms)
    # The tokens before the turns: 0 and 2 of the one, 3 of the other. The bootstrap after 4 is no target.
    assert (gradient["critic"][:, 0] != 0).tolist() == [True, False, True, True, False]
    value = family.critic.weight.detach()[:, 0]
    errors = {0: value[0] - 0.5 * value[2], 2: value[2] - 1.0, 3: value[3] - 0.5 * value[4]}
    for token, error in errors.items():
        assert float(gradient["critic"][token, 0]) == pytest.approx(float(error) / 3, abs=1e-6)
    credit = GeneralisedAdvantage()(
        batch,
        Rewards(torch.zeros(2).double(), torch.zeros(4)),
        {"old": Evaluated(batch.logp_behavior, value=torch.zeros(4))},
    )
    assert share(batch, credit, kind="value").value_weight.tolist() == pytest.approx(
        [1 / 3, 1 / 3, 1 / 3, 0.0]
    )


# -- 11. two sizes of a picture, and a frame -------------------------------------------------------------------------


def test_11_a_picture_has_two_sizes_and_a_box_a_frame() -> None:
    """A picture of 400 x 200 was shown to the policy as 100 x 100. The truth is in the file's pixels; each policy
    answers in its own frame, and only the right reading of it is right."""
    seen = Seen(sha256="0" * 64, original=(400, 200), processed=(100, 100))
    one = sample(Check(verifier="box_iou", params={"iou": 0.0}), truth=[80, 40, 240, 160])
    frames: list[tuple[Frame, list[float]]] = [
        ("pixels_original", [80, 40, 240, 160]),
        ("pixels_processed", [20, 20, 60, 80]),
        ("per_mille", [200, 200, 600, 800]),
        ("unit", [0.2, 0.2, 0.6, 0.8]),
    ]
    outcomes = [
        Outcome(id=f"{said}/{read}", text=f"<answer>{box}</answer>", media=(seen,), frame=read)
        for said, box in frames
        for read, _ in frames
    ]
    with Judge(workers=0) as judge:
        values = {v.id: v.reward for v in judge.judge(one, outcomes, NOW)}
    for said, _ in frames:
        for read, _ in frames:
            value = values[f"{said}/{read}"]
            assert value is not None
            assert value == pytest.approx(1.0) if said == read else value < 0.5


# -- 12. what schedules said ------------------------------------------------------------------------------------------


def test_12_what_schedules_said_travels_with_the_trajectory() -> None:
    """Limits and reward parameters are resolved when a rollout is dispatched and kept with it, so that judging it again
    much later, when the schedule has moved, gives the same verdict."""
    turns = Linear(start=2, end=6)
    one = sample(
        Check(verifier="box_iou", schedule={"iou": DYNAMIC_IOU}), truth=[0, 0, 100, 100], frame="per_mille"
    )

    def dispatch(progress: Progress) -> Trajectory:
        limit = round(resolve(turns, progress))
        said = {f"{c.name}.{key}": resolve(s, progress) for c in one.checks for key, s in c.schedule.items()}
        return trajectory([1] * limit, turn=list(range(limit)), resolved={"max_turns": float(limit), **said})

    def pinned(resolved: Mapping[str, float]) -> Sample:
        checks = tuple(
            c.model_copy(update={"schedule": {}, "params": {**c.params, "iou": resolved[f"{c.name}.iou"]}})
            for c in one.checks
        )
        return one.model_copy(update={"checks": checks})

    early, late = Progress(step=1, total_steps=100), Progress(step=90, total_steps=100)
    rollout = Trajectory.model_validate_json(dispatch(early).model_dump_json())
    assert len(rollout.decisions) == rollout.resolved["max_turns"] == 2
    assert dispatch(early) == dispatch(early)
    assert dispatch(late).resolved == {"max_turns": 6.0, "box_iou.iou": 0.99}
    assert dispatch(Progress(step=1, total_steps=100, phase="eval")).resolved["max_turns"] == 6.0
    outcome = Outcome(id=rollout.id, text="<answer>[0, 0, 100, 90]</answer>", frame="per_mille")
    with Judge(workers=0) as judge:
        first, moved, again = (
            judge.judge(which, [outcome], progress)[0].reward
            for which, progress in ((one, early), (one, late), (pinned(rollout.resolved), late))
        )
    assert first == again == pytest.approx(0.9)
    assert moved == 0.0


# -- 13. abstention --------------------------------------------------------------------------------------------------


class Service(Verifier[NoParams, None]):
    """A judge that is down for some rollouts."""

    name = "test_service"

    def prepare(self, truth: JsonValue, sample: Sample, params: NoParams) -> None:
        return

    def score(self, outcome: Outcome, reference: None, params: NoParams, context: Context) -> Score:
        if outcome.text.endswith("down"):
            raise Unavailable("no answer")
        return Score(float("good" in outcome.text))


def test_13_no_score_survives_gates_and_group_statistics() -> None:
    """Scores {1, 0} and two abstentions, once of the reward itself and once of the gate before it: the baseline is a
    half over two, and nothing was coerced to 0 on the way."""
    one = sample(
        Check(verifier="test_service", name="service", weight=0.0),
        Check(verifier="count", gate="service"),
        Check(verifier="test_service", name="style"),
        truth=3,
    )
    texts = ["<answer>3</answer> good", "<answer>3</answer>", "<answer>3</answer> down", "good down"]
    outcomes = [Outcome(id=f"{i}", text=text, rank=i) for i, text in enumerate(texts)]
    with Judge(workers=0) as judge:
        verdicts = judge.judge(one, outcomes, NOW)
    assert [v.reward for v in verdicts] == [2.0, 0.0, None, None]
    assert [v.status for v in verdicts] == ["ok", "ok", "unavailable", "unavailable"]
    assert [v.correct for v in verdicts][2:] == [None, None]
    family = TableFamily()
    rows = [
        Scored(one, trajectory([1 + i % 4], id=f"{i}", family=family), o, v)
        for i, (o, v) in enumerate(zip(outcomes, verdicts, strict=True))
    ]
    _, gradient, report = learn(rows, advantage={"kind": "group", "scale": "none"})
    assert report.advantages == [1.0, -1.0, 0.0, 0.0]  # 2 and 0 around 1, over two
    assert [o.in_baseline for o in report.scored] == [True, True, False, False]
    assert [o.reason for o in report.scored] == ["", "", "abstained", "abstained"]
    _, alone, _ = learn(rows[:2], advantage={"kind": "group", "scale": "none"})
    assert torch.equal(gradient["table"], alone["table"])
