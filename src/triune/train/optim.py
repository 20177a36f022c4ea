"""AdamW with a parameter group per module, so that vision, connector and language have rates and norms of their own."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from triune.core.errors import RecipeError, nearest
from triune.core.recipe import OptimizerSpec, TrainSpec


def rate_factor(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    """The schedule's factor at `step` (from 1): linear warm-up that never starts at 0, then constant or decay to 0."""
    warmup = round(spec.warmup_fraction * total_steps)
    if step <= warmup:
        return step / (warmup + 1)
    if spec.schedule == "constant":
        return 1.0
    done = (step - 1 - warmup) / max(1, total_steps - warmup)
    return 1 - done if spec.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class Optimizer:
    """Owns what is trained: freezes, groups, rates, clipping, and the refusal to apply a non-finite gradient."""

    def __init__(self, modules: Mapping[str, nn.Module], train: TrainSpec) -> None:
        spec = train.optimizer
        for name in (*train.freeze, *spec.lr_by_module):
            if name not in modules:
                raise RecipeError(f"the policy has no module {name!r}: {nearest(name, modules)}")
        groups, taken = [], set[int]()
        for name, module in modules.items():
            mine = [p for p in module.parameters() if id(p) not in taken]
            taken |= {id(p) for p in mine}
            if mine:
                groups.append({"params": mine, "name": name, "lr": 0.0})
        self.adamw = torch.optim.AdamW(groups, betas=spec.betas, weight_decay=spec.weight_decay)
        self.skipped = 0
        self.freeze(train.freeze)

    def freeze(self, names: Collection[str]) -> None:
        """Freezes these modules and thaws the others; AdamW passes over parameters without a gradient."""
        for group in self.adamw.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(group["name"] not in names)
        if all(group["name"] in names for group in self.adamw.param_groups):
            raise RecipeError("every module is frozen: nothing would be trained")

    def step(
        self, spec: OptimizerSpec, step: int, total_steps: int
    ) -> tuple[dict[str, float], dict[str, float]]:
        """One update at the schedule's rate; returns gradient norms (with `all`) and rates of what is not frozen.

        A non-finite gradient changes nothing and is counted in `skipped`.
        """
        factor = rate_factor(spec, step, total_steps)
        norms: dict[str, Tensor] = {}
        trained = [g for g in self.adamw.param_groups if g["params"][0].requires_grad]
        for group in trained:
            group["lr"] = spec.lr_by_module.get(group["name"], spec.lr) * factor
            group["betas"], group["weight_decay"] = spec.betas, spec.weight_decay
            grads = [p.grad for p in group["params"] if p.grad is not None]
            norms[group["name"]] = nn.utils.get_total_norm(grads) if grads else torch.zeros(())
        total = torch.stack([n.detach().float() for n in norms.values()]).norm()
        if bool(torch.isfinite(total)):
            parameters = [p for group in trained for p in group["params"]]
            nn.utils.clip_grads_with_norm_(parameters, spec.clip_norm, total)
            self.adamw.step()
        else:
            self.skipped += 1
        self.adamw.zero_grad(set_to_none=True)
        rates = {group["name"]: float(group["lr"]) for group in trained}
        return {**{name: float(n) for name, n in norms.items()}, "all": float(total)}, rates
