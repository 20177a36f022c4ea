"""Makes nano from nothing: `python -m triune.policy.nano.build` (or `make nano`), about an hour on two cores.

1. see: the vision tower learns dense truth of drawn scenes; 2. speak: tower frozen, connector and language model learn
clean demonstrations; the clean model's held-out accuracy is recorded as the ceiling; 3. slip: a short last stage on
demonstrations of which a declared share carries an annotator's fault (`faults.py`), which is what RL then repairs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from triune.data.embedded import SOURCES
from triune.data.embedded.canvas import Ask
from triune.evaluate import accuracy, answer
from triune.policy.language import LanguageFamily
from triune.policy.nano import WEIGHTS
from triune.policy.nano.architecture import build_model, build_processor
from triune.policy.nano.faults import FAULT_RATE, faulty
from triune.policy.nano.see import POOL, draw_pool, teach_to_see
from triune.policy.nano.speak import teach_to_speak, tower_features
from triune.policy.options import LanguageOptions
from triune.rollout.options import NativeOptions
from triune.verify.judge import Judge


def clean_annotator(ask: Ask, rng: np.random.Generator) -> str:
    return ask.answer


def sloppy_annotator(ask: Ask, rng: np.random.Generator) -> str:
    """The declared share of answers with a fault of their form."""
    return faulty(ask, rng) if rng.random() < FAULT_RATE else ask.answer


def measure(model: Any, processor: Any, samples: int = 1000, seed: int = 1_000_003) -> dict[str, float]:
    """Held-out greedy accuracy per source, on scenes that no run evaluates on."""
    model.eval()
    family = LanguageFamily(model, processor, LanguageOptions(attention="eager"))
    family.model.requires_grad_(False)
    generator = NativeOptions(max_tokens=72).build(family)
    out: dict[str, float] = {}
    with Judge(workers=1) as judge:
        for name, source in SOURCES.items():
            chosen = [source.draw(i, seed, "heldout") for i in range(samples)]
            out[name] = float(np.mean([accuracy(one) for one in answer(family, generator, judge, chosen)]))
    return out


def save(model: Any, processor: Any, path: Path) -> None:
    """bf16 safetensors with processor and tokenizer: half the size, and training starts from what is shipped."""
    model.bfloat16().save_pretrained(path, safe_serialization=True)
    processor.save_pretrained(path)
    model.float()


def show(title: str, table: Mapping[str, float]) -> None:
    print(title, " ".join(f"{name} {value:.3f}" for name, value in table.items()), flush=True)


def main(
    out: Path = WEIGHTS,
    see_steps: int = 2200,
    speak_steps: int = 3000,
    slip_steps: int = 250,
    scale: float = 1.0,
    seed: int = 0,
) -> None:
    """Teaches nano and writes it to `out`.

    Args:
        out: folder for weights, processor and `clean.json`.
        see_steps: steps of the vision stage, batch 96.
        speak_steps: steps on clean demonstrations, batch 96.
        slip_steps: steps on demonstrations with the annotator's faults.
        scale: share of the usual number of scenes.
        seed: of initialisation and batches.
    """
    started = time.monotonic()
    processor = build_processor()
    model = build_model(processor.tokenizer, seed)
    pool = draw_pool({kind: max(1, round(n * scale)) for kind, n in POOL.items()})
    print(f"{len(pool.pixels)} scenes drawn in {time.monotonic() - started:.0f} s", flush=True)
    teach_to_see(model, pool, steps=see_steps, seed=seed)
    features = tower_features(model, pool)
    teach_to_speak(model, processor, pool, features, steps=speak_steps, annotate=clean_annotator, seed=seed)
    samples = max(2, round(1000 * scale))
    clean = measure(model, processor, samples)
    show("clean", clean)
    teach_to_speak(
        model, processor, pool, features, steps=slip_steps, annotate=sloppy_annotator, lr=5e-4, seed=seed + 1
    )
    slipped = measure(model, processor, samples)
    show("shipped", slipped)
    save(model, processor, out)
    figures = {"samples_per_source": samples, "sources": clean, "shipped": slipped}
    (out / "clean.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"nano is in {out} after {(time.monotonic() - started) / 60:.0f} min", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
