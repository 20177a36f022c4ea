"""Low-rank adapters through PEFT (LoRA, Hu et al. 2021): the base stays as it is, small matrices beside it are trained.

The only module that imports peft. Adapters are put into the model itself, so engine and learner run the same layers
and see the same weights. A copy of the adapters is all that a reference takes.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from triune.core.errors import RecipeError
from triune.policy import vlm
from triune.policy.options import LoraOptions

BASE_FILE = "base.json"
"""Beside a saved adapter: the path and the hash of the model that it belongs to."""


class Lora:
    """The adapters of one model. `modules` are the parts by name, each holding its adapters' parameters only (none for a
    part without): what can train.

    Starting values are the same in every run: A random from a fixed seed, B zero, so that training starts at the base.
    Raises RecipeError when no layer is targeted.
    """

    def __init__(self, model: nn.Module, options: LoraOptions, path: str) -> None:
        self.path = path
        parts, _ = vlm.parts(model)
        of = {id(p): name for name, part in parts.items() for p in part.parameters()}
        targets = _targets(model, options, of)
        config = LoraConfig(
            r=options.rank, lora_alpha=options.alpha, lora_dropout=options.dropout, target_modules=targets
        )
        with torch.random.fork_rng(devices=[]), _quiet():
            torch.manual_seed(0)
            self.peft: Any = get_peft_model(model, config)
        self.peft.peft_config["default"].base_model_name_or_path = path
        named = {id(p): tuple(name.split(".")) for name, p in model.named_parameters()}
        self.modules: Mapping[str, nn.Module] = {
            name: _tree({named[id(p)]: p for p in part.parameters() if p.requires_grad})
            for name, part in vlm.parts(model)[0].items()
        }
        self._fingerprint = ""

    def fingerprint(self) -> str:
        """sha256 over the base's parameters, by name; computed once, because the base never changes."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            adapters = {id(p) for part in self.modules.values() for p in part.parameters()}
            model = self.peft.get_base_model()
            named = {n: p for n, p in model.named_parameters() if id(p) not in adapters}
            for name in sorted(named, key=lambda n: n.replace(".base_layer", "")):
                digest.update(f"{name.replace('.base_layer', '')} {tuple(named[name].shape)}".encode())
                digest.update(named[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def save(self, path: Path) -> None:
        """A PEFT folder, which `peft` itself loads onto the base, and which base that is."""
        self.peft.save_pretrained(path)
        (path / "README.md").unlink(missing_ok=True)  # PEFT's template says nothing about the run
        base = {"path": self.path, "sha256": self.fingerprint()}
        (path / BASE_FILE).write_text(json.dumps(base, indent=1) + "\n")

    def load(self, path: Path) -> None:
        """Reads adapters written by `save`, bit for bit. Raises RecipeError for those of another base, ValueError for
        those of another shape."""
        said = path / BASE_FILE  # adapters from elsewhere have none
        base = json.loads(said.read_text()) if said.exists() else None
        if base and base["sha256"] != self.fingerprint():
            raise RecipeError(
                f"{path}: these adapters were trained on {base['path']!r} as it was then, and policy.path "
                f"{self.path!r} holds other weights: give the base that the run was started from"
            )
        tensors = load_file(path / "adapter_model.safetensors")
        mine = get_peft_model_state_dict(self.peft)
        if differ := {k for k in mine.keys() | tensors.keys() if _shape(mine, k) != _shape(tensors, k)}:
            raise ValueError(
                f"{path}: adapters of other layers or another rank: {sorted(differ)[0]} and more"
            )
        set_peft_model_state_dict(self.peft, tensors)

    def merge(self, dtype: torch.dtype) -> Any:
        """Adds the adapters to the base in float32, rounds once, to `dtype`, and returns the plain model. This object, and
        whatever holds the layers, is of no use afterwards."""
        vlm.cast(self.peft.get_base_model(), torch.float32)
        return vlm.cast(self.peft.merge_and_unload(safe_merge=True), dtype)


def reloaded(base: nn.Module, path: Path) -> Any:
    """A plain model with the adapters of a PEFT folder on it, as peft itself loads them."""
    with _quiet():
        return PeftModel.from_pretrained(base, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of what peft still asks of transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _tree(named: Mapping[tuple[str, ...], nn.Parameter]) -> nn.Module:
    """The parameters at their paths: modules as the model nests them, so that its layers can be told apart."""
    inner: dict[str, dict[tuple[str, ...], nn.Parameter]] = {}
    for (head, *rest), parameter in named.items():
        inner.setdefault(head, {})[tuple(rest)] = parameter
    tree = nn.ModuleList() if inner and all(map(str.isdigit, inner)) else nn.Module()
    for head, below in inner.items():
        if () in below:
            tree.register_parameter(head, below[()])
        else:
            tree.add_module(head, _tree(below))
    return tree


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _targets(model: nn.Module, options: LoraOptions, of: Mapping[int, str]) -> list[str]:
    """The full names of the layers that get an adapter: the linear layers of the chosen parts, but for the head, which
    may be tied to the embeddings and is as large as they are."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head and of.get(id(layer.weight)) in options.modules
    ]
    wanted = options.targets
    if wanted == "auto":
        found = linear
    elif isinstance(wanted, str):
        found = [name for name in linear if re.fullmatch(wanted, name)]
    else:
        found = [name for name in linear if any(name == w or name.endswith(f".{w}") for w in wanted)]
    if not found:
        ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise RecipeError(
            f"policy.lora.targets {wanted!r} matches no linear layer of {', '.join(options.modules)}; "
            f"their names end in: {', '.join(ends) or '(there are none)'}"
        )
    return found
