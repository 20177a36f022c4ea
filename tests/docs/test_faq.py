"""Every error that docs/faq.md explains is provoked as a user would, and says what the page quotes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import triune.cli
from triune.policy.options import LanguageOptions
from triune.verify.verifier import NoParams, Score, Verifier, verifiers

from .pages import blocks

PAGE = "docs/faq.md"
ROW: dict[str, Any] = {
    "task": "counting",
    "media": ["picture.png"],
    "truth": 3,
    "messages": [
        {"role": "user", "content": [{"type": "image", "media": 0}, {"type": "text", "text": "How many?"}]}
    ],
    "checks": [{"verifier": "count"}],
}


class Toy:
    """A folder with a picture, a file of rows and a recipe, any of which a test spoils."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.folder, self.capsys, self.patch = folder, capsys, patch
        pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "picture.png")
        self.rows(*({"id": f"a/{n}"} for n in range(4)))
        self.recipe: dict[str, Any] = {
            "name": "toy",
            "data": {"sources": [{"name": "mine", "path": "rows.jsonl"}], "heldout_per_source": 1},
            "policy": "language",
            "rollout": {"kind": "native", "max_tokens": 4},
            "algo": "policy_gradient",
            "train": {"total_steps": 2, "prompts_per_step": 2, "rollouts_per_prompt": 2},
            "judge": {"workers": 0},
            "monitor": {"sinks": []},
        }

    def rows(self, *changes: dict[str, Any]) -> None:
        rows = [{**ROW, **change} for change in changes]
        (self.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def source(self, **changes: Any) -> None:
        self.recipe["data"]["sources"][0].update(changes)

    def triune(self, *arguments: str) -> str:
        """What the command line says when it refuses; the recipe is toy.yaml."""
        (self.folder / "toy.yaml").write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            triune.cli.main(arguments)
        said = self.capsys.readouterr().err
        assert ended.value.code == 2, f"exit code {ended.value.code}: {said}"
        return said.removeprefix("error: ")

    def train(self, *overrides: str) -> str:
        return self.triune("train", "toy.yaml", "--run-dir", "runs/toy", *overrides)

    def check(self) -> str:
        return self.triune("data", "check", "toy.yaml")


PROVOKE: dict[str, Callable[[Toy], str]] = {}


def provokes(test: Callable[[Toy], str]) -> Callable[[Toy], str]:
    PROVOKE[test.__name__.replace("_", " ")] = test
    return test


@pytest.fixture
def toy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Toy:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return Toy(tmp_path, capsys, monkeypatch)


# -- recipes -------------------------------------------------------------------------------------------------------


@provokes
def unknown_key(toy: Toy) -> str:
    toy.recipe["train"]["total_stepz"] = 20
    return toy.train()


@provokes
def unknown_name(toy: Toy) -> str:
    toy.recipe["policy"] = "langage"
    return toy.train()


@provokes
def wrong_type(toy: Toy) -> str:
    return toy.train("train.optimizer.lr=fast")


@provokes
def no_recipe(toy: Toy) -> str:
    return toy.triune("train", "quickstrat")


@provokes
def batch_does_not_divide(toy: Toy) -> str:
    return toy.train("train.prompts_per_step=10", "train.minibatches_per_step=4")


@provokes
def group_of_one(toy: Toy) -> str:
    return toy.train("train.rollouts_per_prompt=1")


@provokes
def stage_changes_too_much(toy: Toy) -> str:
    toy.recipe["stages"] = [{"until": 0.5, "overrides": {"train.prompts_per_step": 4}}]
    return toy.train()


@provokes
def unknown_module(toy: Toy) -> str:
    return toy.train("train.freeze=[visoin]")


@provokes
def all_frozen(toy: Toy) -> str:
    return toy.train("train.freeze=[vision, connector, language]")


@provokes
def run_exists(toy: Toy) -> str:
    (toy.folder / "runs/toy/checkpoints").mkdir(parents=True)
    return toy.train()


@provokes
def nothing_to_resume(toy: Toy) -> str:
    return toy.triune("train", "--resume", "runs/toy")


# -- data ----------------------------------------------------------------------------------------------------------


@provokes
def no_file(toy: Toy) -> str:
    toy.source(path="train/*.parquet")
    return toy.check()


@provokes
def not_parquet(toy: Toy) -> str:
    (toy.folder / "rows.parquet").write_bytes(b"PAR1 cut off")
    toy.source(path="rows.parquet")
    return toy.check()


@provokes
def other_format(toy: Toy) -> str:
    (toy.folder / "rows.jsonl").write_text(
        json.dumps({"problem": "<image>How many?", "answer": "3", "images": ["picture.png"]})
    )
    toy.source(adapter="verl")
    return toy.check()


@provokes
def missing_picture(toy: Toy) -> str:
    toy.rows({"id": "a/0"}, {"id": "a/1", "media": ["img/9.png"]})
    return toy.check()


@provokes
def broken_picture(toy: Toy) -> str:
    (toy.folder / "broken.png").write_bytes(b"<html>Not found</html>")
    toy.rows({"id": "a/0"}, {"id": "a/1", "media": ["broken.png"]})
    return toy.check()


@provokes
def picture_outside(toy: Toy) -> str:
    (toy.folder / "data").mkdir()
    toy.rows({"id": "a/0", "media": ["../picture.png"]})
    (toy.folder / "rows.jsonl").rename(toy.folder / "data/rows.jsonl")
    toy.source(path="data/rows.jsonl")
    return toy.check()


@provokes
def placeholders(toy: Toy) -> str:
    (toy.folder / "rows.jsonl").write_text(
        json.dumps({"problem": "How many?", "answer": "3", "images": ["picture.png"]})
    )
    toy.source(adapter="easyr1")
    return toy.check()


@provokes
def wrong_cell(toy: Toy) -> str:
    (toy.folder / "boxes.csv").write_text(
        "image,x1,y1,x2,y2,label\npicture.png,3,2,20,12,cat\npicture.png,3,two,20,12,cat\n"
    )
    toy.source(path="boxes.csv", adapter="folder")
    return toy.check()


@provokes
def id_twice(toy: Toy) -> str:
    toy.rows({"id": "a/0"}, {"id": "a/0"})
    return toy.check()


# -- rewards -------------------------------------------------------------------------------------------------------


@provokes
def unknown_parameter(toy: Toy) -> str:
    toy.rows({"checks": [{"verifier": "count", "params": {"garded": True}}]})
    return toy.train()


@provokes
def unreadable_truth(toy: Toy) -> str:
    toy.rows({"truth": "three"})
    return toy.train()


@provokes
def truth_fails(toy: Toy) -> str:
    toy.rows(
        {
            "truth": "B",
            "checks": [{"verifier": "text_exact"}, {"verifier": "format_boxed", "params": {"think": True}}],
        }
    )
    return toy.train()


@provokes
def constant_reward(toy: Toy) -> str:
    class Always(Verifier[NoParams, None]):
        """Catches everything and returns a default."""

        name = "always"

        def prepare(self, truth: Any, sample: Any, params: Any) -> None:
            return

        def score(self, outcome: Any, reference: None, params: Any, context: Any) -> Score:
            return Score(1.0)

    toy.patch.setitem(verifiers._items, "always", Always)
    toy.rows({"checks": [{"verifier": "always"}]})
    return toy.train()


@provokes
def too_many_unjudged(toy: Toy) -> str:
    class Flaky(Verifier[NoParams, None]):
        """Breaks on what a policy says, though not on the truth."""

        name = "flaky"

        def prepare(self, truth: Any, sample: Any, params: Any) -> None:
            return

        def score(self, outcome: Any, reference: None, params: Any, context: Any) -> Score:
            if "#" not in outcome.id or "3" in outcome.text:
                return Score(1.0)
            raise RuntimeError("the service is down")

    toy.patch.setitem(verifiers._items, "flaky", Flaky)
    toy.rows({"checks": [{"verifier": "flaky"}]})
    return toy.train("train.prompts_per_step=64", "train.rollouts_per_prompt=8", "train.probe=false")


# -- models --------------------------------------------------------------------------------------------------------


@provokes
def no_model(toy: Toy) -> str:
    (toy.folder / "model").mkdir()
    return toy.train("policy.path=model")


@provokes
def no_processor(toy: Toy) -> str:
    from triune.policy.nano.architecture import build_model, build_processor

    build_model(build_processor().tokenizer).save_pretrained(toy.folder / "model")
    return toy.train("policy.path=model")


@provokes
def prompt_too_long(toy: Toy) -> str:
    return toy.train("policy.window=16")


@provokes
def placeholder_in_text(toy: Toy) -> str:
    content = [{"type": "image", "media": 0}, {"type": "text", "text": "How many in <image>?"}]
    toy.rows({"messages": [{"role": "user", "content": content}]})
    return toy.train()


@provokes
def blind(toy: Toy) -> str:
    family = LanguageOptions().build()
    for parameter in family.modules()["connector"].parameters():
        torch.nn.init.zeros_(parameter)
    family.save(toy.folder / "model")
    return toy.train("policy.path=model")


@provokes
def missing_extra(toy: Toy) -> str:
    toy.train("train.rollouts_per_prompt=1")  # writes the recipe
    code = "import sys; sys.modules['torch'] = None; from triune.cli import main; main(['train', 'toy.yaml'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    return done.stderr.removeprefix("error: ")


# -- storage -------------------------------------------------------------------------------------------------------


@provokes
def two_writers(toy: Toy) -> str:
    code = "from triune.monitor.store import Store; s = Store('runs/toy'); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        said = toy.train()
        other.communicate(b"\n")
    return said


QUOTED = {block.marks.get("provoked by", ""): block.text for block in blocks(PAGE)}


def test_every_message_on_the_page_is_provoked() -> None:
    assert QUOTED.keys() == PROVOKE.keys()


@pytest.mark.parametrize("name", PROVOKE)
def test_the_page_quotes_what_is_said(name: str, toy: Toy) -> None:
    quoted, said = " ".join(QUOTED[name].split()), " ".join(PROVOKE[name](toy).split())
    pattern = ".*".join(map(re.escape, quoted.split("...")))
    assert re.fullmatch(pattern, said), f"the page quotes\n  {quoted}\nand triune says\n  {said}"
