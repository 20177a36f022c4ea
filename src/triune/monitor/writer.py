"""The run's writing, in order, in a thread of its own: the step hands work over and goes on.

What waits is bounded, in bytes and in number. Whoever hands over more asks for room first, and decides what to do where
there is none: leave something out and count it, or wait.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from triune.core.errors import StorageError

_PATIENCE = 1.0
"""Seconds between two looks at whether the thread still lives; nothing is late by them."""
_AT_EXIT = 30.0
"""Seconds that a process which ends without closing its monitor waits for what is still to be written."""


class Writer:
    """Runs what it is given, one piece after another. For one thread that submits.

    max_bytes: of what waits, as declared with each piece; a single piece may be larger. max_pieces: number of pieces.
    After the first error nothing more is run, so that what was written is a beginning without gaps; every later call raises
    that error. In a process that was forked off, every call but `close` raises StorageError.
    """

    def __init__(self, max_bytes: int, max_pieces: int) -> None:
        self._max_bytes, self._max_pieces = max_bytes, max_pieces
        self._pieces: deque[tuple[Callable[[], None], int]] = deque()  # the first one is being run
        self._bytes = 0
        self._error: BaseException | None = None
        self._ending = False
        self._process = os.getpid()
        self._changed = threading.Condition()
        self.cpu_seconds = 0.0
        """CPU time that the thread has taken so far."""
        # A daemon, so that a main thread which dies is not kept alive by it; what waits then is written at exit.
        self._thread = threading.Thread(target=self._run, name="triune-monitor", daemon=True)
        self._thread.start()
        atexit.register(self._finish)

    @property
    def elsewhere(self) -> bool:
        """Whether this process was forked off the one that writes."""
        return os.getpid() != self._process

    def fits(self, size: int) -> bool:
        """Whether so many bytes have room now. Where nothing waits, everything has."""
        with self._changed:
            return self._room(size)

    def wait(self, size: int = 0) -> float:
        """Waits until so many bytes, and one more piece, have room; the seconds that it took."""
        return self._wait(lambda: self._room(size))

    def submit(self, piece: Callable[[], None], size: int = 0) -> None:
        """Hands over a piece of work that keeps so many bytes in memory."""
        self._check()
        with self._changed:
            self._pieces.append((piece, size))
            self._bytes += size
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until everything that was submitted is done."""
        self._wait(lambda: not self._pieces)

    def close(self) -> None:
        """Finishes the work and ends the thread. Raises the error that stopped it; a second call does nothing."""
        if self.elsewhere or self._ending:
            return
        try:
            self.flush()
        finally:
            with self._changed:
                self._ending = True
                self._changed.notify_all()
            atexit.unregister(self._finish)
        self._thread.join()

    def _room(self, size: int) -> bool:
        few = len(self._pieces) < self._max_pieces
        return few and (not self._bytes or self._bytes + size <= self._max_bytes)

    def _wait(self, done: Callable[[], bool]) -> float:
        self._check()
        waited = 0.0
        with self._changed:
            while not done() and self._error is None and self._thread.is_alive():
                started = time.monotonic()
                self._changed.wait(_PATIENCE)
                waited += time.monotonic() - started
        self._check()
        return waited

    def _check(self) -> None:
        if self.elsewhere:
            raise StorageError(
                f"the run is written by process {self._process}; this one was forked off it and cannot write it"
            )
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            raise StorageError("the run is no longer written: its monitor was closed")

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._pieces and not self._ending:
                    self._changed.wait()
                if not self._pieces:
                    return
                piece, size = self._pieces[0]
            try:
                piece()
            except BaseException as error:  # whatever it is, the thread that trains must hear of it
                with self._changed:
                    self._error = error
                    self._pieces.clear()
                    self._bytes = 0
                    self._changed.notify_all()
                return
            finally:
                self.cpu_seconds = time.thread_time()
                del piece  # what it holds may be large
            with self._changed:
                self._pieces.popleft()
                self._bytes -= size
                self._changed.notify_all()

    def _finish(self) -> None:
        """At the end of a process that did not close its monitor, for example because its main thread failed."""
        if self.elsewhere:
            return
        deadline = time.monotonic() + _AT_EXIT
        with self._changed:
            while self._pieces and self._thread.is_alive() and time.monotonic() < deadline:
                self._changed.wait(_PATIENCE)
            error = self._error
            left = len(self._pieces)
        if error is not None or left:
            why = (
                f"{type(error).__name__}: {error}"
                if error is not None
                else f"{left} pieces were still waiting"
            )
            print(f"not all of the run was written: {why}", file=sys.stderr)
