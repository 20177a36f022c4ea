"""References through a run's life: killed and resumed, followed, and refused when their start is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from triune.core.errors import RecipeError
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.loop import Loop, train
from triune.policy.language import LanguageFamily
from triune.policy.options import LanguageOptions
from triune.testing.models import demand, talker, trajectories
from triune.train import checkpoint

HELD = (
    "algo.views={anchor: {kind: frozen, sync_every: 1, mix: 0.3}}",
    "algo.terms=[{kind: ppo_clip}, {kind: kl, form: k2, coef: 0.1}, {kind: kl, form: k3, view: anchor, coef: 0.1}]",
    "train.freeze=[]",
    "train.checkpoint_every=1",
    "train.total_steps=4",
    "train.eval_every=0",
)
RUN = """
import sys
from pathlib import Path
import torch
from triune.core.recipe import Recipe
from triune.loop import train
torch.set_num_threads(1)
train(Recipe.load(sys.argv[1], tuple(sys.argv[3:])), Path(sys.argv[2]))
"""


def said(family: LanguageFamily, samples: list[Sample], view: str = "current") -> torch.Tensor:
    """Log-probs of rollouts that a policy of the start draws."""
    start = LanguageFamily.from_pretrained(LanguageOptions(path=family.options.path, attention="eager"))
    for one in (start, family):
        one.begin_step(samples)
        for sample in samples:
            one.check(sample)
    rollouts = trajectories(talker(start, max_tokens=6).generate(samples, demand(2)))
    asked, name = (start, "current") if view == "start" else (family, view)
    with torch.no_grad():
        return asked.evaluate(asked.pack(rollouts), view=name).logp


def test_a_killed_run_goes_on_with_the_references_that_it_had(recipe_file: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(recipe_file, HELD)
    train(recipe, tmp_path / "whole")
    process = subprocess.Popen([sys.executable, "-c", RUN, str(recipe_file), str(tmp_path / "run"), *HELD])
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoints" / "step-000002").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    train(recipe, tmp_path / "run", resume=True)
    with Loop(recipe, tmp_path / "run") as resumed, Loop(recipe, tmp_path / "whole") as whole:
        for loop in (resumed, whole):
            loop.restore(checkpoint.latest(loop.run_dir))
            assert loop.done == 4
        samples = whole.mixture.batch(1)[:2]
        a, b = resumed.family, whole.family
        assert isinstance(a, LanguageFamily)
        assert isinstance(b, LanguageFamily)
        for view in ("current", "reference", "anchor"):
            assert torch.equal(said(a, samples, view), said(b, samples, view)), view
        start = said(a, samples, "start")
        assert torch.equal(said(a, samples, "reference"), start)
        now, anchor = said(a, samples), said(a, samples, "anchor")
        assert 0 < (anchor - start).abs().mean() < (now - start).abs().mean()
        for name in ("kl/reference", "kl/anchor"):
            series = [loop.monitor.store.series(name, by=())[()] for loop in (resumed, whole)]
            assert [p.mean for p in series[0]] == [p.mean for p in series[1]]
            assert series[0][-1].mean > 0


def test_a_run_whose_start_was_replaced_does_not_go_on(
    recipe_file: Path, untaught: Path, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(untaught, start)
    keys = (*HELD, f"policy.path={start}", "train.total_steps=1")
    train(Recipe.load(recipe_file, keys), tmp_path / "run")
    family = LanguageFamily.from_pretrained(LanguageOptions(path=str(start)))
    with torch.no_grad():
        family.head.weight.add_(0.01)
    family.save(start)
    with (
        Loop(Recipe.load(recipe_file, (*keys, "train.total_steps=2")), tmp_path / "run") as loop,
        pytest.raises(RecipeError, match=r"algo\.views\.reference: .*began with"),
    ):
        loop.restore(checkpoint.latest(loop.run_dir))
