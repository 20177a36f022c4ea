"""Orsta rows as released: the real Arrow schema for every source of the paper, null leaves and all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from triune.core.dataspec import DataSpec
from triune.core.errors import DataError
from triune.core.recipe import Recipe
from triune.core.sample import Sample
from triune.data.adapters.vtriune import CLOSEFORM, FREEFORM, NAME, TASKS, VTriune
from triune.data.audit import audit
from triune.data.rows import Row
from triune.data.source import TableSource
from triune.testing.orsta import TEST, TRAIN, write_orsta


@pytest.fixture(scope="module")
def orsta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orsta")
    write_orsta(folder, rows=4)
    return folder


def samples(path: str, **options: Any) -> list[Sample]:
    source = TableSource(path, VTriune(**options), name="orsta")
    return [source.sample(i) for i in range(source.num_samples)]


def test_every_source_of_the_paper_is_read(orsta: Path) -> None:
    read = samples(str(orsta / "train" / "*.parquet"))
    assert {(s.task, s.source) for s in read} == {(file.task, file.data_source) for file in TRAIN}
    assert {s.task for s in read} == set(TASKS)
    assert len(read) == len({s.id for s in read}) == 4 * 18  # the release's ids are null
    assert "train_detection_v3det_4/3" in {s.id for s in read}
    assert {s.source for s in samples(str(orsta / "test" / "*.parquet"))} == {f.data_source for f in TEST}
    assert {s.meta["ability"] for s in read if s.task == "detection"} == {"cv_detection"}
    assert all(str(s.meta["image_path"]).startswith("images/") for s in read)


def test_every_row_can_be_judged_and_its_truth_scores_full_marks(orsta: Path) -> None:
    spec = {"name": "orsta", "path": str(orsta / "train" / "*.parquet"), "adapter": "vtriune",
            "heldout_path": str(orsta / "test" / "*.parquet")}  # fmt: skip
    found = audit(Recipe.model_construct(data=DataSpec.model_validate({"sources": [spec]}), seed=0))
    assert not [finding for finding in found.findings if finding.kind not in ("duplicate", "same_picture")]


def test_the_weights_of_the_rows_are_the_weights_of_the_checks(orsta: Path) -> None:
    for sample in samples(str(orsta / "train" / "*.parquet")):
        checks = {check.name: check.weight for check in sample.checks}
        if sample.task in ("detection", "grounding"):
            assert checks == {"detection/iou_max_label_first": 1.0, "format_json": 0.1}
            assert sample.frame == "per_mille"
        else:
            assert checks == {"math": 1.0}  # format_ratio 0: no reward for tags
        assert sample.normalize


def question(path: Path, row: int) -> str:
    return str(pq.read_table(path).to_pylist()[row]["prompt"][0]["content"]).removeprefix("<image>")


def test_baked_prompts_stay_and_bare_questions_are_asked_for_a_box(orsta: Path) -> None:
    for path in sorted(orsta.glob("train/*.parquet")):
        for row, sample in enumerate(samples(str(path))):
            (message,) = sample.messages
            baked = question(path, row)
            if sample.task in ("detection", "grounding"):
                assert message.text == baked
            else:
                assert message.text.startswith(baked + "\n\n")
                first, second = message.text.removeprefix(baked + "\n\n").split(". ", 1)
                assert first + "." in FREEFORM[0]
                assert second in FREEFORM[1]


def row_of(layout: float | None, number: int = 0, **place: Any) -> Row:
    values = {
        "data_source": "here",
        "prompt": [{"content": "What is x?", "role": "user"}],
        "reward_model": {"answer": "4", "verifier": "mathverify", "format_ratio": layout},
    }
    return Row(values, Path("rows.parquet"), number, Path(), "orsta", **place)


@pytest.mark.parametrize(
    ("layout", "pool"), [(0.0, FREEFORM), (0.1, CLOSEFORM), (0.5, CLOSEFORM), (None, CLOSEFORM)]
)
def test_the_form_of_the_prompt_follows_format_ratio(
    layout: float | None, pool: tuple[tuple[str, ...], ...]
) -> None:
    wordings = {f"\n\n{a} {b}" for a in pool[0] for b in pool[1]}
    assert len(wordings) == 100
    asked = [
        VTriune().sample(row_of(layout, i)).messages[-1].text.removeprefix("What is x?") for i in range(300)
    ]
    assert set(asked) <= wordings
    assert len(set(asked)) > 80
    held = {VTriune().sample(row_of(layout, i, split="heldout", seed=i)).messages[-1].text for i in range(20)}
    assert held == {f"What is x?\n\n{pool[0][0]} {pool[1][0]}"}


def test_the_pool_is_only_for_mathverify_rows() -> None:
    row = row_of(0.0)
    row.values["reward_model"]["verifier"] = "count"
    assert VTriune().sample(row).messages[-1].text == "What is x?"
    assert VTriune(prompt_pool=False).sample(row_of(0.0)).messages[-1].text == "What is x?"


@pytest.mark.parametrize(
    ("stem", "task", "source"),
    [
        ("train_puzzle_puzzlevqa_2648_x2", "puzzle", "puzzlevqa"),
        ("test_detection_coco_test_multi_2000", "detection", "coco_test_multi"),
        ("train_math_mmmath_3539", "math", "mmmath"),
        ("chart_chartqapro_498", "chart", "chartqapro"),
    ],
)
def test_task_and_source_are_read_from_the_file_where_the_row_lacks_them(
    stem: str, task: str, source: str
) -> None:
    row = row_of(0.0).with_values(data_source=None)
    sample = VTriune().sample(Row(row.values, Path(f"{stem}.parquet"), 0, Path(), "orsta"))
    assert (sample.task, sample.source) == (task, source)


@pytest.mark.parametrize(
    ("ability", "task"), [("cv_detection", "detection"), ("math", "math"), ("x_y", "x_y")]
)
def test_the_task_is_read_from_ability_where_the_file_does_not_say(ability: str, task: str) -> None:
    assert NAME.fullmatch("rows") is None
    row = row_of(0.0).with_values(ability=ability)
    sample = VTriune().sample(row)
    assert (sample.task, sample.source, sample.meta["ability"]) == (task, "here", ability)


def test_the_mix_of_box_rewards_can_be_told(orsta: Path) -> None:
    path = str(orsta / "train" / "train_grounding_*.parquet")
    mixed = samples(path, det_reward_ratio={"map": 1.0, "iou_max_iou_first": 1.0}, iou=0.99)
    for sample in mixed:
        assert [(c.name, c.weight, c.params.get("iou"), c.schedule) for c in sample.checks] == [
            ("detection/map", 0.5, None, {}), ("detection/iou_max_iou_first", 0.5, 0.99, {}), ("format_json", 0.1, None, {})
        ]  # fmt: skip


def test_pictures_may_be_bytes_or_paths_too(orsta: Path, tmp_path: Path) -> None:
    (path,) = orsta.glob("train/train_counting_*.parquet")
    row = pq.read_table(path).to_pylist()[0]
    data = row["images"][0]["bytes"]
    (tmp_path / "0.png").write_bytes(data)
    whole = [row | {"images": [image]} for image in (data, "0.png", {"bytes": None, "path": "0.png"})]
    for number, values in enumerate(whole):
        pq.write_table(pa.Table.from_pylist([values]), tmp_path / f"train_counting_clevr_{number}.parquet")
    read = samples(str(tmp_path / "*.parquet"))
    assert {sample.media[0].sha256 for sample in read} == {hashlib.sha256(data).hexdigest()}
    assert len(read) == 3


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"rows.parquet, row 0: reward_model.format_ratio is a weight, got -0.1"
    ):
        VTriune().sample(row_of(-0.1))
