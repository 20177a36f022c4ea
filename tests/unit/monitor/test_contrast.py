"""The comparison of several runs as files, through the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from triune.cli import main
from triune.monitor.monitor import Monitor
from triune.monitor.report.contrast import COVERS, contrast
from triune.monitor.report.contrast_page import page
from triune.monitor.stats import Score, paired_gains
from triune.monitor.store import Store

from .making import group, make_sample, make_scored
from .test_report import Page
from .test_report_files import ODD, Pdf, cells, parsed


def make_run(
    path: Path,
    seed: int,
    right: int,
    *,
    lr: float = 1e-5,
    first: int = 0,
    steps: Sequence[int] = (1, 2, 3),
    truth: int = 3,
) -> Path:
    """Eight held-out samples, of which `right` are answered; the odd ones belong to a source with an odd name."""
    samples = [
        make_sample(first + i, ("counting/shapes", ODD)[i % 2], task="counting", truth=truth)
        for i in range(8)
    ]
    with Monitor(path) as monitor:
        monitor.log_step(0, "eval-before", [make_scored(0.0, s, text="?") for s in samples])
        for step in steps:
            monitor.log_step(step, "train", group([1.0, step / 10 + lr], samples[0]))
        after = [make_scored(float(i < right), s, text=f"{ODD} {i < right}") for i, s in enumerate(samples)]
        monitor.log_step(steps[-1], "eval-after", after)
        monitor.log_step(steps[-1], "eval-blind", [make_scored(0.0, s) for s in samples])
    recipe = {
        "name": "base",
        "seed": seed,
        "train": {"lr": lr},
        "policy": {"path": ODD if lr > 1e-5 else "nano"},
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False))
    return path


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    return int(ended.value.code or 0), capsys.readouterr().out


def scores(run: Path) -> list[Score]:
    with Store(run, readonly=True) as store:
        (step,) = store.rollout_steps("eval-after")
        return [
            Score(r.sample, r.source, r.task, r.accuracy or 0.0) for r in store.rollouts("eval-after", step)
        ]


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / "a", 0, 3), make_run(tmp_path / "b", 0, 6, lr=1e-3, steps=(1, 3, 5))]


def test_two_runs_through_the_command_line(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run_cli(capsys, *pair, "--out", tmp_path / "out", "--formats", "html", "md", "pdf")
    assert code == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == sorted(Path(line).name for line in said.splitlines())
    drawn = ("components", "differences", "examples", "gains", "learning")
    figures = [f"{name}.pdf" for name in drawn]
    assert set(names) == {"comparison.html", "comparison.md", *figures}

    rows = cells(parsed(tmp_path / "out" / "comparison.md"))
    start = next(i for i, row in enumerate(rows) if row[0] == "task and source")
    assert rows[start] == ["task and source", "samples", "a", "b", "difference", "95 % interval", "left out"]
    gains = paired_gains(*map(scores, pair))
    for row in rows[start + 1 : start + 5]:
        known = gains.mean if row[0] == "mean over tasks" else {**gains.tasks, **gains.sources}.get(row[0])
        if known is None:
            assert row[0].startswith("a|b`c`$x^2$")
            continue
        low, high = known.ci95 or (0.0, 0.0)
        assert row[1:] == [
            str(known.n), f"{100 * known.before:.1f}%", f"{100 * known.after:.1f}%", f"{100 * known.gain:+.1f}",
            f"{100 * low:+.1f} to {100 * high:+.1f}", "0",
        ]  # fmt: skip
    recipe = [row for row in rows if row[0] in ("train.lr", "policy.path", "seed", "name")]
    assert [row[0] for row in recipe] == ["train.lr", "policy.path"]
    assert recipe[0][1:] == ["1e-05", "0.001"]
    assert recipe[1][2].startswith('"a|b`c`$x^2$')

    seen = Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8"))
    assert not seen.all("script")
    assert not seen.all("b ")
    assert ODD.split("\n")[0] in seen.text
    assert "only the second is right" in seen.text
    assert "+37.5" in seen.text
    assert "<b>h</b>" not in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    pdf = Pdf(tmp_path / "out" / "gains.pdf")
    assert (pdf.pages, pdf.bitmapped) == (2, 0)  # held-out answers, and those of eval-blind
    assert "+37.5" in pdf.text


def test_the_difference_is_aligned_by_step(pair: list[Path]) -> None:
    found = contrast(pair)
    section = next(one for one in found.sections if one.title == "Difference: training reward")
    (line,) = section.panels[0].lines
    # a was logged at 1, 2, 3 and b at 1, 3, 5: compared at 1, 2 (between b's points) and 3, by the same rewards.
    assert [step for step, _ in line.points] == [1, 2, 3]
    assert [value for _, value in line.points] == pytest.approx([0.45 * (1e-3 - 1e-5)] * 3)
    assert any("different steps: 3, 5" in one.note for one in found.tables)


def test_seeds_of_two_configurations(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{lr}-{seed}", seed, right + seed, lr=lr)
        for lr, right in ((1e-5, 2), (1e-3, 5))
        for seed in (0, 1)
    ]
    found = contrast(runs)
    assert found.labels == ['base train.lr=1e-05 policy.path="nano"', *found.labels[1:]]
    table = found.tables[0]
    assert [(gain.gain, gain.covers) for kind, _, gain in table.rows if kind == "mean"] == [
        (0.375, "seeds and samples")
    ]
    assert table.note == COVERS["seeds and samples"]
    assert sum(one.title.startswith("Before and after training") for one in found.tables) == 2
    reward = next(one for one in found.sections if one.title == "Held-out accuracy").panels[-1]
    assert all(line.band for line in reward.lines)
    assert "from the least to the greatest seed (2 seeds)" in next(one.lead for one in found.sections)
    each = contrast(runs, each=True)
    assert each.labels == [run.name for run in runs]
    assert len([one for one in each.tables if one.title.startswith("Held-out")]) == 3
    assert all(gain.covers == "samples" for one in each.tables for _, _, gain in one.rows)


def test_one_configuration_alone_has_a_mean_and_a_gain(tmp_path: Path) -> None:
    found = contrast([make_run(tmp_path / str(seed), seed, 3 + seed) for seed in (0, 1)])
    assert [one.title for one in found.tables] == ["Before and after training: base"]
    assert not any(one.title.startswith("Difference") for one in found.sections)
    assert "Before and after training: base" in page(found)


def test_other_held_out_samples_are_refused_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / "a", 0, 3), make_run(tmp_path / "b", 1, 3, first=50, lr=1e-3)]
    code, said = run_cli(capsys, *runs, "--formats", "html", "md")
    assert code == 1
    assert "not compared: Held-out answers: b against a: no judged held-out sample is in both" in said
    assert [line.split("/")[-1] for line in said.splitlines()[:2]] == ["comparison.html", "comparison.md"]
    assert (tmp_path / "comparison" / "comparison.html").is_file()
    assert "Not compared." in (tmp_path / "comparison" / "comparison.html").read_text()
    changed = make_run(tmp_path / "c", 2, 3, truth=4)
    assert "is not the same in a: truth" in contrast([runs[0], changed]).refused[0]


def test_runs_without_evaluations_and_runs_that_are_being_written(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "whole", 0, 3)
    with Monitor(tmp_path / "running") as monitor:
        monitor.log_step(1, "train", group([1.0, 0.0], make_sample(0)))
        Monitor(tmp_path / "empty").close()
        found = contrast([whole, tmp_path / "running", tmp_path / "empty"])
    assert (found.tables, found.refused) == ([], [])
    assert found.state["running"] == ("1", "none")
    assert found.state["empty"] == ("0", "none")
    assert "none" in page(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--out", "x"], "--out and --each are of several runs"),
        (["RUN", "RUN"], "are one run; name it once"),
        (["RUN", "nothing"], "nothing is not the folder of a run"),
        ([], "name a run"),
        (["RUN", "OTHER", "--phases", "eval-blnd"], "did you mean 'eval-blind'"),
    ],
)
def test_what_cannot_be_reported_is_said(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {"RUN": make_run(tmp_path / "a", 0, 3), "OTHER": make_run(tmp_path / "b", 1, 3)}
    with pytest.raises(SystemExit) as ended:
        main(["report", *(str(named.get(word, word)) for word in arguments)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
