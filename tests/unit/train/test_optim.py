from __future__ import annotations

import pytest
import torch
from torch import nn

from triune.core.errors import RecipeError
from triune.core.trainspec import OptimizerSpec, TrainSpec
from triune.train.optim import Optimizer, layers, rate_factor


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"vision": nn.Linear(3, 2), "language": nn.Linear(2, 1)}


def train(**fields: object) -> TrainSpec:
    spec = {"lr": 0.1, "warmup_fraction": 0.0, "weight_decay": 0.0}
    given = fields.pop("optimizer", {})
    assert isinstance(given, dict)
    return TrainSpec.model_validate(
        {"total_steps": 10, "prompts_per_step": 1, "optimizer": spec | given, **fields}
    )


def backward(made: dict[str, nn.Module], scale: float = 1.0) -> None:
    x = torch.ones(4, 3)
    (scale * made["language"](made["vision"](x)).sum()).backward()


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_a_frozen_module_neither_moves_nor_decays() -> None:
    made = modules()
    spec = train(freeze=["vision"], optimizer={"weight_decay": 0.5})
    optimizer = Optimizer(made, spec)
    before = {name: weights(module) for name, module in made.items()}
    backward(made)
    norms, _, rates = optimizer.step(spec.optimizer, 1, 10)
    assert torch.equal(weights(made["vision"]), before["vision"])
    assert not torch.equal(weights(made["language"]), before["language"])
    assert set(norms) == {"language", "all"}
    assert set(rates) == {"language"}


def test_what_is_frozen_may_change_over_time() -> None:
    made = modules()
    spec = train(freeze=["vision"])
    optimizer = Optimizer(made, spec)
    before = weights(made["vision"])
    for number, frozen in enumerate([("vision",), (), ("vision",)]):
        optimizer.freeze(frozen)
        backward(made)
        optimizer.step(spec.optimizer, number + 1, 10)
        after = weights(made["vision"])
        assert torch.equal(before, after) == bool(frozen)
        before = after


def test_modules_have_rates_of_their_own() -> None:
    made = modules()
    spec = train(optimizer={"lr_by_module": {"vision": 0.001}})
    before = {name: weights(module) for name, module in made.items()}
    backward(made)
    optimizer = Optimizer(made, spec)
    _, _, rates = optimizer.step(spec.optimizer, 1, 10)
    assert rates == {"vision": 0.001, "language": 0.1}
    # AdamW's first step moves every weight by the rate.
    for name, rate in rates.items():
        moved = (weights(made[name]) - before[name]).abs()
        assert torch.allclose(moved, torch.full_like(moved, rate), rtol=1e-3)


@pytest.mark.parametrize("field", [{"freeze": ["vison"]}, {"optimizer": {"lr_by_module": {"vison": 1.0}}}])
def test_unknown_modules_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="did you mean 'vision'"):
        Optimizer(modules(), train(**field))


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(RecipeError, match="nothing would be trained"):
        Optimizer(modules(), train(freeze=["vision", "language"]))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_and_never_starts_at_zero(schedule: str) -> None:
    spec = OptimizerSpec(warmup_fraction=0.1, schedule=schedule)  # type: ignore[arg-type]
    factors = [rate_factor(spec, step, 100) for step in range(1, 101)]
    assert factors[:10] == pytest.approx([k / 11 for k in range(1, 11)])
    assert factors[10] == 1.0
    assert min(factors) > 0


def test_schedules_after_the_warm_up() -> None:
    def factors(schedule: str) -> list[float]:
        spec = OptimizerSpec(warmup_fraction=0.0, schedule=schedule)  # type: ignore[arg-type]
        return [rate_factor(spec, step, 4) for step in range(1, 6)]

    assert factors("constant") == [1.0] * 5
    # The step after the last one would be taken at 0.
    assert factors("linear") == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert factors("cosine") == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(scale: float) -> None:
    made = modules()
    spec = train()
    optimizer = Optimizer(made, spec)
    before = {name: weights(module) for name, module in made.items()}
    backward(made, scale)
    norms, _, _ = optimizer.step(spec.optimizer, 1, 10)
    assert optimizer.skipped == 1
    assert not torch.isfinite(torch.tensor(norms["all"]))
    assert all(torch.equal(weights(made[name]), before[name]) for name in made)
    backward(made)  # nothing of the bad gradient is left behind
    norms, _, _ = optimizer.step(spec.optimizer, 2, 10)
    assert optimizer.skipped == 1
    assert torch.isfinite(torch.tensor(norms["all"]))
    assert all(not torch.equal(weights(made[name]), before[name]) for name in made)


def test_norms_are_per_module_before_clipping() -> None:
    made = modules()
    spec = train(optimizer={"clip_norm": 0.5})
    optimizer = Optimizer(made, spec)
    backward(made)
    expected = {
        name: torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm().item()
        for name, module in made.items()
    }
    clipped: list[torch.Tensor] = []
    optimizer.adamw.register_step_pre_hook(
        lambda adamw, *_: clipped.extend(
            p.grad.flatten().clone() for g in adamw.param_groups for p in g["params"]
        )
    )
    norms, _, _ = optimizer.step(spec.optimizer, 1, 10)
    assert norms["vision"] == pytest.approx(expected["vision"])
    assert norms["language"] == pytest.approx(expected["language"])
    assert norms["all"] == pytest.approx(sum(v**2 for v in expected.values()) ** 0.5)
    assert norms["all"] > 0.5
    assert torch.cat(clipped).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_a_parameter_in_two_modules_belongs_to_the_first() -> None:
    made = modules()
    made["again"] = made["vision"]
    spec = train(freeze=["again"])
    optimizer = Optimizer(made, spec)
    backward(made)
    _, _, rates = optimizer.step(spec.optimizer, 1, 10)
    assert set(rates) == {"vision", "language"}


class Tower(nn.Module):
    """What every tower looks like from outside: something, blocks in a list, something; and a list inside a block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(3, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"mlp": nn.ModuleList([nn.Linear(2, 2)])}) for _ in range(3)
        )
        self.norm = nn.LayerNorm(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x)
        for block in self.blocks:
            x = block["mlp"][0](x)  # type: ignore[index]
        return torch.as_tensor(self.norm(x))


def test_layers_are_a_towers_blocks_and_what_lies_around_them() -> None:
    tower = Tower()
    expected = ["embed"] * 2 + ["0"] * 2 + ["1"] * 2 + ["2"] * 2 + ["head"] * 2
    assert list(layers("vision", tower).values()) == [f"vision.{name}" for name in expected]
    # A family may list unlike parts under one name, as decoder and head: the parts are not layers.
    listed = nn.ModuleList([tower, nn.Linear(2, 5)])
    assert set(layers("language", listed).values()) == {
        f"language.{x}" for x in ("embed", "0", "1", "2", "head")
    }
    assert set(layers("connector", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))).values()) == {"connector"}


def test_norms_per_layer_add_up_to_their_modules() -> None:
    torch.manual_seed(0)
    made = {"vision": Tower(), "language": nn.Linear(2, 1)}
    spec = train()
    optimizer = Optimizer(made, spec)
    backward(made)
    expected = torch.cat([p.grad.flatten() for p in made["vision"].blocks[1].parameters()]).norm().item()  # type: ignore
    done = optimizer.step(spec.optimizer, 1, 10)
    assert done.layer_norms["vision.1"] == pytest.approx(expected)
    assert expected > 0
    for module in made:
        parts = [v for layer, v in done.layer_norms.items() if layer.split(".")[0] == module]
        assert done.norms[module] == pytest.approx(sum(v**2 for v in parts) ** 0.5)
    by_layer = {m.label("layer"): m.mean for m in done.metrics() if m.name == "grad_norm/layer"}
    assert by_layer == done.layer_norms
    optimizer.freeze(["vision"])
    backward(made)
    assert set(optimizer.step(spec.optimizer, 2, 10).layer_norms) == {"language"}


def narrow() -> dict[str, nn.Module]:
    return {name: module.to(torch.bfloat16) for name, module in modules().items()}


def wide_step(optimizer: Optimizer, made: dict[str, nn.Module], spec: TrainSpec, step: int) -> None:
    (made["language"](made["vision"](torch.ones(4, 3, dtype=torch.bfloat16))).sum()).backward()
    optimizer.step(spec.optimizer, step, 10_000)


def test_bfloat16_weights_gather_updates_that_are_too_small_for_them() -> None:
    made, spec = narrow(), train(optimizer={"lr": 1e-5})
    optimizer = Optimizer(made, spec)
    before = weights(made["language"]).float()
    wide_step(optimizer, made, spec, 1)
    moved_at_once = (weights(made["language"]).float() - before).abs().max()
    for step in range(2, 1001):
        wide_step(optimizer, made, spec, step)
    moved = (weights(made["language"]).float() - before).abs()
    assert moved_at_once == 0  # one update is rounded away ...
    assert moved.min() > 0.5 * 1000 * 1e-5  # ... a thousand are not
    assert all(p.dtype == torch.bfloat16 for module in made.values() for p in module.parameters())


def test_a_resumed_run_in_bfloat16_has_lost_nothing() -> None:
    spec = train(freeze=["vision"], optimizer={"lr": 1e-5})
    made = narrow()
    optimizer = Optimizer(made, spec)
    for step in range(1, 6):
        wide_step(optimizer, made, spec, step)
    again = narrow()
    for name, module in made.items():
        again[name].load_state_dict(module.state_dict())
    resumed = Optimizer(again, spec)
    resumed.restore(optimizer.state())
    for step in range(6, 400):
        wide_step(optimizer, made, spec, step)
        wide_step(resumed, again, spec, step)
    assert torch.equal(weights(made["language"]), weights(again["language"]))
    assert not torch.equal(weights(made["language"]), weights(narrow()["language"]))
    assert torch.equal(weights(made["vision"]), weights(narrow()["vision"]))


def test_a_module_that_thaws_is_widened_then() -> None:
    made, spec = narrow(), train(freeze=["vision"], optimizer={"lr": 1e-3})
    optimizer = Optimizer(made, spec)
    before = weights(made["vision"])
    wide_step(optimizer, made, spec, 1)
    assert torch.equal(weights(made["vision"]), before)
    optimizer.freeze([])
    for step in range(2, 30):
        wide_step(optimizer, made, spec, step)
    assert not torch.equal(weights(made["vision"]), before)


def test_a_critic_is_clipped_by_its_own_norm() -> None:
    moved = []
    for far_off in (1.0, 1e4):
        made = {"language": nn.Linear(2, 1), "critic": nn.Linear(2, 1)}
        spec = train(optimizer={"clip_norm": 1.0, "lr": 1.0, "betas": (0.0, 0.0)})
        optimizer = Optimizer(made, spec)
        (
            made["language"](torch.ones(1, 2)).sum() * 0.1 + made["critic"](torch.ones(1, 2)).sum() * far_off
        ).backward()
        clipped = []
        honest = optimizer.adamw.step
        optimizer.adamw.step = lambda honest=honest, made=made, clipped=clipped: clipped.extend(  # type: ignore[method-assign]
            torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]).norm().item()
            for m in made.values()
        )
        done = optimizer.step(spec.optimizer, 1, 10)
        assert done.norms["critic"] == pytest.approx(far_off * 3**0.5)
        moved.append(clipped)
    assert moved[0][0] == moved[1][0] == pytest.approx(0.1 * 3**0.5)  # the policy's gradient as it was
    assert moved[1][1] == pytest.approx(1.0, rel=1e-4)


def test_modules_that_train_alone() -> None:
    made = {**modules(), "critic": nn.Linear(2, 1)}
    optimizer = Optimizer(made, train(freeze=["vision"]))
    optimizer.freeze(("vision",), [frozenset(), frozenset({"critic"})])
    assert {n for n, m in made.items() if next(m.parameters()).requires_grad} == {"critic"}
    optimizer.freeze(("vision",), [frozenset()])
    assert {n for n, m in made.items() if next(m.parameters()).requires_grad} == {"language", "critic"}
    with pytest.raises(RecipeError, match="no module 'critik' to train alone"):
        optimizer.freeze((), [frozenset({"critik"})])
