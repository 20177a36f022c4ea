"""The embedded model: what ships, and that its one command makes such a thing from nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from triune.data.embedded import SOURCES
from triune.policy.nano import WEIGHTS
from triune.policy.nano.build import main
from triune.policy.options import LanguageOptions


def test_the_shipped_weights_are_small_and_their_ceiling_is_recorded():
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 16 * 2**20
    assert not list(WEIGHTS.glob("*.bin"))
    figures = json.loads((WEIGHTS / "clean.json").read_text())
    assert set(figures["sources"]) == set(figures["shipped"]) == set(SOURCES)
    # What the quickstart repairs: no source is better after the annotator's faults than before.
    assert all(figures["shipped"][s] <= figures["sources"][s] + 0.02 for s in SOURCES)


def test_one_command_makes_a_model_of_the_shipped_kind(tmp_path: Path):
    main(out=tmp_path / "nano", see_steps=2, speak_steps=2, slip_steps=2, scale=0.002)
    made, shipped = (
        LanguageOptions(path=str(p), attention="eager").build() for p in (tmp_path / "nano", WEIGHTS)
    )
    assert made.tokenizer.get_vocab() == shipped.tokenizer.get_vocab()
    assert {k: v.shape for k, v in made.model.state_dict().items()} == {
        k: v.shape for k, v in shipped.model.state_dict().items()
    }
    assert all(torch.isfinite(p).all() for p in made.model.parameters())
    assert set(json.loads((tmp_path / "nano" / "clean.json").read_text())["sources"]) == set(SOURCES)
