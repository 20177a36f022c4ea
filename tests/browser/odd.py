"""A run in which everything odd happens once: frames, tools, hostile answers, what is missing and what is damaged."""

from __future__ import annotations

import io
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from triune.core.sample import Check, Frame, Media, Message, Picture, Sample, Text
from triune.core.trajectory import Decisions, Payload
from triune.core.verdict import Call, Component, RewardEvent, Seen
from triune.monitor.metric import Scored
from triune.monitor.rollouts import Rollout
from triune.monitor.source import rollout_metrics
from triune.monitor.store import Store
from triune.rollout.conversation import FORCED, MODEL, PROMPT, TOOL_IMAGE, TOOL_TEXT

# The builders of the unit tests: folders of tests are no packages of each other.
_making = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "monitor" / "making.py"))
make_sample, make_scored, picture = (_making[name] for name in ("make_sample", "make_scored", "picture"))

EVIL = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>\u202eevil\u202c &amp; \x07"
BOXES = (Check(verifier="box_iou", weight=0.9), Check(verifier="format_json", weight=0.1))
LONG = "word " * 210_000  # more than a MiB
SIZES = {"tall": (60, 300), "wide": (800, 100)}
PIXELS = {"true": (10.0, 20.0, 40.0, 80.0), "answered": (5.5, 10.25, 30.0, 90.0)}
"""Where boxes are, in pixels of the stored picture."""
FRAMES: tuple[Frame, ...] = ("pixels_original", "pixels_processed", "unit", "per_mille")
PROCESSED = (120, 150)


def in_frame(box: tuple[float, ...], frame: Frame, size: tuple[int, int]) -> list[float]:
    """A box in pixels of the stored picture, in another frame."""
    scale = {
        "pixels_original": (1.0, 1.0),
        "pixels_processed": (PROCESSED[0] / size[0], PROCESSED[1] / size[1]),
        "unit": (1 / size[0], 1 / size[1]),
        "per_mille": (1000 / size[0], 1000 / size[1]),
    }[frame]
    return [round(x * scale[n % 2], 12) for n, x in enumerate(box)]


def _grounding(frame: Frame, shape: str, index: int) -> Scored:
    size = SIZES[shape]
    medium = Media.from_image(Image.new("RGB", size, (30 + index, 40, 60)))
    sample = make_sample(
        index, "grounding/frames", id=f"{shape}-{frame}", media=(medium,), truth=in_frame(PIXELS["true"], frame, size),
        frame=frame, checks=BOXES, normalize=False, prompt="Box it.",
    )  # fmt: skip
    answer = in_frame(PIXELS["answered"], frame, size)
    return make_scored(
        0.5, sample, text=f'<answer>[{{"bbox_2d": {answer}, "label": "it"}}]</answer>',
        outcome={"frame": frame, "media": (Seen(sha256=medium.sha256, original=size, processed=PROCESSED),)},
    )  # fmt: skip


def _tools() -> tuple[Scored, Media, np.ndarray[Any, Any], dict[int, str]]:
    """Two turns with a tool that shows a picture; one token is placed, and credit differs between tokens."""
    first, second = Media.from_image(picture(1)), Media.from_image(picture(2, side=32))
    sample = make_sample(
        5, "tools/crop", id="crop", media=(first,), truth="a cat",
        messages=(
            Message(role="system", content=(Text(text="Look closely."),)),
            Message(role="user", content=(Text(text="Before "), Picture(media=0), Text(text=" after: what is it?"))),
        ),
    )  # fmt: skip
    said = [" zoom", "(", "1", ")", "\n", "a", " cat", "<b>"]
    pieces = {100 + n: piece for n, piece in enumerate(said)} | {200: "<|tool|>", 201: "look"}
    ids = [1, 2, 3, 100, 101, 102, 103, 104, 200, 9, 9, 201, 105, 106, 107]
    origin = (
        [PROMPT] * 3 + [MODEL] * 5 + [TOOL_TEXT] + [TOOL_IMAGE] * 2 + [TOOL_TEXT] + [FORCED] + [MODEL] * 2
    )
    forced = [False] * 5 + [True, False, False]
    logp = [-0.001, -0.2, -0.5, -1.0, -2.5, math.nan, -5.0, -0.05]
    scored = make_scored(
        1.0, sample, text="".join(said), tokens=7, detail="exactly what was asked for",
        outcome={
            "media": tuple(Seen(sha256=m.sha256, original=m.size, processed=m.size) for m in (first, second)), "num_turns": 2,
            "calls": (
                Call(turn=0, name="zoom", args={"factor": 2}, result={"size": [32, 32]}),
                Call(turn=1, name="search", args={"query": EVIL}, ok=False, error="no <b>index</b>"),
            ),
            "events": (RewardEvent(decision=7, name="found", value=0.25),),
        },
    )  # fmt: skip
    trajectory = scored.trajectory.model_copy(
        update={
            "decisions": Decisions.of(logp, version=3, turn=[0] * 5 + [1] * 3, forced=forced),
            "payload": Payload(family="language", arrays={"ids": np.array(ids), "origin": np.array(origin)}),
        }
    )
    kept = Scored(sample, trajectory, scored.outcome, scored.verdict)
    return kept, second, np.linspace(-1, 1, 8, dtype=np.float32), pieces


def log(store: Store, step: int, phase: str, judged: list[Scored], **more: Any) -> None:
    """Logs a step as the monitor would."""
    advantages = more.pop("advantages", [0.5 - n / 4 for n in range(len(judged))])
    rows = [Rollout.of(step, phase, one, value) for one, value in zip(judged, advantages, strict=True)]
    media = [*(medium for one in judged for medium in one.sample.media), *more.pop("media", [])]
    store.log_step(
        step, phase, rollout_metrics(judged), rows, media, samples=[one.sample for one in judged], **more
    )


def _grouped(counts: list[Sample]) -> list[Scored]:
    """A group of four, of which one could not be judged, and one of each kind of odd row."""
    values = [0.0, 1.0, 0.5, None]
    group = [make_scored(value, counts[0], rank=rank, tokens=3 + rank) for rank, value in enumerate(values)]
    nan = Component(name="count", value=math.nan, weight=1.0, correct=False)
    evil = make_sample(1, "hostile/" + EVIL, id="evil " + EVIL, prompt=EVIL, truth=EVIL)
    placed = make_scored(1.0, make_sample(5, "odd/placed", id="placed"), rank=1)
    imitated = placed.trajectory.model_copy(update={"component": "imitation"})
    return [
        *group,
        make_scored(0.0, evil, text=EVIL, detail=EVIL),
        make_scored(components=(nan,), sample=make_sample(2, "odd/nan", id="nan")),
        make_scored(1.0, make_sample(3, "odd/long", id="long"), text=LONG, reason="overlong"),
        make_scored(0.0, make_sample(4, "odd/unparsed", id="unparsed"), status="unparsed", text="no box"),
        Scored(placed.sample, imitated, placed.outcome, placed.verdict, drawn=False),
    ]


def _turned() -> Media:
    """A photograph whose left half is red, with a note that viewers should turn it by a quarter: the policy does not."""
    image = Image.new("RGB", (64, 64), "blue")
    image.paste("red", (0, 0, 32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif)
    return Media.from_bytes(buffer.getvalue())


def _boxed() -> list[Scored]:
    """Boxes in every frame, hundreds of them, and on two pictures."""
    frames = [_grounding(f, s, n) for n, (f, s) in enumerate((f, s) for f in FRAMES for s in SIZES)]
    truth = {"boxes": [[n, n, n + 5, n + 5] for n in range(300)]}
    many = make_sample(9, "grounding/many", id="many", truth=truth, checks=BOXES)
    flood = " ".join(f"[{n}, {n}, {n + 9}, {n + 4}]" for n in range(-90, 210))
    two = make_sample(
        10, "grounding/two", id="two", checks=BOXES, truth={"boxes": [[1, 1, 9, 9], [2, 2, 8, 8]], "images": [0, 1]},
        media=(Media.from_image(picture(20)), Media.from_image(picture(21))),
        messages=(Message(role="user", content=(Picture(media=0), Text(text="and"), Picture(media=1))),),
    )  # fmt: skip
    pointing = make_sample(
        11, "pointing/odd", id="points", checks=(Check(verifier="points"),), frame="per_mille",
        truth={"points": [[250, 250]], "polygon": [[500, 500], [900, 500], [500, 900]]},
    )  # fmt: skip
    turned = make_sample(12, "odd/turned", id="turned", media=(_turned(),))
    pointed = make_scored(0.0, pointing, text='<point x="75.0" y="25.0" alt="there">there</point>')
    return [
        *frames,
        make_scored(0.2, many, text=flood),
        make_scored(0.2, two, text="[1, 1, 5, 5]"),
        pointed,
        make_scored(1.0, turned),
    ]


def write(run_dir: Path) -> None:
    """Steps 1 to 3 of train, of which the second's file is damaged, and two evaluations."""
    counts = [make_sample(n, "counting/shapes") for n in range(6)]
    with Store(run_dir) as store:
        log(store, 1, "train", _grouped(counts))
        log(store, 2, "train", [make_scored(1.0, counts[0])])
        boxed = _boxed()
        tools, shown, credit, pieces = _tools()
        credits = [*[0.0] * len(boxed), credit]
        log(store, 3, "train", [*boxed, tools], advantages=credits, media=[shown], pieces=pieces)
        for step, phase, right in ((0, "eval-before", (0, 1)), (3, "eval-after", (1, 2, 3))):
            judged = [
                make_scored(float(n in right), one, text=f"\\boxed{{{3 if n in right else n + 5}}}")
                for n, one in enumerate(counts)
            ]
            log(store, step, phase, [*judged, _grounding("per_mille", "wide", 40)])
    damage(run_dir)


def damage(run_dir: Path) -> None:
    """Cuts the second step's file in half, and takes a picture away."""
    (file,) = (run_dir / "rollouts" / "train").glob("00000002*.parquet")
    file.write_bytes(file.read_bytes()[:200])
    with Store(run_dir, readonly=True) as store:
        two = next(one for one in store.rollouts("train", 3) if one.sample == "two")
        missing = store.media(two.media[1])
    assert missing is not None
    missing.unlink()
