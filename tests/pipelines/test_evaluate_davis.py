import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tests.methods.rws.hosts import LAYERS, make_tiny

from maskhone.engine.weights import save_weights
from maskhone.errors import InputError, UsageError
from maskhone.pipelines.evaluate import evaluate_files
from maskhone.pipelines.evaluate_davis import Shown, read_shown, score_davis
from maskhone.pipelines.host_segmenter import load_host_segmenter

HOST = "tests.methods.rws.hosts:make_tiny"


def draw(*squares):
    label = np.zeros((24, 32), np.uint8)
    for value, x in squares:
        label[6:14, x : x + 8] = value
    return label


@pytest.fixture
def davis(tmp_path, save_picture):
    """`bus` with one object, `dogs` with two; predicted one pixel off, and exactly."""
    for name, numbers in (("bus", (255,)), ("dogs", (1, 2))):
        for i in range(2):
            squares = [(number, 2 + 14 * k) for k, number in enumerate(numbers)]
            path = f"480p/{name}/{i:05}"
            image = np.full((24, 32, 3), 90 + i, np.uint8)
            save_picture(tmp_path / "D" / "JPEGImages" / f"{path}.jpg", image)
            save_picture(tmp_path / "D" / "Annotations" / f"{path}.png", draw(*squares))
            off = 2 if name == "bus" else 0
            moved = draw(*((255, x + off) for _, x in squares))
            save_picture(tmp_path / "P" / name / f"{i:05}.png", moved)
    lists = tmp_path / "D" / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("bus\ndogs\n")
    return tmp_path


def test_there_is_a_row_for_each_sequence_and_their_mean(davis):
    report = evaluate_files(davis / "P", davis / "D", format="davis", per_mask=davis / "f.csv")
    assert [(row["sequence"], row["n"]) for row in report.rows] == [
        ("bus", 2), ("dogs", 2), ("mean", 4),
    ]  # fmt: skip
    bus, dogs, mean = (row["j"] for row in report.rows)
    assert bus == pytest.approx(6 / 10)
    assert dogs == 1
    assert mean == pytest.approx(0.8)
    with (davis / "f.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["sequence"], line["frame"]) for line in lines] == [
        (name, f"{i:05}") for name in ("bus", "dogs") for i in range(2)
    ]


def test_the_command_prints_a_table_and_json(davis, run_cli):
    said = run_cli("evaluate", davis / "P", davis / "D", "--format", "davis")
    assert said.code == 0
    assert "0.8000" in said.out
    command = ("evaluate", davis / "P", davis / "D", "--format", "davis", "--class", "bus=bus")
    found = json.loads(run_cli(*command, "--json").out)
    assert [row["sequence"] for row in found["rows"]] == ["bus", "mean"]
    assert len(found["frames"]) == 2


def test_objects_of_other_classes_can_be_left_out(davis):
    report = score_davis(davis / "P", davis / "D", classes=["dogs=dog:1"])
    assert report.rows[0]["j"] == pytest.approx(0.5)
    assert read_shown("dogs=12:1,2") == ("dogs", Shown(class_index=12, objects=(1, 2)))


@pytest.mark.parametrize("palette", [True, False])
def test_label_maps_are_scored_at_their_class(davis, palette):
    for i in range(2):
        picture = PIL.Image.fromarray(draw((6, 2), (3, 16)))
        if palette:
            picture.putpalette([v for k in range(256) for v in (k, 255 - k, k // 2)])
        picture.save(davis / "P" / "bus" / f"{i:05}.png")
    assert score_davis(davis / "P", davis / "D", classes=["bus=6"]).rows[0]["j"] == 1
    assert score_davis(davis / "P", davis / "D", classes=["bus=7"]).rows[0]["j"] == 0


def test_probabilities_are_cut_at_one_half_whatever_the_class(davis):
    for i in range(2):
        half = draw((200, 2), (100, 16))
        PIL.Image.fromarray(half).save(davis / "P" / "bus" / f"{i:05}.png")
    for classes in (["bus=6"], ["bus=6", "dogs=12"]):
        assert score_davis(davis / "P", davis / "D", classes=classes).rows[0]["j"] == 1


def test_grey_masks_of_0_and_1_are_masks_where_the_folder_holds_no_label_maps(davis, caplog):
    for i in range(2):
        PIL.Image.fromarray(draw((1, 2))).save(davis / "P" / "bus" / f"{i:05}.png")
    assert score_davis(davis / "P", davis / "D", classes=["bus=6"]).rows[0]["j"] == 1
    assert caplog.text.count("taken as masks, not as label 1") == 1
    PIL.Image.fromarray(draw((1, 2), (6, 16))).save(davis / "P" / "dogs" / "00000.png")
    assert score_davis(davis / "P", davis / "D", classes=["bus=6"]).rows[0]["j"] == 0
    assert score_davis(davis / "P", davis / "D", classes=["bus=1"]).rows[0]["j"] == 1


def test_objects_that_no_frame_has_are_said_and_left_out(davis):
    report = score_davis(davis / "P", davis / "D", classes=["bus=bus:1", "dogs=dog:1,2"])
    assert [row["sequence"] for row in report.rows] == ["dogs", "mean"]
    assert len(report.problems) == 1
    assert "bus: no frame has object 1; its label maps hold 255" in report.problems[0]
    with pytest.raises(InputError, match="no frame has object 1"):
        score_davis(davis / "P", davis / "D", classes=["bus=bus:1"])


def test_masks_of_one_bit_are_masks_and_no_labels(davis):
    for i in range(2):
        PIL.Image.fromarray(draw((1, 2)).astype(bool)).save(davis / "P" / "bus" / f"{i:05}.png")
    assert score_davis(davis / "P", davis / "D", classes=["bus=6"]).rows[0]["j"] == 1


def test_a_network_can_be_asked_itself(davis):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make_tiny(3)
    config = {"num_classes": 3, "layers": list(LAYERS), "side_px": 0}
    header = {"name": "a", "method": HOST, "licence": "none", "config": config}
    path = save_weights(davis / "a.safetensors", network.state_dict(), header, half=False)
    scores = load_host_segmenter(path).segment(np.zeros((24, 32, 3), np.uint8))
    assert scores.shape == (3, 24, 32)
    np.testing.assert_allclose(scores.sum(axis=0), 1, atol=1e-5)
    report = score_davis(path, davis / "D", classes=["bus=1", "dogs=2"])
    assert [row["n"] for row in report.rows] == [2, 2, 4]
    with pytest.raises(UsageError, match="say what dogs shows"):
        score_davis(
            path, davis / "D", classes=["bus=1"], ids=davis / "D" / "ImageSets/2017/val.txt"
        )


def test_coarse_masks_are_scored_beside(davis):
    report = evaluate_files(davis / "P", davis / "D", format="davis", coarse=davis / "P")
    assert [row["masks"] for row in report.rows] == ["coarse"] * 3 + ["refined"] * 3


def test_a_frame_that_is_missing_is_said_and_left_out(davis):
    (davis / "P" / "bus" / "00001.png").unlink()
    PIL.Image.fromarray(np.zeros((4, 4), np.uint8)).save(davis / "P" / "dogs" / "00000.png")
    report = evaluate_files(davis / "P", davis / "D", format="davis")
    assert [row["n"] for row in report.rows] == [1, 1, 2]
    assert "00001.png: no such mask" in report.problems[0]
    assert "4x4" in report.problems[1]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"classes": ["bus"]}, UsageError, "SEQUENCE=CLASS"),
        ({"classes": ["bus=bos"]}, UsageError, "aeroplane"),
        ({"classes": ["cow=cow"]}, InputError, "sequence cow"),
        ({"saliency": True}, UsageError, "do not go with davis"),
        ({"format": "folder", "classes": ["bus=6"]}, UsageError, "--format davis"),
    ],
)
def test_what_cannot_be_is_refused(davis, options, error, said):
    with pytest.raises(error, match=said):
        evaluate_files(davis / "P", davis / "D", **{"format": "davis", **options})


@pytest.mark.parametrize("ids", ["2015/val", "2016/val", "test"])
def test_lists_that_are_not_there_are_refused(davis, ids):
    with pytest.raises((UsageError, InputError), match=ids if ids == "test" else "2016"):
        evaluate_files(davis / "P", davis / "D", format="davis", ids=Path(ids))
