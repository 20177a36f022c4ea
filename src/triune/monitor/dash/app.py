"""The dashboard over HTTP: JSON under `/api`, pictures under `/media`, the front-end under `/static`.

It only reads runs (their tags excepted), so it may be started, stopped and killed at will. It answers requests that name
this machine and nothing else: a web page from elsewhere cannot read runs through a reader's browser.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from triune.core.errors import TriuneError
from triune.monitor.dash import routes
from triune.monitor.dash.reading import Memo
from triune.monitor.runs import Runs, UnknownRun

STATIC = Path(__file__).parent / "static"
HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a browser may ask: another one that leads here is somebody's rebound DNS entry."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: nothing from elsewhere, no inline script or style."""


def create_app(root: Path | str) -> FastAPI:
    """The application for the runs under `root`. Each module of `routes` adds its `router`."""
    runs = Runs(root)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        runs.close()

    app = FastAPI(
        title="Triune dashboard", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.runs, app.state.memo = runs, Memo()
    app.state.ending = threading.Event()  # set when the server is about to end: pages that listen are let go

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.method not in ("GET", "HEAD") and not _from_here(request):
            return JSONResponse({"error": "changes are taken from the dashboard's own pages"}, 403)
        response = await call(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Cache-Control", "no-cache")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)

    @app.exception_handler(TriuneError)
    async def said(request: Request, error: TriuneError) -> Response:
        return JSONResponse({"error": str(error)}, 404 if isinstance(error, UnknownRun) else 422)

    @app.exception_handler(ValueError)
    async def refused(request: Request, error: ValueError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    for module in sorted(found.name for found in pkgutil.iter_modules(routes.__path__)):
        app.include_router(importlib.import_module(f"{routes.__name__}.{module}").router)

    @app.get("/")
    def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC))
    return app


def _from_here(request: Request) -> bool:
    """A change must come from a page of this server: a form of another site cannot set its Origin."""
    origin = request.headers.get("origin", "")
    return urlsplit(origin).netloc == request.headers.get("host")
