"""The table of quality: what counts as worse, how rows are merged, and that the page is current."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality_sets import COCO, SETS, as_folder, gather, spread
from benchmarks.quality_tables import (
    DOCS,
    compare,
    read_masks,
    replace_tables,
    to_markdown,
    write_masks,
)

from maskhone.data.coco import to_rle
from maskhone.data.images import read_mask

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "quality.json"


def draw_half(start: int) -> np.ndarray:
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, start : start + 4] = True
    return mask


def list_masks(before: list[float], after: list[float]) -> list[dict[str, str]]:
    return [
        {"set": kind, "mask": str(i), "iou": str(iou), "mba": "0.5", "boundary_iou": ""}
        for kind, values in (("coarse", before), ("refined", after))
        for i, iou in enumerate(values)
    ]


def test_a_mask_is_worse_when_it_loses_more_than_a_point() -> None:
    found = compare(list_masks([0.8, 0.8, 0.8, 0.8], [0.9, 0.795, 0.7, 0.8]))
    assert found["worse"] == 0.25
    assert found["any_loss"] == 0.5
    assert found["worst"] == pytest.approx(-0.1)


def test_masks_of_one_method_replace_only_their_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "masks.csv"
    write_masks(path, "davis", "bpr", list_masks([0.5], [0.6]))
    write_masks(path, "davis", "crf", list_masks([0.5], [0.7]))
    write_masks(path, "davis", "bpr", list_masks([0.5], [0.65]))
    assert {(line["method"], line["iou"]) for line in read_masks(path)} == {
        ("coarse", "0.5"),
        ("bpr", "0.65"),
        ("crf", "0.7"),
    }


def test_the_page_shows_the_results() -> None:
    page = DOCS.read_text(encoding="utf-8")
    known = json.loads(RESULTS.read_text())
    assert replace_tables(page, known) == page, "run benchmarks/quality.py DATA --methods ''"


def test_every_row_says_what_it_lost_and_what_it_took() -> None:
    known = json.loads(RESULTS.read_text())
    assert set(known["sets"]) == {*SETS, COCO}
    for name, rows in known["sets"].items():
        assert set(rows) >= {"coarse", "bpr", "guided", "grabcut", "crf", "matting"}, name
        for method, row in rows.items():
            if method != "coarse":
                assert {"worse", "any_loss", "cpu_seconds", "threads", "commit"} <= row.keys()
                assert row["n"] == rows["coarse"]["n"]


def test_shares_follow_from_the_scores_of_the_masks() -> None:
    known = json.loads(RESULTS.read_text())
    lines = read_masks(RESULTS.with_name("quality_masks.csv"))
    for name, rows in known["sets"].items():
        coarse = {x["mask"]: x for x in lines if (x["set"], x["method"]) == (name, "coarse")}
        for method, row in rows.items():
            own = [x for x in lines if (x["set"], x["method"]) == (name, method)]
            mean = sum(float(x["iou"]) for x in own) / len(own)
            assert mean == pytest.approx(row["iou"], abs=1e-4)
            if method != "coarse":
                losses = [float(coarse[x["mask"]]["iou"]) - float(x["iou"]) for x in own]
                worse = sum(loss > 0.01 for loss in losses) / len(own)
                assert worse == pytest.approx(row["worse"], abs=1.5 / len(own))


def test_a_set_that_lacks_a_method_has_a_gap() -> None:
    row = {"n": 1, "iou": 0.5, "mba": None, "boundary_iou": 0.25}
    ran = {**row, "iou": 0.75, "mba": 0.5, "worse": 0.0, "any_loss": 0.0, "worst": 0.0}
    ran |= {"cpu_seconds": 1.0, "commit": "abc"}
    sets = {"one": {"coarse": {**row, "mba": 0.5}, "bpr": ran}, "two": {"coarse": row}}
    overview = to_markdown({"sets": sets})
    assert "| bpr | +25.0 / +0.0 / 0 % | - |" in overview
    assert "| coarse | 50.0 | - | 25.0 |" in overview


def test_pictures_are_picked_evenly() -> None:
    assert spread(list("abcdef"), 2) == ["b", "e"]
    assert spread(["a"], 3) == ["a"]


def test_predictions_are_paired_with_the_objects_that_they_meet(tmp_path: Path) -> None:
    root, folder = tmp_path / COCO, tmp_path / "work"
    folder.mkdir()
    (root / "annotations").mkdir(parents=True)
    (root / "val.txt").write_text("000000000007")
    left, right = draw_half(0), draw_half(4)
    truth = {
        "images": [{"id": 7, "file_name": "000000000007.jpg", "height": 8, "width": 8}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": to_rle(left)}
        ],
    }
    entries = [
        {"image_id": 7, "category_id": 3, "score": 0.4, "segmentation": to_rle(left)},
        {"image_id": 7, "category_id": 3, "score": 0.9, "segmentation": to_rle(left)},
        {"image_id": 7, "category_id": 3, "score": 0.8, "segmentation": to_rle(right)},
        {"image_id": 7, "category_id": 5, "score": 0.8, "segmentation": to_rle(left)},
        {"image_id": 8, "category_id": 3, "score": 0.9, "segmentation": to_rle(left)},
    ]
    (root / "annotations" / "instances_train.json").write_text(json.dumps(truth))
    (root / "annotations" / "coarse_train.json").write_text(json.dumps(entries))
    inputs = gather(tmp_path, COCO, "val", 0, folder)
    assert inputs.pairs == {"7-1": 1}
    assert inputs.n_masks == 4
    shown = read_mask(as_folder(inputs, inputs.coarse) / "7-1.png").scores[0]
    assert (shown == left).all()
