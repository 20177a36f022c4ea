"""What each estimate of a divergence is worth, and the gradient that it really has: exact, over a categorical of three."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from triune.algo.kl import Form, divergence, estimate
from triune.algo.objective import Objective
from triune.algo.terms.kl import KL
from triune.algo.types import Batch, Credit, Evaluated
from triune.core.errors import ParityError
from triune.testing.table import trajectory

REFERENCE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LOGITS = torch.tensor([1.0, 0.3, -0.8], dtype=torch.float64)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, logits, retain_graph=True)
    return found


def reverse(logp: Tensor) -> Tensor:
    return divergence(logp[None], REFERENCE.log()[None])[0]


def forward(logp: Tensor) -> Tensor:
    return divergence(REFERENCE.log()[None], logp[None])[0]


def policy() -> tuple[Tensor, Tensor]:
    logits = LOGITS.clone().requires_grad_()
    return logits, logits.log_softmax(-1)


def sampled(form: Form, logp: Tensor, probability: Tensor) -> Tensor:
    """The loss over every choice, as often as it is drawn: what a large batch of samples converges to."""
    return (probability.detach() * estimate(form, logp - REFERENCE.log())).sum()


def test_k1_in_the_loss_has_no_gradient() -> None:
    logits, logp = policy()
    assert gradient(sampled("k1", logp, logp.exp()), logits).abs().max() < 1e-15
    with pytest.raises(ValidationError, match=r"no gradient in expectation.*reward"):
        KL(form="k1")


def test_k2_pulls_along_the_reverse_divergence_and_so_does_the_straight_through_k3() -> None:
    logits, logp = policy()
    expected = gradient(reverse(logp), logits)
    assert expected.abs().max() > 0.1
    for form in ("k2", "k3+"):
        assert torch.allclose(gradient(sampled(form, logp, logp.exp()), logits), expected, atol=1e-14)


def test_k3_pulls_along_the_forward_divergence() -> None:
    logits, logp = policy()
    found = gradient(sampled("k3", logp, logp.exp()), logits)
    assert torch.allclose(found, gradient(forward(logp), logits), atol=1e-14)
    assert not torch.allclose(found, gradient(reverse(logp), logits), atol=0.05)


def test_the_absolute_log_ratio_pulls_along_the_total_variation() -> None:
    logits, logp = policy()
    variation = (logp.exp() - REFERENCE).abs().sum()
    assert torch.allclose(
        gradient(sampled("abs", logp, logp.exp()), logits), gradient(variation, logits), atol=1e-14
    )


def test_k1_in_the_reward_is_the_score_function_of_the_reverse_divergence() -> None:
    logits, logp = policy()
    cost = estimate("k1", logp.detach() - REFERENCE.log())  # detached: it is a reward
    score = (logp.exp().detach() * cost * logp).sum()
    assert torch.allclose(gradient(score, logits), gradient(reverse(logp), logits), atol=1e-14)


@pytest.mark.parametrize("form", ["k1", "k3", "k3+"])
def test_the_unbiased_estimates_have_the_divergence_as_their_mean(form: Form) -> None:
    _, logp = policy()
    assert float(sampled(form, logp, logp.exp()).detach()) == pytest.approx(
        float(reverse(logp).detach()), abs=1e-14
    )


def table(choices: Tensor) -> tuple[Batch, Evaluated]:
    """One decision for every choice of the categorical, each live, and their log-probs."""
    batch = Batch.of([trajectory([0, 1, 2])], None)
    batch.live = torch.ones(3, dtype=torch.bool)
    return batch, Evaluated(choices)


def test_the_corrected_k3_pulls_along_the_reverse_divergence_from_stale_samples_too() -> None:
    """Drawn by an older policy: weight each choice by that policy, and the ratio inside makes up for it."""
    logits, logp = policy()
    old = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64).log()
    batch, current = table(logp)
    views = {"old": Evaluated(old), "reference": Evaluated(REFERENCE.log())}
    live = torch.ones(3, dtype=torch.bool)
    corrected = KL(form="k3_corrected").values(batch, live, current, views)
    expected = gradient(reverse(logp), logits)
    assert torch.allclose(gradient((old.exp() * corrected).sum(), logits), expected, atol=1e-14)
    plain = KL(form="k3").values(batch, live, current, views)
    assert not torch.allclose(gradient((old.exp() * plain).sum(), logits), expected, atol=0.05)


@pytest.mark.parametrize("form", ["full", "full_forward"])
def test_the_full_forms_are_exact_for_every_decision(form: str) -> None:
    logits, logp = policy()
    batch, current = table(logp)
    current.extras = {"distribution": logp.expand(3, 3)}
    other = Evaluated(REFERENCE.log(), extras={"distribution": REFERENCE.log().expand(3, 3)})
    term = KL(form=form)
    assert term.needs == {"distribution", "reference.distribution"}
    values = term.values(batch, torch.tensor([True, True, False]), current, {"reference": other})
    exact = reverse(logp) if form == "full" else forward(logp)
    expected = float(exact.detach())
    assert values.tolist() == pytest.approx([expected, expected, 0.0])
    assert torch.allclose(gradient(values[0], logits), gradient(exact, logits), atol=1e-14)


@pytest.mark.parametrize(
    "term",
    [
        *(
            {"kind": "kl", "form": form}
            for form in ("abs", "k2", "k3", "k3_corrected", "full", "full_forward")
        ),
        {"kind": "kl", "form": "k3", "value_bound": 0.05},
        {"kind": "entropy", "coef": 1.0},
        {"kind": "entropy", "coef": 1.0, "form": "sampled"},
    ],
    ids=str,
)
def test_autograd_agrees_with_finite_differences(term: dict[str, Any]) -> None:
    """Through the objective, by the logits of three decisions, one of them outside the loss."""
    batch = Batch.of([trajectory([0, 1, 2], forced=[False, True, False])], None)
    ones = torch.ones(1, dtype=torch.bool)
    credit = Credit(torch.zeros(3), ones, ones, [""], ~ones)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    other = (LOGITS + noise).log_softmax(-1)
    chosen = torch.tensor([0, 1, 2])[:, None]
    views = {
        "old": Evaluated((LOGITS - 0.3 * noise).log_softmax(-1).gather(1, chosen)[:, 0]),
        "reference": Evaluated(other.gather(1, chosen)[:, 0], extras={"distribution": other}),
    }
    objective = Objective.of([term])

    def total(logits: Tensor) -> Tensor:
        logp = logits.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        current = Evaluated(logp.gather(1, chosen)[:, 0], entropy, extras={"distribution": logp})
        return objective.whole(batch, credit, current, views).total

    logits = (LOGITS + 0.2 * noise.flip(0)).requires_grad_()
    assert torch.autograd.gradcheck(total, (logits,), eps=1e-6, atol=1e-8)
    assert bool((torch.autograd.grad(total(logits), logits)[0][1] == 0).all())


def test_choices_without_probability_cost_nothing_and_excluded_ones_are_infinite() -> None:
    some = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log().requires_grad_()
    value = divergence(some, torch.full((1, 3), 1 / 3, dtype=torch.float64).log())
    assert float(value.detach()) == pytest.approx(float(torch.tensor(1.5).log()))
    value.sum().backward()
    assert some.grad is not None
    assert bool(some.grad.isfinite().all())
    assert float(divergence(torch.full((1, 2), 0.5).log(), torch.tensor([[1.0, 0.0]]).log())) == torch.inf


def test_policies_that_do_not_allow_the_same_choices_have_no_finite_divergence() -> None:
    _, logp = policy()
    batch, current = table(logp)
    current.extras = {"distribution": logp.expand(3, 3)}
    some = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log()
    views = {"reference": Evaluated(some, extras={"distribution": some.expand(3, 3)})}
    with pytest.raises(ParityError, match=r"rollout 't'.*do not allow the same choices"):
        KL(form="full").values(batch, torch.ones(3, dtype=torch.bool), current, views)
    live = torch.zeros(3, dtype=torch.bool)
    assert KL(form="full").values(batch, live, current, views).tolist() == [0.0, 0.0, 0.0]


def test_clamps_cut_value_and_gradient() -> None:
    logs = torch.tensor([-30.0, -4.0, 1.0], dtype=torch.float64, requires_grad=True)
    value = estimate("k3", logs, log_bound=20.0, value_bound=10.0)
    value.sum().backward()
    assert logs.grad is not None
    assert value.tolist() == pytest.approx([10.0, 10.0, float(torch.tensor(-1.0).exp())])
    assert logs.grad.tolist() == pytest.approx([0.0, 0.0, 1 - float(torch.tensor(-1.0).exp())])
    far = estimate("k3", torch.tensor([-30.0], dtype=torch.float64))
    assert float(far) == pytest.approx(float(torch.tensor(20.0, dtype=torch.float64).expm1()) - 20.0)


@pytest.mark.parametrize(
    ("form", "value", "slope"), [("k1", -30.0, 1.0), ("abs", 30.0, -1.0), ("k2", 450.0, -30.0)]
)
def test_what_is_not_exponentiated_is_not_clamped(form: Form, value: float, slope: float) -> None:
    """As in verl: a policy that has moved far is still pulled back."""
    logs = torch.tensor([-30.0], dtype=torch.float64, requires_grad=True)
    found = estimate(form, logs)
    found.sum().backward()
    assert logs.grad is not None
    assert (found.item(), logs.grad.item()) == (value, slope)


@pytest.mark.parametrize("form", get_args(Form))
def test_where_the_policies_agree_every_estimate_is_zero(form: Form) -> None:
    assert estimate(form, torch.zeros(2)).tolist() == [0.0, 0.0]


def test_an_engine_records_no_distribution() -> None:
    with pytest.raises(ValidationError, match="records no distribution"):
        KL(form="full", view="behavior")
    assert KL(form="k2", view="behavior").needs == frozenset()
    assert KL(form="k3_corrected", view="teacher").needs == {"teacher", "old"}
