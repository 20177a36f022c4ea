"""Real runs that go wrong, and their alarms; what a probe says of a policy that looks, and of one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from triune.cli import main
from triune.core.errors import Stopped
from triune.core.loading import find_recipe
from triune.core.recipe import Recipe
from triune.core.sample import Message, Text
from triune.data.embedded import SOURCES
from triune.loop import Loop
from triune.monitor import alarms
from triune.monitor.store import Store
from triune.train import checkpoint
from triune.verify.count import Count

SEEING = (
    "data.sources=[{name: embedded/counting/shapes}]", "data.heldout_per_source=30", "train.total_steps=4",
    "train.eval_every=2", "train.prompts_per_step=2", "train.rollouts_per_prompt=2", "train.probe=false",
    "train.eval_probes=[blind, swapped, halved]", "rollout.max_tokens=16", "judge.workers=0", "monitor.sinks=[]",
    "monitor.alarms.blind_policy={samples: 30}",
)  # fmt: skip


def blindfold(loop: Loop) -> None:
    pictures = loop.family.pictures  # type: ignore[attr-defined]
    see = pictures.features
    pictures.features = lambda hashes: {key: torch.zeros_like(value) for key, value in see(hashes).items()}


def raised(run_dir: Path) -> set[tuple[str, str]]:
    with Store(run_dir, readonly=True) as store:
        return {(alarm.rule, alarm.source) for alarm in alarms.read(store)}


def test_a_policy_that_looks_loses_its_score_without_the_picture(tmp_path: Path) -> None:
    recipe = Recipe.load(find_recipe("quickstart"), (*SEEING, "data.sources=[{name: embedded/chart/pie}]"))
    with Loop(recipe, tmp_path) as loop:
        loop.evaluate_all()
    with Store(tmp_path, readonly=True) as store:
        seen = store.latest("accuracy", phase="eval")["chart/pie",]
        for probe in ("blind", "swapped", "halved"):
            drop = store.latest("probe/drop", phase=f"eval-{probe}")["chart/pie",]
            low = store.latest("probe/drop_low", phase=f"eval-{probe}")["chart/pie",]
            now = store.latest("accuracy", phase=f"eval-{probe}")["chart/pie",]
            assert drop.count == 30
            assert drop.mean == pytest.approx(seen.mean - now.mean)
            if probe != "halved":
                assert low.mean > 0.2
    assert ("blind_policy", "chart/pie") not in raised(tmp_path)


def test_a_policy_that_does_not_look_loses_nothing_and_is_stopped(tmp_path: Path) -> None:
    recipe = Recipe.load(find_recipe("quickstart"), (*SEEING, "monitor.stop_on=[blind_policy]"))
    with Loop(recipe, tmp_path) as loop:
        blindfold(loop)
        with pytest.raises(Stopped, match="blind_policy"):
            loop.run()
        assert loop.done < 4
    assert ("blind_policy", "counting/shapes") in raised(tmp_path)
    with Store(tmp_path, readonly=True) as store:
        assert (
            store.latest("accuracy", phase="eval")["counting/shapes",].mean > 0
        )  # a guess, or there is nothing to lose
        for probe in ("blind", "swapped", "halved"):
            assert store.latest("probe/drop", phase=f"eval-{probe}")["counting/shapes",].max == 0
    # It goes on from there when it is told to, and is not stopped again by what it was stopped by.
    assert checkpoint.latest(tmp_path).name == f"step-{loop.done:06}"
    with Loop(recipe, tmp_path) as again:
        blindfold(again)
        again.restore(checkpoint.latest(tmp_path))
        again.step()
        again.monitor.flush()
        assert again.monitor.stopping == ""


def test_entropy_that_is_pressed_down_is_an_alarm(recipe_file: Path, tmp_path: Path) -> None:
    keys = (
        "algo.terms=[{kind: entropy, coef: -1.0}]", "train.total_steps=10", "train.eval_every=0", "train.checkpoint_every=0",
        "train.optimizer.lr=0.01", "train.optimizer.schedule=constant", "monitor.alarms.entropy_collapse={window: 3, share: 0.3}",
    )  # fmt: skip
    with Loop(Recipe.load(recipe_file, keys), tmp_path / "run") as loop:
        loop.run()
    assert {rule for rule, _ in raised(tmp_path / "run")} >= {"entropy_collapse"}


def test_a_verifier_that_breaks_is_an_alarm_and_the_command_says_so(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("judge.max_failure_rate=1.0", "train.eval_every=0")
    recipe = Recipe.load(recipe_file, keys)
    calls = 0

    def broken(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise RuntimeError("the table of references is gone")
        return honest(*args, **kwargs)

    honest = Count.score
    monkeypatch.setattr(Count, "score", broken)
    with Loop(recipe, tmp_path / "run") as loop:
        loop.run()
    assert any(rule == "failing_verifier" for rule, _ in raised(tmp_path / "run"))
    with pytest.raises(SystemExit) as ended:
        main(["alarms", str(tmp_path / "run")])
    assert ended.value.code == 1
    assert "failing_verifier" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["alarms", str(tmp_path / "run"), "failing_verifier=null", "source_starved=null"])
    assert "failing_verifier" not in capsys.readouterr().out


def test_the_command_ends_with_a_code_of_its_own(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = (
        "monitor.stop_on=[zero_variance]",
        "monitor.alarms.zero_variance={groups: 1, share: 0.01, over: 0.01}",
    )
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe_file), *keys, "train.eval_every=2", "--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 3
    assert "zero_variance" in capsys.readouterr().err
    assert int(checkpoint.latest(tmp_path / "run").name.removeprefix("step-")) < 6


def test_a_source_whose_rows_cannot_be_used_is_starved(recipe_file: Path, tmp_path: Path) -> None:
    rows = []
    for index in range(12):
        sample = SOURCES["counting/shapes"].draw(index, 0, "train")
        rows.append(sample.model_copy(update={"id": f"sound-{index}", "source": "sound"}))
        long = Message(role="user", content=(*sample.messages[-1].content, Text(text="and so on, " * 4000)))
        rows.append(sample.model_copy(update={"id": f"long-{index}", "source": "long", "messages": (long,)}))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    keys = (
        f"data.sources=[{{name: mine, path: {file}}}]", "data.on_bad_row=skip", "train.eval_every=0",
        "train.total_steps=10", "train.checkpoint_every=0", "train.probe=false", "monitor.alarms.source_starved={prompts: 12}",
    )  # fmt: skip
    with Loop(Recipe.load(recipe_file, keys), tmp_path / "run") as loop:
        loop.check()
        loop.run()
    assert {source for rule, source in raised(tmp_path / "run") if rule == "source_starved"} == {"long"}
