"""What a run recorded is judged again from its folder alone: exactly, or by other checks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from triune.cli import main
from triune.core.errors import RecipeError
from triune.core.loading import find_recipe
from triune.core.provenance import save_provenance
from triune.core.recipe import Recipe
from triune.core.sample import Check, EnvSpec, Sample
from triune.core.schedule import Linear, Progress
from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.core.verdict import Call, Outcome, RewardEvent, Seen
from triune.data.mixture import Mixture
from triune.data.saved import Choice
from triune.loop import Loop
from triune.monitor.metric import Scored, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.replay.checks import Rechecked
from triune.monitor.replay.run import replay
from triune.monitor.store import Store
from triune.verify.judge import Judge
from triune.verify.trial import answers

TASKS = ("math", "puzzle", "science", "chart", "detection", "grounding", "counting", "ocr")
STEPS = 4


def recipe(*more: str) -> Recipe:
    keys = (
        "train.prompts_per_step=4", "train.rollouts_per_prompt=2", "rollout.max_tokens=8", "train.total_steps=1",
        "data.heldout_per_source=1", "judge.workers=0", "monitor.sinks=[]", "monitor.rollouts_every=1", "train.probe=false",
    )  # fmt: skip
    return Recipe.load(find_recipe("quickstart"), (*keys, *more))


def said(sample: Sample, step: int) -> list[str]:
    """Answers of all kinds: the truth in several layouts, nearly the truth, nothing."""
    right = answers(sample)
    near = right[3].replace("1", "2").replace("a", "b")
    if sample.task == "detection":  # boxes that are too wide by a fifth
        boxes = [[x1, y1, x2 + 0.2 * (x2 - x1), y2] for x1, y1, x2, y2 in sample.truth["boxes"]]  # type: ignore[index,call-overload]
        near = f"<answer>{json.dumps([{'bbox_2d': box, 'label': '8'} for box in boxes])}</answer>"
    return [right[step % len(right)], right[3], near, f"{near} wait, {right[4]}", "no idea", ""]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps and an evaluation of all eight tasks, with thresholds that move, verifiers that see a whole group, tool calls,
    an environment's rewards, abstentions, and pictures that the policy saw smaller than they are."""
    folder = tmp_path_factory.mktemp("runs") / "rich"
    chosen = recipe(f"train.total_steps={STEPS}")
    mixture = Mixture.of(chosen)
    by_task: dict[str, Sample] = {}
    for number in range(200):
        by_task.setdefault((one := mixture.draw(number)).task, one)
    assert len(by_task) == len(TASKS)
    extra = (
        Check(verifier="diversity", weight=0.1),
        Check(verifier="env/goal", weight=0.5),
        Check(verifier="overlong", weight=0.2, schedule={"weight": Linear(start=0.2, end=0.6)}),
    )
    samples = [
        one.model_copy(update={"checks": (*one.checks, *extra), "env": EnvSpec(name="maze")})
        for one in by_task.values()
    ]
    with Judge(workers=0) as judge, Monitor(folder) as monitor:
        for step in range(1, STEPS + 1):
            log(monitor, judge, samples, Progress(step=step, total_steps=STEPS), "train")
        log(monitor, judge, samples, Progress(step=STEPS, total_steps=STEPS, phase="eval"), "eval")
    save_provenance(folder, chosen)
    return folder


def log(monitor: Monitor, judge: Judge, samples: Sequence[Sample], progress: Progress, phase: str) -> None:
    requests = [
        (sample, [told(sample, rank, text) for rank, text in enumerate(said(sample, progress.step))])
        for sample in samples
    ]
    verdicts = judge.judge_many(requests, progress)
    scored = [
        Scored(sample, trajectory(sample, outcome), outcome, verdict)
        for (sample, outcomes), many in zip(requests, verdicts, strict=True)
        for outcome, verdict in zip(outcomes, many, strict=True)
    ]
    monitor.log_step(progress.step, phase, scored)


def told(sample: Sample, rank: int, text: str) -> Outcome:
    event: dict[str, Any] = {"value": None, "status": "error"} if rank == 5 else {"value": rank / 4}
    seen = [
        Seen(
            sha256=medium.sha256,
            original=medium.size,
            processed=(medium.size[0] // 2 + 1, medium.size[1] // 2 + 1),
        )
        for medium in sample.media
    ]
    return Outcome(
        id=f"{sample.id}#{rank}",
        text=text,
        rank=rank,
        num_tokens=len(text),
        media=tuple(seen),
        frame="per_mille" if rank % 2 else sample.frame,
        calls=(Call(turn=0, name="zoom", args={"at": [1, 2]}, ok=rank != 1),),
        events=(
            RewardEvent(decision=0, name="goal", **event),
            RewardEvent(decision=0, name="noise", value=9.0),
        ),
        num_turns=2,
    )


def trajectory(sample: Sample, outcome: Outcome) -> Trajectory:
    return Trajectory(
        id=outcome.id,
        sample=sample.id,
        source=sample.source,
        task=sample.task,
        group=sample.id,
        rank=outcome.rank,
        decisions=Decisions.of([-1.0]),
        payload=Payload(family="text"),
    )


def test_a_real_run_is_judged_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    folder = tmp_path / "run"
    chosen = recipe()
    with Loop(chosen, folder) as loop:
        save_provenance(folder, chosen)
        loop.step()
        loop.evaluate("eval")
    result = replay(folder)
    assert result.rollouts == 4 * 2 + len(loop.heldout)
    assert {source.split("/")[0] for source in result.rewards} == set(TASKS)
    assert (result.changed, dict(result.left_out), result.damaged) == (0, {}, {})
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(folder), "--phase", "eval", "--steps", "1:"])
    assert ended.value.code == 0
    assert "every verdict is the recorded one" in capsys.readouterr().out


def test_whatever_verifiers_look_at_is_kept(run: Path) -> None:
    result = replay(run)
    assert {source.split("/")[0] for source in result.rewards} == set(TASKS)
    assert result.rollouts == (STEPS + 1) * len(TASKS) * 6
    assert (result.changed, dict(result.left_out)) == (0, {})
    with Store(run, readonly=True) as store:
        rows = [row for step in range(1, STEPS + 1) for row in store.rollouts("train", step)]
    assert any(row.reward is None for row in rows)  # abstentions, and their equality, are among them
    assert len({row.reward for row in rows}) > 20
    moving = {part.verifier for row in rows for part in row.components if row.task == "detection"}
    assert moving


def test_a_threshold_that_no_longer_moves_changes_what_it_decides(run: Path) -> None:
    where = Choice(phases=("train",), sources=("detection/*",))
    with Store(run, readonly=True) as store:
        row = next(row for row in store.rollouts("train", 1) if row.task == "detection")
        sample = store.sample(row.sample_sha)
    assert sample is not None
    check = sample.checks[0]
    (parameter,) = check.schedule
    fixed = replay(run, Rechecked.of([f"{row.source}.{check.name}.{parameter}=0.999"]), where)
    free = replay(run, Rechecked.of([f"{row.source}.{check.name}.{parameter}=0.01"]), where)
    key = row.source, check.name
    assert fixed.overridden
    means = [one.components[key].dump()["after"] for one in (fixed, free)]
    assert means[0] < means[1]
    assert fixed.components[key].before == free.components[key].before


def test_other_weights_other_verifiers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "checks.yaml"
    file.write_text("'*':\n  env/goal: null\n  diversity: null\n  overlong: null\n")
    out = tmp_path / "replay.json"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "replay",
                str(run),
                "*.brevity.verifier=length_band",
                "*.brevity.weight=2",
                "--checks",
                str(file),
                "--json",
                str(out),
            ]
        )
    assert ended.value.code == 0  # something was overridden: differences are what was asked for
    shown = capsys.readouterr().out
    assert "of them would have another verdict" in shown
    found = json.loads(out.read_text())
    assert found["changed"] == found["rollouts"] > 0
    names = {part["component"] for part in found["components"]}
    assert {"brevity", "env/goal"} <= names
    gone = next(part for part in found["components"] if part["component"] == "env/goal")
    assert gone["after"] is None
    assert gone["before"] is not None
    assert sum(source["groups"]["reordered"] for source in found["sources"].values()) > 0
    assert sum(source["groups"]["flipped"] for source in found["sources"].values()) > 0
    assert {"before", "after"} == set(found["examples"][0]["components"]["brevity"])


def test_what_is_written_wrongly_is_an_error(run: Path) -> None:
    for text, error in (
        ("nowhere.count.weight=1", "no rollout that was judged has a check for nowhere.count"),
        ("counting/*.nothing.weight=1", "no such check; a new one names its `verifier`"),
        ("counting/*.overlong.colour=1", "overlong has no parameter 'colour'"),
        ("counting/*.overlong.weight=heavy", "overlong.weight: Input should be a valid number"),
        ("counting/*.overlong.verifier=overlonk", "unknown verifier 'overlonk'"),
        ("counting/*=3", "expected checks"),
    ):
        with pytest.raises(RecipeError, match=error.replace("*", r"\*")):
            replay(run, Rechecked.of([text]), Choice(steps=(1, 1)))


def test_what_cannot_be_judged_as_it_was_is_counted(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shard = copy / "rollouts/train/00000002.parquet"
    shard.write_bytes(shard.read_bytes()[:200])
    shutil.rmtree(copy / "media")
    result = replay(copy)
    assert list(result.damaged) == [str(shard)]
    assert result.rollouts == STEPS * len(TASKS) * 6  # no verifier of these looks at pictures
    assert result.changed == 0
    judge = "{verifier: judge_score, weight: 1, reply: '7', pictures: true}"
    first = Choice(steps=(1, 1), sources=("counting/*",))
    gone = replay(copy, Rechecked.of([f"counting/*.look={judge}"]), first)
    assert gone.rollouts == 0
    assert [(reason, count) for (_, reason), count in gone.left_out.items()] == [
        ("a picture that its verifier looks at is gone", 6)
    ]
    seen = replay(run, Rechecked.of([f"counting/*.look={judge}"]), first)
    (look,) = (values for (_, name), values in seen.components.items() if name == "look")
    assert set(look.after) == {0.7, 0.0}  # an empty answer is not shown to the judge
    asked = "{verifier: judge_score, base_url: 'http://127.0.0.1:9/v1', model: m, retries: 0, timeout: 1}"
    alone = replay(run, Rechecked.of([f"counting/*.look={asked}"]), first)
    assert alone.rollouts == 1
    assert [(reason, count) for (_, reason), count in alone.left_out.items()] == [
        ("judge_score@1: unavailable now", 5)
    ]


def test_successes_of_earlier_steps_and_steps_in_part_are_left_out(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with Store(run, readonly=True) as store:
        rest = store.rollouts("train", 3)
        row, other = rest[0], rest[-1].source
        metrics = [
            scalar("replay/injected", 2.0, source=row.source),
            scalar("rollouts/unkept", 1.0, source=other),
        ]
    with Store(copy) as store:
        store.log_step(3, "train", metrics, rollouts=rest)
    result = replay(copy, None, Choice(steps=(3, 3), phases=("train",)))
    assert dict(result.left_out) == {(row.source, "a success of an earlier step was put into its group"): 6}
    ranked = Rechecked.of([f"{other}.rank={{verifier: rank_average, params: {{check: overlong}}}}"])
    assert "of which not every rollout was kept" in str(replay(copy, ranked, Choice(steps=(3, 3))).left_out)


def test_rollouts_that_are_gone_are_missed_and_those_taken_back_are_not_judged(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "rich"
    shutil.copytree(run, folder)
    shards = folder / "rollouts" / "train"
    whole = replay(folder).rollouts
    shutil.copy(shards / "00000001.parquet", shards / "00000009.parquet")  # what a kill in a rewind may leave
    assert replay(folder).rollouts == whole
    (shards / "00000003.parquet").rename(shards / "00000003.partial")  # what a kill after a commit may leave
    assert replay(folder).rollouts == whole
    (shards / "00000002.parquet").unlink()
    found = replay(folder)
    assert [Path(file).name for file in found.damaged] == ["00000002.parquet"]
    assert "is gone" in " ".join(found.damaged.values())
    assert 0 < found.rollouts < whole
