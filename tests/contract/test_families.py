"""What every policy family promises, whatever it generates. A new family needs no change here if it can be built small.

Small families: the language family over each tiny architecture, and whatever the modules of `triune.testing` register
with a generator and a function `..._samples` beside it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import triune.testing
from triune.core.sample import Sample
from triune.policy.family import Family
from triune.policy.options import POLICIES
from triune.rollout.generator import Generator
from triune.rollout.options import ROLLOUTS
from triune.testing.models import TINY, demand, ragged, talker, tiny, trajectories


@dataclass(frozen=True)
class Small:
    """A family that is built anew by each call, its generator, and samples for it."""

    build: Callable[[], Family]
    generator: Callable[[Any], Generator]
    samples: Callable[[], Sequence[Sample]]


def found() -> dict[str, Small]:
    small = {f"language-{kind}": Small(functools.partial(tiny, kind), talker, ragged) for kind in TINY}
    for info in pkgutil.iter_modules(triune.testing.__path__, "triune.testing."):
        module = importlib.import_module(info.name)
        samples = [
            f for name, f in vars(module).items() if name.endswith("_samples") and f.__module__ == info.name
        ]
        policies, rollouts = (
            [kind for kind in registry if registry[kind].__module__ == info.name]
            for registry in (POLICIES, ROLLOUTS)
        )
        if samples and rollouts:
            for kind in policies:
                small[kind] = Small(POLICIES[kind]().build, ROLLOUTS[rollouts[0]]().build, samples[0])
    return small


SMALL = found()
families = pytest.mark.parametrize("name", sorted(SMALL))


def rolled(family: Family, small: Small, **rule: Any) -> list[Any]:
    samples = list(small.samples())
    family.begin_step(samples)
    for one in samples:
        family.check(one)
    return trajectories(small.generator(family).generate(samples, demand(rollouts=2, **rule)))


def fingerprint(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(name.encode() + tensor.detach().float().numpy().tobytes())
    return digest.hexdigest()


@families
def test_evaluate_gives_the_behaviour_log_probs(name: str) -> None:
    small = SMALL[name]
    family = small.build()
    rollouts = rolled(family, small)
    batch = family.pack(rollouts)
    with torch.no_grad():
        logp = family.evaluate(batch).logp
    assert logp.shape == batch.logp_behavior.shape
    assert batch.sampled.any()
    assert (logp - batch.logp_behavior).abs()[batch.sampled].max() <= 1e-5


@families
def test_log_probs_do_not_depend_on_what_is_packed_together(name: str) -> None:
    small = SMALL[name]
    family = small.build()
    rollouts = rolled(family, small)
    with torch.no_grad():
        together = family.evaluate(family.pack(rollouts)).logp
        alone = torch.cat([family.evaluate(family.pack([t])).logp for t in rollouts])
    assert (together - alone).abs().max() <= 1e-5


@families
def test_extras_are_what_is_provided(name: str) -> None:
    small = SMALL[name]
    family = small.build()
    batch = family.pack(rolled(family, small))
    for extra in family.provides & {"entropy", "value"}:
        given = getattr(family.evaluate(batch, want=frozenset({extra})), extra)
        assert given is not None
        assert given.isfinite().all()
        assert given.requires_grad
    if "collision" in family.provides:
        seen = family.evaluate(batch, want=frozenset({"collision", "distribution"})).extras
        expected = seen["distribution"].exp().square().sum(-1)
        assert torch.allclose(seen["collision"], expected, atol=1e-6)


@families
def test_saved_and_loaded_bit_for_bit(name: str, tmp_path: Path) -> None:
    small = SMALL[name]
    family, other = small.build(), small.build()
    rollouts = rolled(family, small)
    rolled(other, small)  # makes the same samples known
    with torch.no_grad():
        for module in other.modules().values():
            for parameter in module.parameters():
                parameter.add_(0.01)
        family.save(tmp_path / "model")
        other.load(tmp_path / "model")
        before, after = (f.evaluate(f.pack(rollouts)).logp for f in (family, other))
    for key, module in family.modules().items():
        assert fingerprint(module) == fingerprint(other.modules()[key])
    assert torch.equal(before, after)


@families
def test_frozen_modules_do_not_move(name: str) -> None:
    small = SMALL[name]
    family = small.build()
    modules = family.modules()
    for frozen in modules:
        for key, module in modules.items():
            module.requires_grad_(key != frozen)
        trained = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        if not trained:
            continue
        rollouts = rolled(family, small)
        before = {key: fingerprint(module) for key, module in modules.items()}
        optimizer = torch.optim.SGD(trained, lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            evaluated = family.evaluate(family.pack(rollouts), want=family.provides & {"value"})
            total = evaluated.logp.square().sum()
            if evaluated.value is not None:
                total = total + (evaluated.value - 1).square().sum()
            total.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        for key, module in modules.items():
            assert (fingerprint(module) == before[key]) == (key == frozen), (key, frozen)


@families
def test_modules_hold_every_parameter_once(name: str) -> None:
    family = SMALL[name].build()
    held = [id(p) for module in family.modules().values() for p in module.parameters()]
    assert len(held) == len(set(held))
    model = getattr(family, "model", None)
    if isinstance(model, torch.nn.Module):
        assert set(held) == {id(p) for p in model.parameters()}
