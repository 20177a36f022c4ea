"""`triune dash`: the dashboard in a browser on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import socket
import webbrowser
from pathlib import Path
from types import FrameType
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from triune.core.errors import RecipeError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 6006


def dash(
    runs: Annotated[Positional[Path], arg(metavar="[RUNS]", help="a folder of runs, or one run")] = Path(
        "runs"
    ),
    *,
    port: Annotated[
        int | None, arg(help="port; 0: a free one; default: 6006, or a free one where it is taken")
    ] = None,
    open: Annotated[bool, arg(help="open a browser")] = False,
) -> int:
    """Look at runs in a browser, while they go on and afterwards.

    Listens on this machine alone. From elsewhere: ssh -L 6006:localhost:6006 HOST.
    """
    if not runs.is_dir():
        raise RecipeError(
            f"{runs} is not a folder; `triune train` makes runs/NAME, or name another folder of runs"
        )
    try:
        import uvicorn

        from triune.monitor.dash.app import create_app
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("triune"):
            raise
        raise RecipeError(f"`triune dash` needs {error.name}: pip install 'triune[dash]'") from None
    with _listen(port) as listening:
        address = f"http://{LOOPBACK}:{listening.getsockname()[1]}"
        Console(highlight=False, soft_wrap=True).print(
            f"the runs of {runs} at {address}  (Ctrl-C ends)", markup=False
        )
        if open:
            webbrowser.open(address)
        app = create_app(runs)

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                # An open page holds a connection for word of changes: it must not keep the server from ending.
                app.state.ending.set()
                super().handle_exit(sig, frame)

        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        with contextlib.suppress(KeyboardInterrupt):  # its usual end
            Server(config).run(sockets=[listening])
    return 0


def _listen(port: int | None) -> socket.socket:
    """A listening socket; raises RecipeError if the port that was asked for is taken."""
    for number in (port,) if port is not None else (DEFAULT_PORT, 0):
        found = socket.socket(socket.AF_INET)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((LOOPBACK, number))
            found.listen()
        except OSError as error:
            found.close()
            reason = error.strerror
        else:
            return found
    raise RecipeError(f"port {port}: {reason}; choose another with --port, 0 takes a free one")
