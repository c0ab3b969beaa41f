import csv
import json

import numpy as np
import pytest

from maskhone.data.voc import write_voc_labels
from maskhone.errors import InputError, UsageError
from maskhone.pipelines.evaluate import evaluate_files
from maskhone.pipelines.evaluate_labels import index_labels, score_label_maps

TRUTHS = {
    "a": np.array([[0, 0, 1, 1], [0, 0, 1, 255]], dtype=np.uint8),
    "b": np.array([[2, 2, 0, 0]], dtype=np.uint8),
}
CHOSEN = ("best", "over", "under")


@pytest.fixture
def target(tmp_path):
    for name, labels in TRUTHS.items():
        write_voc_labels(tmp_path / "SegmentationClass" / f"{name}.png", labels)
    return tmp_path / "SegmentationClass"


def write_maps(path, keys, maps, *, name="hr_cam"):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, keys=np.array(keys), **{name: np.array(maps, dtype=np.float32)})


def write_all_maps(folder):
    write_maps(folder / "a.npz", [0, 1], [[[0.1, 0.3, 0.9, 0.9], [0.1, 0.1, 0.9, 0.9]]])
    write_maps(folder / "b.npz", [0, 2], [[[0.6, 0.9, 0.1, 0.1]]])


def test_one_row_over_all_pixels(target, tmp_path):
    write_voc_labels(tmp_path / "p" / "a.png", np.ones((2, 4), dtype=np.uint8))
    write_voc_labels(tmp_path / "p" / "b.png", TRUTHS["b"])
    (row,) = evaluate_files(tmp_path / "p", target, format="voc").rows
    assert (row["masks"], row["n"]) == ("prediction", 2)
    # background 2 of 6, class one 3 of 7, class two 2 of 2
    assert row["miou"] == pytest.approx((2 / 6 + 3 / 7 + 1) / 21)
    assert row["miou_present"] == pytest.approx((2 / 6 + 3 / 7 + 1) / 3)
    assert row["fp"] == pytest.approx((4 / 7) / 20)
    assert row["fn"] == 0


def test_coarse_maps_stand_beside_and_a_csv_has_a_line_per_class(target, tmp_path):
    write_voc_labels(tmp_path / "p" / "a.png", np.zeros((2, 4), dtype=np.uint8))
    write_voc_labels(tmp_path / "p" / "b.png", TRUTHS["b"])
    report = evaluate_files(
        target, target, format="voc", coarse=tmp_path / "p", per_mask=tmp_path / "classes.csv"
    )
    before, after, difference = report.rows
    assert difference["miou"] == pytest.approx(after["miou"] - before["miou"])
    with (tmp_path / "classes.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 21
    assert [line["class"] for line in lines[21:24]] == ["background", "aeroplane", "bicycle"]
    assert float(lines[22]["iou"]) == pytest.approx(1.0)


def test_class_maps_are_swept(target, tmp_path):
    write_all_maps(tmp_path / "p")
    rows = score_label_maps(tmp_path / "p", target, thresholds=(0.2, 0.4, 0.7)).rows
    assert [(row["masks"], row["threshold"]) for row in rows[:3]] == [
        ("prediction", 0.2),
        ("prediction", 0.4),
        ("prediction", 0.7),
    ]
    best = rows[3]
    assert (best["masks"], best["threshold"], best["miou_present"]) == (
        "prediction best",
        0.4,
        pytest.approx(1.0),
    )


@pytest.mark.parametrize(("factor", "last"), [(1.0, 0.75), (1.8, 1.5)])
def test_maps_that_exceed_one_have_more_thresholds(target, tmp_path, factor, last):
    write_maps(tmp_path / "p" / "a.npz", [0, 1], factor * np.full((1, 2, 4), 0.95))
    write_maps(tmp_path / "p" / "b.npz", [0, 2], factor * np.full((1, 1, 4), 0.5))
    rows = score_label_maps(tmp_path / "p", target).rows
    assert [row["masks"] for row in rows[-3:]] == [f"prediction {n}" for n in CHOSEN]
    assert (rows[0]["threshold"], rows[-4]["threshold"]) == (0.05, last)


def test_class_maps_win_over_label_maps_of_the_same_image(target, tmp_path):
    write_all_maps(tmp_path / "p")
    write_voc_labels(tmp_path / "p" / "a.png", TRUTHS["a"])
    assert "threshold" in score_label_maps(tmp_path / "p", target).rows[0]


def test_kinds_are_not_mixed(target, tmp_path):
    write_all_maps(tmp_path / "p")
    (tmp_path / "p" / "b.npz").unlink()
    write_voc_labels(tmp_path / "p" / "b.png", TRUTHS["b"])
    with pytest.raises(InputError, match="one kind for all images"):
        score_label_maps(tmp_path / "p", target)


def test_what_cannot_be_scored_is_named_and_the_rest_is_scored(target, tmp_path):
    write_voc_labels(tmp_path / "p" / "a.png", TRUTHS["a"].T)
    write_voc_labels(tmp_path / "p" / "b.png", TRUTHS["b"])
    write_voc_labels(tmp_path / "p" / "c.png", TRUTHS["b"])
    report = evaluate_files(tmp_path / "p", target, format="voc")
    assert report.rows[0]["n"] == 1
    assert len(report.problems) == 2
    assert "target is 2x4 but mask is 4x2" in report.problems[0]
    assert "c: no target of this name" in report.problems[1]


def test_ids_name_a_list_of_the_voc_folder(target, tmp_path):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("b\n")
    (row,) = evaluate_files(target, target, format="voc", ids="val").rows
    assert row["n"] == 1


def test_other_classes_than_vocs_can_be_given(target):
    rows = score_label_maps(target, target, class_names=("one", "two")).rows
    assert rows[0]["miou"] == pytest.approx(1.0)
    found = score_label_maps(target, target, class_names=("one",))
    assert "has label 2, expected 0 to 1" in found.problems[0]


def test_a_file_names_the_classes(run_cli, target, tmp_path):
    (tmp_path / "classes.txt").write_text("hat\nbelt\n")
    given = ("evaluate", target, target, "--format", "voc", "--per-mask", tmp_path / "each.csv")
    said = run_cli(*given, "--classes", tmp_path / "classes.txt", "--json")
    assert json.loads(said.out)["rows"][0]["miou"] == pytest.approx(1.0)
    with (tmp_path / "each.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == ["background", "hat", "belt"]


def test_a_list_of_classes_that_does_not_fit_is_one_line(run_cli, target, tmp_path):
    path = tmp_path / "classes.txt"
    given = ("evaluate", target, target, "--format", "voc", "--classes", path)
    for label in ("a", "b"):
        write_voc_labels(target / f"{label}.png", np.full((2, 2), 5, dtype=np.uint8))
    for text, word in (
        ("hat\nbelt\n", "none of 2 images can be scored"),
        ("hat\nbelt\n", "has label 5, expected 0 to 2"),
        ("hat\nhat\n", "names 'hat' twice"),
        ("_background_\nhat\n", "names '_background_'; label 0 is the background, leave it out"),
        ("", "names no class"),
    ):
        path.write_text(text)
        said = run_cli(*given)
        assert said.code != 0
        assert word in said.err
        assert len(said.err.strip().splitlines()) == 1
    path.unlink()
    assert "classes.txt: no such file" in run_cli(*given).err
    with pytest.raises(UsageError, match="--classes goes with --format voc only"):
        evaluate_files(target, target, format="folder", class_list=path)


def test_maps_without_keys_are_said(target, tmp_path):
    write_all_maps(tmp_path / "p")
    np.savez(tmp_path / "p" / "a.npz", hr_cam=np.zeros((1, 2, 4), dtype=np.float32))
    assert "holds hr_cam; expected keys" in score_label_maps(tmp_path / "p", target).problems[0]


def test_options_of_other_forms_are_refused(target):
    with pytest.raises(UsageError, match="do not go with voc"):
        evaluate_files(target, target, format="voc", saliency=True)


def test_half_written_files_are_passed_by(target, tmp_path):
    write_all_maps(tmp_path / "p")
    write_maps(tmp_path / "p" / ".unfinished-0.npz", [0], np.zeros((0, 1, 1)))
    (tmp_path / "p" / ".unfinished-1.png").write_bytes(b"")
    assert sorted(index_labels(tmp_path / "p")) == ["a", "b"]


def test_the_classes_are_those_of_the_best_threshold_whatever_the_name(target, tmp_path):
    write_all_maps(tmp_path / "p")
    report = score_label_maps(tmp_path / "p", target, name="the best", thresholds=(0.2, 0.8))
    plain = score_label_maps(tmp_path / "p", target, name="x", thresholds=(0.2, 0.8))
    best = next(row for row in plain.rows if row["masks"] == "x best")
    mean = np.mean([row["iou"] for row in report.classes])
    assert mean == pytest.approx(best["miou"])
