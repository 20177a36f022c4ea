"""Rollouts that are stale or rounded on purpose: drawn by the copy, recorded as such, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from triune.policy.language import LanguageFamily
from triune.rollout.generator import Demand
from triune.rollout.lagging import Lagging
from triune.rollout.options import NativeOptions
from triune.rollout.remembers import Remembers
from triune.testing.models import demand, ragged, talker, tiny, trajectories
from triune.train.probe import probe


def disturb(family: LanguageFamily, seed: int, part: str | None = None) -> None:
    """An update's work: other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in family.modules().items():
            for p in module.parameters() if part in (None, name) else ():
                p += (0.05 + 0.1 * float(p.std().nan_to_num())) * torch.randn(p.shape, generator=generator)


def logps(family: LanguageFamily, drawn: Sequence[Any]) -> torch.Tensor:
    with torch.no_grad():
        return family.evaluate(family.pack(drawn)).logp


def recorded(drawn: Sequence[Any]) -> torch.Tensor:
    return torch.cat([torch.from_numpy(t.decisions.logp.copy()) for t in drawn])


def weights(family: LanguageFamily) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in family.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def told(drawn: Sequence[Any]) -> list[Any]:
    return [(t.id, t.payload.arrays["ids"].tolist(), t.decisions.logp.tolist()) for t in drawn]


def at(step: int, **more: Any) -> Demand:
    return demand(rollouts=2, version=step, **more)


KINDS: list[dict[str, Any]] = [{}, {"lora": {"rank": 2, "modules": ["vision", "connector", "language"]}}]


@pytest.mark.parametrize("options", KINDS, ids=["weights", "lora"])
@pytest.mark.parametrize("part", [None, "language", "vision"])
def test_rollouts_are_those_of_the_weights_that_were_copied(
    options: dict[str, Any], part: str | None
) -> None:
    family = tiny("qwen", **options)
    family.begin_step(ragged())
    generator = Lagging(talker(family), family, refresh_every=3)
    first = trajectories(generator.generate(ragged(), at(0)))
    assert told(first) == told(trajectories(talker(family).generate(ragged(), at(0))))
    expected = trajectories(talker(family).generate(ragged(), at(2)))  # by the first weights, two steps later
    for version in (1, 2):
        disturb(family, version, part)
        generator.load(version)
    now = weights(family)
    family.begin_step(ragged())
    drawn = trajectories(generator.generate(ragged(), at(2)))
    assert same(weights(family), now)
    assert told(drawn) == told(expected)
    assert told(drawn) != told(first)  # numbers of its own, though the weights are the same
    assert {int(v) for t in drawn for v in t.decisions.version} == {0}
    gap = (logps(family, drawn) - recorded(drawn)).abs()
    assert float(gap.max()) > 1e-3  # the learner does not take them for its own
    disturb(family, 3, part)
    generator.load(3)
    fresh = trajectories(generator.generate(ragged(), at(3)))
    assert {int(v) for t in fresh for v in t.decisions.version} == {3}
    assert float((logps(family, fresh) - recorded(fresh)).abs().max()) < 1e-4


def test_a_frozen_towers_features_are_shared_with_the_learner() -> None:
    family = tiny("qwen")
    for name in ("vision", "connector"):
        family.modules()[name].requires_grad_(False)
    family.begin_step(ragged())
    generator = Lagging(talker(family), family, refresh_every=3)
    drawn = trajectories(generator.generate(ragged(), at(0)))
    computed = family.pictures.computed
    logps(family, drawn)
    disturb(family, 1, "language")
    generator.load(1)
    generator.generate(ragged(), at(1))
    assert family.pictures.computed == computed


@pytest.mark.parametrize("options", KINDS, ids=["weights", "lora"])
@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
def test_another_precision_is_that_models_own(policy: str, options: dict[str, Any]) -> None:
    """What a copy in bfloat16 draws is what a model loaded in bfloat16 draws."""
    other = "bfloat16" if policy == "float32" else "float32"
    family = tiny("qwen", dtype=policy, **options)
    cast = tiny("qwen", dtype=policy, **options)
    from triune.policy import vlm

    vlm.cast(cast.model, getattr(torch, other))
    for one in (family, cast):
        one.begin_step(ragged())
    before = weights(family)
    generator = Lagging(talker(family), family, dtype=getattr(torch, other))
    drawn = trajectories(generator.generate(ragged(), at(0)))
    assert told(drawn) == told(trajectories(talker(cast).generate(ragged(), at(0))))
    assert same(weights(family), before)
    gap = (logps(family, drawn) - recorded(drawn)).abs()
    assert 1e-6 < float(gap.mean()) < 0.5


def test_weights_come_back_when_generating_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    family = tiny("qwen")
    family.begin_step(ragged())
    generator = Lagging(talker(family), family, dtype=torch.bfloat16)
    before, kept = weights(family), family.pictures.trains

    def fail(*given: object) -> None:
        raise RuntimeError("lost")

    monkeypatch.setattr(generator.inner, "generate", fail)
    with pytest.raises(RuntimeError, match="lost"):
        generator.generate(ragged(), at(0))
    assert same(weights(family), before)
    assert family.pictures.trains == kept


def test_gradients_flow_after_rollouts_in_another_precision() -> None:
    family = tiny("qwen")
    family.begin_step(ragged())
    generator = Lagging(talker(family), family, refresh_every=2, dtype=torch.bfloat16)
    for _ in range(2):  # the second time gradients are held while the weights are away
        drawn = trajectories(generator.generate(ragged(), at(0)))
        family.evaluate(family.pack(drawn)).logp.sum().backward()
    grads = [p.grad for m in family.modules().values() for p in m.parameters() if p.grad is not None]
    assert grads
    assert all(g.dtype == torch.float32 and bool(torch.isfinite(g).all()) for g in grads)


def test_evaluation_asks_the_learners_own_weights() -> None:
    family = tiny("qwen")
    family.begin_step(ragged())
    generator = Lagging(talker(family), family, refresh_every=5, dtype=torch.bfloat16)
    generator.generate(ragged(), at(0))
    disturb(family, 1)
    generator.load(1)
    greedy = at(1, phase="eval", temperature=0.0)
    drawn = trajectories(generator.generate(ragged(), greedy))
    assert told(drawn) == told(trajectories(talker(family).generate(ragged(), greedy)))
    assert {int(v) for t in drawn for v in t.decisions.version} == {1}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_restored_copy_is_the_copy(dtype: torch.dtype | None) -> None:
    family = tiny("qwen")
    family.begin_step(ragged())
    whole = Lagging(talker(family), family, refresh_every=3, dtype=dtype)
    assert isinstance(whole, Remembers)
    whole.generate(ragged(), at(0))
    for version in (1, 2, 3, 4):
        disturb(family, version)
        whole.load(version)
        saved = whole.state()
        # Of weights that the checkpoint holds anyway, nothing is saved.
        assert bool(saved["copy"]) == (version != 3)
        again = Lagging(talker(family), family, refresh_every=3, dtype=dtype)
        again.restore(saved, version)
        assert again.version == whole.version == 3 * (version // 3)
        expected = told(trajectories(whole.generate(ragged(), at(version))))
        assert told(trajectories(again.generate(ragged(), at(version)))) == expected
    for state in ({}, {"version": 0, "copy": {"other": torch.zeros(1)}}, {**saved, "version": 0}):
        again = Lagging(talker(family), family, refresh_every=3, dtype=dtype)
        again.restore(state, 4)  # nothing to go back to, or too old: begins with what there is
        assert again.version == 4


def test_the_probe_holds_a_lagging_engine_to_what_it_declares() -> None:
    family = tiny("qwen")
    stale = probe(family, Lagging(talker(family), family, refresh_every=4), ragged(), demand(rollouts=2))[0]
    assert stale.engine <= 1e-5  # nothing lags yet
    assert "differ by at most" in str(stale)
    rounded = Lagging(talker(family), family, dtype=torch.bfloat16)
    found = probe(family, rounded, ragged(), demand(rollouts=2))[0]
    assert 1e-6 < found.engine < 0.5
    assert found.packed <= 1e-5
    assert "differ by on average" in str(found)


def test_options_build_what_they_say() -> None:
    family = tiny("qwen")
    assert not isinstance(NativeOptions().build(family), Lagging)
    assert not isinstance(NativeOptions(dtype="float32").build(family), Lagging)
    made = NativeOptions(refresh_every=4).build(family)
    assert isinstance(made, Lagging)
    assert (made.refresh_every, made.dtype, made.exact, made.same_arithmetic) == (4, None, False, True)
    made = NativeOptions(dtype="bfloat16").build(family)
    assert (made.refresh_every, made.dtype, made.exact, made.same_arithmetic) == (
        1,
        torch.bfloat16,
        False,
        False,
    )
