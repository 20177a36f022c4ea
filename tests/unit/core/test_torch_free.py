"""The base install has no torch: data, verifiers, monitor, recipes and most of the command line work without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from triune.monitor.metric import scalar
from triune.monitor.store import Store

BLOCKED = """
import importlib, pkgutil, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""

IMPORT_ALL = """
import triune.core, triune.data, triune.verify, triune.monitor, triune.evaluation, triune.cli
for package in (triune.core, triune.data, triune.verify, triune.monitor, triune.evaluation):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""


def without_torch(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True)


def test_every_module_of_the_base_install_imports() -> None:
    done = without_torch(IMPORT_ALL)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["recipes"],
        ["recipes", "show", "quickstart"],
        ["train", "--help"],
        ["data", "show", "quickstart", "--samples", "2", "--out", "OUT"],
    ],
    ids=" ".join,
)
def test_commands_that_need_no_model(arguments: list[str], tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out.png") if word == "OUT" else word for word in arguments]
    done = without_torch(f"from triune.cli import main\nmain({arguments!r})")
    assert done.returncode == 0, done.stderr + done.stdout


def test_an_unknown_plug_in_says_what_is_not_installed() -> None:
    done = without_torch("from triune.cli import main\nmain(['train', 'quickstart', 'policy=langage'])")
    assert done.returncode == 2
    assert "did you mean 'language'?" in done.stderr


def test_training_without_torch_says_what_to_install() -> None:
    done = without_torch(
        "from triune.cli import main\nmain(['train', 'quickstart', '--run-dir', '/nonexistent/run'])"
    )
    assert done.returncode == 2
    assert "triune[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_runs_are_looked_at_by_the_base_install_or_it_says_what_to_add(tmp_path: Path) -> None:
    """Without any extra: reports have no figures, alarms and replay work, the dashboard names its extra."""
    with Store(tmp_path / "run") as store:
        store.log_step(1, "train", [scalar("loss/policy", 1.0)])
    commands = {"report": 0, "alarms": 0, "replay": 2, "dash": 2}
    done = without_torch(f"""
extras = "matplotlib fastapi starlette uvicorn shapely sklearn skimage wandb tensorboard trackio mlflow"
sys.modules.update(dict.fromkeys(extras.split()))
from triune.cli import main
for command, code in {commands!r}.items():
    try:
        main([command, {str(tmp_path / "run")!r}])
    except SystemExit as ended:
        assert (ended.code or 0) == code, (command, ended.code)
""")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "figures need matplotlib: pip install 'triune[report]'" in done.stderr
    assert "0 alarms raised" in done.stdout
    assert "holds no rollouts" in done.stderr
    assert "`triune dash` needs uvicorn: pip install 'triune[dash]'" in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
