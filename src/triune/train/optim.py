"""AdamW with a parameter group per module, so that vision, connector and language have rates and norms of their own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from triune.core.errors import RecipeError, nearest
from triune.core.trainspec import OptimizerSpec, TrainSpec
from triune.monitor.metric import Metric, scalar
from triune.runtime.world import world

CRITIC = "critic"
"""The module that a critic is called, in every family that has one."""


def rate_factor(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    """The schedule's factor at `step` (from 1): linear warm-up that never starts at 0, then constant or decay to 0."""
    warmup = round(spec.warmup_fraction * total_steps)
    if step <= warmup:
        return step / (warmup + 1)
    if spec.schedule == "constant":
        return 1.0
    done = (step - 1 - warmup) / max(1, total_steps - warmup)
    return 1 - done if spec.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def layers(name: str, module: nn.Module) -> dict[int, str]:
    """The layer of each parameter of a module, by the parameter's `id`.

    A module's transformer blocks are its largest `nn.ModuleList`: block i is `NAME.i`. What is registered before it is
    `NAME.embed`, what comes after it `NAME.head` (a head that shares the embedding's weights is counted there). A module
    without blocks, as most connectors are, is one layer, `NAME`.
    """
    lists = {
        path: sum(p.numel() for p in inner.parameters())
        for path, inner in module.named_modules()
        if path and isinstance(inner, nn.ModuleList)  # "" is the module itself, which may list unlike parts
    }
    blocks = max(lists, key=lambda path: lists[path], default="")
    found: dict[int, str] = {}
    outside = "embed"
    for path, parameter in module.named_parameters():
        if not blocks:
            found[id(parameter)] = name
        elif path.startswith(f"{blocks}."):
            found[id(parameter)] = f"{name}.{path.removeprefix(f'{blocks}.').split('.')[0]}"
            outside = "head"
        else:
            found[id(parameter)] = f"{name}.{outside}"
    return found


class Stepped(NamedTuple):
    """What an optimiser step did: gradient norms before clipping, per module (with `all`) and per layer (see `layers`),
    and learning rates per module. Frozen modules are absent."""

    norms: dict[str, float]
    layer_norms: dict[str, float]
    rates: dict[str, float]

    def metrics(self) -> list[Metric]:
        """`grad_norm` and `learning_rate` by module, `grad_norm/layer` by layer."""
        return [
            *(scalar("grad_norm", value, module=name) for name, value in self.norms.items()),
            *(scalar("grad_norm/layer", value, layer=name) for name, value in self.layer_norms.items()),
            *(scalar("learning_rate", value, module=name) for name, value in self.rates.items()),
        ]


class Optimizer:
    """Owns what is trained: freezes, groups, rates, clipping, and the refusal to apply a non-finite gradient.

    Weights in less than 32 bits get a wide copy that AdamW works on, with moments in 32 bits, as soon as they are
    trained; after a step they are rounded from it. Without it a rate of 1e-6 would change nothing: bfloat16 keeps three
    digits, and an update a thousand times smaller than the weight is rounded away.
    """

    def __init__(self, modules: Mapping[str, nn.Module], train: TrainSpec) -> None:
        spec = train.optimizer
        for name in (*train.freeze, *spec.lr_by_module):
            if name not in modules:
                raise RecipeError(f"the policy has no module {name!r}: {nearest(name, modules)}")
        taken = set[int]()
        groups: list[dict[str, Any]] = []
        self.layers: dict[int, str] = {}
        self.weights: list[list[nn.Parameter]] = []
        for name, module in modules.items():
            self.layers = layers(name, module) | self.layers
            mine = [p for p in module.parameters() if id(p) not in taken]
            taken |= {id(p) for p in mine}
            if mine:
                self.weights.append(mine)
                groups.append({"params": list(mine), "name": name, "lr": 0.0})
        self.adamw = torch.optim.AdamW(groups, betas=spec.betas, weight_decay=spec.weight_decay, fused=True)
        self.skipped = 0
        self.freeze(train.freeze)

    def freeze(self, names: Collection[str], alone: Iterable[Collection[str]] = ()) -> None:
        """Freezes these modules, and those that are not in every set of `alone` that is not empty; thaws the others. AdamW
        passes over parameters without a gradient. Raises RecipeError for a module that does not exist."""
        known = [group["name"] for group in self.adamw.param_groups]
        for only in alone:
            for name in only:
                if name not in known:
                    raise RecipeError(
                        f"the policy has no module {name!r} to train alone: {nearest(name, known)}"
                    )
            names = {*names, *(set(known) - set(only) if only else ())}
        for group, weights in zip(self.adamw.param_groups, self.weights, strict=True):
            for index, weight in enumerate(weights):
                weight.requires_grad_(group["name"] not in names)
                if (
                    weight.requires_grad
                    and weight.dtype != torch.float32
                    and group["params"][index] is weight
                ):
                    group["params"][index] = weight.detach().float()
        if all(group["name"] in names for group in self.adamw.param_groups):
            raise RecipeError("every module is frozen: nothing would be trained")

    def step(self, spec: OptimizerSpec, step: int, total_steps: int) -> Stepped:
        """One update at the schedule's rate. A non-finite gradient changes nothing and is counted in `skipped`."""
        factor = rate_factor(spec, step, total_steps)
        _add_up([w for weights in self.weights for w in weights if w.requires_grad])
        norms: dict[str, Tensor] = {}
        by_layer: dict[str, list[Tensor]] = defaultdict(list)
        trained = [
            (group, weights)
            for group, weights in zip(self.adamw.param_groups, self.weights, strict=True)
            if weights[0].requires_grad
        ]
        for group, weights in trained:
            group["lr"] = spec.lr_by_module.get(group["name"], spec.lr) * factor
            group["betas"], group["weight_decay"] = spec.betas, spec.weight_decay
            # One norm per tensor serves layer, module and whole: the gradients are read once.
            mine = [
                (self.layers[id(p)], torch.linalg.vector_norm(p.grad, dtype=torch.float32))
                for p in weights
                if p.grad is not None
            ]
            for layer, norm in mine:
                by_layer[layer].append(norm)
            norms[group["name"]] = torch.stack([n for _, n in mine]).norm() if mine else torch.zeros(())
        total = torch.stack(list(norms.values())).norm()
        if bool(torch.isfinite(total)):
            wide = [
                (w, c) for g, many in trained for w, c in zip(many, g["params"], strict=True) if c is not w
            ]
            for weight, copy in wide:
                copy.grad = None if weight.grad is None else weight.grad.float()
            self._clip(trained, norms, spec.clip_norm)
            self.adamw.step()
            with torch.no_grad():
                for weight, copy in wide:
                    weight.copy_(copy)
        else:
            self.skipped += 1
        self.forget()
        return Stepped(
            norms=_floats({**norms, "all": total}),
            layer_norms=_floats({layer: torch.stack(many).norm() for layer, many in by_layer.items()}),
            rates={group["name"]: float(group["lr"]) for group, _ in trained},
        )

    def forget(self) -> None:
        """Drops the gradients."""
        self.adamw.zero_grad(set_to_none=True)
        for weights in self.weights:
            for weight in weights:
                weight.grad = None

    def _clip(
        self,
        trained: Sequence[tuple[dict[str, Any], list[nn.Parameter]]],
        norms: Mapping[str, Tensor],
        limit: float,
    ) -> None:
        """A critic's gradient by its own norm, all others by theirs: a value that is far off, as every first one is, must
        not make the policy's step small."""
        for apart in (True, False):
            mine = [group for group, _ in trained if (group["name"] == CRITIC) is apart]
            if mine:
                norm = torch.stack([norms[group["name"]] for group in mine]).norm()
                nn.utils.clip_grads_with_norm_([p for group in mine for p in group["params"]], limit, norm)

    def state(self) -> dict[str, object]:
        """What a checkpoint holds besides the weights: moments, wide copies by group and position, skipped steps."""
        wide = [
            {i: c for i, (w, c) in enumerate(zip(weights, group["params"], strict=True)) if c is not w}
            for group, weights in zip(self.adamw.param_groups, self.weights, strict=True)
        ]
        return {"adamw": self.adamw.state_dict(), "wide": wide, "skipped": self.skipped}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a state over; the weights are those of the same checkpoint already."""
        for group, weights, wide in zip(
            self.adamw.param_groups, self.weights, state.get("wide", [{} for _ in self.weights]), strict=True
        ):
            group["params"][:] = weights
            for index, copy in wide.items():
                group["params"][index] = copy.to(weights[index].device)
        self.adamw.load_state_dict(state["adamw"])
        self.skipped = int(state["skipped"])


def _add_up(weights: Sequence[nn.Parameter]) -> None:
    """Gradients of all processes of the run, summed. A weight that has none anywhere keeps none."""
    if world().size == 1:
        return
    known = torch.tensor([float(weight.grad is not None) for weight in weights])
    world().add([known])
    for weight, count in zip(weights, known.tolist(), strict=True):
        if count and weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    world().add([weight.grad for weight in weights if weight.grad is not None])


def _floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Read in one transfer, because each would wait for the device."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True)) if values else {}
