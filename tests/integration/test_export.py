"""An export is what was trained, read by plain transformers and peft; and one that is not is never kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Idefics3ForConditionalGeneration

from triune.cli import main
from triune.core.errors import ExportError, RecipeError
from triune.core.recipe import Recipe
from triune.export import Comparison, export
from triune.loop import Loop
from triune.monitor.store import Store
from triune.testing.models import TINY, write
from triune.train import checkpoint

STEPPED = ("llava", "nano", "qwen")
"""The kinds that are also trained for a step, with adapters."""


def recipe_of(model: Path, **policy: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "seed": 3,
            "data": {"sources": [{"name": "embedded/counting/*"}], "heldout_per_source": 2},
            "policy": {"kind": "language", "path": str(model), "attention": "eager", **policy},
            "rollout": {"kind": "native", "max_tokens": 4},
            "algo": {"kind": "policy_gradient", "advantage": {"kind": "group"}},
            "train": {
                "total_steps": 2,
                "prompts_per_step": 2,
                "rollouts_per_prompt": 4,
                "optimizer": {"lr": 1e-2, "warmup_fraction": 0.0},
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": []},
        }
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def model(models: Path, kind: str) -> Path:
    return models / kind if (models / kind).exists() else write(kind, models / kind)


def nudged(loop: Loop) -> None:
    """Weights that differ from the base, whatever a step's rewards were: random models rarely earn any."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in loop.family.modules().values():
            for parameter in module.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def saved(run: Path, recipe: Recipe, steps: int = 0) -> Path:
    with Loop(recipe, run) as loop:
        for _ in range(steps):
            loop.step()
        nudged(loop)
        loop.save()
    return run


@pytest.fixture(scope="module")
def run(models: Path) -> Path:
    """A finished run of nano's architecture with an evaluation on record."""
    with Loop(recipe_of(model(models, "nano")), models / "run") as loop:
        loop.evaluate("eval-before")
        loop.step()
        nudged(loop)
        loop.evaluate("eval")
        loop.save()
    return models / "run"


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def base_of(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")


@pytest.mark.parametrize("kind", sorted(TINY))
def test_every_architecture_is_read_back_as_it_was_trained(kind: str, models: Path, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", recipe_of(model(models, kind)))
    folder, found = export(run)
    assert folder == run / "export" / "step-000000"
    _, family = checkpoint.policy(checkpoint.latest(run))
    plain = base_of(folder)  # transformers alone
    mine = family.model.state_dict()
    assert all(torch.equal(mine[k], v) for k, v in plain.state_dict().items())
    assert found.tensors == len(mine)
    assert found.gap == 0
    assert found.engine_gap <= 1e-5
    assert found.tokens > 0
    assert found.pictures > 0
    stops = plain.generation_config.eos_token_id
    assert set(stops if isinstance(stops, list) else [stops]) == set(family.stop_ids)


@pytest.mark.parametrize("kind", STEPPED)
def test_adapters_through_a_step_a_resume_and_both_exports(kind: str, models: Path, tmp_path: Path) -> None:
    base = model(models, kind)
    recipe = recipe_of(base, lora={"rank": 4, "modules": ["language", "vision"]})
    run = saved(tmp_path / "run", recipe, steps=1)
    with Loop(recipe, run) as loop:
        loop.restore(checkpoint.latest(run))
        loop.check()  # the start-up probes pass with adapters that do something
        loop.step()
        loop.save()
    merged, found = export(run, step=2)
    assert merged.name == "step-000002"
    # Unmerged in the engine, merged in the folder: the same log-probs but for rounding.
    assert found.gap == 0
    assert found.engine_gap <= 1e-5
    before, after = tensors(base), tensors(merged)
    assert before.keys() == after.keys()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed
    assert all(k.endswith(".weight") and before[k].ndim == 2 for k in changed)
    adapters, beside = export(run, step=2, adapter=True)
    assert beside.gap == 0
    assert beside.engine_gap <= 1e-5
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "recipe.yaml"} <= {
        p.name for p in adapters.iterdir()
    }
    # peft alone, on the base, merges them to what the merged folder holds.
    peft = pytest.importorskip("peft")
    plain = peft.PeftModel.from_pretrained(base_of(base), adapters).merge_and_unload().state_dict()
    whole = base_of(merged).state_dict()
    assert plain.keys() == whole.keys()
    assert max(float((plain[k] - whole[k]).abs().max()) for k in whole) <= 1e-6
    assert yaml.safe_load((adapters / "README.md").read_text().split("---")[1])["library_name"] == "peft"


PLAIN = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triune":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto")
processor = AutoProcessor.from_pretrained(sys.argv[1])
turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many circle?"}]}]
text = processor.apply_chat_template(turns, add_generation_prompt=True)
inputs = processor(text=[text], images=[[Image.new("RGB", (64, 64), "red")]], return_tensors="pt")
made = model.generate(**inputs, max_new_tokens=4, do_sample=False)
print(made.shape[1] - inputs["input_ids"].shape[1], model.dtype)
"""


def test_a_reader_without_triune_can_use_it(run: Path, tmp_path: Path) -> None:
    folder, _ = export(run, tmp_path / "plain", dtype="bfloat16")
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count, dtype = done.stdout.split()
    assert int(count) >= 1
    assert dtype == "torch.bfloat16"


def test_the_card_says_what_the_run_measured(run: Path, tmp_path: Path) -> None:
    folder, _ = export(run, tmp_path / "card")
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "nano"
    assert head["library_name"] == "transformers"
    assert "reinforcement-learning" in head["tags"]
    facts = json.loads((folder / "triune.json").read_text())
    with Store(run, readonly=True) as store:
        rollouts = store.rollouts("eval", 1)
    for source, found in facts["evaluation"]["sources"].items():
        values = [r.accuracy or 0.0 for r in rollouts if r.source == source]
        assert (found["n"], found["accuracy"]) == (2, sum(values) / 2)
        assert f"| {source} | 2 | {found['accuracy']:.3f} |" in card
    assert set(facts["evaluation"]["sources"]) == {"counting/digits", "counting/shapes"}
    assert facts["evaluation"]["before"]["step"] == 0
    assert facts["comparison"]["on"] == "held-out samples"
    assert Recipe.load(folder / "recipe.yaml") == Recipe.load(checkpoint.latest(run) / "recipe.yaml")


def test_without_its_data_a_run_can_still_be_exported(models: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    from triune.data.embedded import SOURCES

    rows.write_text(SOURCES["counting/shapes"].draw(0, 0, "train").model_dump_json() + "\n")
    recipe = recipe_of(model(models, "nano"))
    data = {"sources": [{"name": "mine", "path": str(rows)}], "heldout_per_source": 0}
    run = saved(tmp_path / "run", Recipe.model_validate({**recipe.dump(), "data": data}))
    rows.unlink()
    folder, found = export(run)
    assert found.pictures > 0
    assert json.loads((folder / "triune.json").read_text())["comparison"]["on"] == "drawn pictures"


def damage_a_weight(folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    name = next(k for k in held if "q_proj" in k)
    held[name] = held[name].clone()
    held[name][0, 0] += 1e-3
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def lose_a_weight(folder: Path) -> None:
    held = load_file(folder / "model.safetensors")
    held.pop(next(k for k in held if "q_proj" in k))
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def stop_elsewhere(folder: Path) -> None:
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 1}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_a_weight, "not what was trained"),
        (lose_a_weight, "missing_keys"),
        (stop_elsewhere, "stops at 1"),
    ],
)
def test_an_export_that_is_not_what_was_trained_is_an_error_and_is_not_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any, message: str
) -> None:
    write_whole = Idefics3ForConditionalGeneration.save_pretrained

    def damaged(self: Any, folder: Path, *args: Any, **kwargs: Any) -> None:
        write_whole(self, folder, *args, **kwargs)
        damage(folder)

    monkeypatch.setattr(Idefics3ForConditionalGeneration, "save_pretrained", damaged)
    with pytest.raises(ExportError, match=message):
        export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_another_template_is_noticed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import Idefics3Processor

    write_whole = Idefics3Processor.save_pretrained

    def damaged(self: Any, folder: Path, *args: Any, **kwargs: Any) -> None:
        write_whole(self, folder, *args, **kwargs)
        file = folder / "chat_template.jinja"
        file.write_text("Be brief. " + file.read_text())

    monkeypatch.setattr(Idefics3Processor, "save_pretrained", damaged)
    with pytest.raises(ExportError, match="renders another prompt"):
        export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no checkpoint of step 7; there are: 1"):
        export(run, tmp_path / "out", step=7)
    with pytest.raises(RecipeError, match="has no adapter"):
        export(run, tmp_path / "out", adapter=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(RecipeError, match="already there"):
        export(run, tmp_path / "taken")
    with pytest.raises(RecipeError, match="has no checkpoint"):
        export(tmp_path)


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["export", str(run), "--out", str(tmp_path / "out"), "--checkpoint", "1"])
    said = capsys.readouterr()
    assert done.value.code == 0, said.err
    assert "tensors are equal" in said.out
    assert (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(SystemExit) as done:
        main(["export", str(tmp_path / "nowhere")])
    assert done.value.code == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_a_comparison_says_how_the_processor_was_read() -> None:
    said = str(Comparison(3, 2, 2, 8, 0.0, 1e-6, "read whole"))
    assert "3 tensors are equal" in said
    assert "read whole" in said
