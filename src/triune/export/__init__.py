"""Export: a checkpoint as a plain Hugging Face folder, read back and compared before it gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from triune.core.errors import ExportError, RecipeError, StorageError
from triune.core.provenance import RECIPE_FILE
from triune.export.card import describe, measured, write_card
from triune.export.compare import (
    Answer,
    Comparison,
    Reader,
    answers,
    compare,
    processor_of,
    prompts,
    read_back,
    same_tensors,
)
from triune.policy import vlm
from triune.policy.language import LanguageFamily
from triune.train import checkpoint

Dtype = Literal["float32", "bfloat16", "float16"]
FACTS_FILE = "triune.json"


def export(
    run: Path,
    out: Path | None = None,
    *,
    step: int | None = None,
    dtype: Dtype | None = None,
    adapter: bool = False,
) -> tuple[Path, Comparison]:
    """Writes a checkpoint of a run (the newest, or that of `step`) to `out`; returns the folder and how it compared.

    Adapters are merged into their base, or with `adapter` written as a PEFT folder. `dtype`: of the weights, by default
    the run's. Raises RecipeError when there is nothing to export or `out` is taken, ExportError when plain transformers
    does not read back what was trained (the folder is then not kept), StorageError when the disk refuses.
    """
    path = _chosen(run, step)
    recipe, family = checkpoint.policy(path)
    if not isinstance(family, LanguageFamily):
        raise RecipeError(f"{run}: only policy.kind language has a Hugging Face layout")
    if adapter and family.lora is None:
        raise RecipeError(f"{run} trained all weights: it has no adapter; export it without --adapter")
    if adapter and dtype:
        raise RecipeError(
            "--dtype is for merged weights: adapters keep the precision that they were trained in"
        )
    number = checkpoint.position_of(path).step
    out = out or path.parents[1] / "export" / (f"step-{number:06d}" + ("-adapter" if adapter else ""))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} is already there: choose another --out, or remove it")
    samples, where = prompts(recipe)
    trained = answers(family, samples)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        found = _adapter(family, partial, trained) if adapter else _whole(family, partial, trained, dtype)
        facts = describe(path, recipe, measured(path, number), adapter=adapter)
        facts["comparison"] = {**asdict(found), "on": where}
        (partial / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
        (partial / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        write_card(partial / "README.md", facts, str(found))
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{out} could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out, found


def _chosen(run: Path, step: int | None) -> Path:
    """The checkpoint's folder: of a run, or `run` itself."""
    if (run / "state.json").is_file():
        return run
    if step is None:
        return checkpoint.latest(run)
    by_step = {checkpoint.position_of(path).step: path for path in checkpoint.found(run)}
    if step not in by_step:
        raise RecipeError(
            f"{run} has no checkpoint of step {step}; there are: {', '.join(map(str, by_step)) or 'none'}"
        )
    return by_step[step]


def _whole(
    family: LanguageFamily, folder: Path, trained: Sequence[Answer], dtype: Dtype | None
) -> Comparison:
    """Weights (adapters merged), processor and generation config; compared with what transformers makes of the folder."""
    was = family.model.dtype
    wanted = getattr(torch, dtype) if dtype else was
    model: Any = family.lora.merge(wanted) if family.lora else vlm.cast(family.model, wanted)
    _stop_where_the_run_did(model, family)
    with vlm.quiet():
        model.save_pretrained(folder)
        family.processor.save_pretrained(folder)
    options = family.options
    read = read_back(folder, options.trust_remote_code, attn_implementation=options.attention)
    if read.generation_config.eos_token_id != model.generation_config.eos_token_id:
        raise ExportError(
            f"the generation config stops at {read.generation_config.eos_token_id}, not as the run did"
        )
    processor, how = processor_of(folder, options.trust_remote_code)
    return compare(
        trained,
        Reader(model, family.processor, family.banned),
        Reader(read, processor, family.banned),
        same_tensors(model, read),
        exact=was == wanted == torch.float32,
        processor=how,
    )


def _adapter(family: LanguageFamily, folder: Path, trained: Sequence[Answer]) -> Comparison:
    """A PEFT folder with the processor; compared with what peft makes of it on the base as plain transformers reads it."""
    from triune.policy.lora import reloaded

    assert family.lora is not None
    with vlm.quiet():
        family.lora.save(folder)
        family.processor.save_pretrained(folder)
        base, _ = vlm.load(family.options)
    read = reloaded(base, folder)
    processor, how = processor_of(folder, family.options.trust_remote_code)
    return compare(
        trained,
        Reader(family.model, family.processor, family.banned),
        Reader(read, processor, family.banned),
        same_tensors(family.model, read.get_base_model()),
        exact=family.exact,
        processor=how,
    )


def _stop_where_the_run_did(model: Any, family: LanguageFamily) -> None:
    """Generation ends at every id that ended a turn in training, and pads with the tokenizer's own."""
    stops = list(family.stop_ids)
    model.generation_config.eos_token_id = stops if len(stops) != 1 else stops[0]
    model.generation_config.pad_token_id = family.pad_id


__all__ = ["Comparison", "export"]
