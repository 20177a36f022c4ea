"""What a proof is: one number of runs with a mechanism, and the same number of runs without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Run = Callable[[int], dict[str, float]]
"""One run from a seed, and what was measured of it."""

ARMS: dict[str, Run] = {}
PROOFS: dict[str, Proof] = {}


@dataclass(frozen=True)
class Proof:
    """A claim: the `metric` of the runs of `arm` against those of `control`.

    `shows` says what is claimed, `told` what the design's own experiment measured, arm / control ('' if it gave none).
    """

    name: str
    shows: str
    metric: str
    higher_is_better: bool
    arm: str
    control: str
    key: str
    told: str = ""


def arm(name: str) -> Callable[[Run], Run]:
    """Registers a run under a name."""

    def register(run: Run) -> Run:
        assert name not in ARMS, name
        ARMS[name] = run
        return run

    return register


def proof(name: str, **fields: Any) -> None:
    """Registers a claim."""
    assert name not in PROOFS, name
    PROOFS[name] = Proof(name, **fields)
