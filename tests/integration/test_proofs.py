"""The toys of benchmarks/proofs.py in a shorter form: each mechanism beside its control, through the real parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    torch.set_num_threads(1)


def test_tapered_weights_learn_from_bad_rows_and_plain_ones_flee_to_the_arm_nobody_tried() -> None:
    from proof.stale import RAW, offline

    tapered = offline(0, {"preset": "topr", "advantage": RAW}, steps=300)
    plain = offline(0, {"advantage": RAW, "terms": [{"kind": "reinforce"}]}, steps=300)
    assert tapered["good"] > 0.95
    assert tapered["lowest_logit"] > -3
    assert plain["invalid"] > 0.99
    assert plain["lowest_logit"] < -12


def test_the_partner_is_the_baseline_that_stays_right_off_policy() -> None:
    from proof.preferences import BETA, fixed_answers

    assert fixed_answers(0, [{"kind": "copg", "beta": BETA}], steps=200)["kl"] < 1e-4
    assert fixed_answers(0, [{"kind": "nash_md", "beta": BETA}], steps=200)["kl"] > 1e-2


def test_a_gate_keeps_the_style_that_a_plain_sum_overwrites() -> None:
    from proof.demonstrations import MIXTURES, styles

    gated, summed = (styles(0, MIXTURES[name], steps=80) for name in ("hpt", "static"))
    assert gated["hard"] > 0.9
    assert gated["own"] > 0.9
    assert summed["own"] < 0.2


def test_a_demonstration_that_gets_shorter_solves_what_no_rollout_finds() -> None:
    from proof.demonstrations import LENGTH, chain

    begun = chain(0, {"preset": "prefix-rft", "constant": LENGTH}, steps=150)
    alone = chain(0, {"preset": "dr-grpo", "constant": LENGTH}, steps=150)
    assert begun["success"] > 0.3
    assert alone["success"] < 0.01


def test_every_claim_is_written_with_raw_values(tmp_path: Path) -> None:
    from proof.harness import Proof
    from proofs import entry, table

    claim = Proof(
        "x/y", "what it shows", "share", True, arm="x/with", control="x/without", key="a", told="1 / 0"
    )
    seeds = (0, 1)
    results: dict[Any, Any] = {
        (arm, seed): {"a": seed + value, "b": 9.0}
        for arm, value in (("x/with", 0.5), ("x/without", 0.25))
        for seed in seeds
    }
    written = json.loads(json.dumps(entry(claim, seeds, results)))
    assert written["name"] == "x/y"
    assert written["values"] == [0.5, 1.5]
    assert written["control"] == [0.25, 1.25]
    assert written["higher_is_better"] is True
    assert "| 0.500, 1.500 | 0.250, 1.250 | 1 / 0 |" in table([written])
