"""Slow verifiers in processes that can be killed: a hard wall-clock deadline per item, whatever native code does.

A worker is a fresh interpreter (never a fork: the parent may hold torch's threads and locks; and not a
`multiprocessing` spawn, which would import the parent's main script, and torch with it). Batches of pickled jobs go to
its stdin. It answers in JSON lines on its stdout, one as each item ends; the parent keeps the clock. A worker that hangs
or dies is replaced, the item it was on gets `timeout` or `error`, and the rest of its batch goes to another worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from typing import IO, Any

from triune.core.verdict import RewardEvent
from triune.verify.verifier import AnyVerifier, Job, Score, failure, run

STARTUP_SECONDS = 120.0
"""For starting the interpreter and for the verifiers' imports, neither of which a deadline counts."""
MIN_BATCH, MAX_BATCH = 4, 32


class Pool:
    """Up to `size` workers, started when first needed. Thread-safe: one call of `run` at a time.

    `memory_bytes` limits each worker's address space where the platform can (Linux).
    """

    def __init__(self, size: int = 1, memory_bytes: int = 4 << 30) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least one worker, got {size}")
        self.size, self.memory_bytes = size, memory_bytes
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self._workers: set[_Worker] = set()
        # Also runs at the interpreter's exit, so that no worker outlives its parent.
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, os.getpid())

    @property
    def pids(self) -> list[int]:
        """Process ids of the live workers."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Kills and reaps every worker. The pool may be used again afterwards."""
        with self._lock:
            _kill_all(self._workers, os.getpid())

    def run(self, jobs: Sequence[Job]) -> list[list[Score]]:
        """The scores of each job, in order. Never raises for what a job does; every job gets its answer."""
        with self._lock:
            try:
                return _Run(self, jobs).finish()
            except BaseException:  # an interrupt: what the workers still owe must not answer the next call
                _kill_all(self._workers, os.getpid())
                raise

    def replace(self, worker: _Worker) -> str:
        """Kills a worker; says how it ended."""
        self._workers.discard(worker)
        return worker.kill()

    def idle(self, wanted: int) -> list[_Worker]:
        """Workers without a batch, after starting as many as `wanted` and `size` allow."""
        while len(self._workers) < min(wanted, self.size):
            self._workers.add(_Worker(self._inbox, self.memory_bytes))
        return [worker for worker in self._workers if worker.state == "idle"]

    def message(self, timeout: float) -> tuple[_Worker, dict[str, Any] | None] | None:
        """The next message of a worker (None inside: it ended), or None when none came in time."""
        try:
            return self._inbox.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None

    def busy(self) -> list[_Worker]:
        """Workers that owe an answer, or are starting."""
        return [worker for worker in self._workers if worker.state != "idle"]


class _Run:
    """One call of `Pool.run`: what waits, what is out, what came back."""

    def __init__(self, pool: Pool, jobs: Sequence[Job]) -> None:
        self.pool, self.jobs = pool, jobs
        self.scores: list[list[Score] | None] = [None] * len(jobs)
        size = max(MIN_BATCH, min(MAX_BATCH, math.ceil(len(jobs) / (2 * pool.size))))
        indices = range(len(jobs))
        self.waiting = deque(list(indices[at : at + size]) for at in range(0, len(jobs), size))
        self.retried: set[int] = set()

    def finish(self) -> list[list[Score]]:
        while any(scores is None for scores in self.scores):
            out = sum(bool(worker.batch) for worker in self.pool.busy())
            for worker in self.pool.idle(out + len(self.waiting)):
                if self.waiting:
                    self._send(worker, self.waiting.popleft())
            self._receive()
            for worker in self.pool.busy():
                if time.monotonic() > worker.expires:
                    self._lost(worker, hung=True)
        return [scores for scores in self.scores if scores is not None]

    def _send(self, worker: _Worker, batch: list[int]) -> None:
        try:
            frame = pickle.dumps([self.jobs[index] for index in batch], protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            self._refused(batch, f"cannot be sent to a worker: {type(error).__name__}: {error}")
        else:
            worker.send(frame, batch)

    def _receive(self) -> None:
        expires = min((worker.expires for worker in self.pool.busy()), default=0.0)
        # A little longer than the deadline, and never not at all: after a pause of this process, answers that were in
        # time still sit in the pipes. Everything that has arrived counts before any clock does.
        found = self.pool.message(max(0.05, expires - time.monotonic() + 0.05))
        while found is not None:
            worker, message = found
            if worker.state != "dead":
                self._handle(worker, message)
            found = self.pool.message(0.0)

    def _handle(self, worker: _Worker, message: dict[str, Any] | None) -> None:
        if message is None:
            self._lost(worker, hung=False)
            return
        if "refused" in message:
            self._refused(list(worker.batch), message["refused"])
            worker.batch.clear()
        elif "scores" in message:
            self.scores[worker.batch.popleft()] = [_decode(score) for score in message["scores"]]
        if worker.batch:
            worker.clock(self.jobs[worker.batch[0]].verifier.deadline)
        else:
            worker.rest()

    def _lost(self, worker: _Worker, hung: bool) -> None:
        """A worker hangs or has died: the item it was on is answered, the rest of its batch waits again."""
        state, batch = worker.state, list(worker.batch)
        ended = self.pool.replace(worker)
        if state == "running" and hung:
            deadline = self.jobs[batch[0]].verifier.deadline
            self._answer(batch.pop(0), Score(None, "timeout", f"over the deadline of {deadline:g} s"))
        elif state == "running":
            self._answer(batch.pop(0), Score(None, "error", f"the worker died: {ended}"))
        elif state == "loading" and batch[0] not in self.retried:
            self.retried.add(batch[0])  # it may have died while it was idle, of no fault of this batch
        elif state in ("starting", "loading"):
            reason = "a worker did not start in time" if hung else f"a worker could not start: {ended}"
            self._fail(batch or (self.waiting.popleft() if self.waiting else []), reason)
            return
        if batch:
            self.waiting.appendleft(batch)

    def _refused(self, batch: list[int], reason: str) -> None:
        """A batch that cannot cross: each item is tried alone, so that one cannot spoil the others."""
        if len(batch) == 1:
            self._fail(batch, reason)
        else:
            self.waiting.extendleft([index] for index in reversed(batch))

    def _fail(self, batch: Iterable[int], reason: str) -> None:
        for index in batch:
            self._answer(index, Score(None, "error", reason[:500]))

    def _answer(self, index: int, score: Score) -> None:
        self.scores[index] = [score] * max(1, len(self.jobs[index].outcomes))


class _Worker:
    """One child process and the thread that listens to it. States: starting, idle, loading, running, dead."""

    def __init__(self, inbox: queue.SimpleQueue[Any], memory_bytes: int) -> None:
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        # One thread, because there is a worker per core; a fixed hash seed, because sympy's order of terms follows it.
        limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from triune.verify.worker import serve; serve({memory_bytes})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **limits, "PYTHONPATH": path},
            start_new_session=True,
        )
        self.state, self.batch = "starting", deque[int]()
        self.expires = time.monotonic() + STARTUP_SECONDS
        self._thread = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._thread.start()

    def _listen(self, inbox: queue.SimpleQueue[Any]) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout:
                inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def send(self, frame: bytes, batch: list[int]) -> None:
        self.state, self.batch = "loading", deque(batch)
        self.expires = time.monotonic() + STARTUP_SECONDS
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead: the listener will say so
            self.process.stdin.write(struct.pack("<Q", len(frame)) + frame)
            self.process.stdin.flush()

    def clock(self, seconds: float) -> None:
        self.state, self.expires = "running", time.monotonic() + seconds

    def rest(self) -> None:
        self.state, self.expires = "idle", math.inf
        self.batch.clear()

    def kill(self) -> str:
        self.state = "dead"
        with contextlib.suppress(OSError):
            # The whole session: a verifier may have started processes of its own.
            if os.name == "posix":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        code = self.process.wait()
        self._thread.join(timeout=5.0)
        for pipe in (self.process.stdin, self.process.stdout):
            # A process that escaped the session may still hold stdout; closing it under its reader would wait for that.
            if pipe is not None and (pipe is self.process.stdin or not self._thread.is_alive()):
                with contextlib.suppress(OSError):
                    pipe.close()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _kill_all(workers: set[_Worker], owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner: the workers are not its own
        return
    while workers:
        workers.pop().kill()


def _encode(score: Score) -> dict[str, Any]:
    fields = {field.name: getattr(score, field.name) for field in dataclasses.fields(score)}
    return fields | {"events": [event.model_dump(mode="json") for event in score.events]}


def _decode(fields: dict[str, Any]) -> Score:
    events = tuple(RewardEvent.model_validate(event) for event in fields.pop("events"))
    return Score(**fields, events=events)


# --- the child's side -------------------------------------------------------------------------------------------------


def serve(memory_bytes: int) -> None:
    """The worker's main: reads batches until its stdin closes."""
    answers = os.fdopen(os.dup(1), "wb")
    requests = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a verifier prints must not reach the parent as an answer
    _limit_memory(memory_bytes)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_feed, args=(requests, frames), daemon=True).start()
    answer({"ready": True})
    while True:
        try:
            jobs: list[Job] = pickle.loads(frames.get())
        except Exception as error:
            answer({"refused": f"the worker cannot read it: {type(error).__name__}: {error}"})
            continue
        broken = _load({job.verifier.name: job.verifier for job in jobs})
        answer({"loaded": True})
        for job in jobs:
            error_ = broken.get(job.verifier.name)
            scores = run(job) if error_ is None else [failure(error_)] * max(1, len(job.outcomes))
            answer({"scores": [_encode(score) for score in scores]})


def _load(named: dict[str, AnyVerifier[Any, Any]]) -> dict[str, Exception]:
    broken = {}
    for name, verifier in named.items():
        try:
            verifier.load()
        except Exception as error:
            broken[name] = error
    return broken


def _feed(requests: IO[bytes], frames: queue.SimpleQueue[bytes]) -> None:
    # In a thread, so that a worker whose parent was killed ends even in the middle of a verifier that hangs.
    while header := requests.read(8):
        frames.put(requests.read(struct.unpack("<Q", header)[0]))
    os._exit(0)


def _limit_memory(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not POSIX
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
