"""An engine that says what it is told: for tests of everything around it, and for replaying recorded episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triune.core.trajectory import SamplingRule
from triune.rollout.engine import Completion, Request


class ScriptedEngine:
    """`script[owner]` lists the ids of each turn; every rollout of a sample says the same, with log-prob -1 per token.

    `requests` keeps what was asked, in order: what "the engine's prompt is what was recorded" is tested by.
    """

    def __init__(self, script: Mapping[str, Sequence[Sequence[int]]], stop_ids: Sequence[int]) -> None:
        self.script, self.stop_ids, self.exact = script, frozenset(stop_ids), False
        self.requests: list[Request] = []
        self._turn: dict[str, int] = {}

    def load(self, version: int) -> None: ...

    def effective(self, rule: SamplingRule) -> SamplingRule:
        return rule

    def complete(self, requests: Sequence[Request], rule: SamplingRule) -> list[list[Completion]]:
        done = []
        for request in requests:
            self.requests.append(request)
            turn = self._turn.get(request.owner, 0)
            ids = list(self.script[request.owner][turn])[: request.max_tokens]
            stopped = bool(ids) and ids[-1] in self.stop_ids
            done.append([Completion(list(ids), [-1.0] * len(ids), stopped) for _ in request.seeds])
        for owner in {request.owner for request in requests}:
            self._turn[owner] = self._turn.get(owner, 0) + 1
        return done
