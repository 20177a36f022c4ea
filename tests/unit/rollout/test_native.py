"""The native engine: a rollout is a function of its prompt, rule and seed, and its log-probs are the learner's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from triune.core.errors import RecipeError, TriuneError
from triune.core.trajectory import SamplingRule
from triune.policy.language import LanguageFamily
from triune.rollout.engine import Completion, Request
from triune.rollout.native import NativeEngine, _Room
from triune.testing.models import demand, picture, ragged, sample, talker, tiny, trajectories


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def family(request: pytest.FixtureRequest) -> LanguageFamily:
    """Qwen's three axes and pictures of many sizes; the stop token is likely enough that lengths differ. `sdpa` looks at
    prompts that are there once, `eager` at copies under a mask."""
    made = tiny("qwen", attention=request.param)
    assert made.maskless is (request.param == "sdpa")
    want_to_stop(made)
    made.begin_step(ragged())
    return made


def want_to_stop(family: LanguageFamily) -> None:
    bias = torch.zeros(family.head.weight.shape[0])
    bias[family.stop_ids[0]] = -1.0
    family.head.bias = torch.nn.Parameter(bias)


def asked(family: LanguageFamily, seeds: Sequence[int] = (1, 2, 3), max_tokens: int = 24) -> list[Request]:
    requests = []
    for one in ragged():
        segment = family.prompt(one)
        media = tuple(s.sha256 for s in segment.seen)
        requests.append(Request(segment.ids, media, tuple(seeds), max_tokens, one.id))
    return requests


def same(a: Completion, b: Completion) -> bool:
    return a.ids == b.ids and a.stopped == b.stopped and np.allclose(a.logps, b.logps, atol=1e-5)


RULE = SamplingRule()


def test_lengths_differ_so_that_rows_retire(family: LanguageFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    honest = _Room.take
    monkeypatch.setattr(_Room, "take", lambda self, rows: (taken.append(len(rows)), honest(self, rows))[1])
    done = NativeEngine(family).complete(asked(family, range(16)), RULE)
    lengths = {len(c.ids) for many in done for c in many}
    assert len(lengths) > 5
    assert taken
    assert taken == sorted(taken, reverse=True)


def test_a_fanned_out_prompt_equals_separate_ones(family: LanguageFamily) -> None:
    engine = NativeEngine(family)
    for request in asked(family):
        (together,) = engine.complete([request], RULE)
        for seed, completion in zip(request.seeds, together, strict=True):
            alone = Request(request.ids, request.media, (seed,), request.max_tokens, request.owner)
            assert same(completion, engine.complete([alone], RULE)[0][0])


def test_a_result_does_not_depend_on_its_company(family: LanguageFamily) -> None:
    engine = NativeEngine(family)
    requests = asked(family)
    everyone = engine.complete(requests, RULE)
    backwards = engine.complete(requests[::-1], RULE)[::-1]
    for request, many, other in zip(requests, everyone, backwards, strict=True):
        (alone,) = engine.complete([request], RULE)
        assert all(map(same, many, alone))
        assert all(map(same, many, other))


@pytest.mark.parametrize("max_rows", [1, 2, 3, 4, 5, 7])
def test_a_result_does_not_depend_on_max_rows(
    family: LanguageFamily, max_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = asked(family)
    expected = NativeEngine(family).complete(requests, RULE)
    widest = 0
    honest = NativeEngine._decode

    def watched(
        self: NativeEngine, part: Sequence[Request], done: list[Completion], rule: SamplingRule
    ) -> None:
        nonlocal widest
        widest = max(widest, len(done))
        honest(self, part, done, rule)

    monkeypatch.setattr(NativeEngine, "_decode", watched)
    found = NativeEngine(family, max_rows=max_rows).complete(requests, RULE)
    assert widest <= max_rows
    for a, b in zip(expected, found, strict=True):
        assert all(map(same, a, b))


def test_seeds_reproduce_and_tell_apart(family: LanguageFamily) -> None:
    engine = NativeEngine(family)
    first, again = (engine.complete(asked(family), RULE) for _ in range(2))
    assert first == again
    other = engine.complete(asked(family, (4, 5, 6)), RULE)
    assert all(a.ids != b.ids for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True))
    assert len({tuple(c.ids) for c in first[0]}) == 3


def test_generation_depends_on_run_seed_version_and_rank(family: LanguageFamily) -> None:
    def said(**fields: Any) -> list[list[int]]:
        rows = talker(family).generate(ragged()[:1], demand(**fields))
        return [t.payload.arrays["ids"].tolist() for t in trajectories(rows)]

    assert said() == said()
    assert said(rollouts=2) == said(rollouts=3)[:2]
    assert said()[0] != said()[1]
    assert said() != said(seed=1)
    assert said() != said(version=1)


def test_greedy_is_the_argmax_and_ignores_seeds(family: LanguageFamily) -> None:
    engine = NativeEngine(family)
    rule = SamplingRule(temperature=0)
    for request in asked(family, (1, 2), max_tokens=6):
        ((a, b),) = engine.complete([request], rule)
        assert same(a, b)
        ids = request.ids
        for token, logp in zip(a.ids, a.logps, strict=True):
            places = torch.from_numpy(family.positions(ids, request.media, "a"))[:, None]
            with torch.no_grad():
                embeds = family.inputs(
                    torch.from_numpy(ids.astype(np.int64))[None],
                    [request.media],
                    [["a"] * len(request.media)],
                )
                logits = family.head(family.forward(embeds, places, None)[0, -1])
            logits[list(family.banned)] = float("-inf")
            assert token == int(logits.argmax())
            assert logp == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)
            ids = np.append(ids, np.int32(token))


def test_the_stop_token_is_sampled_and_recorded(family: LanguageFamily) -> None:
    done = [c for many in NativeEngine(family).complete(asked(family, range(12)), RULE) for c in many]
    ended = [c for c in done if c.stopped]
    cut = [c for c in done if not c.stopped]
    assert ended
    assert cut
    for completion in ended:
        assert completion.ids[-1] in family.stop_ids
        assert not set(completion.ids[:-1]) & set(family.stop_ids)
    for completion in cut:
        assert len(completion.ids) == 24
        assert not set(completion.ids) & set(family.stop_ids)
    rows = talker(family, max_tokens=24).generate(ragged(), demand(rollouts=8))
    episodes = [e for row in rows for e in row]
    stopped = [e for e in episodes if e.trajectory.ending == "answered"]
    assert stopped
    for episode in stopped:  # trained as any other token, and no part of the text
        arrays = episode.trajectory.payload.arrays
        assert arrays["ids"][arrays["at"][-1]] in family.stop_ids
        assert not episode.trajectory.decisions.forced[-1]
        assert not episode.outcome.text.endswith("<|im_end|>")


def test_max_tokens_are_each_requests_own(family: LanguageFamily) -> None:
    requests = [
        Request(r.ids, r.media, tuple(range(8)), limit, r.owner)
        for r, limit in zip(asked(family), (0, 1, 5, 30), strict=True)
    ]
    done = NativeEngine(family).complete(requests, RULE)
    assert [c.ids for c in done[0]] == [[]] * 8
    assert {len(c.ids) for c in done[1]} == {1}
    assert max(len(c.ids) for c in done[2]) <= 5
    assert max(len(c.ids) for c in done[3]) > 5
    free = NativeEngine(family).complete(asked(family, range(8), max_tokens=30), RULE)
    for row, limit in zip((1, 2, 3), (1, 5, 30), strict=True):
        assert [c.ids for c in done[row]] == [c.ids[:limit] for c in free[row]]


@pytest.mark.parametrize(
    "rule",
    [{}, {"temperature": 0.7}, {"temperature": 1.6, "banned": tuple(range(0, 300, 3))}, {"temperature": 0.0}],
    ids=["T=1", "T=0.7", "T=1.6 and banned ids", "greedy"],
)
def test_behaviour_log_probs_are_what_evaluate_gives(family: LanguageFamily, rule: dict[str, Any]) -> None:
    rollouts = trajectories(talker(family).generate(ragged(), demand(rollouts=3, **rule)))
    assert set(rule.get("banned", ())) <= set(rollouts[0].rules[0][1].banned)
    with torch.no_grad():
        found = family.evaluate(family.pack(rollouts)).logp
    assert (found - torch.cat([torch.tensor(t.decisions.logp) for t in rollouts])).abs().max() <= 1e-5


def test_rules_may_differ_within_a_batch_and_within_a_trajectory(family: LanguageFamily) -> None:
    hot, cold = (
        trajectories(talker(family).generate(ragged(), demand(rollouts=2, temperature=t))) for t in (1.5, 0.7)
    )
    mixed = [x for pair in zip(hot, cold, strict=True) for x in pair]
    with torch.no_grad():
        found = family.evaluate(family.pack(mixed)).logp
        assert (found - torch.cat([torch.tensor(t.decisions.logp) for t in mixed])).abs().max() <= 1e-5
        long = max(hot, key=lambda t: len(t.decisions))
        (_, rule), (_, other) = long.rules[0], cold[0].rules[0]
        changed = [
            long.model_copy(update={"rules": rules})
            for rules in ([(0, rule)], [(0, other)], [(0, rule), (3, other)])
        ]
        as_hot, as_cold, both = (family.evaluate(family.pack([t])).logp for t in changed)
    assert len(both) > 4
    assert not torch.allclose(as_hot, as_cold, atol=1e-2)
    assert torch.allclose(both, torch.cat([as_hot[:3], as_cold[3:]]), atol=1e-6)


def test_frequencies_follow_the_distribution() -> None:
    family = tiny("llava")
    one = sample("a", picture())
    family.begin_step([one])
    segment = family.prompt(one)
    # A tiny vocabulary: everything but six ids is banned.
    keep = [5, 40, 90, 120, 200, family.stop_ids[0]]
    rule = SamplingRule(temperature=1.3, banned=tuple(set(range(len(family.tokenizer))) - set(keep)))
    request = Request(segment.ids, (one.media[0].sha256,), tuple(range(100, 8100)), 2, "a")
    (done,) = NativeEngine(family, max_rows=8192).complete([request], rule)
    expected = {c.ids[0]: float(np.exp(c.logps[0])) for c in done}
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-5)
    chi2 = sum((sum(c.ids[0] == i for c in done) - 8000 * p) ** 2 / (8000 * p) for i, p in expected.items())
    assert chi2 < 25  # 5 degrees of freedom: above 25 once in 7,000
    after = [c for c in done if c.ids[0] == max(expected, key=expected.__getitem__) and len(c.ids) == 2]
    follow = {c.ids[1]: float(np.exp(c.logps[1])) for c in after}
    chi2 = sum(
        (sum(c.ids[1] == i for c in after) - len(after) * p) ** 2 / (len(after) * p)
        for i, p in follow.items()
    )
    assert chi2 < 25


@pytest.mark.parametrize("rule", [{"top_p": 0.5}, {"top_k": 3}])
def test_a_truncated_distribution_is_for_evaluation_only(
    family: LanguageFamily, rule: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match="top_p and top_k"):
        talker(family).generate(ragged(), demand(**rule))
    rollouts = trajectories(talker(family).generate(ragged(), demand(phase="eval", **rule)))
    with torch.no_grad():
        found = family.evaluate(family.pack(rollouts)).logp
    assert (found - torch.cat([torch.tensor(t.decisions.logp) for t in rollouts])).abs().max() <= 1e-5
    if "top_k" in rule:
        rows = NativeEngine(family).complete(asked(family, range(40), max_tokens=1), SamplingRule(**rule))
        assert all(len({c.ids[0] for c in many}) <= 3 for many in rows)


def test_a_full_window_ends_the_episode() -> None:
    family = tiny("llava")
    size = family.prompt(ragged()[1]).ids.size
    small = tiny("llava", window=size + 3)
    small.begin_step(ragged()[1:2])
    want_to_stop(small)
    episodes = talker(small, max_tokens=9).generate(ragged()[1:2], demand(rollouts=6))[0]
    cut = [e for e in episodes if e.trajectory.ending == "overlong_total"]
    assert cut
    for episode in cut:
        assert len(episode.trajectory.payload.arrays["ids"]) == size + 3
        assert episode.trajectory.truncated
        assert not episode.trajectory.terminated


def test_loading_only_counts(family: LanguageFamily) -> None:
    generator = talker(family)
    generator.load(7)
    assert generator.engine.version == 7
    assert generator.exact


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_diverged_policy_is_an_error(temperature: float) -> None:
    family = tiny("llava")
    family.begin_step(ragged())
    with torch.no_grad():
        family.head.weight[7, 0] = float("nan")
    generator = talker(family)
    generator.load(3)
    with pytest.raises(TriuneError, match=r"weights number 3 .*diverged"):
        generator.generate(ragged(), demand(temperature=temperature))
