"""The model card: what the model is, what it was trained on and by what recipe, and what it scored."""

from __future__ import annotations

import platform
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from triune.core.errors import StorageError
from triune.core.provenance import provenance
from triune.core.recipe import Recipe
from triune.evaluation.number import mean
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store
from triune.train.checkpoint import position_of

_OTHER = ("eval-before", "eval-blind", "eval-clean")
"""Evaluations that say something else than how good the model is."""
_PACKAGES = ("triune", "transformers", "torch", "peft", "safetensors")


def measured(path: Path, step: int) -> dict[str, Any]:
    """What the run's store holds about the weights of a checkpoint: the last evaluation not after it, per source, and the
    same sources before training where that was measured; and the mean reward of its training step."""
    run = path.parents[1]
    if not (run / "metrics.sqlite").exists():
        return {}
    with Store(run, readonly=True) as store:
        rounds = [
            (at, phase == "eval-after", phase)
            for phase in store.phases()
            if phase.startswith("eval") and phase not in _OTHER
            for at in store.rollout_steps(phase)
            if at <= step
        ]
        found: dict[str, Any] = {}
        if rounds:
            at, _, phase = max(rounds)
            found = {"phase": phase, "step": at, "sources": _scores(store.rollouts(phase, at))}
            first = [("eval-before", s) for s in store.rollout_steps("eval-before")[:1]]
            first += [(p, s) for s, _, p in sorted(rounds)[:1] if s < at]
            if first:
                found["before"] = {"step": first[0][1], "sources": _scores(store.rollouts(*first[0]))}
        reward = {
            source: {"mean": point.mean, "n": point.count}
            for (source,), points in store.series("reward").items()
            for point in points[-1:]
            if point.step <= step
        }
    return {**({"evaluation": found} if found else {}), "training_reward": reward}


def _scores(rollouts: list[Rollout]) -> dict[str, dict[str, Any]]:
    """Per source: mean accuracy (the main check's value; what nobody could judge counts as wrong), its 95 %
    interval over samples, and how many."""
    values: dict[str, list[float]] = defaultdict(list)
    for rollout in rollouts:
        values[rollout.source].append(rollout.accuracy or 0.0)
    numbers = {source: mean(seen) for source, seen in sorted(values.items())}
    return {
        source: {"accuracy": number.value, "n": number.n, "ci95": [number.low, number.high] if number.interval else None,
                 "interval": number.interval}
        for source, number in numbers.items()
    }  # fmt: skip


def describe(path: Path, recipe: Recipe, scores: dict[str, Any], *, adapter: bool) -> dict[str, Any]:
    """Everything the card says, as plain data."""
    position = position_of(path)
    options: Any = recipe.policy
    return {
        "name": recipe.name,
        "step": position.step,
        "total_steps": recipe.train.total_steps,
        "base_model": Path(options.path).name if Path(options.path).exists() else options.path,
        "adapter": adapter,
        "lora": options.lora.model_dump(mode="json") if options.lora else None,
        "recipe_sha256": provenance(recipe)["recipe_sha256"],
        "sources": [source.model_dump() for source in position.sources],
        "skipped": position.skipped,
        **scores,
        "trained_with": position.versions,
        "exported_with": {"python": platform.python_version()}
        | {name: version for name in _PACKAGES if (version := _version(name))},
    }


def write_card(file: Path, facts: dict[str, Any], compared: str) -> None:
    """README.md with front matter. Raises StorageError."""
    head = {
        "base_model": facts["base_model"],
        "base_model_relation": "adapter" if facts["adapter"] else "finetune",
        "library_name": "peft" if facts["adapter"] else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["triune", "reinforcement-learning", *(["lora"] if facts["lora"] else [])],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {facts['name']}",
        f"`{facts['base_model']}` after {facts['step']} of {facts['total_steps']} steps of reinforcement learning from "
        f"rewards that are checked, with Triune.{_lora(facts)} The whole recipe is in `recipe.yaml`, these figures are in "
        "`triune.json`.",
        _usage(facts),
        "## Results\n\n" + _results(facts),
        "## Data\n\n" + _data(facts),
        "## Made with\n\n"
        + "; ".join(
            f"{word}: " + ", ".join(f"{k} {v}" for k, v in facts[key].items())
            for word, key in (("trained", "trained_with"), ("exported", "exported_with"))
        )
        + f".\n\nRecipe sha256 `{facts['recipe_sha256']}`. When it was written, this folder was read back and compared: "
        + compared
        + ". The licence is that of the base model and of the data.",
    ]
    try:
        file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{file} could not be written: {error.strerror or error}") from error


def _lora(facts: dict[str, Any]) -> str:
    if not facts["lora"]:
        return ""
    kept = "these are the adapters alone" if facts["adapter"] else "they are merged into the weights"
    return f" Low-rank adapters (rank {facts['lora']['rank']}) were trained; {kept}."


def _usage(facts: dict[str, Any]) -> str:
    load = 'model = AutoModelForImageTextToText.from_pretrained("{}", dtype="auto")'
    if facts["adapter"]:
        lines = [
            "from peft import PeftModel",
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            "",
            load.format(facts["base_model"]),
            'model = PeftModel.from_pretrained(model, "this-folder")',
        ]
    else:
        lines = [
            "from transformers import AutoModelForImageTextToText, AutoProcessor",
            "",
            load.format("this-folder"),
        ]
    lines.append('processor = AutoProcessor.from_pretrained("this-folder")')
    return "```python\n" + "\n".join(lines) + "\n```"


def _results(facts: dict[str, Any]) -> str:
    found = facts.get("evaluation")
    if not found:
        return "No evaluation is on record for these weights: run `triune eval` on the checkpoint."
    before = found.get("before", {}).get("sources", {})
    rows = [
        "| source | n | accuracy | 95 % interval | before training |",
        "|---|---|---|---|---|",
    ]
    for source, one in found["sources"].items():
        between = "{:.3f} to {:.3f}".format(*one["ci95"]) if one["ci95"] else "-"
        first = f"{before[source]['accuracy']:.3f} (n = {before[source]['n']})" if source in before else "-"
        rows.append(f"| {source} | {one['n']} | {one['accuracy']:.3f} | {between} | {first} |")
    return (
        f"Greedy answers to held-out samples at step {found['step']}; accuracy is the value of each sample's main check, "
        "intervals are over samples (Wilson's for shares, bootstraps for means).\n\n" + "\n".join(rows)
    )


def _data(facts: dict[str, Any]) -> str:
    rows = ["| source | samples | sha256 |", "|---|---|---|"]
    for source in facts["sources"]:
        count = "drawn on demand" if source["samples"] is None else source["samples"]
        rows.append(f"| {source['name']} | {count} | `{source['sha256'][:16]}` |")
    skipped = ", ".join(f"{n} of {name}" for name, n in facts["skipped"].items())
    return "\n".join(rows) + (f"\n\nSkipped while training: {skipped}." if skipped else "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
