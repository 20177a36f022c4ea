"""Every preset makes a step on a real policy, and the step does not depend on how it was laid out or cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from triune.algo import preset
from triune.core.loading import find_recipe, merge, tree
from triune.core.recipe import Recipe
from triune.core.sample import Response, Sample
from triune.data.mixture import Mixture
from triune.loop import Loop

torch.set_num_threads(1)
PADDED = {"policy.layout": "padded", "policy.token_budget": 1 << 20}
CUT = {"policy.layout": "shared", "policy.token_budget": 256}


class Answered:
    """The quickstart's samples with recorded answers: the truth and two others, one of them scored between."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mixture, name)

    def batch(self, *place: int) -> list[Sample]:
        return [answered(sample) for sample in self.mixture.batch(*place)]


def answered(sample: Sample) -> Sample:
    expert = f"<answer>{sample.truth}</answer>"
    said = (
        Response(text=expert, label="chosen", score=1.0, branch="seen"),
        Response(text="<answer>no idea</answer>", label="rejected", score=0.0, branch="guessed"),
    )
    return sample.model_copy(update={"expert": sample.expert or expert, "responses": said})


def gradients(name: str, overrides: dict[str, Any], folder: Path) -> list[torch.Tensor]:
    """What the optimiser is given in the first step, over all trained weights."""
    found = preset.load(name)
    own = {key: value for key, value in found.recipe.items() if key.split(".")[0] in ("rollout", "policy")}
    drawn = {} if own.get("rollout.kind") == "recorded" else {"rollout.max_tokens": 12}
    said = {
        "train.total_steps": 4,
        "train.prompts_per_step": 4,
        "train.rollouts_per_prompt": 2,
        "train.minibatches_per_step": 1,
        "train.optimizer.clip_norm": 1e9,
        "train.probe": False,
        "data.sources": [{"name": "embedded/counting/*"}, {"name": "embedded/detection/*"}],
        "monitor.sinks": [],
    }
    base = Recipe.load(find_recipe("quickstart")).dump() | {"algo": found.tried()}
    recipe = Recipe.model_validate(merge(base, tree({**said, **own, **drawn, **overrides})))
    seen: list[torch.Tensor] = []

    def keep(optimizer: Any, args: Any, kwargs: Any) -> None:
        if not seen:
            seen.extend(
                p.grad.clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None
            )

    with Loop(recipe, folder) as loop:
        loop.mixture = Answered(loop.mixture)  # type: ignore[assignment]
        loop.update.optimizer.adamw.register_step_pre_hook(keep)  # type: ignore[attr-defined]
        loop.step()
    return seen


@pytest.mark.parametrize("name", preset.names())
def test_a_step_does_not_depend_on_its_layout(name: str, tmp_path: Path) -> None:
    padded, cut = (gradients(name, said, tmp_path / str(n)) for n, said in enumerate((PADDED, CUT)))
    size = float(torch.stack([g.norm() for g in padded]).norm())
    assert size > 0
    for a, b in zip(padded, cut, strict=True):
        assert torch.isfinite(b).all()
        assert float((a - b).abs().max()) <= 1e-6 * max(1.0, size)
