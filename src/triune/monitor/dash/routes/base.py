"""What every view starts from: one run's outline, any curve, pictures, and word of changes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from PIL import Image

from triune.core.errors import TriuneError
from triune.monitor.dash.reading import AllRuns, Json, OneRun, OneStore, curves, known_locks
from triune.monitor.runs import Runs

router = APIRouter()

MAX_POINTS = 2000
POLL_SECONDS = 0.5
PICTURES = {f".{kind}": f"image/{kind}" for kind in ("png", "gif", "bmp", "webp")} | {".jpg": "image/jpeg"}
"""What a browser shows. Anything else is handed out as bytes to be saved, never as a page."""


@router.get("/api/run")
def outline(run: OneRun, store: OneStore) -> Json:
    """What there is to look at."""
    phases = store.phases()
    tasks = {
        source: task
        for phase in phases
        for source, task in store.latest("status", phase=phase, by=("source", "task"))
    }
    steps = store.steps()
    return {
        "name": run.name,
        "live": run.live,
        "stamp": run.stamp,
        "step": steps[-1] if steps else 0,
        "total_steps": run.total_steps,
        "phases": phases,
        "metrics": {phase: store.names(phase) for phase in phases},
        "sources": [
            {"name": name, "task": task}
            for name, task in sorted(tasks.items(), key=lambda item: (item[1], item[0]))
        ],
        "tags": run.tags,
    }


@router.get("/api/series")
def series(
    store: OneStore,
    name: str,
    phase: str = "train",
    by: Annotated[list[str] | None, Query()] = None,
    where: Annotated[list[str] | None, Query(description="label=value")] = None,
    since: int | None = None,
    until: int | None = None,
    points: Annotated[int, Query(ge=1, le=MAX_POINTS)] = 400,
) -> Json:
    """A metric over steps, one curve for each combination of the labels in `by` (default: source; '' for none)."""
    labels = ["source"] if by is None else [label for label in by if label]
    kept = dict(one.split("=", 1) for one in where or () if "=" in one)
    found = store.series(name, phase=phase, by=labels, where=kept, since=since, until=until, points=points)
    return {"name": name, "phase": phase, "by": labels, "curves": curves(found, labels)}


@router.get("/media")
def media(
    store: OneStore,
    sha: Annotated[str, Query(pattern="^[0-9a-f]{64}$")],
    side: Annotated[int | None, Query(ge=16, le=1024, description="longest side of a smaller copy")] = None,
) -> Response:
    """A picture under its hash; its bytes never change, so a browser may keep it."""
    file = store.media(sha)
    if file is None or not file.is_file():
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "Content-Security-Policy": "sandbox"}
    if side is not None:
        small = thumbnail(file, side)
        if small is None:
            return Response(status_code=404)
        return Response(small, media_type="image/webp", headers=headers)
    kind = PICTURES.get(file.suffix)
    if kind is None:
        headers["Content-Disposition"] = "attachment"
    return FileResponse(file, media_type=kind or "application/octet-stream", headers=headers)


@lru_cache(maxsize=512)
def thumbnail(file: Path, side: int) -> bytes | None:
    """A copy whose longer side is at most `side` pixels, as WebP; None for what is no picture."""
    buffer = io.BytesIO()
    try:
        with Image.open(file) as image:
            image.thumbnail((side, side))
            image.convert("RGBA" if "A" in image.getbands() else "RGB").save(buffer, "WEBP", quality=85)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return buffer.getvalue()


@router.get("/api/live", response_class=EventSourceResponse)
async def live(request: Request, runs: AllRuns, run: str = "") -> AsyncIterator[ServerSentEvent]:
    """Server-sent events `change`: when something was written to a run or, without a name, to any of them."""
    before = None
    while not (request.app.state.ending.is_set() or await request.is_disconnected()):
        now = await asyncio.to_thread(_state, runs, run)
        if now != before:
            before = now
            yield ServerSentEvent(event="change", data=now)
        await asyncio.sleep(POLL_SECONDS)


def _state(runs: Runs, name: str) -> Json:
    if not name:
        stamps, locks = {}, known_locks()
        for found in runs.names():
            try:
                folder = runs.open(found, locks)
            except TriuneError:  # gone meanwhile
                continue
            stamps[found] = folder.news
        return {"runs": stamps}
    try:
        folder = runs.open(name)
    except TriuneError as error:
        return {"run": name, "error": str(error)}
    stamp = folder.stamp
    return {"run": name, "stamp": stamp, "file": stamp.partition(".")[0], "live": folder.live}
