"""The files of a report: Markdown parsed back, PDFs opened, numbers against the store, text that stays text."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from triune.core.errors import RecipeError
from triune.core.sample import Check, Media, Message, Picture, Text
from triune.core.verdict import Component, Seen
from triune.monitor.alarms import Alarm
from triune.monitor.metric import scalar
from triune.monitor.monitor import Monitor
from triune.monitor.report import write_report
from triune.monitor.report.collect import collect
from triune.monitor.report.figures import encoded, run_figures
from triune.monitor.report.figures import panels as small_multiples
from triune.monitor.report.page import page
from triune.monitor.report.panels import Line, Panel
from triune.monitor.stats import wilson
from triune.monitor.store import Store

from .making import group, make_sample, make_scored, picture

ODD = "a|b`c`$x^2$*d*_e_[f](g)<b>h</b>&amp;https://x.example/ www.y.example\\n\n# 你好 😀 ‮abc @me ~~z~~"
"""A name that would be markup, a formula, a link, another cell or a missing glyph."""

COMPONENTS = (
    Component(name="count", value=0.5, weight=0.9, correct=True),
    Component(name="format$_$", value=1.0, weight=0.1, correct=True),
)


class Pdf:
    """As much of a PDF as there is to check: pages, embedded fonts, and the text that is drawn."""

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        assert raw.startswith(b"%PDF-1.")
        assert raw.rstrip().endswith(b"%%EOF")
        self.pages = len(re.findall(rb"/Type /Page\b", raw))
        self.fonts = re.findall(rb"/BaseFont /(\S+)", raw)
        self.embedded = raw.count(b"/FontFile2")
        self.bitmapped = raw.count(b"/Type3")
        (self.width, self.height) = (
            float(number) / 72
            for number in re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+)", raw).groups()  # type: ignore[union-attr]
        )
        self.text = ""
        for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", raw, re.DOTALL):
            try:
                content = zlib.decompress(stream)
            except zlib.error:
                continue
            for shown in re.findall(rb"BT\n(.*?)\nET", content, re.DOTALL):
                parts = re.findall(rb"\(((?:\\.|[^\\)])*)\)", shown, re.DOTALL)
                found = b"".join(re.sub(rb"\\(.)", _unescaped, part, flags=re.DOTALL) for part in parts)
                self.text += found.decode("utf-16-be", "replace") + "\n"


def _unescaped(match: re.Match[bytes]) -> bytes:
    return {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}.get(match[1], match[1])


def cells(tokens: list[Token]) -> list[list[str]]:
    """The rows of every table, as text."""
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if token.type == "inline" and before.type in ("td_open", "th_open"):
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "text_special", "strong_open", "strong_close"}, token.content
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def parsed(path: Path) -> list[Token]:
    return MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"]).parse(
        path.read_text(encoding="utf-8")
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources, one of them with an odd name; every number known."""
    run = tmp_path_factory.mktemp("files") / "run $x$"
    odd = [make_sample(i, ODD, prompt=ODD, truth=ODD, task="counting", id=f"{ODD}/{i}") for i in range(3)]
    plain = [make_sample(i, "counting/shapes") for i in range(8)]
    with Monitor(run, rollouts_every=2) as monitor:
        monitor.log_step(
            0,
            "eval-before",
            [make_scored(float(i < 2), s, text=ODD) for i, s in enumerate(plain)]
            + [make_scored(0.0, s, text=ODD) for s in odd],
        )
        for step in range(1, 61):
            rollouts = [*group([1.0, 0.0], plain[0]), make_scored(0.5, odd[0], components=COMPONENTS)]
            rollouts.append(make_scored(None, plain[1], reason="the judge | failed"))
            scalars = [scalar("sinks/failed", 2, sink="wandb")] if step == 3 else []
            monitor.log_step(step, "train", rollouts, scalars)
        after = [make_scored(float(i < 6), s, text="ok") for i, s in enumerate(plain)]
        monitor.log_step(60, "eval-after", [*after, *(make_scored(1.0, s, text=ODD) for s in odd)])
        for name, right in (("blind", 3), ("swapped", 1), ("halved", 5)):
            monitor.log_step(
                60, f"eval-{name}", [make_scored(float(i < right), s) for i, s in enumerate(plain)]
            )
    with Store(run) as store:
        held = Alarm("mine", ODD, "count", 9, 5, "it <b>fell</b> | by $x$", 0.1, 0.2, "accuracy", "eval")
        over = Alarm("other", "", "", 3, 2, "was short", 0.1, 0.2, "reward")
        for event in (held.event(), over.event(), over.event_over(6)):
            store.log_event(event)
    return run


@pytest.fixture(scope="module")
def files(run_dir: Path) -> dict[str, Path]:
    return {str(file.relative_to(run_dir)): file for file in write_report(run_dir)}


def test_the_files_have_stable_names(files: dict[str, Path]) -> None:
    names = ("gains", "learning", "components", "health", "examples")
    figures = [f"report/{name}.{kind}" for name in names for kind in ("png", "pdf")]
    assert sorted(files) == sorted(["report.html", "report.md", "report.png", *figures])
    assert all(file.is_file() for file in files.values())


def test_the_table_in_markdown_is_what_the_store_says(files: dict[str, Path]) -> None:
    tokens = parsed(files["report.md"])
    assert not any(token.type.startswith("html") for token in tokens)
    rows = cells(tokens)
    start = next(i for i, row in enumerate(rows) if row[0] == "task and source")
    header = "task and source, samples, before, after, gain, 95 % interval, blind, swapped, halved"
    assert rows[start] == header.split(", ")
    task, odd, plain, mean = rows[start + 1 : start + 5]
    # By hand: 2 of 11 before, 6 + 3 of 11 after; probes on the plain source alone, 3, 1 and 5 of 8.
    assert task[:5] == ["counting", "11", "18.2%", "81.8%", "+63.6"]
    assert plain[:5] == ["shapes", "8", "25.0%", "75.0%", "+50.0"]
    assert plain[6:] == ["37.5%", "12.5%", "62.5%"]
    assert odd[:5] == [
        " ".join(ODD.replace("‮", "\N{REPLACEMENT CHARACTER}").split()),
        "3",
        "0.0%",
        "100.0%",
        "+100.0",
    ]
    assert mean[0] == "mean over tasks"
    low, high = (float(bound) for bound in plain[5].split(" to "))
    gains = np.array([0, 0, 1, 1, 1, 1, 0, 0])
    means = [np.random.default_rng(i).choice(gains, 8).mean() for i in range(4000)]
    assert (low, high) == pytest.approx(tuple(100 * np.quantile(means, [0.025, 0.975])), abs=0.1)


def test_facts_alarms_and_problems_are_in_every_format(run_dir: Path, files: dict[str, Path]) -> None:
    report = collect(run_dir)
    assert report.facts["rollouts kept"] == str(30 * 4 + 11 + 11 + 3 * 8)
    assert report.alarms[-1] == (
        "over",
        "step 3 to 6: other (the whole run): was short",
    )  # what holds comes first
    assert {state for state, _ in report.alarms[:-1]} == {"holds"}
    assert any("it <b>fell</b> | by $x$" in sentence for _, sentence in report.alarms)
    assert "2 calls of the sink wandb failed; the run's own files are whole." in report.problems
    assert "60 rollouts in train left the loss or the baseline: the judge | failed." in report.problems
    unkept = "120 rollouts in train were not kept (monitor.rollouts_every); their numbers are in the curves."
    assert unkept in report.problems
    html = files["report.html"].read_text()
    said = [t.content for t in parsed(files["report.md"]) if t.type == "inline"]
    assert any("**holds**" in line and "fell" in line for line in said)
    assert any("&#124; failed" in line for line in said)
    for shown in (
        "it &lt;b&gt;fell&lt;/b&gt; | by $x$",
        "the judge | failed",
        "swapped: another sample&#x27;s picture",
    ):
        assert shown in html


def test_figures_are_vector_with_embedded_fonts_and_sensible_widths(files: dict[str, Path]) -> None:
    for name, file in files.items():
        if file.suffix != ".pdf":
            continue
        pdf = Pdf(file)
        assert pdf.pages == 1
        assert pdf.embedded >= 1
        assert pdf.bitmapped == 0
        assert all(b"DejaVuSans" in font for font in pdf.fonts)
        assert pdf.width == pytest.approx(3.35 if "gains" in name else 6.9, abs=0.01)
        assert pdf.height < 10
    gains = Pdf(files["report/gains.pdf"]).text
    assert "+63.6" in gains
    learning = Pdf(files["report/learning.pdf"]).text
    assert "$x^2$*d*_e_" in learning  # as text: no formula
    assert "held-out accuracy" in learning
    with Image.open(files["report/learning.png"]) as image:
        assert image.width == 1380


def test_a_figure_is_the_same_bytes_again(run_dir: Path, files: dict[str, Path]) -> None:
    gains = {"gains": run_figures(collect(run_dir))["gains"]}
    for name, data in encoded(gains, ("png", "pdf")):
        assert files[f"report/{name}"].read_bytes() == data


def test_formats_and_phases_are_chosen(run_dir: Path) -> None:
    (file,) = write_report(run_dir, ("md",), ("eval-halved",))
    assert file.name == "report.md"
    header = next(row for row in cells(parsed(file)) if row[0] == "task and source")
    assert header[6:] == ["halved"]
    with pytest.raises(RecipeError, match=r"no evaluation 'eval-halve' .*eval-halved"):
        write_report(run_dir, ("md",), ("eval-halve",))


def test_bands_of_the_curves(run_dir: Path) -> None:
    reward, held_out = collect(run_dir).curves["counting/shapes"].lines
    assert [(step, low, high) for step, low, high in held_out.band] == [
        (0, *wilson(0.25, 8)),
        (60, *wilson(0.75, 8)),
    ]
    # 1.0 and .1 (the format's part) at every step: a mean that never moves.
    step, low, high = reward.band[30]
    assert (step, low, high) == (31, pytest.approx(0.55), pytest.approx(0.55))


def test_many_sources_take_several_pages_and_a_new_report_replaces_them(tmp_path: Path) -> None:
    text = (Message(role="user", content=(Text(text="2+2?"),)),)
    samples = [make_sample(0, f"counting/s{i:02}", media=(), messages=text) for i in range(16)]
    panels = [Panel(sample.source, [Line("training reward", [(1, 0.5), (2, 1.0)])]) for sample in samples]
    pages = dict(encoded({"learning": lambda: small_multiples(panels)}, ("png",)))
    assert list(pages) == ["learning.png", "learning-2.png"]

    with Monitor(tmp_path) as monitor:
        monitor.log_step(1, "train", [make_scored(1.0, samples[0])])
    (tmp_path / "report").mkdir()
    stale, other = tmp_path / "report" / "learning-2.png", tmp_path / "report" / "mine.png"
    stale.write_bytes(b"of a longer report")
    other.write_bytes(b"not ours")
    written = write_report(tmp_path, ("png",))
    assert tmp_path / "report" / "learning.png" in written
    assert (stale.exists(), other.exists()) == (False, True)


# Points, polygons and several pictures


def test_points_are_drawn_where_the_frame_says_on_the_picture_that_they_are_on(tmp_path: Path) -> None:
    media = tuple(Media.from_image(picture(i)) for i in range(2))
    content = (Picture(media=0), Picture(media=1), Text(text="Click the button."))
    sample = make_sample(
        0, "gui/buttons", media=media, messages=(Message(role="user", content=content),), truth={"points": [[16, 8]]},
        checks=(Check(verifier="gui_click", params={"image": 1}),),
    )  # fmt: skip
    seen = tuple(Seen(sha256=one.sha256, original=(64, 64), processed=(128, 256)) for one in media)
    answers = {
        "pixels_original": "[20, 10]", "pixels_processed": "[40, 40]", "unit": "[0.3125, 0.15625]",
        "per_mille": "[312.5, 156.25]",
    }  # fmt: skip
    part = (Component(name="gui_click", value=0.0, weight=1.0, correct=False),)
    for step, (frame, numbers) in enumerate(answers.items()):
        run = tmp_path / str(step)
        with Monitor(run) as monitor:
            outcome = {"frame": frame, "media": seen}
            text = f'<answer>[{{"point_2d": {numbers}, "label": "<OK>"}}]</answer>'
            monitor.log_step(
                1, "eval-after", [make_scored(sample=sample, text=text, components=part, outcome=outcome)]
            )
        html = page(collect(run))
        # The true point and the answered one, on the second picture alone.
        first, second = re.findall(r"<svg viewBox=\"0 0 64 64\".*?</svg>", html, re.DOTALL)
        assert "path" not in first
        assert "M16.00 8.00m" in second
        assert "M20.00 10.00m" in second
        assert "answered point &lt;OK&gt;" in second
    write_report(run, ("pdf",))  # and in print
    assert "Click the button." in Pdf(run / "report" / "examples.pdf").text


def test_marks_that_cannot_be_placed_are_counted(tmp_path: Path) -> None:
    sample = make_sample(0, "grounding/shape", truth=[1, 2, 30, 40], checks=(Check(verifier="box_iou"),))
    part = (Component(name="box_iou", value=0.0, weight=1.0, correct=False),)
    text = '<answer>[{"bbox_2d": [1, 2, 3, 4]}]</answer>'
    with Monitor(tmp_path) as monitor:
        scored = make_scored(sample=sample, text=text, components=part, outcome={"frame": "pixels_processed"})
        monitor.log_step(1, "eval-after", [scored])
    html = page(collect(tmp_path))
    assert "1 marks that cannot be placed" in html
    assert 'class="box drawn"' not in html
