"""A small recipe over the embedded tasks, and an untaught nano to run it with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from triune.policy.nano.architecture import build_model, build_processor


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano's architecture with random weights: it babbles, which is all that mechanics need."""
    path = tmp_path_factory.mktemp("untaught")
    processor = build_processor()
    build_model(processor.tokenizer).save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def recipe_file(tmp_path: Path, untaught: Path) -> Path:
    """Six steps of four prompts x four rollouts with eight tokens each; every rollout is rewarded for its format only."""
    recipe = {
        "name": "small",
        "seed": 3,
        "data": {
            "sources": [{"name": "embedded/counting/*"}, {"name": "embedded/grounding/*"}],
            "heldout_per_source": 2,
        },
        "policy": {"kind": "language", "path": str(untaught), "attention": "eager"},
        "rollout": {"kind": "native", "max_tokens": 8},
        "algo": {"kind": "policy_gradient"},
        "train": {
            "total_steps": 6,
            "prompts_per_step": 4,
            "rollouts_per_prompt": 4,
            "minibatches_per_step": 2,
            "freeze": ["vision", "connector"],
            "checkpoint_every": 2,
            "eval_every": 3,
            "optimizer": {"lr": 1e-3, "schedule": "linear"},
        },
        "judge": {"workers": 0},
        "monitor": {"sinks": []},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
