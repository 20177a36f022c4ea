"""How much memory a run will need, from what is known (weights, gradients, moments) and what the probe measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from triune.algo.types import Batch
from triune.core.errors import RecipeError
from triune.core.recipe import Recipe
from triune.policy.family import Family
from triune.rollout.generator import Episode
from triune.train.views import Views

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `activations` are those of the largest micro-batch: `per_token` (measured with gradient on the probe's
    rollouts) times `tokens`. `cache` are the keys and values of the rollouts that are decoded at once, which are gone when
    the update begins. `views` are the weights of references and teachers. `available` includes what weights already take;
    None where it cannot be found out."""

    weights: int
    gradients: int
    optimizer: int
    per_token: int
    tokens: int
    cache: int
    available: int | None
    views: int = 0

    @property
    def activations(self) -> int:
        return self.per_token * self.tokens

    @property
    def certain(self) -> int:
        return self.weights + self.views + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.weights + self.views + self.optimizer + max(self.gradients + self.activations, self.cache)

    def __str__(self) -> str:
        views = f"views {_gib(self.views)}, " if self.views else ""
        parts = (
            f"memory: about {_gib(self.total)} (weights {_gib(self.weights)}, {views}gradients {_gib(self.gradients)}, "
            f"optimiser {_gib(self.optimizer)}, activations {_gib(self.activations)}: {self.tokens} tokens of "
            f"{self.per_token / 1024:.0f} KiB; or, while it samples, cache {_gib(self.cache)})"
        )
        if self.available is None:
            return parts
        tight = "" if self.total <= self.available else (
            "; this may not fit: lower policy.token_budget or rollout.max_rows, freeze more or train by LoRA"
        )  # fmt: skip
        return f"{parts}, {_gib(self.available)} available{tight}"

    def refuse(self) -> None:
        """Raises RecipeError when what is certain does not fit."""
        if self.available is not None and self.certain > self.available:
            raise RecipeError(
                f"weights, gradients and optimiser take {_gib(self.certain)}, {_gib(self.available)} are available: use a "
                "smaller model, policy.dtype: bfloat16, freeze more modules or train by LoRA"
            )


def estimate(
    family: Family, recipe: Recipe, episodes: Sequence[Episode], views: Views | None = None
) -> Memory:
    """`episodes` are rollouts of the probe, whose media the family knows; `views` what the objective looks at besides."""
    model = getattr(family, "model", None)  # the base beside adapters trains nothing, but is held
    modules = [model] if isinstance(model, nn.Module) else list(family.modules().values())
    parameters = [p for module in modules for p in module.parameters()]
    trained = sum(p.nbytes for p in parameters if p.requires_grad)
    trajectories = [e.trajectory for e in episodes if len(e.trajectory.decisions)]
    batch = family.pack(trajectories)
    saved = saved_bytes(lambda: family.evaluate(batch).logp, parameters)
    cost = sum(map(family.cost, trajectories))
    longest = max(map(family.cost, trajectories)) + _more(recipe, episodes)
    step = recipe.train.prompts_per_step * recipe.train.rollouts_per_prompt * longest
    held = sum(p.nbytes for p in parameters)
    copies = views.nbytes if views is not None else 0
    if views is not None:
        # A view with gradient keeps what the trained pass keeps; a distribution is held with its gradient.
        saved *= 1 + views.differentiated
        if views.distributions:
            saved += 2 * views.distributions * _table(family, batch)
    return Memory(
        weights=held + _copy(family, recipe, parameters),
        gradients=trained,
        # Two moments in 32 bits; of narrower weights also a wide copy, and a wide gradient while a step is taken.
        optimizer=sum(
            p.numel() * (8 if p.dtype == torch.float32 else 16) for p in parameters if p.requires_grad
        ),
        per_token=saved // max(1, cost),
        tokens=min(step, int(getattr(recipe.policy, "token_budget", step))),
        cache=_cache(family, recipe, episodes),
        available=_available(parameters[0].device, held + copies),
        views=copies,
    )


@torch.no_grad()
def _table(family: Family, batch: Batch) -> int:
    """Bytes of the distributions of a batch's decisions."""
    return family.evaluate(batch, want=frozenset({"distribution"})).extras["distribution"].nbytes


def _copy(family: Family, recipe: Recipe, parameters: Sequence[Tensor]) -> int:
    """Bytes of the weights that sample, where the recipe has them differ from the learner's (rollout/lagging.py)."""
    kind = getattr(torch, getattr(recipe.rollout, "dtype", None) or "", parameters[0].dtype)
    if kind != parameters[0].dtype:
        return sum(p.numel() * kind.itemsize for p in parameters)
    own = [p for module in family.modules().values() for p in module.parameters()]
    return sum(p.nbytes for p in own) if getattr(recipe.rollout, "refresh_every", 1) > 1 else 0


def _cache(family: Family, recipe: Recipe, episodes: Sequence[Episode]) -> int:
    """Bytes of the engine's cache at its fullest: every rollout at its longest, prompts once per group where the engine
    shares them. 0 for a family without one."""
    per_token = int(getattr(family, "cache_bytes", 0))
    if not per_token:
        return 0
    train, options = recipe.train, recipe.rollout
    rollouts = train.prompts_per_step * train.rollouts_per_prompt
    rows = min(rollouts, int(getattr(options, "max_rows", rollouts)))
    prompt = max(family.cost(e.trajectory) - e.outcome.num_tokens for e in episodes)
    prompts = -(-rows // train.rollouts_per_prompt) if getattr(family, "maskless", False) else rows
    longest = max(e.outcome.num_tokens for e in episodes) + _more(recipe, episodes)
    return per_token * (rows * longest + prompts * prompt)


def _more(recipe: Recipe, episodes: Sequence[Episode]) -> int:
    """Tokens by which a rollout may get longer than the longest of the probe."""
    limit = getattr(recipe.rollout, "max_tokens", 0) * getattr(recipe.rollout, "max_turns", 1)
    return max(0, int(limit) - max(e.outcome.num_tokens for e in episodes))


def saved_bytes(run: Callable[[], Tensor], parameters: Sequence[Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what `run` returns, without the parameters themselves."""
    known = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # held until the count is done: an address that is freed would be given out again
    total = sum(kept.values())
    del result
    return total


def _available(device: torch.device, held: int) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + held
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:  # a container may be allowed less than the machine has
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    except (OSError, ValueError):
        pass
    return free + held


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
