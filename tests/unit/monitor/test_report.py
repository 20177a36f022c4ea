from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from triune.core.errors import StorageError
from triune.core.sample import Check, Media, Sample
from triune.core.verdict import Component
from triune.monitor.boxes import Box
from triune.monitor.metric import Scored, scalar
from triune.monitor.monitor import Monitor
from triune.monitor.report import write_report
from triune.monitor.report.cases import CASES_PER_TASK
from triune.monitor.report.collect import collect
from triune.monitor.report.facts import duration
from triune.monitor.report.markup import Markup, join, tag
from triune.monitor.report.page import page
from triune.monitor.report.pictures import load

from .making import group, make_sample, make_scored, picture

EVIL = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>&\x00\x1b[31m</pre></style>"
BOXES = (Check(verifier="box_iou", weight=0.9), Check(verifier="format_json", weight=0.1))


def count_sample(index: int) -> Sample:
    return make_sample(index, "counting/shapes")


def box_sample(index: int) -> Sample:
    return make_sample(
        index,
        "grounding/shape",
        prompt="Box the square.",
        truth=[10, 10, 31, 31],
        checks=BOXES,
        normalize=False,
    )


def box_answer(sample: Sample, iou: float, shift: int) -> Scored:
    text = f'<answer>[{{"bbox_2d":[{10 + shift},10,{31 + shift},31],"label":"square"}}]</answer>'
    return make_scored(iou, sample, text=text, correct=iou >= 0.5)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of two tasks with everything in it, names and answers hostile."""
    run_dir = tmp_path_factory.mktemp("report") / "run"
    counts, boxes = [count_sample(i) for i in range(6)], [box_sample(i) for i in range(4)]
    evil = make_sample(0, EVIL, id=EVIL, prompt=EVIL, truth=EVIL, task="counting")
    with Monitor(run_dir) as monitor:
        before = [make_scored(float(i == 5), s, text=f"\\boxed{{{i}}}") for i, s in enumerate(counts)]
        before += [box_answer(s, 0.2, 15) for s in boxes] + [
            make_scored(0.0, evil, text=EVIL, status="unparsed")
        ]
        monitor.log_step(0, "eval-before", before)
        for step in range(1, 51):
            rollouts = [*group([1.0, step / 50, 0.0], counts[0]), *group([0.3, 0.6], boxes[0])]
            rollouts.append(make_scored(None, counts[1], reason=EVIL))
            loss = float("nan") if step == 7 else 1 / step
            monitor.log_step(
                step,
                "train",
                rollouts,
                [
                    scalar("loss/ppo_clip", loss),
                    scalar("entropy", 2.0 - step / 100, source="counting/shapes"),
                    scalar("grad_norm", 0.5, module=EVIL),
                    scalar("seconds", 1.5, phase="rollout"),
                ],
            )
            if step in (20, 40):
                monitor.log_step(step, "eval", before)
        after = [
            make_scored(float(i != 5), s, text=EVIL if i == 0 else "\\boxed{3}") for i, s in enumerate(counts)
        ]
        after += [box_answer(s, 0.8, 1) for s in boxes] + [make_scored(1.0, evil, text=EVIL)]
        monitor.log_step(50, "eval-after", after)
        monitor.log_step(50, "eval-blind", [make_scored(0.0, s, text="?") for s in counts])
    return run_dir


class Page(HTMLParser):
    """Tags with their attributes, and the text, as a browser would read them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def read(run_dir: Path) -> Page:
    return Page(page(collect(run_dir)))


def test_everything_is_in_the_page_and_nothing_outside(run_dir: Path) -> None:
    seen = read(run_dir)
    for tag_name in ("script", "link", "iframe", "object", "form", "a"):
        assert seen.all(tag_name) == []
    links = [
        str(value)
        for _, attributes in seen.tags
        for key, value in attributes.items()
        if key in ("href", "src")
    ]
    assert links
    assert all(link.startswith("data:image/") for link in links)
    raw = page(collect(run_dir))
    assert "url(" not in raw
    assert "@import" not in raw
    (policy,) = [m for m in seen.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policy["content"])
    assert not any(key.startswith("on") for _, attributes in seen.tags for key in attributes)


def test_what_comes_from_models_and_data_is_only_text(run_dir: Path) -> None:
    seen = read(run_dir)
    assert "<script>alert('x')</script>" in seen.text  # shown, not run
    raw = page(collect(run_dir))
    assert "<script" not in raw
    assert "<img" not in raw
    assert "\x00" not in raw
    assert "\x1b" not in raw


def test_the_headline_is_computed_from_the_rollouts(run_dir: Path) -> None:
    report = collect(run_dir)
    counting = report.results.tasks["counting"]
    assert (counting.before, counting.after, counting.n) == (1 / 7, 6 / 7, 7)
    assert counting.others == {"blind": 0.0}
    assert report.results.sources["grounding/shape"].gain == pytest.approx(0.6)
    assert "blind" not in report.results.tasks["grounding"].others
    assert report.results.mean.before == pytest.approx((1 / 7 + 0.2) / 2)
    text = read(run_dir).text
    for shown in ("14.3%", "85.7%", "+71.4", "mean over tasks", "+60.0"):
        assert shown in text


def test_the_summary_wins_where_there_is_one(run_dir: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    row = {"before": 0.1, "after": 0.314, "clean": 0.9, "blind": None, "gain_ci95": [0.11, 0.27], "n": 200}
    summary = {
        "tasks": {"counting": row},
        "sources": {"counting/shapes": row, "elsewhere": {**row, "gain_ci95": []}},
        "mean_before": 0.1, "mean_after": 0.314, "mean_clean": 0.9, "mean_blind": float("nan"),
        "mean_gain_ci95": [0.11, 0.27],
        "seconds": {"setup": 3.21, "train": 725.0, "eval": 7500.0},
        "peak_rss_mb": 1536,
        "something": "new",
    }  # fmt: skip
    (run_dir / "summary.json").write_text(json.dumps(summary))
    text = read(run_dir).text
    for shown in (
        "31.4%",
        "+21.4",
        "+11.0 to +27.0",
        "90.0%",
        "3.2 s",
        "12 min 05 s",
        "2 h 05 min",
        "1.5 GB",
        "elsewhere",
    ):
        assert shown in text, shown
    report = collect(run_dir)
    assert report.results.mean.others == {"clean": 0.9, "blind": 0.0}
    assert report.results.mean.n == 200
    assert report.results.sources["elsewhere"].ci95 is None


def test_a_broken_summary_is_named(run_dir: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(run_dir, tmp_path / "copy"))
    for text in ("{", "[]"):
        (run_dir / "summary.json").write_text(text)
        with pytest.raises(StorageError, match=r"summary\.json"):
            write_report(run_dir)


def test_curves_and_health(run_dir: Path) -> None:
    report = collect(run_dir)
    reward, held_out = report.curves["counting/shapes"].lines
    assert (reward.label, len(reward.points)) == ("training reward", 50)
    assert [step for step, _ in held_out.points] == [0, 20, 40, 50]
    assert held_out.points[-1][1] == pytest.approx(5 / 6)
    assert {line.label for line in report.components["grounding/shape"].lines} == {"box_iou", "format_json"}
    panels = {panel.title: panel for panel in report.health}
    assert {"Groups without spread", "Entropy", "Gradient norm", "Loss", "Seconds per step"} <= panels.keys()
    assert panels["Loss"].lines[0].broken == [7]
    assert "Truncated responses" not in panels  # nothing was
    assert [line.label for line in panels["Answers that are not ok"].lines] == ["timeout"]
    assert any("50 rollouts in train could not be judged (timeout)" in problem for problem in report.problems)
    assert "loss/ppo_clip was not finite at 1 step, first at step 7." in report.problems


def test_cases_show_failures_too(run_dir: Path) -> None:
    counting, grounding = collect(run_dir).cases
    assert counting.counts == {"improved": 6, "regressed": 1}
    assert {case.kind for case in counting.cases} == {"improved", "regressed"}
    assert len(counting.cases) == CASES_PER_TASK
    assert [case.kind for case in grounding.cases] == ["improved"] * 4
    case = grounding.cases[0]
    assert case.marks is not None
    assert case.marks.boxes == (Box(10, 10, 31, 31),)
    assert [list(answer.marks.boxes) for answer in case.answers] == [
        [Box(25, 10, 46, 31, "square")],
        [Box(11, 10, 32, 31, "square")],
    ]
    seen = read(run_dir)
    drawn = [r for r in seen.all("rect") if r.get("class") == "box drawn"]
    assert {"x": "25.00", "y": "10.00", "width": "21.00", "height": "21.00"}.items() <= drawn[0].items()  # type: ignore[operator]


def test_cases_come_from_different_sources(tmp_path: Path) -> None:
    samples = [make_sample(i, f"counting/{name}") for name in ("a", "b", "c", "d") for i in range(5)]
    with Monitor(tmp_path) as monitor:
        monitor.log_step(0, "eval-before", [make_scored(0.0, sample) for sample in samples])
        monitor.log_step(1, "eval-after", [make_scored(1.0, sample) for sample in samples])
    assert {case.source for case in collect(tmp_path).cases[0].cases} == {
        "counting/a",
        "counting/b",
        "counting/c",
        "counting/d",
    }


def test_the_files(run_dir: Path) -> None:
    html, png = write_report(run_dir, ("html", "overview"))
    assert html == run_dir / "report.html"
    assert html.read_text(encoding="utf-8") == page(collect(run_dir))
    assert png == run_dir / "report.png"
    with Image.open(png) as image:
        assert image.format == "PNG"
        assert image.width == 1600
        assert image.height > 800


def test_without_matplotlib_the_page_is_written_all_the_same(run_dir: Path) -> None:
    code = f"""
import sys
sys.modules["matplotlib"] = None
from triune.monitor.boxes import Box
from triune.monitor.report import write_report
print(write_report({str(run_dir)!r}))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "report.md" in done.stdout
    assert ".png" not in done.stdout
    assert "figures need matplotlib: pip install 'triune[report]'" in done.stderr
    assert (run_dir / "report.html").exists()


def test_a_run_with_only_training(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_step(1, "train", group([1.0, 0.0]))
        monitor.flush()
        text = read(tmp_path).text  # while the run is being written
    assert "The latest answers" in text
    assert "Before and after" not in text
    ((case,),) = [task.cases for task in collect(tmp_path).cases]
    assert (case.kind, len(case.answers), case.answers[0].when) == ("right", 1, "")


def test_evaluations_on_the_way_stand_in_for_before_and_after(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        for step, value in ((5, 0.0), (10, 1.0)):
            monitor.log_step(step, "eval", [make_scored(value, count_sample(i)) for i in range(3)])
    assert collect(tmp_path).results.tasks["counting"].gain == 1.0


def test_an_empty_run(tmp_path: Path) -> None:
    Monitor(tmp_path).close()
    files = write_report(tmp_path)
    assert [file.name for file in files] == ["report.html", "report.md", "report.png"]
    assert tmp_path.name in files[0].read_text()
    with pytest.raises(StorageError, match="not the directory of a run"):
        write_report(tmp_path / "nothing")


def test_a_rollout_that_nobody_could_judge(tmp_path: Path) -> None:
    with Monitor(tmp_path) as monitor:
        monitor.log_step(0, "eval-before", [make_scored(None)])
        monitor.log_step(1, "eval-after", [make_scored(1.0)])
    report = collect(tmp_path)
    assert report.results.tasks == {}  # no pair of scores
    assert report.cases[0].cases[0].kind == "not judged"
    assert "? not judged" in read(tmp_path).text


# Escaping


def test_tag_escapes_whatever_is_not_markup() -> None:
    assert (
        tag("p", "<b>", tag("b", "&"), None, [1, "<"], title='"')
        == '<p title="&quot;">&lt;b&gt;<b>&amp;</b>1&lt;</p>'
    )
    assert tag("meta", charset="utf-8", hidden=True, id=None) == '<meta charset="utf-8" hidden/>'
    assert join(["\x00", Markup("<hr/>")]) == "\N{REPLACEMENT CHARACTER}<hr/>"


# Pictures


def test_pictures_are_embedded_as_they_are_or_made_small(tmp_path: Path) -> None:
    small, large, odd = tmp_path / "small.png", tmp_path / "large.png", tmp_path / "odd.tif"
    picture().save(small)
    Image.effect_noise((1500, 900), 80).save(large)
    picture().save(odd)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG not really")

    found = load(small)
    assert found is not None
    assert base64.b64decode(found.uri.split(",")[1]) == small.read_bytes()
    found = load(large)
    assert found is not None
    assert found.size == (1500, 900)
    with Image.open(io.BytesIO(base64.b64decode(found.uri.split(",")[1]))) as image:
        assert max(image.size) == 512
    found = load(odd)
    assert found is not None
    assert found.uri.startswith("data:image/jpeg")
    assert load(broken) is None
    assert load(None) is None


def test_several_pictures_and_none(tmp_path: Path) -> None:
    from triune.core.sample import Message, Picture, Text

    media = tuple(Media.from_image(picture(i)) for i in range(2))
    two = (Picture(media=0), Picture(media=1), Text(text="Compare."))
    several = make_sample(1, media=media, messages=(Message(role="user", content=two),))
    without = make_sample(2, media=(), messages=(Message(role="user", content=(Text(text="2+2?"),)),))
    part = (Component(name="count", value=1.0, weight=1.0, correct=True),)
    with Monitor(tmp_path) as monitor:
        scored = [make_scored(sample=sample, components=part) for sample in (several, without)]
        monitor.log_step(1, "eval-after", scored)
    seen = read(tmp_path)
    assert len(seen.all("image")) == 2
    assert "2+2?" in seen.text
    assert len(re.findall("Compare", seen.text)) == 1


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (3661, "1 h 01 min")]
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
