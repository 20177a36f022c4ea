"""Adapters beside a base that does not move: what trains, what the reference is, what a checkpoint keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from triune.algo.views.frozen import FrozenPolicy
from triune.core.errors import RecipeError
from triune.core.trainspec import TrainSpec
from triune.core.trajectory import Trajectory
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.testing.models import TINY, demand, ragged, talker, tiny, trajectories, write
from triune.testing.table import recipe
from triune.train.memory import estimate
from triune.train.optim import Optimizer
from triune.train.probe import probe

EVERYWHERE = {"rank": 4, "modules": ["vision", "connector", "language"]}
kinds = pytest.mark.parametrize("kind", ["llava", "nano", "qwen"])


def parameters(family: LanguageFamily) -> list[torch.nn.Parameter]:
    return [p for module in family.modules().values() for p in module.parameters()]


def moved(family: LanguageFamily) -> LanguageFamily:
    """The family with adapters that change something: B starts at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters(family):
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    family.pictures.forget_features()
    return family


def ready(family: LanguageFamily) -> LanguageFamily:
    """The family with the samples of `ragged` made known."""
    samples = ragged()
    family.begin_step(samples)
    for sample in samples:
        family.check(sample)
    return family


def rolled(family: LanguageFamily) -> list[Trajectory]:
    return trajectories(talker(ready(family)).generate(ragged(), demand(2)))


def scores(family: LanguageFamily, rollouts: list[Trajectory], view: str = "current") -> torch.Tensor:
    with torch.no_grad():
        return family.evaluate(family.pack(rollouts), view=view).logp


@pytest.mark.parametrize("kind", sorted(TINY))
def test_the_reference_is_the_base_bit_for_bit(kind: str) -> None:
    base, family = ready(tiny(kind)), tiny(kind, lora=EVERYWHERE)
    family.declare("reference", FrozenPolicy())
    rollouts = rolled(family)
    expected = scores(base, rollouts)
    assert torch.equal(scores(family, rollouts), expected)  # training starts at the base
    before = scores(moved(family), rollouts)
    assert (before - expected).abs().max() > 0.1
    assert torch.equal(scores(family, rollouts, "reference"), expected)
    assert torch.equal(scores(family, rollouts), before)  # and the adapters are on again, features included


def test_a_view_that_was_not_declared_is_an_error() -> None:
    family = tiny("nano")
    with pytest.raises(RecipeError, match=r"'reference' was not declared"):
        scores(family, rolled(family), "reference")


def test_the_reference_of_adapters_that_were_given_is_the_policy_with_them(tmp_path: Path) -> None:
    folder = write("nano", tmp_path / "base")
    given = moved(LanguageFamily.from_pretrained(LanguageOptions(path=str(folder), lora=EVERYWHERE)))
    given.save(tmp_path / "adapters")
    family = LanguageFamily.from_pretrained(LanguageOptions(path=str(tmp_path / "adapters")))
    family.declare("reference", FrozenPolicy())
    rollouts = rolled(family)
    before = scores(family, rollouts)
    assert (scores(moved(family), rollouts) - before).abs().max() > 0.01
    assert torch.equal(scores(family, rollouts, "reference"), before)


@kinds
def test_engine_and_learner_agree_with_adapters(kind: str) -> None:
    family = moved(tiny(kind, lora=EVERYWHERE))
    found, _ = probe(family, talker(family), ragged(), demand(2))
    assert max(found.engine, found.packed) <= 1e-5
    assert found.swapped is not None


@kinds
@pytest.mark.parametrize("modules", [["language"], ["vision", "connector"]])
def test_only_adapters_can_train_and_only_where_they_are(kind: str, modules: list[str]) -> None:
    family = tiny(kind, lora={"rank": 2, "modules": modules})
    held = parameters(family)
    assert len({id(p) for p in held}) == len(held) > 0
    names = {id(p): name for name, p in family.model.named_parameters()}
    assert all("lora_" in names[id(p)] for p in held)
    # The base is what is left, and nobody thaws it.
    base = [p for p in family.model.parameters() if id(p) not in {id(h) for h in held}]
    optimizer = Optimizer(family.modules(), TrainSpec(total_steps=1, prompts_per_step=1))
    optimizer.freeze(())
    assert not any(p.requires_grad for p in base)
    assert all(p.requires_grad for p in held)
    assert {id(p) for g in optimizer.adamw.param_groups for p in g["params"]} == {id(p) for p in held}
    assert list(family.modules()) == ["vision", "connector", "language"]
    filled = {name for name, module in family.modules().items() if list(module.parameters())}
    assert filled <= set(modules)
    assert filled & {"vision", "language"}


def test_modules_have_their_own_rates_and_norms_and_can_be_frozen() -> None:
    family = tiny("qwen", lora=EVERYWHERE)
    train = TrainSpec(
        total_steps=10, prompts_per_step=1, freeze=("connector",), optimizer={"lr": 1e-3, "lr_by_module": {"vision": 1e-4}}
    )  # fmt: skip
    optimizer = Optimizer(family.modules(), train)
    rollouts = rolled(family)
    family.evaluate(family.pack(rollouts)).logp.sum().backward()
    norms, by_layer, rates = optimizer.step(train.optimizer, 1, 10)
    assert set(norms) == {"vision", "language", "all"}
    assert {"language.0", "language.1", "vision.0", "vision.1"} <= set(by_layer)
    assert rates["vision"] == pytest.approx(rates["language"] / 10)
    # Looking at the reference thaws nothing.
    family.declare("reference", FrozenPolicy())
    scores(family, rollouts, "reference")
    assert not any(p.requires_grad for p in family.modules()["connector"].parameters())
    assert all(p.requires_grad for p in family.modules()["vision"].parameters())


def test_the_memory_estimate_counts_the_base_and_trains_the_adapters() -> None:
    family = tiny("nano", lora={"rank": 2})
    samples = ragged()
    episodes = [e for row in talker(ready(family)).generate(samples, demand(2)) for e in row]
    found = estimate(family, recipe(), episodes)
    held = sum(p.nbytes for p in parameters(family))
    assert found.gradients == held
    assert found.optimizer == 2 * held
    assert found.weights == sum(p.nbytes for p in family.model.parameters()) > 10 * held


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_and_loaded_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    family, other = (tiny("llava", lora=EVERYWHERE, dtype=dtype) for _ in range(2))
    rollouts = rolled(moved(family))
    ready(other)
    expected = scores(family, rollouts)
    family.save(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "base.json",
    }  # fmt: skip
    other.load(tmp_path / "model")
    assert torch.equal(scores(other, rollouts), expected)
    for mine, its in zip(parameters(family), parameters(other), strict=True):
        assert torch.equal(mine, its)


def test_adapters_go_with_their_own_base_only(tmp_path: Path) -> None:
    tiny("llava", lora={"rank": 2}).save(tmp_path / "model")
    with pytest.raises(RecipeError, match="give the base that the run was started from"):
        tiny("llava", seed=1, lora={"rank": 2}).load(tmp_path / "model")
    with pytest.raises(ValueError, match="another rank"):
        tiny("llava", lora={"rank": 3}).load(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "base.json").read_text())["sha256"]


def test_a_folder_of_adapters_is_a_policy_of_its_own(tmp_path: Path) -> None:
    write("llava", tmp_path / "base")
    options = LanguageOptions.model_validate(
        {"path": str(tmp_path / "base"), "attention": "eager", "lora": {"rank": 3, "modules": ["vision"]}}
    )
    family = options.build()
    rollouts = rolled(moved(family))
    family.save(tmp_path / "adapters")
    again = LanguageOptions(path=str(tmp_path / "adapters"), attention="eager").build()
    assert torch.equal(scores(ready(again), rollouts), scores(family, rollouts))
    assert again.lora.fingerprint() == family.lora.fingerprint()
    (tmp_path / "adapters" / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"adapter_config\.json"):
        LanguageOptions(path=str(tmp_path / "adapters")).build()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (r".*self_attn\.[qk]_proj", {"q_proj", "k_proj"}),
        ("auto", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_targets_choose_layers(targets: Any, expected: set[str]) -> None:
    family = tiny("nano", lora={"rank": 2, "targets": targets})
    names = [n for n, _ in family.model.named_modules() if n.endswith("lora_A.default")]
    assert {name.split(".")[-3] for name in names} == expected
    assert all("text_model" in name for name in names)


def test_targets_that_match_nothing_name_what_there_is() -> None:
    with pytest.raises(RecipeError, match=r"'query'.*matches no linear layer of language.*q_proj"):
        tiny("nano", lora={"rank": 2, "targets": ["query"]})


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"dropout": 0.1}, "dropout must be 0"),
        ({"targets": "("}, "regular expression"),
        ({"rank": 0}, "rank"),
    ],
)
def test_options_that_cannot_be_are_refused(lora: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LanguageOptions.model_validate({"lora": lora})
