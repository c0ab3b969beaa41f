import csv
import json

import numpy as np
import pytest

from maskhone.data.coco import to_rle
from maskhone.errors import UsageError
from maskhone.metrics.saliency import SaliencyScores
from maskhone.pipelines.evaluate import evaluate_files


def columns(start, end):
    """A mask of 4 rows and 8 columns, some of them full."""
    mask = np.zeros((4, 8), dtype=np.uint8)
    mask[:, start:end] = 255
    return mask


@pytest.fixture
def scored(tmp_path, save_picture):
    """Two targets of columns 0-3; predicted exactly, and with columns 0-1; coarse: 0-0."""
    for name, end in (("exact", 4), ("half", 2)):
        save_picture(tmp_path / "target" / f"{name}.png", columns(0, 4))
        save_picture(tmp_path / "prediction" / f"{name}.png", columns(0, end))
        save_picture(tmp_path / "coarse" / f"{name}.png", columns(0, 1))
    return tmp_path / "prediction", tmp_path / "target"


def test_scores_are_means_over_masks_and_pooled_over_pixels(scored):
    (row,) = evaluate_files(*scored).rows
    assert row["masks"] == "prediction"
    assert row["n"] == 2
    assert row["iou"] == pytest.approx((1 + 1 / 2) / 2)
    assert row["dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert row["pooled_iou"] == pytest.approx((16 + 8) / (16 + 16))


def test_a_perfect_prediction_scores_one_everywhere(scored):
    (row,) = evaluate_files(scored[1], scored[1]).rows
    assert {v for k, v in row.items() if k not in ("masks", "n")} == {1.0}


def test_ids_choose_what_is_scored(scored, tmp_path):
    (tmp_path / "ids.txt").write_text("half\n")
    (row,) = evaluate_files(*scored, ids=tmp_path / "ids.txt").rows
    assert (row["n"], row["iou"]) == (1, 0.5)


def test_a_csv_has_a_line_per_mask(scored, tmp_path):
    evaluate_files(*scored, per_mask=tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["mask"], line["iou"]) for line in lines] == [("exact", "1.0"), ("half", "0.5")]


def test_coarse_masks_add_a_row_and_the_difference(scored, tmp_path):
    coarse, refined, difference = evaluate_files(*scored, coarse=tmp_path / "coarse").rows
    assert [r["masks"] for r in (coarse, refined, difference)] == [
        "coarse",
        "refined",
        "difference",
    ]
    assert coarse["iou"] == 0.25
    assert difference["iou"] == pytest.approx(0.75 - 0.25)
    assert difference.keys() == refined.keys()


def test_a_missing_prediction_is_reported_and_the_rest_scored(scored, tmp_path):
    (scored[0] / "half.png").unlink()
    (tmp_path / "ids.txt").write_text("exact\nhalf\n")
    report = evaluate_files(*scored, ids=tmp_path / "ids.txt")
    (problem,) = report.problems
    assert problem.startswith("half: no prediction")
    assert report.rows[0]["n"] == 1


def test_a_target_without_prediction_is_reported(scored):
    (scored[0] / "half.png").unlink()
    (problem,) = evaluate_files(*scored).problems
    assert problem.startswith("half: no prediction")


def test_a_missing_target_is_reported(scored):
    (scored[1] / "half.png").unlink()
    (problem,) = evaluate_files(*scored).problems
    assert problem.startswith("half: no target")


def test_a_prediction_of_another_size_is_reported(scored, save_picture):
    save_picture(scored[0] / "half.png", np.zeros((8, 4), np.uint8))
    (problem,) = evaluate_files(*scored).problems
    assert "half.png" in problem
    assert "transpose" in problem


def test_target_value_picks_a_number_and_ignores_255(scored, save_picture):
    numbers = np.array([[3, 3, 1, 1, 255, 255, 0, 0]] * 4, dtype=np.uint8)
    save_picture(scored[1] / "half.png", numbers)
    save_picture(scored[0] / "half.png", columns(1, 6))  # 1 right, 2 wrong, 2 ignored
    (scored[0] / "exact.png").unlink()
    (row,) = evaluate_files(*scored, target_value=3).rows
    assert row["iou"] == pytest.approx(1 / 4)


def test_a_target_without_outline_has_no_mba(scored, save_picture):
    for folder in scored:
        save_picture(folder / "half.png", np.zeros((4, 8), np.uint8))
    (row,) = evaluate_files(*scored).rows
    assert row["without mba"] == 1
    assert row["mba"] == 1.0


@pytest.fixture
def coco(tmp_path):
    """One object in one image, found exactly."""
    mask = np.zeros((20, 20), dtype=bool)
    mask[5:15, 5:15] = True
    common = {"image_id": 1, "category_id": 1, "segmentation": to_rle(mask)}
    box = {"id": 1, "area": 100, "bbox": [5, 5, 10, 10], "iscrowd": 0}
    truth = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "annotations": [{**common, **box}],
        "categories": [{"id": 1, "name": "square"}],
    }
    (tmp_path / "found.json").write_text(json.dumps([{**common, "score": 0.9}]))
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path / "found.json", tmp_path / "truth.json"


def test_json_gives_mask_and_boundary_precision(coco):
    (row,) = evaluate_files(*coco).rows
    assert row["AP"] == pytest.approx(1.0)
    assert row["boundary AP"] == pytest.approx(1.0)


def test_undefined_scores_are_null_for_machines(coco):
    (row,) = evaluate_files(*coco).as_dict()["rows"]
    assert row["AP_large"] is None


def test_options_for_folders_are_refused_with_json(coco, tmp_path):
    with pytest.raises(UsageError, match="folders"):
        evaluate_files(*coco, per_mask=tmp_path / "o.csv")


def test_an_unknown_format_is_refused(scored):
    with pytest.raises(UsageError, match="nope"):
        evaluate_files(*scored, format="nope")


def coco_files(tmp_path, segmentation):
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 20}
    square = [[2, 2, 2, 12, 12, 12, 12, 2]]
    truth = {"id": 0, "image_id": 1, "category_id": 1, "segmentation": square, "area": 100}
    truth["bbox"] = [2, 2, 10, 10]
    found = {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": segmentation or square}
    data = {"images": [image], "annotations": [truth], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    (tmp_path / "found.json").write_text(json.dumps([found]))
    return tmp_path / "found.json", tmp_path / "truth.json"


def test_coco_polygons_that_are_right_have_an_ap_of_one(tmp_path):
    row = evaluate_files(*coco_files(tmp_path, None)).rows[0]
    assert row["AP"] == pytest.approx(1.0)
    assert row["boundary AP"] == pytest.approx(1.0)


def test_coco_masks_that_are_wrong_have_an_ap_of_zero(tmp_path):
    wrong = [[14, 14, 14, 18, 18, 18, 18, 14]]
    assert evaluate_files(*coco_files(tmp_path, wrong)).rows[0]["AP"] == 0


def test_soft_maps_are_scored_in_all_ways_of_papers(scored, save_picture):
    grey = columns(0, 2)
    grey[:, 2:4] = 102  # 0.4: not foreground, but not nothing
    save_picture(scored[0] / "half.png", grey)
    (row,) = evaluate_files(*scored, saliency=True).rows
    assert row["iou"] == pytest.approx((1 + 1 / 2) / 2)
    assert row["iou_acc"] == pytest.approx((16 + 8 + 1) / (16 + 16 + 1))
    assert row["iou_two"] == pytest.approx((24 / 32 + 32 / 40) / 2)
    assert (row["precision"], row["recall"]) == (1.0, 24 / 32)
    assert row["mae"] == pytest.approx((8 * 0.6) / (2 * 32))
    truth = columns(0, 4) > 0
    metric = SaliencyScores()
    for picture in (columns(0, 4), grey):
        metric.update(picture / 255, truth)
    found = metric.compute()
    assert row["mae_stretched"] == pytest.approx(found.pop("mae"))
    assert {name: row[name] for name in found} == pytest.approx(found)


def test_saliency_scores_are_in_the_csv_and_the_difference(scored, tmp_path):
    path = tmp_path / "out.csv"
    report = evaluate_files(*scored, coarse=tmp_path / "coarse", saliency=True, per_mask=path)
    coarse, refined, difference = report.rows
    assert difference["s_measure"] == pytest.approx(refined["s_measure"] - coarse["s_measure"])
    with path.open() as file:
        assert {"s_measure", "e_max", "f_adaptive"} <= next(csv.DictReader(file)).keys()


def test_saliency_refuses_a_target_with_ignored_pixels(scored, save_picture):
    save_picture(scored[1] / "exact.png", columns(0, 4) // 255)
    save_picture(scored[1] / "half.png", np.array([[1, 255] * 4] * 4, dtype=np.uint8))
    report = evaluate_files(*scored, target_value=1, saliency=True)
    assert any("half" in problem and "ignored pixels" in problem for problem in report.problems)
    assert report.rows[0]["n"] == 1


def test_saliency_is_refused_with_json(coco):
    with pytest.raises(UsageError, match="--saliency"):
        evaluate_files(*coco, saliency=True)
