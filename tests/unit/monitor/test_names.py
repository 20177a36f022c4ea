"""What series are called in trackers: TRL's and V-Triune's names, and never one name for two series."""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triune.monitor.metric import Metric, scalar
from triune.monitor.names import COUNTS, DERIVED, TRL, Namer, Style, part, plain, reserved
from triune.monitor.source import rollout_metrics

from .making import group, make_sample

DOCS = Path(__file__).parents[3] / "docs"


@given(st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True))
def test_two_values_never_have_one_name(values: list[str]) -> None:
    for allowed in (str.isprintable, plain):
        made = [part(value, allowed) for value in values]
        assert len(set(made)) == len(values)
        assert all(re.fullmatch(r"[^/]+", one) and one not in (".", "..") for one in made)


@pytest.mark.parametrize(
    "first", ["a", "/", "-", ".", "_", "-2f-", ".-2f-", "a/-2f-b", "a.b", "a/b", "a//b", "a b", "ü", "@"]
)
def test_names_that_look_like_escapes(first: str) -> None:
    others = ["a", "/", "-", ".", "_", "-2f-", ".-2f-", "a/-2f-b", "a.b", "a/b", "a//b", "a b", "ü", "@"]
    others.remove(first)
    assert part(first, plain) not in [part(other, plain) for other in others]


def test_a_step_under_the_names_of_trl() -> None:
    metrics = [
        *rollout_metrics([*group([1.0, 0.0]), *group([1.0, 1.0], make_sample(0, "ocr/word"))]),
        scalar("grad_norm", 0.5, module="all"),
        scalar("grad_norm", 0.1, module="vision"),
        Metric.of("clip_frac/low", [0.0, 1.0], source="ocr/word"),
        Metric.of("clip_frac/high", [0.0, 0.0], source="ocr/word"),
        Metric.of("kl/reference", [0.25], source="ocr/word"),
        Metric.of("sampling/sampling_logp_difference", [0.0, 0.5], source="ocr/word"),
    ]
    found = Namer().values("train", metrics)
    assert found["train/reward"] == pytest.approx(0.775)  # of four: 1, .1, 1, 1
    assert found["train/reward_std"] == pytest.approx(0.45)  # divided by n - 1
    assert found["counting.shapes/train/reward_std_in_group"] == pytest.approx(0.45)
    assert found["train/frac_reward_zero_std"] == 0.5
    assert found["ocr.word/train/frac_reward_zero_std"] == 1.0
    assert found["train/rewards/count/mean"] == 0.75
    assert found["train/completions/mean_length"] == found["train/completions/max_length"] == 4
    assert (found["train/grad_norm"], found["train/grad_norm/module.vision"]) == (0.5, 0.1)
    assert found["train/clip_ratio/low_mean"] == found["train/clip_ratio/region_mean"] == 0.5
    assert found["train/kl"] == 0.25
    assert found["train/sampling/sampling_logp_difference/max"] == 0.5
    held_out = Namer(per_source=False).values("eval-blind", metrics)
    assert "eval-blind/reward" in held_out
    assert not [name for name in held_out if not name.startswith("eval-blind/")]


def test_the_keys_of_v_triune() -> None:
    words = Metric.of("reflection/word", [1.0, 2.0], source="ocr/word", word="check again")
    metrics = [*rollout_metrics(group([1.0, 0.0], make_sample(0, "ocr/word"))), words]
    train = Namer("v-triune").values(
        "train", [one for one in metrics if one.label("word") in ("", "check again")]
    )
    assert train["rews/total_score"] == train["rews/final_reward"] == train["rews_final_reward/ocr_word"]
    assert train["rews_accuracy_reward/ocr_word"] == 0.5
    assert train["response_length_ocr_word/mean_correct_length"] == 4
    assert train["reflection_words_ocr_word/check again"] == 3
    assert "reflection_ratios_ocr_word/reflection_ratio" in train
    held_out = Namer("v-triune").values("eval", metrics)
    assert held_out["test_accuracy_reward/ocr_word"] == 0.5
    assert held_out["eval/accuracy"] == 0.5
    assert Namer("v-triune").values("eval-blind", metrics)["eval-blind_accuracy_reward/ocr_word"] == 0.5


def test_series_that_would_share_a_name_do_not() -> None:
    metrics = [Metric.of("reward", [float(n)], source=name) for n, name in enumerate(("a/b", "a_b"))]
    namer = Namer("v-triune")
    for _ in range(2):  # and each keeps its own
        found = namer.values("train", metrics)
        mine = {name: value for name, value in found.items() if name.startswith("rews_final_reward/a_b")}
        assert sorted(mine.values()) == [0.0, 1.0]
        assert mine["rews_final_reward/a_b"] == 0.0
    long = [Metric.of("x", [1.0], source="s" * 300 + end) for end in "ab"]
    names = Namer("triune", longest=250).values("train", long)
    assert len(names) == 3
    assert max(map(len, names)) <= 250


def test_what_no_tracker_can_draw_is_counted() -> None:
    metrics = [
        Metric.of("loss", [math.nan, math.inf, 1.0], module="a"),
        scalar("gone", math.nan),
        scalar("huge", 1e300),
        scalar("lonely", 1.0),
        Metric.of("reward", [1.0]),
    ]
    found = Namer(largest=3.4e38).values("train", metrics)
    assert found["train/loss/module.a"] == 1.0
    assert found["train/loss/module.a/nonfinite"] == 2.0
    assert "train/gone" not in found
    assert found["train/gone/nonfinite"] == found["train/huge/nonfinite"] == 1.0
    assert "train/reward_std" not in found  # of one reward nobody knows it
    assert all(math.isfinite(value) for value in found.values())


def test_counts_are_summed_over_sources() -> None:
    metrics = [Metric.of("rows_skipped", [n], source=name) for n, name in ((3, "a"), (4, "b"))]
    assert Namer().values("train", metrics)["train/rows_skipped"] == 7
    units = {}
    for line in (DOCS / "metrics.md").read_text().splitlines():
        if line.startswith("| `") and len(cells := line.split("|")) > 4:
            units |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[1]), cells[3].strip())
    for pattern in COUNTS:
        mine = {unit for name, unit in units.items() if fnmatchcase(name, pattern)}
        assert mine == {"count"}, f"{pattern}: {mine}"


@pytest.mark.parametrize(("style", "title"), [("trl", "### TRL"), ("v-triune", "### V-Triune")])
def test_the_page_lists_them(style: Style, title: str) -> None:
    section = (DOCS / "trackers.md").read_text().split(title)[1].split("\n###")[0]
    rows = [
        tuple(cell.strip() for cell in line.split("|")[1:-1])
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    there = [
        (f"`{here}`", moment, ", ".join(f"`{name}`" for name in names.split(", ")))
        for here, moment, names in reserved(style)
    ]
    assert rows == there
    assert all(f"`{name}`" in section for name in DERIVED[style])


def test_the_names_are_those_of_trl() -> None:
    trl = pytest.importorskip("importlib.util").find_spec("trl")
    if trl is None:
        pytest.skip("needs trl")
    source = (Path(trl.submodule_search_locations[0]) / "trainer/grpo_trainer.py").read_text()
    ours = {
        "grad_norm",
        "reward_std_in_group",
    }  # of transformers' own Trainer; and one that TRL does not have
    for key in TRL:
        if key.whole not in ours:
            shown = key.whole.replace("{component}", "{reward_func_name}")
            assert f'"{shown}"' in source, shown
    for name in (*DERIVED["trl"], "num_tokens"):
        assert f'"{name}"' in source, name
