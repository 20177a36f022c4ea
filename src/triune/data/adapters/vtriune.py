"""V-Triune / Orsta rows: the format this project's samples generalise.

data_source, images, prompt with <image> placeholders, ability, reward_model{answer, ground_truth, accuracy_ratio,
format_ratio, verifier, verifier_parm}, extra_info. Source: One RL to See Them All, sections 3.1, 3.3 and 4.3, and the
released rows.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from triune.core.errors import nearest
from triune.core.sample import Check, Message, Sample, Text
from triune.data.adapters import ADAPTERS, Adapter
from triune.data.rows import Row
from triune.verify.boxes import DYNAMIC_IOU
from triune.verify.extract import last_boxed, read_json
from triune.verify.verifier import Unparsed

TASKS = ("math", "puzzle", "science", "chart", "detection", "grounding", "counting", "ocr")
# How the parts of a box reward that V-Triune mixes read here. Its two greedy matchers depend on the order of the
# reference, or lose pairs; the first is replaced by the optimal matching, the second by a correct greedy one.
PARTS: dict[str, dict[str, JsonValue]] = {
    "iou_max_label_first": {"form": "iou_completeness", "matcher": "hungarian"},
    "iou_max_iou_first": {"form": "iou_completeness", "matcher": "greedy"},
    "map": {"form": "map_ranked"},
    "map50": {"form": "ap_ranked", "iou": 0.5},
    "map75": {"form": "ap_ranked", "iou": 0.75},
}

# Prompt pool (section 4.3): a thinking and a boxing sentence, ten of each. The first of each is the declared wording
# of evaluation, so that a held-out score never depends on a draw (the released code draws there too, unseeded).
THINK = (
    "Think the problem through step by step.",
    "Reason about what you see before you answer.",
    "Work it out carefully, one step at a time.",
    "First go over the relevant details, then conclude.",
    "Explain how you get there.",
    "Take your time and check every step.",
    "Lay out your reasoning before the result.",
    "Look closely and reason it out.",
    "Start from the facts and derive the answer.",
    "Show the steps that lead to your result.",
)
BOX = (
    r"Put the final answer in \boxed{}.",
    r"Write your final answer inside \boxed{}.",
    r"Give the result within \boxed{}.",
    r"End with the answer in \boxed{}.",
    r"Your final answer belongs in \boxed{}.",
    r"State the answer once, in \boxed{}.",
    r"Enclose the final result in \boxed{}.",
    r"Finish by writing the answer as \boxed{answer}.",
    r"Only the final answer goes into \boxed{}.",
    r"Present the answer in \boxed{} at the end.",
)
TAGS = "Write your reasoning inside <think> and </think>, then the answer inside <answer> and </answer>."


@ADAPTERS.register("vtriune")
class VTriune(Adapter):
    """Rewards are routed by each row; see the module for what reads differently here, and why."""

    examples = (
        {
            "data_source": "mm_math",
            "images": [{"bytes": None, "path": "picture.png"}],
            "prompt": [{"role": "user", "content": "<image>What is the side?"}],
            "ability": "math",
            "reward_model": {
                "answer": "4",
                "ground_truth": r"\boxed{4}",
                "accuracy_ratio": 1.0,
                "format_ratio": 0.0,
                "verifier": "mathverify",
                "verifier_parm": {"det_verifier_normalized": None, "det_reward_ratio": None},
            },
            "extra_info": {"id": None, "image_path": None},
        },
        {
            "data_source": "v3det",
            "images": ["picture.png"],
            "prompt": [{"role": "user", "content": "<image>Detect every cat."}],
            "ability": "cv_detection",
            "reward_model": {
                "answer": "[{'bbox_2d': [10, 20, 300, 400], 'label': 'cat'}]",
                "ground_truth": "<answer>[{'bbox_2d': [10, 20, 300, 400], 'label': 'cat'}]</answer>",
                "accuracy_ratio": 1.0,
                "format_ratio": 0.1,
                "verifier": "detection",
                "verifier_parm": {
                    "det_verifier_normalized": True,
                    "det_reward_ratio": {
                        "iou_max_label_first": 1.0,
                        "iou_max_iou_first": 0.0,
                        "iou_completeness": 0.3,
                        "map": 0.0,
                        "map50": 0.0,
                        "map75": 0.0,
                    },
                },
            },
            "extra_info": {"id": None, "image_path": None},
        },
    )

    kind: Literal["vtriune"] = "vtriune"
    iou: Literal["dynamic"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "dynamic",
        description="acceptance threshold of box rewards: the paper's schedule over the run, or one number",
    )
    prompt_pool: bool = Field(
        True, description="ask for a boxed answer in varied words; off: the bare questions"
    )

    def sample(self, row: Row) -> Sample:
        reward = row.nested("reward_model")
        verifier = reward.need("verifier", str)
        boxes = verifier == "detection"
        # The released server falls back to 1.0 and 0.1 where a row gives no weights.
        accuracy, layout = reward.get("accuracy_ratio", float, 1.0), reward.get("format_ratio", float, 0.1)
        parameters = _struct(reward, "verifier_parm", {"det_verifier_normalized", "det_reward_ratio"})
        if boxes:
            checks = self._box_checks(
                _struct(parameters, "det_reward_ratio", {*PARTS, "iou_completeness"}), accuracy
            )
        else:
            name = "math" if verifier == "mathverify" else verifier
            checks = [
                Check(verifier=name, weight=accuracy, params={"answer": "boxed"} if name == "math" else {})
            ]
        if layout > 0:
            checks.append(Check(verifier="format_json" if boxes else "format_count", weight=layout))
        id = str(row.get("extra_info", dict, {}).get("id") or row.id)
        images = row.images("images")
        messages = row.messages("prompt", images)
        if verifier == "mathverify" and self.prompt_pool:
            messages = _ask(messages, _wording(row, id, tags=layout > 0))
        return row.sample(
            id=id,
            source=row.get("data_source", str, row.source),
            task=_task(row),
            messages=messages,
            media=images,
            truth=_boxes(reward) if boxes else _answer(reward),
            # Without the flag the released server compares with what the model wrote, unconverted.
            frame="per_mille"
            if parameters.get("det_verifier_normalized", bool, True)
            else "pixels_processed",
            checks=checks,
            normalize=True,
        )

    def _box_checks(self, ratio: Row, accuracy: float) -> list[Check]:
        weights = {name: ratio.get(name, float, 0.0) for name in PARTS}
        completeness = ratio.get("iou_completeness", float, 0.3)
        used = {name: weight for name, weight in weights.items() if weight > 0} or {
            "iou_max_label_first": 1.0
        }
        return [self._part(name, accuracy * w / sum(used.values()), completeness) for name, w in used.items()]

    def _part(self, name: str, weight: float, completeness: float) -> Check:
        params = dict(PARTS[name])
        if params["form"] == "iou_completeness":
            params["completeness"] = completeness
            if self.iou != "dynamic":
                params["iou"] = self.iou
        moving = params["form"] == "iou_completeness" and self.iou == "dynamic"
        return Check(
            verifier="detection",
            name=f"detection/{name}",
            weight=weight,
            params=params,
            schedule={"iou": DYNAMIC_IOU} if moving else {},
        )


def _struct(row: Row, key: str, known: set[str]) -> Row:
    """An optional struct. Every released row carries all leaves: null means that one is not used."""
    inner = row.with_values(**{key: row.get(key, dict, {})}).nested(key)
    unknown = sorted(
        str(name) for name, value in inner.values.items() if value is not None and name not in known
    )
    if unknown:
        raise row.error("invalid", f"unknown {inner.path}{unknown[0]}; {nearest(unknown[0], known)}")
    return inner


def _task(row: Row) -> str:
    """The task is in the file's name ({split}_{task}_{source}_{num}); `ability` is a looser word (cv_detection)."""
    words = row.file.stem.lower().split("_")
    ability = row.get("ability", str, "")
    return next(
        (w for w in words if w in TASKS), next((t for t in TASKS if t in ability), ability or row.source)
    )


def _wording(row: Row, id: str, tags: bool) -> str:
    draw = int.from_bytes(hashlib.sha256(f"{row.seed}/{id}".encode()).digest()[:8], "big")
    number = draw % (len(THINK) * len(BOX)) if row.split == "train" else 0
    return " ".join([THINK[number // len(BOX)], *([TAGS] if tags else []), BOX[number % len(BOX)]])


def _ask(messages: tuple[Message, ...], sentence: str) -> tuple[Message, ...]:
    """The conversation with a sentence after its last turn, on a line of its own."""
    *before, last = messages
    return (*before, last.model_copy(update={"content": (*last.content, Text(text="\n" + sentence))}))


def _answer(reward: Row) -> str:
    """The bare reference; where only the formatted one is given, what its tags and box hold."""
    bare = reward.get("answer", str, "").strip()
    return bare or last_boxed(_body(reward)) or _body(reward)


def _body(reward: Row) -> str:
    text = reward.need("ground_truth", str)
    found = re.search(r"<answer>(.*)</answer>", text, re.DOTALL)
    return (found.group(1) if found else text).strip()


def _boxes(reward: Row) -> JsonValue:
    text = reward.get("answer", str, "").strip() or _body(reward)
    try:
        items = read_json(text)
        return {"boxes": [item["bbox_2d"] for item in items], "labels": [item["label"] for item in items]}
    except (Unparsed, KeyError, TypeError) as error:
        raise reward.error(
            "invalid", f"reward_model.answer is not a list of labelled boxes: {text[:60]!r}"
        ) from error
