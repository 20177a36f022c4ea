"""Shared-prefix rows against padded rows: time and peak memory of one forward and backward pass, in pairs.

    python benchmarks/layout.py

nano's architecture with random weights; prompts are lengthened with text to the sizes given. Prints the median ratio
of several pairs; the two layouts' log-probs are compared first.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
import tyro

from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.policy.language import LanguageFamily
from triune.policy.nano.architecture import build_model, build_processor
from triune.policy.options import LanguageOptions


def rollouts(
    family: LanguageFamily, prompts: int, group: int, prompt: int, response: int
) -> list[Trajectory]:
    """`prompts` groups of `group` rollouts of random text ids, all of the same length."""
    rng = np.random.default_rng(0)
    made = []
    for p in range(prompts):
        head = rng.integers(0, 200, prompt)
        for r in range(group):
            ids = np.concatenate([head, rng.integers(0, 200, response)]).astype(np.int32)
            origin = np.concatenate([np.zeros(prompt), np.ones(response)]).astype(np.int8)
            arrays = {
                "ids": ids,
                "origin": origin,
                "at": np.arange(prompt, prompt + response, dtype=np.int32),
                "media_at": np.zeros(0, np.int32),
            }
            made.append(
                Trajectory(
                    id=f"{p}#{r}",
                    sample=str(p),
                    source="x",
                    task="x",
                    group=str(p),
                    rank=r,
                    decisions=Decisions.of([-1.0] * response),
                    payload=Payload(family="language", arrays=arrays),
                )
            )
    return made


def once(family: LanguageFamily, made: list[Trajectory], layout: str) -> tuple[float, torch.Tensor]:
    family.options = family.options.model_copy(update={"layout": layout})
    started = time.perf_counter()
    logp = family.evaluate(family.pack(made)).logp
    logp.mean().backward()
    seconds = time.perf_counter() - started
    family.model.zero_grad(set_to_none=True)
    return seconds, logp.detach()


def main(pairs: int = 5, prompts: int = 8, group: int = 8, response: int = 16) -> None:
    """Prints one row per prompt length.

    Args:
        pairs: measurements of each layout, alternating.
        prompts: groups in the batch.
        group: rollouts per prompt.
        response: tokens per rollout.
    """
    processor = build_processor()
    model = build_model(processor.tokenizer)
    model.set_attn_implementation("eager")
    family = LanguageFamily(model, processor, LanguageOptions())
    print(
        f"{prompts} prompts x {group} rollouts, responses of {response} tokens, {torch.get_num_threads()} threads"
    )
    print(
        "| prompt tokens | padded s | shared s | padded / shared | largest log-prob gap |\n|---|---|---|---|---|"
    )
    for prompt in (24, 64, 128, 256):
        made = rollouts(family, prompts, group, prompt, response)
        gap = float((once(family, made, "padded")[1] - once(family, made, "shared")[1]).abs().max())
        times = [(once(family, made, "padded")[0], once(family, made, "shared")[0]) for _ in range(pairs)]
        padded, shared = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        print(f"| {prompt} | {padded:.2f} | {shared:.2f} | {ratio:.1f} | {gap:.1e} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
