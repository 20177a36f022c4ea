"""Does plain transformers read back what was trained? Tensors, prompts, log-probs and greedy answers, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from triune.core.errors import DataError, ExportError, RecipeError
from triune.core.recipe import Recipe
from triune.core.sample import Check, Media, Message, Picture, Sample, Text
from triune.core.trajectory import SamplingRule
from triune.data.mixture import Mixture, heldout
from triune.policy import vlm
from triune.policy.language import LanguageFamily
from triune.policy.logprob import rule_logprobs
from triune.policy.processor import UNLOADABLE, load_processor
from triune.rollout.engine import Request
from triune.rollout.native import NativeEngine

SAME = 1e-5
"""Largest gap of a log-prob between the model in memory and the one that was read back: the same arithmetic."""
ENGINE = {torch.float32: 1e-4}
"""Largest gap to the run's engine, which computes the same in another order; in lower precision, the mean is bounded."""
ROUNDED = 0.5
TOKENS = 16
PROMPTS = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What the trained policy greedily answers to a prompt: the prompt's and the answer's ids, its log-probs f32[T]."""

    sample: Sample
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logp: Tensor


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many tensors were equal, on how many prompts and answer tokens log-probs were compared, and the largest gaps:
    to the model in memory, and to the run's own engine before merging and rounding. `processor` says how it was read."""

    tensors: int
    prompts: int
    pictures: int
    tokens: int
    gap: float
    engine_gap: float
    processor: str

    def __str__(self) -> str:
        return (
            f"{self.tensors} tensors are equal; on {self.prompts} prompts with {self.pictures} pictures and {self.tokens} "
            f"answer tokens the log-probs differ by at most {self.gap:.1e}, from the run's engine by {self.engine_gap:.1e}, "
            f"and the greedy answers are the same; processor {self.processor}"
        )


def prompts(recipe: Recipe) -> tuple[list[Sample], str]:
    """A few held-out samples with pictures (of the training data where none is held out), and where they are from. Where
    the data is no longer there, drawn pictures: what is compared is the model, not its accuracy."""
    try:
        many = [s for found in heldout(recipe, samples=1).values() for s in found] or Mixture.of(
            recipe
        ).batch(1)
        for sample in many:
            for medium in sample.media:
                medium.read()
        if seen := [s for s in many if s.media]:
            return seen[:PROMPTS], "held-out samples"
    except (DataError, RecipeError, OSError):
        pass
    pixels = np.random.default_rng(0).integers(0, 256, (PROMPTS, 64, 96, 3), np.uint8)
    content = (Picture(media=0), Text(text="What is in the picture?"))
    return [
        Sample(
            id=f"drawn/{n}", source="drawn", task="drawn", media=(Media.from_image(Image.fromarray(p)),),
            messages=(Message(role="user", content=content),), checks=(Check(verifier="answer"),),
        )
        for n, p in enumerate(pixels)
    ], "drawn pictures"  # fmt: skip


def answers(family: LanguageFamily, samples: Sequence[Sample]) -> list[Answer]:
    """Greedy answers of the run's own engine, at most TOKENS tokens each; samples that do not fit the window are left out."""
    family.begin_step(samples)
    requests = []
    for sample in samples:
        family.check(sample)
        segment = family.prompt(sample)
        room = min(TOKENS, family.window - len(segment.ids))
        requests.append(Request(segment.ids, tuple(s.sha256 for s in segment.seen), (0,), room, sample.id))
    done = NativeEngine(family).complete(requests, SamplingRule(temperature=0.0))
    return [
        Answer(sample, tuple(map(int, request.ids)), tuple(row[0].ids), torch.tensor(row[0].logps))
        for sample, request, row in zip(samples, requests, done, strict=True)
    ]


class Reader:
    """A plain model and processor, asked as any user of transformers would."""

    def __init__(self, model: Any, processor: Any, banned: Sequence[int]) -> None:
        self.model, self.processor = model.eval(), processor
        self.rule = SamplingRule(temperature=0.0, banned=tuple(banned))

    def inputs(self, sample: Sample) -> Mapping[str, Tensor]:
        """The processor's tensors for a sample's prompt."""
        turns = [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": b.text} if isinstance(b, Text) else {"type": "image"}
                    for b in message.content
                ],
            }
            for message in sample.messages
        ]
        text = self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        images = [medium.image() for medium in sample.media]
        given = {"images": [images]} if images else {}
        made = self.processor(text=[text], return_tensors="pt", add_special_tokens=False, **given)
        device = next(self.model.parameters()).device
        return {k: v.to(device) for k, v in made.items() if isinstance(v, Tensor)}

    @torch.no_grad()
    def logp(self, answer: Answer) -> Tensor:
        """Log-probs f32[T] of an answer's tokens, by the model's own forward pass over prompt and answer."""
        inputs = dict(self.inputs(answer.sample))
        said = torch.tensor([answer.ids], device=inputs["input_ids"].device)
        for name, tensor in inputs.items():
            if name == "input_ids":
                inputs[name] = torch.cat([tensor, said], 1)
            elif tensor.shape == (1, len(answer.prompt)):  # which tokens are real, or stand for pictures
                fill = torch.ones_like if name == "attention_mask" else torch.zeros_like
                inputs[name] = torch.cat([tensor, fill(said).to(tensor.dtype)], 1)
        logits = self.model(**inputs).logits[0, len(answer.prompt) - 1 : -1]
        return rule_logprobs(logits, self.rule).gather(1, said[0][:, None])[:, 0].cpu()

    @torch.no_grad()
    def generate(self, answer: Answer) -> list[int]:
        """The greedy answer of transformers' own generation, by the folder's generation config."""
        made = self.model.generate(
            **self.inputs(answer.sample), do_sample=False, max_new_tokens=TOKENS, temperature=None, top_p=None,
            top_k=None, suppress_tokens=list(self.rule.banned),
        )  # fmt: skip
        return [int(i) for i in made[0][len(answer.prompt) :]]


def read_back(folder: Path, trust_remote_code: bool, **options: Any) -> Any:
    """The folder's model as plain transformers reads it. Raises ExportError where weights are missing or left over."""
    code = {"trust_remote_code": trust_remote_code}
    try:
        with vlm.quiet():
            model, said = AutoModelForImageTextToText.from_pretrained(
                folder, dtype="auto", use_safetensors=True, output_loading_info=True, **options, **code
            )
    except UNLOADABLE as error:
        raise ExportError(f"{folder}: transformers cannot read the model back: {error}") from error
    wrong = {
        kind: sorted(said[kind])
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if said[kind]
    }
    if wrong:
        raise ExportError(f"{folder}: transformers reads the weights back with {wrong}")
    return model


def processor_of(folder: Path, trust_remote_code: bool) -> tuple[Any, str]:
    """The folder's processor, and how it could be read here: some need packages that may not be installed."""
    try:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code), "read whole"
    except UNLOADABLE as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
    try:
        processor = load_processor(str(folder), trust_remote_code)
    except UNLOADABLE as error:
        raise ExportError(f"{folder}: transformers cannot read the processor back: {error}") from error
    return processor, f"read without its video half, for which a package is not installed here ({reason})"


def same_tensors(live: nn.Module, other: nn.Module) -> int:
    """The number of tensors, which must be equal in name, type and every bit, and tied where they were tied."""
    mine, its = live.state_dict(), other.state_dict()
    if mine.keys() != its.keys():
        raise ExportError(f"tensors that only one model has: {sorted(mine.keys() ^ its.keys())[:5]}")
    for name, tensor in mine.items():
        found = its[name]
        if tensor.dtype != found.dtype or not torch.equal(tensor.cpu(), found.cpu()):
            raise ExportError(
                f"tensor {name!r} is not what was trained ({tensor.dtype}, read back as {found.dtype})"
            )
    tied = [
        m.get_input_embeddings().weight is m.get_output_embeddings().weight  # type: ignore[operator]
        for m in (live, other)
    ]
    if tied[0] != tied[1]:
        raise ExportError("embeddings and head are tied in one model and not in the other")
    return len(mine)


def compare(
    trained: Sequence[Answer], live: Reader, other: Reader, tensors: int, *, exact: bool, processor: str
) -> Comparison:
    """`live` is the model in memory as it was written, `other` what was read back. `exact`: nothing was rounded on the
    way from the run's engine. Raises ExportError, saying what differs on which sample."""
    gap = engine_gap = 0.0
    for answer in trained:
        name = f"sample {answer.sample.id!r}"
        mine, its = live.inputs(answer.sample), other.inputs(answer.sample)
        if tuple(its["input_ids"][0].tolist()) != answer.prompt:
            raise ExportError(f"{name}: the folder's processor renders another prompt than the run's")
        for key in mine.keys() | its.keys():
            if key not in mine or key not in its or not torch.equal(mine[key], its[key]):
                raise ExportError(f"{name}: the folder's processor makes another {key}")
        before, after = live.logp(answer), other.logp(answer)
        gap = max(gap, float((before - after).abs().max()))
        apart = (answer.logp - after).abs()
        engine_gap = max(engine_gap, float(apart.max()))
        if not gap <= SAME:
            raise ExportError(
                f"{name}: log-probs differ by {gap:.2g} after reading the folder back (limit {SAME:g})"
            )
        if not (engine_gap <= ENGINE[torch.float32] if exact else float(apart.mean()) <= ROUNDED):
            raise ExportError(
                f"{name}: log-probs are {engine_gap:.2g} from the trained policy's: rounding lost too much; "
                "export with --dtype float32"
            )
        if live.generate(answer) != (said := other.generate(answer)):
            raise ExportError(f"{name}: the greedy answer is another after reading the folder back: {said}")
    return Comparison(
        tensors=tensors,
        prompts=len(trained),
        pictures=sum(len(answer.sample.media) for answer in trained),
        tokens=sum(len(answer.ids) for answer in trained),
        gap=gap,
        engine_gap=engine_gap,
        processor=processor,
    )
