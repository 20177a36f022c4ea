"""Log-probabilities under a sampling rule: against the definition, in chunks, and with gradients that stay finite."""

from __future__ import annotations

import math

import pytest
import torch

from triune.core.trajectory import SamplingRule
from triune.policy.logprob import chosen_logprobs, collisions, rule_logprobs

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 3.0], [0.0, 0.5, -0.5, 4.0, 1.0]])


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_temperature_and_banned_ids(temperature: float) -> None:
    rule = SamplingRule(temperature=temperature, banned=(1, 4))
    found = rule_logprobs(LOGITS, rule)
    for row, logits in zip(found, LOGITS, strict=True):
        kept = {i: math.exp(float(logits[i]) / temperature) for i in (0, 2, 3)}
        for index in range(5):
            if index in kept:
                assert float(row[index]) == pytest.approx(
                    math.log(kept[index] / sum(kept.values())), abs=1e-6
                )
            else:
                assert float(row[index].exp()) == 0.0


def test_greedy_is_scored_at_temperature_one() -> None:
    assert torch.equal(rule_logprobs(LOGITS, SamplingRule(temperature=0)), LOGITS.log_softmax(-1))


def test_truncated_support() -> None:
    top_k = rule_logprobs(LOGITS, SamplingRule(top_k=2)).exp()
    assert (top_k > 0).sum(-1).tolist() == [2, 2]
    assert top_k[0, [0, 4]].tolist() == pytest.approx(LOGITS[0, [0, 4]].softmax(-1).tolist())
    top_p = rule_logprobs(LOGITS, SamplingRule(top_p=0.85)).exp()
    # exp(3), exp(2) of [2, 1, 0, -1, 3]: .64 and .23 reach .85; the second row's first id has .93 alone.
    assert (top_p > 0).sum(-1).tolist() == [2, 1]
    assert (rule_logprobs(LOGITS, SamplingRule(top_k=99)) == LOGITS.log_softmax(-1)).all()


@pytest.mark.parametrize("rule", [SamplingRule(), SamplingRule(temperature=0.7, banned=(0, 3))])
def test_chunks_give_the_same_values_and_gradients(rule: SamplingRule) -> None:
    torch.manual_seed(0)
    head, ids = torch.nn.Linear(6, 9, bias=False), torch.randint(4, 9, (50,))
    results = []
    for kept in (7 * 9 * 4, 4 * 7 * 9 * 4, 1 << 20):  # recomputed, kept in chunks, kept whole
        hidden = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        logp, entropy = chosen_logprobs(hidden, head, ids, rule, entropy=True, kept_bytes=kept)
        head.zero_grad()
        (logp.sum() + 0.3 * entropy.sum()).backward()
        assert hidden.grad is not None
        assert head.weight.grad is not None
        results.append((logp, entropy, hidden.grad, head.weight.grad.clone()))
    for a, *others in zip(*results, strict=True):
        assert a.isfinite().all()  # banned ids have p = 0 and log p = -inf, in values and in gradients
        for other in others:
            assert torch.allclose(a, other, atol=1e-5)


def test_entropy_is_right_and_carries_a_gradient_only_if_wanted() -> None:
    hidden = LOGITS.clone().requires_grad_()
    head = torch.nn.Identity()
    rule = SamplingRule(banned=(2,))
    for wanted in (True, False):
        _, entropy = chosen_logprobs(hidden, head, torch.tensor([0, 1]), rule, entropy=wanted)
        assert entropy.requires_grad is wanted
        p = LOGITS[:, [0, 1, 3, 4]].softmax(-1)
        assert torch.allclose(entropy.detach(), -(p * p.log()).sum(-1), atol=1e-6)


def test_the_entropy_gradient_is_the_definitions() -> None:
    rule = SamplingRule(banned=(1,))
    hidden = LOGITS.double().requires_grad_()
    chosen_logprobs(hidden, torch.nn.Identity(), torch.tensor([0, 0]), rule, entropy=True)[1].sum().backward()
    kept = LOGITS[:, [0, 2, 3, 4]].double().requires_grad_()
    logp = kept.log_softmax(-1)
    (-(logp.exp() * logp).sum()).backward()
    assert hidden.grad is not None
    assert kept.grad is not None
    assert torch.allclose(hidden.grad[:, [0, 2, 3, 4]], kept.grad, atol=1e-6)
    assert (hidden.grad[:, 1] == 0).all()


def test_nothing_to_score() -> None:
    logp, entropy = chosen_logprobs(
        torch.zeros(0, 3), torch.nn.Identity(), torch.zeros(0, dtype=torch.long), SamplingRule()
    )
    assert logp.shape == entropy.shape == (0,)


def test_the_chance_that_two_draws_agree() -> None:
    """sum p^2 of the distribution that the rule describes, in chunks, without gradient."""
    hidden = torch.randn(7, 5, requires_grad=True)
    for rule in (SamplingRule(), SamplingRule(temperature=0.5, banned=(1,))):
        expected = rule_logprobs(hidden, rule).exp().square().sum(-1)
        for kept in (1, 1 << 20):
            found = collisions(hidden, lambda x: x, rule, kept_bytes=kept)
            assert torch.allclose(found, expected)
            assert not found.requires_grad
    assert collisions(hidden[:0], lambda x: x, SamplingRule()).shape == (0,)
