"""The layout that is chosen against a row per rollout: time of one forward and backward pass, in alternating pairs.

    python benchmarks/layout.py --json layout.json

nano's architecture with random weights and random text. Prints the median ratio of the pairs at every point; the two
layouts' log-probs are compared first.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

from triune.core.trajectory import Decisions, Payload, Trajectory
from triune.policy.language import LanguageFamily
from triune.policy.layout import Choice
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


def once(family: LanguageFamily, made: list[Trajectory], layout: str) -> tuple[float, torch.Tensor, Choice]:
    """Seconds of one forward and backward pass, the log-probs, and how the rollouts were laid out."""
    family.options = family.options.model_copy(update={"layout": layout})
    started = time.perf_counter()
    batch = family.pack(made)
    logp = family.evaluate(batch).logp
    logp.mean().backward()
    seconds = time.perf_counter() - started
    family.model.zero_grad(set_to_none=True)
    return seconds, logp.detach(), batch.payload.choice


@dataclass
class Arguments:
    """What to measure."""

    pairs: int = 5
    """measurements of each layout per point, alternating"""
    prompts: tuple[int, ...] = (24, 128, 512, 1024)
    """prompt lengths in tokens"""
    responses: tuple[int, ...] = (8, 64, 256, 1024)
    """response lengths in tokens"""
    groups: tuple[int, ...] = (1, 4, 8, 16)
    """rollouts per prompt"""
    tokens: int = 2048
    """tokens of padded rows per point, at least, filled with as many prompts as that takes"""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """sdpa: no mask; eager: rows under a mask"""
    json: Path | None = None
    """file for the figures"""


def main(arguments: Arguments) -> None:
    processor = build_processor()
    model = build_model(processor.tokenizer)
    model.set_attn_implementation(arguments.attention)
    family = LanguageFamily(model, processor, LanguageOptions(attention=arguments.attention))
    print(f"attention {arguments.attention}, {torch.get_num_threads()} threads, {arguments.pairs} pairs")
    print(
        "| prompt | response | G | prompts | layout | estimated | padded s | auto s | padded / auto | log-prob gap |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    found = []
    for prompt, response, group in product(arguments.prompts, arguments.responses, arguments.groups):
        count = max(1, arguments.tokens // (group * (prompt + response)))
        made = rollouts(family, count, group, prompt, response)
        gap = float((once(family, made, "padded")[1] - once(family, made, "auto")[1]).abs().max())
        pairs = []
        for number in range(arguments.pairs):
            order = ("padded", "auto") if number % 2 else ("auto", "padded")  # neither is always the second
            run = {layout: once(family, made, layout) for layout in order}
            pairs.append((run["padded"], run["auto"]))
        padded, auto = (statistics.median(run[0] for run in side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a[0] / b[0] for a, b in pairs)
        choice = pairs[0][1][2]
        estimated = choice.padded / choice.cost
        print(
            f"| {prompt} | {response} | {group} | {count} | {choice.layout} | {estimated:.2f} | {padded:.3f} | "
            f"{auto:.3f} | {ratio:.2f} | {gap:.1e} |",
            flush=True,
        )
        found.append(
            {
                "prompt_tokens": prompt,
                "response_tokens": response,
                "group_size": group,
                "prompts": count,
                "layout": choice.layout,
                "estimated_ratio": estimated,
                "speed_ratio_vs_padded": ratio,
                "largest_logp_gap": gap,
                "pairs": arguments.pairs,
            }
        )
    worst = min(found, key=lambda point: point["speed_ratio_vs_padded"])
    print(f"least padded / auto: {worst['speed_ratio_vs_padded']:.2f}")
    if arguments.json:
        measured = {
            "date": time.strftime("%Y-%m-%d"),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "versions": {name: version(name) for name in ("triune", "torch", "transformers")},
        }
        figures = {"attention": arguments.attention, "points": found, "measured": measured}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
