"""A full GRPO step, Triune against TRL's GRPOTrainer: samples per second and peak memory, side by side.

    python benchmarks/step.py            # needs: pip install -e '.[train,bench]'
    python benchmarks/step.py --quick    # one pair per point

Both sides run the same random-weight LLaVA-style model (CLIP tower, two-layer projector, Llama decoder) in float32 from
one folder, on the same prompts and pictures, with the same number of rollouts of exactly the same length, the tower
frozen, one optimiser step per batch of rollouts. Every measurement is a fresh process: it imports its library, notes its
memory, runs a step to warm up (but for long responses) and one that is timed, with generation, rewards and optimiser.
Sides alternate; ratios are of neighbours, and their median is reported. Peak memory is the process's high-water mark
above what it held after its imports. See docs/performance.md.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

WIDTH, LAYERS, FEED, HEADS, VOCABULARY = 384, 6, 1024, 6, 16_000
TOWER_WIDTH, TOWER_LAYERS, PICTURE, PATCH = 384, 12, 128, 16  # ViT-S/16
PICTURE_TOKENS = (PICTURE // PATCH) ** 2
FROZEN = "vision"

CHAT = (
    "{% for m in messages %}user {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for b in m['content'] %}{% if b['type'] == 'image' %}<image> {% else %}{{ b['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} assistant{% endif %}"
)
TEMPLATE_TOKENS = 2


@dataclass(frozen=True)
class Point:
    """One setting: `prompts` groups of `group_size` rollouts of `response_tokens` after prompts of `prompt_tokens`. A
    process runs `steps` and times the last. A prompt holds one picture of 64 tokens."""

    prompt_tokens: int
    response_tokens: int
    group_size: int = 8
    prompts: int = 2
    steps: int = 2


MAIN = (
    Point(128, 32),
    Point(512, 32),
    Point(128, 256, prompts=1, steps=1),
    Point(128, 1024, prompts=1, steps=1),
)
GROUPS = tuple(Point(128, 32, group_size) for group_size in (2, 4, 16))
"""TRL refuses a group of 1, which has no advantage; Triune's own cost is printed for it."""


# -- the model and the data both sides read --------------------------------------------------------------------------


def build(folder: Path, point: Point) -> None:
    """Writes the model, its processor and `rows.parquet` with TRL's conversational rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "<end>", "<unk>", "<image>"]
    words = [*special, "user", "assistant"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    side = {"height": PICTURE, "width": PICTURE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": PICTURE}, crop_size=side), tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaConfig(
        image_token_index=3, vision_feature_layer=-2, tie_word_embeddings=False,
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": TOWER_WIDTH, "intermediate_size": 4 * TOWER_WIDTH,
            "num_hidden_layers": TOWER_LAYERS, "num_attention_heads": 6, "image_size": PICTURE, "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": FEED, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "max_position_embeddings": 4096,
            "vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
            "tie_word_embeddings": False,
        },
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 1
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(4 * point.prompts):
        drawn = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (PICTURE, PICTURE, 3), np.uint8)).save(drawn, "PNG")
        images = [{"bytes": drawn.getvalue(), "path": None}]
        count = point.prompt_tokens - PICTURE_TOKENS - TEMPLATE_TOKENS
        text = " ".join(f"w{i}" for i in rng.integers(0, 1000, count))
        prompt = [{"role": "user", "content": text}]
        rows.append({"prompt": prompt, "images": images, "solution": "even"})
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")


def reward(text: str) -> float:
    """Share of even words: something that differs between rollouts and costs nothing."""
    words = [word for word in text.split() if word.startswith("w")]
    return sum(word[-1] in "02468" for word in words) / max(1, len(words))


# -- one side, in a process of its own -------------------------------------------------------------------------------


def memory(key: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {key}: this benchmark needs Linux")


def clocks() -> tuple[float, float]:
    """Seconds that passed, and that this process's threads computed."""
    return time.perf_counter(), time.process_time()


def run_triune(folder: Path, point: Point) -> dict[str, Any]:
    from triune.core.recipe import Recipe
    from triune.core.verdict import Outcome
    from triune.loop import Loop
    from triune.verify.verifier import Case, Score, Verifier, register

    # What a run imports when it starts belongs to the baseline.
    for name in ("triune.policy.vlm", "triune.policy.language", "triune.rollout.native"):
        importlib.import_module(name)

    @register("bench_even")
    class Even(Verifier[Any, None]):
        """The share of even words."""

        cases = (Case("w2 w3", 0.5),)

        def prepare(self, truth: Any, sample: Any, params: Any) -> None:
            return None

        def score(self, outcome: Outcome, reference: Any, params: Any, context: Any) -> Score:
            return Score(reward(outcome.text))

    before = memory("VmRSS")
    recipe = Recipe.model_validate(
        {
            "name": "step",
            "data": {
                "sources": [
                    {
                        "name": "bench",
                        "path": str(folder / "rows.parquet"),
                        "adapter": {"kind": "trl", "checks": [{"verifier": "bench_even"}]},
                    }
                ]
            },
            "policy": {"kind": "language", "path": str(folder / "model")},
            "rollout": {"kind": "native", "max_tokens": point.response_tokens},
            "algo": {"kind": "policy_gradient"},
            "train": {
                "total_steps": point.steps,
                "prompts_per_step": point.prompts,
                "rollouts_per_prompt": point.group_size,
                "freeze": [FROZEN],
                "optimizer": {"lr": 1e-5, "weight_decay": 0.0},
            },
            "judge": {"workers": 0},
            "monitor": {"sinks": [], "rollouts_every": 0},
        }
    )
    seconds = []
    with Loop(recipe, folder / "run") as loop:
        loop.family.stop_ids = ()  # exactly max_tokens each
        for _ in range(point.steps):
            started = clocks()
            rows = loop.step()
            seconds.append([b - a for a, b in zip(started, clocks(), strict=True)])
    lengths = {len(row.trajectory.decisions) for row in rows}
    prompts = {len(row.trajectory.payload.arrays["ids"]) - len(row.trajectory.decisions) for row in rows}
    return {
        "seconds": seconds,
        "before": before,
        "lengths": [*lengths],
        "prompts": [*prompts],
        "rows": len(rows),
    }


def trainer(folder: Path, point: Point, watch: list[Any]) -> Any:
    """TRL's trainer as its documentation sets it up, without vLLM, reference model or recomputation."""
    import torch
    from datasets import load_dataset
    from datasets.features import Image, List
    from transformers import AutoProcessor, LlavaForConditionalGeneration
    from trl import GRPOConfig, GRPOTrainer

    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    processor = AutoProcessor.from_pretrained(folder / "model")
    data = load_dataset(
        "parquet", data_files=str(folder / "rows.parquet"), split="train", cache_dir=str(folder / "cache")
    )
    data = data.cast_column("images", List(Image()))
    count = point.prompts * point.group_size
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"), max_steps=point.steps, per_device_train_batch_size=count,
        gradient_accumulation_steps=1, num_generations=point.group_size, max_completion_length=point.response_tokens,
        generation_kwargs={"min_new_tokens": point.response_tokens}, temperature=1.0, beta=0.0, epsilon=0.2,
        epsilon_high=0.28, loss_type="dapo", learning_rate=1e-5, lr_scheduler_type="constant", weight_decay=0.0,
        gradient_checkpointing=False, bf16=False, use_cpu=True, report_to=[], save_strategy="no", logging_steps=1,
        disable_tqdm=True, dataloader_pin_memory=False, seed=0,
    )  # fmt: skip

    def even(completions: list[Any], **kwargs: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return [reward(t if isinstance(t, str) else t[0]["text"]) for t in texts]

    return GRPOTrainer(
        model=model,
        reward_funcs=even,
        args=arguments,
        train_dataset=data,
        processing_class=processor,
        callbacks=watch,
    )


def run_trl(folder: Path, point: Point) -> dict[str, Any]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import TrainerCallback

    for name in ("LlavaForConditionalGeneration", "LlavaProcessor"):
        getattr(importlib.import_module("transformers"), name)
    for name in ("GRPOConfig", "GRPOTrainer"):  # imported when they are asked for, and part of the baseline
        getattr(importlib.import_module("trl"), name)

    class Watch(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[list[float]] = []
            self.started = clocks()

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = clocks()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append([b - a for a, b in zip(self.started, clocks(), strict=True)])

    before = memory("VmRSS")
    watch = Watch()
    made = trainer(folder, point, [watch])
    seen: list[tuple[int, ...]] = []
    loss = made._compute_loss

    def keep(model: Any, inputs: Any) -> Any:
        seen.append((*inputs["prompt_ids"].shape, *inputs["completion_mask"].sum(1).unique().tolist()))
        return loss(model, inputs)

    made._compute_loss = keep
    made.train()
    rows, prompts, *lengths = seen[-1]
    return {
        "seconds": watch.seconds,
        "before": before,
        "lengths": lengths,
        "prompts": [prompts],
        "rows": rows,
    }


def cosine(folder: Path, point: Point) -> dict[str, Any]:
    """The gradient of TRL's loss and of Triune's on the same completions and advantages."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import numpy as np
    import torch

    from triune.algo.objective import Objective
    from triune.algo.options import PolicyGradient
    from triune.algo.types import Credit, Evaluated
    from triune.core.sample import Media
    from triune.core.trajectory import Decisions, Payload, SamplingRule, Trajectory
    from triune.policy.language import LanguageFamily
    from triune.policy.options import LanguageOptions

    made = trainer(folder, point, [])
    kept: list[dict[str, Any]] = []
    loss = made._compute_loss

    def keep(model: Any, inputs: Any) -> Any:
        # Lengths that differ, so that masks, padding and denominators are compared as well.
        cut = torch.arange(inputs["completion_mask"].shape[0]) % (point.response_tokens // 2)
        ends = point.response_tokens - cut
        inside = torch.arange(point.response_tokens)[None] < ends[:, None]
        inputs["completion_mask"] = inputs["completion_mask"] * inside
        inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
        kept.append({k: v.clone() if hasattr(v, "clone") else v for k, v in inputs.items()})
        return loss(model, inputs)

    made._compute_loss = keep
    theirs: dict[str, Any] = {}
    model = made.model
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda p, name=name: theirs.__setitem__(name, p.grad.detach().clone())
            )
    made.args.learning_rate = 0.0
    made.train()
    (inputs,) = kept

    family = LanguageFamily.from_pretrained(LanguageOptions(path=str(folder / "model")))
    family.modules()[FROZEN].requires_grad_(False)
    rows = made.train_dataset
    shown: dict[tuple[int, ...], str] = {}
    for row in rows:
        media = Media.from_image(row["images"][0])
        family.pictures.add(media, "bench")
        text = made.processing_class.apply_chat_template(row["prompt"], add_generation_prompt=True)
        words = made.processing_class.tokenizer(text)["input_ids"]
        shown[tuple(i for i in words if i != family.image_id)] = media.sha256
    family.pictures.trains = "connector"
    trajectories = []
    for index, (prompt, said, mask) in enumerate(
        zip(inputs["prompt_ids"], inputs["completion_ids"], inputs["completion_mask"], strict=True)
    ):
        head = prompt.tolist()
        tail = said[mask.bool()].tolist()
        sha = shown[tuple(i for i in head if i != family.image_id)]
        arrays = {
            "ids": np.asarray([*head, *tail], np.int32),
            "at": np.arange(len(head), len(head) + len(tail), dtype=np.int32),
            "media_at": np.asarray([head.index(family.image_id)], np.int32),
        }
        trajectories.append(
            Trajectory(
                id=str(index),
                sample=sha,
                source="bench",
                task="bench",
                group=sha,
                rules=((0, SamplingRule()),),
                decisions=Decisions.of([-1.0] * len(tail)),
                payload=Payload(family="language", arrays=arrays, media=(sha,)),
            )
        )
    batch = family.pack(trajectories)
    given = inputs["advantages"].float()
    everyone = torch.ones(len(trajectories), dtype=torch.bool)
    credit = Credit(given[batch.trajectory], everyone, everyone, [""] * len(everyone), ~everyone)
    current = family.evaluate(batch)
    old = {"old": Evaluated(logp=current.logp.detach())}
    Objective(PolicyGradient()).whole(batch, credit, current, old).total.backward()
    mine = {n: p.grad for n, p in family.model.named_parameters() if p.grad is not None}
    assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
    a, b = (torch.cat([g[n].flatten().double() for n in sorted(mine)]) for g in (mine, theirs))
    return {"cosine": float(a @ b / (a.norm() * b.norm())), "norms": [float(a.norm()), float(b.norm())]}


# -- pairs -----------------------------------------------------------------------------------------------------------


def child(side: str, folder: Path, point: Point, threads: int) -> dict[str, Any]:
    """Runs one side in a fresh process and returns what it printed last."""
    given = json.dumps({"side": side, "folder": str(folder), "point": asdict(point)})
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, "--child", given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} at {point} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure(given: dict[str, Any]) -> None:
    """What a child does."""
    point, folder = Point(**given["point"]), Path(given["folder"])
    if given["side"] == "cosine":
        print(json.dumps(cosine(folder, point)))
        return
    run = {"triune": run_triune, "trl": run_trl}[given["side"]]
    found = run(folder, point)
    expected = ([point.response_tokens], [point.prompt_tokens], point.prompts * point.group_size)
    if (found["lengths"], found["prompts"], found["rows"]) != expected:
        raise SystemExit(f"{given['side']} ran {found}, not {expected}")
    passed, computed = found["seconds"][-1]
    rate = expected[2] / passed
    print(json.dumps({"rate": rate, "memory": memory("VmHWM") - found["before"], "processor": computed}))


@dataclass
class Arguments:
    """What to measure."""

    pairs: int = 5
    """measurements of each side per main point, alternating; the group sizes get at most two"""
    quick: bool = False
    """one pair per point"""
    only: str = ""
    """one point only, as PROMPTxRESPONSE or PROMPTxRESPONSExGROUP"""
    threads: int = os.cpu_count() or 1
    """of torch, on both sides"""
    json: Path | None = None
    """file for the figures"""
    child: str = ""
    """used by the script itself"""


def main(arguments: Arguments) -> None:
    if arguments.child:
        measure(json.loads(arguments.child))
        return
    pairs = 1 if arguments.quick else arguments.pairs
    points = [*MAIN, *GROUPS]
    if arguments.only:
        prompt, response, *group = map(int, arguments.only.split("x"))
        wanted = Point(prompt, response, *group)
        points = [p for p in points if replace(p, prompts=2, steps=2) == wanted] or [wanted]
    found: list[dict[str, Any]] = []
    print(f"{arguments.threads} threads; every figure is a median over pairs of neighbouring fresh processes")
    heads = ("prompt", "response", "G", "prompts", "pairs", "TRL samples/s", "Triune samples/s", "speed x")
    print(f"| {' | '.join((*heads, 'TRL MiB', 'Triune MiB', 'memory x'))} |\n|{'---|' * 11}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for number, point in enumerate(points):
            folder = Path(place) / str(number)
            folder.mkdir()
            build(folder, point)
            times = pairs if point in MAIN else min(pairs, 2)
            sides: dict[str, list[dict[str, Any]]] = {"trl": [], "triune": []}
            for _ in range(times):
                for side, rows in sides.items():
                    rows.append(child(side, beside(folder), point, arguments.threads))
            both = list(zip(sides["triune"], sides["trl"], strict=True))
            speed = statistics.median(a["rate"] / b["rate"] for a, b in both)
            memory = statistics.median(a["memory"] / b["memory"] for a, b in both)
            middle = {
                (side, key): statistics.median(row[key] for row in rows)
                for side, rows in sides.items()
                for key in ("rate", "memory")
            }
            print(
                f"| {point.prompt_tokens} | {point.response_tokens} | {point.group_size} | {point.prompts} | {times} | "
                f"{middle['trl', 'rate']:.2f} | {middle['triune', 'rate']:.2f} | {speed:.2f} | "
                f"{middle['trl', 'memory']:.0f} | {middle['triune', 'memory']:.0f} | {memory:.2f} |",
                flush=True,
            )
            found.append(
                {
                    **{f.name: getattr(point, f.name) for f in dataclasses.fields(point)},
                    "speed_ratio_vs_trl": speed,
                    "memory_ratio_vs_trl": memory,
                    "pairs": times,
                    "samples_per_second": {side: middle[side, "rate"] for side in sides},
                    "peak_mib": {side: middle[side, "memory"] for side in sides},
                    "processor_time_ratio_vs_trl": statistics.median(
                        b["processor"] / a["processor"] for a, b in both
                    ),
                    "speed_ratios": [a["rate"] / b["rate"] for a, b in both],
                    "memory_ratios": [a["memory"] / b["memory"] for a, b in both],
                }
            )
        folder = Path(place) / "cosine"
        folder.mkdir()
        point = Point(128, 32, steps=1)
        build(folder, point)
        single = child("triune", beside(folder), Point(128, 32, group_size=1), arguments.threads)["rate"]
        costs = [{"group_size": 1, "samples_per_second": single}]
        costs += [
            {"group_size": one["group_size"], "samples_per_second": one["samples_per_second"]["triune"]}
            for one in sorted(found, key=lambda one: one["group_size"])
            if (one["prompt_tokens"], one["response_tokens"]) == (128, 32)
        ]
        told = ", ".join(f"{one['group_size']}: {1000 / one['samples_per_second']:.0f} ms" for one in costs)
        print(f"Triune's cost of a rollout by group size, at 128 and 32 tokens: {told}", flush=True)
        compared = child("cosine", folder, point, arguments.threads)
    print(f"cosine of the gradients on the same completions and advantages: {compared['cosine']:.6f}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "points": found,
                    "gradient_cosine": compared["cosine"],
                    "group_costs": costs,
                    "measured": about(arguments),
                },
                indent=1,
            )
            + "\n"
        )


def beside(folder: Path) -> Path:
    """A new folder for one process, with the model and the rows of `folder`."""
    run = Path(tempfile.mkdtemp(dir=folder))
    for name in ("model", "rows.parquet"):
        (run / name).symlink_to(folder / name)
    return run


def about(arguments: Arguments) -> dict[str, Any]:
    """When, on what and with which versions."""
    from importlib.metadata import version

    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "versions": {name: version(name) for name in ("triune", "torch", "transformers", "trl")},
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
