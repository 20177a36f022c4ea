"""The token conversation loop: every episode of a step, turn by turn, until all have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from triune.core.errors import DataError, RecipeError
from triune.core.sample import Sample
from triune.core.verdict import Call, RewardEvent
from triune.envs import ENVIRONMENTS, Environment, Turn
from triune.rollout.conversation import Conversation, Renderer
from triune.rollout.engine import Completion, Engine, Request, derive_seed
from triune.rollout.generator import Demand, Episode
from triune.rollout.placed import alike, begin


@dataclass(slots=True)
class _Live:
    """An episode in flight: its conversation, its seed and, once its first turn is over, its world."""

    talk: Conversation
    seed: int
    world: Environment | None = None

    def fail(self, error: Exception) -> None:
        """A broken world is not the policy's fault: abstain, leave a trace, go on with the others."""
        name = type(error).__name__
        self.talk.calls.append(
            Call(turn=self.talk.turn, name="environment", ok=False, error=f"{name}: {error}"[:500])
        )

    def close(self) -> None:
        if self.world is None:
            return
        try:
            self.world.close()
        except Exception as error:  # one world that cannot be closed must not keep the others open
            self.fail(error)


class Conversations:
    """The generator of language families. `max_tokens` bounds one turn; `max_turns` and `max_images` an episode."""

    def __init__(
        self,
        renderer: Renderer,
        engine: Engine,
        *,
        max_tokens: int,
        max_turns: int = 1,
        max_images: int = 16,
    ) -> None:
        self.renderer, self.engine = renderer, engine
        self.max_tokens, self.max_turns, self.max_images = max_tokens, max_turns, max_images

    @property
    def exact(self) -> bool:
        return self.engine.exact

    def load(self, version: int) -> None:
        self.engine.load(version)

    def generate(self, samples: Sequence[Sample], demand: Demand) -> list[list[Episode]]:
        """See Generator. Raises RecipeError when training rollouts are asked for under a truncated distribution."""
        rule = demand.rule
        if demand.progress.phase == "train" and (rule.top_p < 1 or rule.top_k):
            # The kept set moves with the weights: after one update a sampled token may have probability zero.
            raise RecipeError(
                "top_p and top_k cut the distribution that training ratios are computed from: sample training "
                "rollouts from the whole one (temperature is fine), and keep top_p and top_k for evaluation"
            )
        # What is recorded, and later replayed, is the rule that is really sampled by.
        demand = replace(demand, rule=self.engine.effective(rule))
        prompts = [self.renderer.prompt(sample) for sample in samples]
        rows = [
            [
                _Live(
                    Conversation.begin(sample, prompt, self.renderer.window),
                    derive_seed(demand.seed, demand.version, sample.id, rank),
                )
                for rank in range(demand.rollouts)
            ]
            for sample, prompt in zip(samples, prompts, strict=True)
        ]
        begin([[live.talk for live in row] for row in rows], demand, self.renderer)
        try:
            self._converse(rows, demand)
        finally:
            for row in rows:
                for live in row:
                    live.close()
        return [
            [live.talk.episode(rank, demand, live.seed, self.renderer) for rank, live in enumerate(row)]
            for row in rows
        ]

    def _converse(self, rows: list[list[_Live]], demand: Demand) -> None:
        for turn in range(self.max_turns):
            # The rollouts of a sample share their prompt in the first turn: one request, computed once.
            first = [many for row in rows for many in alike(row)] if turn == 0 else []
            sharing = first or [[x] for row in rows for x in row if not x.talk.finished]
            if not sharing:
                return
            requests = [self._request(many, turn) for many in sharing]
            done = self.engine.complete(requests, demand.rule)
            for many, completions in zip(sharing, done, strict=True):
                for live, completion in zip(many, completions, strict=True):
                    live.talk.turn = turn
                    self._take_turn(live, completion, demand)

    def _request(self, sharing: Sequence[_Live], turn: int) -> Request:
        talk = sharing[0].talk
        return Request(
            ids=np.asarray(talk.ids, np.int32),
            media=tuple(s.sha256 for s in talk.seen),
            seeds=tuple(derive_seed(x.seed, turn) if turn else x.seed for x in sharing),
            max_tokens=min(self.max_tokens, talk.window - len(talk.ids)),
            owner=talk.sample.id,
        )

    def _take_turn(self, live: _Live, completion: Completion, demand: Demand) -> None:
        talk = live.talk
        talk.append_sampled(completion, demand.version)
        if not completion.stopped:
            return talk.finish("overlong_turn" if len(talk.ids) < talk.window else "overlong_total")
        if talk.sample.env is None:
            return talk.finish("answered")
        try:
            turn = self._step(live, completion, demand)
            last = len(talk.at) - 1
            talk.events += [RewardEvent(decision=last, name=name, value=value) for name, value in turn.events]
            talk.calls += turn.calls
        except RecipeError:
            raise  # an unknown environment concerns every episode
        except Exception as error:
            live.fail(error)
            return talk.finish("env_error")
        if turn.observation is None:
            return talk.finish(turn.ending)
        last_turn = talk.turn + 1 >= self.max_turns
        if last_turn and not self.renderer.reads:
            return talk.finish("max_turns")
        try:
            segment = self.renderer.observation(turn.observation, talk.sample.id)
        except DataError as error:  # a picture that cannot be read
            live.fail(error)
            return talk.finish("env_error")
        full = len(talk.seen) + len(segment.seen) > self.max_images
        if last_turn:  # what would have come next is kept for the critic, if it fits
            if not full:
                talk.append_observation(segment, (), demand.version)
            return talk.finish("max_turns")
        if full:
            return talk.finish("max_images")
        prefill = self.renderer.encode(turn.prefill) if turn.prefill else []
        if not talk.append_observation(segment, prefill, demand.version):
            return talk.finish("overlong_total")
        return None

    def _step(self, live: _Live, completion: Completion, demand: Demand) -> Turn:
        sample = live.talk.sample
        assert sample.env is not None
        if live.world is None:
            live.world = ENVIRONMENTS[sample.env.name]()
            # One seed for the whole group: the world is the same for all of its rollouts.
            live.world.reset(sample, derive_seed(demand.seed, sample.id))
        return live.world.step(
            self.renderer.decode([t for t in completion.ids if t not in self.renderer.stop_ids])
        )
