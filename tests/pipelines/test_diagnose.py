import json

import numpy as np
import PIL.Image
import pytest

from maskhone.data.voc import write_voc_labels
from maskhone.errors import InputError, UsageError
from maskhone.pipelines.diagnose import diagnose_thresholds


@pytest.fixture
def maps(tmp_path, save_picture):
    """Two maps whose left half is too low and whose right half is too high."""
    truth = np.zeros((64, 64), dtype=np.uint8)
    truth[16:48, 8:56] = 255
    scores = np.where(truth > 0, 102, 51)
    scores[:, 32:] += 102
    for name in ("a", "b"):
        save_picture(tmp_path / "scores" / f"{name}.png", scores.astype(np.uint8))
        save_picture(tmp_path / "truth" / f"{name}.png", truth)
    return tmp_path / "scores", tmp_path / "truth"


def test_patches_mend_what_one_threshold_cannot(maps):
    report = diagnose_thresholds(*maps, sides=(32,))
    by_way = {row["threshold"].split(" (")[0]: row for row in report.rows}
    assert by_way["best per 32 px patch"]["iou"] == pytest.approx(1)
    assert by_way["best of the set"]["iou"] < 0.8
    assert by_way["0.5"]["gain"] == 0
    assert [each["image"] for each in report.images] == ["a", "b"]


def test_the_table_is_printed_and_labels_are_written(run_cli, maps, tmp_path):
    out = tmp_path / "labels"
    said = run_cli("diagnose", "thresholds", *maps, "--side", 32, "--labels", out, "--json")
    assert said.code == 0
    assert len(json.loads(said.out)["rows"]) == 4
    label = np.asarray(PIL.Image.open(out / "a.png"))
    np.testing.assert_array_equal(label, np.asarray(PIL.Image.open(maps[1] / "a.png")))


def test_a_map_of_another_size_is_told_and_the_rest_is_done(maps, save_picture):
    save_picture(maps[0] / "b.png", np.full((32, 64), 99, dtype=np.uint8))
    report = diagnose_thresholds(*maps)
    assert len(report.problems) == 1
    assert "b.png" in report.problems[0]
    assert len(report.images) == 1


def test_empty_targets_are_all_background(maps, save_picture):
    for name in ("a", "b"):
        save_picture(maps[1] / f"{name}.png", np.zeros((64, 64), dtype=np.uint8))
    rows = diagnose_thresholds(*maps, sides=(32,)).rows
    assert rows[0]["iou"] == 0
    assert rows[-1]["iou"] == 1


def test_a_missing_target_is_named(maps):
    (maps[1] / "b.png").unlink()
    with pytest.raises(InputError, match="has no b"):
        diagnose_thresholds(*maps)


@pytest.mark.parametrize("sides", [(), (0,)])
def test_sides_must_be_positive(maps, sides):
    with pytest.raises(UsageError, match="sides"):
        diagnose_thresholds(*maps, sides=sides)


def test_logits_are_read_as_scores(run_cli, maps, tmp_path):
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "logits").mkdir(exist_ok=True)
        np.save(tmp_path / "logits" / f"{name}.npy", random.normal(0, 3, (64, 64)))
    paths = (tmp_path / "logits", maps[1])
    assert "sigmoid" in run_cli("diagnose", "thresholds", *paths).err
    assert run_cli("diagnose", "thresholds", *paths, "--logits").code == 0


def test_a_label_map_of_background_only_is_an_empty_truth(tmp_path, save_picture):
    save_picture(tmp_path / "s" / "a.png", np.full((64, 64), 100, dtype=np.uint8))
    write_voc_labels(tmp_path / "t" / "a.png", np.zeros((64, 64), dtype=np.uint8))
    report = diagnose_thresholds(tmp_path / "s", tmp_path / "t", sides=[32])
    assert report.rows[0]["iou"] == 1  # nothing is above one half, and nothing should be


def test_several_maps_in_a_file_are_refused(tmp_path, save_picture):
    (tmp_path / "s").mkdir()
    np.save(tmp_path / "s" / "a.npy", np.full((2, 64, 64), 0.5, dtype=np.float32))
    save_picture(tmp_path / "t" / "a.png", np.zeros((64, 64), dtype=np.uint8))
    with pytest.raises(InputError, match="holds 2 maps"):
        diagnose_thresholds(tmp_path / "s", tmp_path / "t", sides=[32])
