"""A rollout as the dashboard shows it: conversation, tokens, pictures with what is marked on them, verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from triune.core.errors import StorageError
from triune.core.sample import Picture, Sample, Text
from triune.monitor.boxes import Box, Canvas, Layout, Marks, Outline, answered_marks, true_marks
from triune.monitor.dash.reading import Json
from triune.monitor.rollouts import Rollout
from triune.monitor.store import Store
from triune.rollout.conversation import FORCED, MODEL, PROMPT, TOOL_IMAGE

MAX_TEXT = 20_000
"""Characters of a text that are sent at first."""
MAX_TOKENS = 4_000
"""Tokens that are sent at first."""


def said(value: float | None) -> float | str | None:
    """A number for a reader: JSON has no NaN and no infinity, and null stands for no number at all."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"


def head(text: str, whole: bool, limit: int = MAX_TEXT) -> Json:
    """A text, cut if it is long: `more` characters are missing."""
    return (
        {"text": text, "more": 0}
        if whole or len(text) <= limit
        else {"text": text[:limit], "more": len(text) - limit}
    )


def described(store: Store, rollout: Rollout, row: int, *, whole: bool = False) -> Json:
    """Everything about a rollout. `whole`: texts and tokens in full length."""
    sample = sample_of(store, rollout)
    pictures = _pictures(store, rollout, sample)
    marks = _marks(rollout, sample, pictures)
    return brief(rollout, row) | {
        "seed": str(rollout.seed), "turns": rollout.turns, "truncated": rollout.truncated,
        "prompt_tokens": rollout.prompt_tokens, "response_tokens": rollout.response_tokens,
        "versions": [rollout.version_min, rollout.version_max], "judge_seconds": said(rollout.judge_seconds),
        "truth": head(_json(rollout.truth), whole), "truth_frame": rollout.truth_frame, "answer_frame": rollout.answer_frame,
        "pictures": pictures, "marks": marks, "messages": _messages(rollout, sample, whole),
        "response": head(rollout.response, whole), "tokens": _tokens(store, rollout, whole),
        "calls": [
            {"turn": call.turn, "name": call.name, "ok": call.ok, "error": call.error,
             "args": head(_json(call.args), whole), "result": head(_json(call.result), whole)}
            for call in rollout.calls
        ],
        "events": [
            {"decision": event.decision, "name": event.name, "value": said(event.value), "status": event.status}
            for event in rollout.events
        ],
        "known": sample is not None,
        "checks": {} if sample is None else {
            check.name: {"verifier": check.verifier, "params": _json(check.params), "gate": check.gate} for check in sample.checks
        },
    }  # fmt: skip


def brief(rollout: Rollout, row: int) -> Json:
    """What tells a rollout from its siblings."""
    return {
        "step": rollout.step, "phase": rollout.phase, "row": row, "id": rollout.id, "sample": rollout.sample,
        "source": rollout.source, "task": rollout.task, "group": rollout.group, "rank": rollout.rank,
        "component": rollout.component, "reward": said(rollout.reward), "accuracy": said(rollout.accuracy),
        "correct": rollout.correct, "status": rollout.status, "ending": rollout.ending,
        "length": rollout.response_tokens, "advantage": said(rollout.advantage), "in_loss": rollout.in_loss,
        "in_baseline": rollout.in_baseline, "reason": rollout.reason, "components": _components(rollout),
    }  # fmt: skip


def sibling(store: Store, rollout: Rollout, row: int) -> Json:
    """A rollout next to others: its answer, its marks and its pictures."""
    sample = sample_of(store, rollout)
    pictures = _pictures(store, rollout, sample)
    return brief(rollout, row) | {
        "response": head(rollout.response, False, 2_000), "pictures": pictures,
        "marks": _marks(rollout, sample, pictures), "truth": head(_json(rollout.truth), False, 500),
        "prompt": head(rollout.prompt, False, 500),
    }  # fmt: skip


def sample_of(store: Store, rollout: Rollout) -> Sample | None:
    """The rollout's whole sample; None where the run did not keep it."""
    return store.sample(rollout.sample_sha) if rollout.sample_sha else None


def _components(rollout: Rollout) -> list[Json]:
    """Every component; `share` is what it adds to the reward, None where that is not known."""
    divisor = _divisor(rollout)
    shares = [
        None if part.value is None or divisor is None else 0.0 if part.gated else part.weight * part.value / divisor
        for part in rollout.components
    ]  # fmt: skip
    return [
        {
            "name": part.name, "value": said(part.value), "weight": said(part.weight),
            "share": said(share), "status": part.status, "correct": part.correct, "detail": head(part.detail, False, 4_000),
            "verifier": part.verifier, "gated": part.gated, "main": part.main, "seconds": said(part.elapsed),
            "metrics": {name: said(value) for name, value in part.metrics.items()},
            "events": [{"decision": e.decision, "name": e.name, "value": said(e.value)} for e in part.events],
        }
        for part, share in zip(rollout.components, shares, strict=True)
    ]  # fmt: skip


def _divisor(rollout: Rollout) -> float | None:
    """What the weighted sum was divided by: 1, or the sum of the weights where the sample is normalised. Rows do not say
    which, but the reward does."""
    if rollout.reward is None:
        return None
    total = sum(0.0 if part.gated else part.weight * (part.value or 0.0) for part in rollout.components)
    for divisor in (1.0, sum(part.weight for part in rollout.components)):
        if divisor and math.isclose(total / divisor, rollout.reward, rel_tol=1e-6, abs_tol=1e-9):
            return divisor
    return None


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(store: Store, rollout: Rollout, sample: Sample | None) -> list[Json]:
    """The pictures as the policy met them, those of the prompt first, with what is wrong with one that cannot be shown."""
    found: list[Json] = []
    seen = dict(enumerate(rollout.seen))
    shas = [*rollout.media, *(picture.sha256 for picture in rollout.seen[len(rollout.media) :])]
    for n, sha in enumerate(shas):
        met = seen.get(n)
        known = met if met is not None and met.sha256 == sha else None
        problem, size = _look(store.media(sha))
        if sample is not None and n < len(sample.media) and sample.media[n].kind == "video":
            problem = "a video: it is not kept with the run"
        if known is not None and size is not None and tuple(known.original) != size:
            problem = f"the file has {size[0]} x {size[1]} pixels, the policy met {known.original[0]} x {known.original[1]}"
        if known is not None:
            size = known.original
        elif size is None and sample is not None and n < len(sample.media):
            size = sample.media[n].size
        found.append({
            "sha": sha, "shown": problem == "" or problem.startswith("the file has"), "problem": problem,
            "size": size, "processed": known.processed if known is not None else None,
            "by": "prompt" if n < len(rollout.media) else "tool",
        })  # fmt: skip
    return found


def _look(file: Path | None) -> tuple[str, tuple[int, int] | None]:
    """What is wrong with a picture's file, '' for nothing, and its size (width, height)."""
    if file is None:
        return "this picture is not among the run's media", None
    try:
        stat = file.stat()
    except OSError as error:
        return f"this picture cannot be read: {error.strerror}", None
    return _size(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _size(file: Path, _modified: int, _bytes: int) -> tuple[str, tuple[int, int] | None]:
    try:
        with Image.open(file) as image:
            size, kind = image.size, image.format
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "this file is no picture, or is damaged", None
    if kind not in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        return f"browsers do not show pictures of the kind {kind}", size
    return "", size


def _marks(rollout: Rollout, sample: Sample | None, pictures: Sequence[Mapping[str, Any]]) -> Json:
    """What the truth and the answer mark on each picture, in pixels of the stored one; `problem` says what is not shown."""
    canvases = [Canvas(tuple(p["size"]), p["processed"]) for p in pictures if p["size"]]
    if len(canvases) < len(pictures):
        return {
            "true": None,
            "answered": [],
            "problem": "a picture's size is not known: no boxes can be placed",
        }
    layout = Layout.of(sample.checks) if sample is not None else Layout()
    true = true_marks(rollout.truth, rollout.truth_frame, canvases, layout) if canvases else None
    drawn = (
        answered_marks(rollout.response, rollout.answer_frame, canvases, layout, true)
        if canvases
        else Marks()
    )
    problems = []
    for who, found in (("truth", true), ("answer", drawn)):
        if found is not None and found.unplaced:
            problems.append(
                f"{found.unplaced} marks of the {who} are on no known picture, in a frame of unknown size, or not finite"
            )
        if found is not None and found.more:
            problems.append(f"{found.more} more marks of the {who} are not shown")
    return {
        "true": None if true is None else _drawn(true, canvases), "answered": _drawn(drawn, canvases),
        "problem": "; ".join(problems),
    }  # fmt: skip


def _drawn(marks: Marks, canvases: Sequence[Canvas]) -> list[Json]:
    found = []
    for kind, listed in (("box", marks.boxes), ("point", marks.points), ("polygon", marks.polygons)):
        for mark in listed:
            xy = _corners(mark)
            width, height = canvases[mark.image].size
            xs, ys = xy[::2], xy[1::2]
            outside = max(xs) < 0 or max(ys) < 0 or min(xs) > width or min(ys) > height
            partly = min(xs) < 0 or min(ys) < 0 or max(xs) > width or max(ys) > height
            found.append({
                "kind": kind, "xy": xy, "label": mark.label, "image": mark.image, "written": [said(x) for x in mark.written],
                "outside": "outside the picture" if outside else "partly outside the picture" if partly else "",
            })  # fmt: skip
    return found


def _corners(mark: Box | Outline) -> list[float]:
    if isinstance(mark, Box):
        return [mark.x1, mark.y1, mark.x2, mark.y2]
    return [number for corner in mark.xy for number in corner]


# -- the conversation --------------------------------------------------------------------------------------------------


def _messages(rollout: Rollout, sample: Sample | None, whole: bool) -> list[Json]:
    """The prompt's turns: blocks are texts, or the number of a picture."""
    if sample is not None:
        return [
            {"role": message.role, "blocks": [_block(block, whole) for block in message.content]}
            for message in sample.messages
        ]
    parts = rollout.prompt.split("<image>")
    if (
        len(parts) != len(rollout.media) + 1
    ):  # a prompt that speaks of "<image>": where the pictures stood is not known
        return [
            {
                "role": "prompt",
                "blocks": [*({"picture": n} for n in range(len(rollout.media))), head(rollout.prompt, whole)],
            }
        ]
    blocks: list[Json] = []
    for n, part in enumerate(parts):
        blocks += [{"picture": n - 1}] * (n > 0) + [head(part, whole)] * bool(part)
    return [{"role": "prompt", "blocks": blocks}]


def _block(block: Text | Picture, whole: bool) -> Json:
    if isinstance(block, Text):
        return head(block.text, whole)
    return {"picture": block.media, "video": block.type == "video"}


def _tokens(store: Store, rollout: Rollout, whole: bool) -> Json:
    """What followed the prompt, token by token, in runs of one speaker; `problem` says why that is not possible.

    A run has `role` (assistant or tool) and columns: pieces, ids, decision (its number, -1 for none), logp, advantage,
    forced. Runs of pictures have their numbers instead.
    """
    ids, origin = rollout.ids, rollout.origin
    if ids is None or origin is None or len(ids) != len(origin):
        return {"problem": "this kind of policy keeps no tokens: the answer is shown as text"}
    decided = np.isin(origin, (MODEL, FORCED))
    if int(decided.sum()) != len(rollout.logp):
        return {
            "problem": f"{len(rollout.logp)} log-probs do not fit {int(decided.sum())} tokens: the answer is shown as text"
        }
    start = int(np.argmax(origin != PROMPT)) if (origin != PROMPT).any() else len(ids)
    end = len(ids) if whole else min(len(ids), start + MAX_TOKENS)
    spelt = ids[start:end][origin[start:end] != TOOL_IMAGE].tolist()
    pieces = store.pieces(spelt)
    unknown = set(spelt) - set(pieces)
    if unknown and not pieces:
        return {"problem": "the run did not keep the text of its tokens: the answer is shown as text"}
    number = np.where(decided, np.cumsum(decided) - 1, -1)
    advantage = rollout.token_advantage
    if advantage is not None and len(advantage) != len(rollout.logp):
        advantage = None
    runs: list[Json] = []
    shown = len(rollout.media)
    for speaker, places in groupby(range(start, end), key=lambda at: _speaker(int(origin[at]))):
        at = list(places)
        if speaker == "picture":
            # Pictures of one observation may lie side by side: the last run has what is left.
            later = bool((origin[at[-1] + 1 :] == TOOL_IMAGE).any())
            until = min(shown + 1, len(rollout.seen)) if later else len(rollout.seen)
            runs.append({"role": "tool", "pictures": list(range(shown, until)), "tokens": len(at)})
            shown = max(shown, until)
            continue
        drawn = [int(number[i]) for i in at]
        sampled = [bool(origin[i] == MODEL) for i in at]
        logp = [
            said(float(rollout.logp[n])) if known else None for n, known in zip(drawn, sampled, strict=True)
        ]
        runs.append({
            "role": speaker, "pieces": [pieces.get(int(ids[i]), f"<{ids[i]}>") for i in at], "ids": ids[at].tolist(),
            "decision": drawn, "logp": logp, "forced": [bool(origin[i] == FORCED) for i in at],
            "advantage": None if advantage is None else [said(float(advantage[n])) if n >= 0 else None for n in drawn],
        })  # fmt: skip
    note = f"of {len(unknown)} token ids the text is not known: the ids stand in its place" if unknown else ""
    return {
        "problem": "",
        "note": note,
        "runs": runs,
        "more": len(ids) - end,
        "masked": not rollout.in_loss,
    }


def _speaker(origin: int) -> str:
    return "picture" if origin == TOOL_IMAGE else "assistant" if origin in (MODEL, FORCED) else "tool"


def one_of(rollouts: Sequence[Rollout], phase: str, step: int, row: int) -> Rollout:
    """Raises StorageError where there is no such row."""
    if not 0 <= row < len(rollouts):
        raise StorageError(
            f"step {step} of {phase} has {len(rollouts)} kept rollouts: there is no number {row}"
        )
    return rollouts[row]
