"""One whole RL step on a folder of every architecture: render, rollout, verify, update, save, reload."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from triune.core.recipe import Recipe
from triune.core.sample import Check, Sample
from triune.data import parquet
from triune.loop import Loop
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.testing.models import TINY, ragged, write


def rows(path: Path) -> Path:
    """Samples with 0 to 3 pictures of different sizes; every answer earns something, so that groups differ."""
    check = Check(verifier="edit_similarity", params={"answer": "text"})
    samples = [s.model_copy(update={"checks": (check,), "truth": "Which is the tallest?"}) for s in ragged()]
    parquet.write(path, samples, Sample)
    return path


@pytest.mark.parametrize("kind", sorted(set(TINY) - {"nano"}))
def test_one_step_of_a_real_family(kind: str, tmp_path: Path) -> None:
    folder = write(kind, tmp_path / "model")
    recipe = Recipe.model_validate(
        {
            "name": kind,
            "data": {"sources": [{"name": "mixed", "path": str(rows(tmp_path / "rows.parquet"))}]},
            "policy": {"kind": "language", "path": str(folder)},
            "rollout": {"kind": "native", "max_tokens": 8},
            "algo": {"kind": "policy_gradient"},
            "train": {
                "total_steps": 1, "prompts_per_step": 4, "rollouts_per_prompt": 3, "optimizer": {"lr": 1e-3},
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": []},
        }
    )  # fmt: skip
    with Loop(recipe, tmp_path / "run") as loop:
        loop.check()
        family = loop.family
        assert isinstance(family, LanguageFamily)
        before = {n: p.detach().clone() for n, p in family.model.named_parameters()}
        scored = loop.step()
        moved = {n for n, p in family.model.named_parameters() if not torch.equal(p, before[n])}
        for name, part in family.modules().items():
            names = {n for n, p in family.model.named_parameters() if any(p is q for q in part.parameters())}
            assert moved & names, name
        saved = loop.save() / "model"
        samples = list({one.sample.id: one.sample for one in scored}.values())
        rollouts = [one.trajectory for one in scored]
        again = LanguageFamily.from_pretrained(LanguageOptions(path=str(saved)))
        found = []
        for one in (family, again):
            one.begin_step(samples)
            for sample in samples:
                one.check(sample)
            with torch.no_grad():
                found.append(one.evaluate(one.pack(rollouts)).logp)
        assert torch.equal(*found)
        said = [str(event.detail["message"]) for event in loop.monitor.store.events("policy")]
    assert said
    assert said[0].startswith("boxes are read in the frame")
    plain = AutoModelForImageTextToText.from_pretrained(saved)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, family.model.state_dict()[name]), name
