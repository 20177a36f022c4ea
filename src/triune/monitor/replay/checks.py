"""Other checks for samples that were already answered: verifiers swapped, added, taken out, weights, parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from triune.core.errors import RecipeError
from triune.core.loading import command_line, merge, read
from triune.core.sample import Check, Sample

_FIELDS = ("verifier", "weight", "params", "schedule", "gate")


@dataclass
class Rechecked:
    """What is otherwise, as {source: {check: {key: value}}}; `*` in a source stands for anything.

    A check that is null is taken out, one that the sample does not have is added (and names its `verifier`). A key is one of a
    check (`verifier`, `weight`, `params`, `schedule`, `gate`) or a parameter. What is set no longer moves with a schedule, and
    another verifier begins without the parameters of the one before.
    """

    given: Mapping[str, Mapping[str, Mapping[str, Any] | None]] = field(default_factory=dict)
    _used: set[tuple[str, str]] = field(default_factory=set)
    _made: dict[int, tuple[Sample, Sample]] = field(default_factory=dict)

    @classmethod
    def of(cls, overrides: Sequence[str] = (), file: Path | None = None) -> Rechecked:
        """From `source.check.key=value` over a YAML file. Raises RecipeError for what is neither."""
        values = merge(read(file).values if file else {}, command_line(overrides).values)
        found: dict[str, dict[str, Mapping[str, Any] | None]] = {}
        for source, checks in values.items():
            if not isinstance(checks, dict):
                raise RecipeError(
                    f"{source}: expected checks; write source.check.key=value, or source.check=null"
                )
            for name, keys in checks.items():
                if keys is not None and not isinstance(keys, dict):
                    raise RecipeError(f"{source}.{name}: expected keys of a check, or null to take it out")
                found.setdefault(str(source), {})[str(name)] = keys
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self.given)

    def apply(self, sample: Sample) -> Sample:
        """The sample with its other checks; the same one where nothing concerns it. Raises RecipeError naming the check."""
        known = self._made.get(id(sample))
        if known is None:  # keeps the sample too, so that its id stays its own
            known = self._made[id(sample)] = sample, self._applied(sample)
        return known[1]

    def unused(self) -> list[str]:
        """What concerned no sample: a typing error, most likely."""
        return [
            f"{source}.{name}"
            for source, checks in self.given.items()
            for name in checks
            if (source, name) not in self._used
        ]

    def _applied(self, sample: Sample) -> Sample:
        checks = {check.name: check for check in sample.checks}
        for source, changes in self.given.items():
            if not fnmatchcase(sample.source, source):
                continue
            for name, keys in changes.items():
                if keys is None and name not in checks:
                    continue
                self._used.add((source, name))
                try:
                    if keys is None:
                        del checks[name]
                    else:
                        checks[name] = _changed(checks.get(name), name, keys)
                except ValidationError as error:
                    first = error.errors(include_url=False)[0]
                    where = ".".join((source, name, *map(str, first["loc"])))
                    raise RecipeError(f"{where}: {first['msg']}") from None
        if tuple(checks.values()) == sample.checks:
            return sample
        try:
            return Sample.model_validate({**dict(sample), "checks": tuple(checks.values())})
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            raise RecipeError(f"source {sample.source}, with its other checks: {message}") from None


def _changed(check: Check | None, name: str, keys: Mapping[str, Any]) -> Check:
    if check is None and "verifier" not in keys:
        raise RecipeError(f"{name}: no such check; a new one names its `verifier`")
    fields = check.model_dump() if check else {"params": {}, "schedule": {}}
    if check and keys.get("verifier", check.verifier) != check.verifier:
        moving = check.schedule.get("weight")
        fields |= {"params": {}, "schedule": {"weight": moving} if moving else {}}
    params = dict(keys.get("params") or {}) | {
        key: value for key, value in keys.items() if key not in _FIELDS
    }
    plain = {key: keys[key] for key in ("verifier", "weight", "gate") if key in keys}
    set_now = {*params, *plain}
    schedule = {key: value for key, value in fields["schedule"].items() if key not in set_now}
    if "schedule" in keys:
        schedule = dict(keys["schedule"] or {})
    merged = {key: value for key, value in (fields["params"] | params).items() if value is not None}
    return Check.model_validate(fields | plain | {"name": name, "params": merged, "schedule": schedule})
