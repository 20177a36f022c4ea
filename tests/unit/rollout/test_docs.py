"""What the pages on policies and rollouts say: the example runs, and every option has its row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from triune.core.base import Frozen
from triune.core.sample import Sample
from triune.envs import ENVIRONMENTS
from triune.policy.options import LanguageOptions
from triune.rollout.episode import Conversations
from triune.rollout.options import NativeOptions
from triune.rollout.scripted import ScriptedEngine
from triune.testing.models import demand, picture, sample, tiny

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("page", "options"), [("policies.md", LanguageOptions), ("rollout.md", NativeOptions)]
)
def test_every_option_is_documented_with_its_default(page: str, options: type[Frozen]) -> None:
    text = (DOCS / page).read_text()
    for name, info in options.model_fields.items():
        if name == "kind":
            continue
        (row,) = re.findall(rf"(?m)^\| `{name}` \| (.*?) \|", text) or pytest.fail(
            f"{page} has no row for {name}"
        )
        default = info.default
        plain = default is None or isinstance(default, bool)
        assert row.strip("`") == (str(default).lower() if plain else str(default))


def test_the_example_environment_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENVIRONMENTS, "_items", dict(ENVIRONMENTS._items))
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "rollout.md").read_text(), re.DOTALL)
    exec(compile(block, "docs/rollout.md", "exec", dont_inherit=True), {"__name__": "example"})
    family = tiny("nano")

    def play(*said: str) -> Any:
        one: Sample = sample("a", picture(64, 64), env="magnifier", truth="red")
        ids = [[*family.encode(text), family.stop_ids[0]] for text in said]
        engine = ScriptedEngine({"a": ids}, family.stop_ids)
        family.begin_step([one])
        return Conversations(family, engine, max_tokens=9, max_turns=3).generate([one], demand(rollouts=1))[
            0
        ][0]

    episode = play("left", "red")
    assert episode.trajectory.ending == "stop_env"
    assert [(e.name, e.value) for e in episode.outcome.events] == [("right", 1.0)]
    assert [m.original for m in episode.outcome.media] == [(64, 64), (32, 64)]
    assert episode.outcome.calls[0].args == {"side": "left"}
    assert play("green").outcome.events[0].value == 0.0
