"""From a sample's checks to verifiers with resolved parameters; what cannot be routed is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import JsonValue, ValidationError

from triune.core.base import Frozen
from triune.core.errors import DataError, RecipeError, nearest
from triune.core.sample import Check, Sample
from triune.core.schedule import Progress, Steps, WarmupCosine, resolve
from triune.verify.env import PREFIX, EnvReward
from triune.verify.verifier import AnyVerifier, verifiers


class Term(NamedTuple):
    """One check of a sample, ready to be scored."""

    check: Check
    verifier: AnyVerifier[Any, Any]
    params: Frozen
    weight: float

    @property
    def label(self) -> str:
        """How the verdict names the verifier."""
        return f"{self.check.verifier}@{self.verifier.version}"


def find_verifier(name: str) -> AnyVerifier[Any, Any]:
    """The verifier of this name; raises RecipeError with the nearest valid name."""
    return EnvReward(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else verifiers[name]()


def route(sample: Sample, progress: Progress) -> list[Term]:
    """The sample's terms at this progress, in order; raises DataError naming sample and check."""
    weights = [check.weight_at(progress) for check in sample.checks]
    if not all(map(math.isfinite, weights)) or (sample.normalize and sum(weights) <= 0):
        moving = any("weight" in check.schedule for check in sample.checks)
        when = f", {progress.fraction:.0%} into the run," if moving else ""
        raise DataError(
            f"sample {sample.id!r}: weights {weights}{when} must be finite, with a positive sum to normalise by"
        )
    gates = {check.name: check.gate for check in sample.checks}
    for name, gate in gates.items():
        for _ in gates:
            gate = gate and gates[gate]
        if gate is not None:
            raise DataError(f"sample {sample.id!r}: the gates of check {name!r} form a circle")
    return [
        _term(sample, check, weight, _scheduled(check, progress))
        for check, weight in zip(sample.checks, weights, strict=True)
    ]


def check_routing(sample: Sample) -> list[Term]:
    """The terms at the start of a run, after trying the parameters and weights that its schedules make together."""
    for progress in _turns(sample):
        route(sample, progress)
    return route(sample, Progress(step=0, total_steps=1))


def _turns(sample: Sample) -> list[Progress]:
    """Where a schedule begins, ends or jumps, and just after. A line or half a cosine is bounded by its ends; a sum of
    weights to normalise by is not, and is looked at along the way."""
    turns, steps = {0.0, 1.0}, set[int]()
    schedules = [(name, schedule) for check in sample.checks for name, schedule in check.schedule.items()]
    if not schedules:
        return []
    for name, schedule in schedules:
        if isinstance(schedule, WarmupCosine):
            if schedule.unit == "step":
                steps |= {math.floor(bound) for bound in schedule.turns if bound < math.inf}
            else:
                turns |= {bound for bound in schedule.turns if bound <= 1}
        elif not isinstance(schedule, Steps):
            turns.add(schedule.until)
        elif schedule.unit == "fraction":
            turns |= {bound for bound, _ in schedule.table if 0 <= bound <= 1}
        else:
            steps |= {math.floor(bound) for bound, _ in schedule.table if 0 <= bound < math.inf}
        if name == "weight" and sample.normalize:
            turns |= {n / 100 for n in range(101)}
    end = max(_TICKS, *steps) if steps else _TICKS
    ticks = {round(turn * end) for turn in turns} | steps
    both = {tick + after for tick in ticks for after in (0, 1)}
    return [Progress(step=min(tick, end), total_steps=end) for tick in sorted(both)]


_TICKS = 1_000_000


def _scheduled(check: Check, progress: Progress) -> dict[str, JsonValue]:
    return {n: resolve(schedule, progress) for n, schedule in check.schedule.items() if n != "weight"}


def _term(sample: Sample, check: Check, weight: float, scheduled: Mapping[str, JsonValue]) -> Term:
    where = f"sample {sample.id!r}, check {check.name!r}"
    try:
        verifier = find_verifier(check.verifier)
    except RecipeError as error:
        raise DataError(f"{where}: {error}") from None
    known = verifier.Params.model_fields
    given = _without_nulls(check.params)
    for name in (*given, *(name for name in check.schedule if name != "weight")):
        if name not in known:
            kind = "parameter" if name in given else "scheduled parameter"
            raise DataError(f"{where}: {check.verifier} has no {kind} {name!r}: {nearest(name, known)}")
    try:
        params = verifier.Params.model_validate(given | dict(scheduled))
        for name in params.model_fields_set:
            _legible(name, getattr(params, name))
        verifier.configure(params)
        return Term(check, verifier, params, weight)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "parameters"
        raise DataError(
            f"{where}: {check.verifier}: {at}: {first['msg']} (given {first['input']!r})"[:500]
        ) from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise DataError(f"{where}: {check.verifier}: {error}"[:500]) from None


def _legible(name: str, value: object) -> None:
    """Raises ValueError for a value that no file of JSON can hold: a number that is not finite, a text that is not UTF-8."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _legible(name, key)
            _legible(name, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _legible(name, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is not finite")
    elif isinstance(value, str) and not value.isascii():
        value.encode()  # raises UnicodeEncodeError, a ValueError


def _without_nulls(params: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Parameters without null leaves, nor tables that only held such: Parquet fills a struct's absent fields with null."""
    kept: dict[str, JsonValue] = {}
    for name, value in params.items():
        if isinstance(value, dict):
            inner = _without_nulls(value)
            if inner or not value:
                kept[name] = inner
        elif value is not None:
            kept[name] = value
    return kept
