import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from maskhone.data.cityscapes import (
    CITYSCAPES_LABELS,
    find_cityscapes_items,
    load_cityscapes_item,
    read_cityscapes,
    read_detections,
    to_coco_entries,
    write_cityscapes,
    write_cityscapes_sample,
)
from maskhone.data.images import read_label_map
from maskhone.errors import InputError

NAME = "aachen_000000_000019"


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """One image of 1 x 3 pixels with a person, an empty car, and a car."""
    pred_dir, images_dir = tmp_path / "pred", tmp_path / "images"
    save(images_dir / "aachen" / f"{NAME}_leftImg8bit.png", np.zeros((1, 3, 3)))
    for k, values in enumerate(([[255, 0, 0]], [[0, 0, 0]], [[0, 1, 1]])):
        save(pred_dir / f"m {k}.png", values)
    (pred_dir / f"{NAME}_leftImg8bit_pred.txt").write_text(
        "m 0.png 24 0.9199999999999999\nm 1.png 26 0.5\n\nm 2.png  26\t0.4\n"
    )
    return pred_dir, images_dir


def test_the_label_table_is_that_of_cityscapes():
    assert sorted(CITYSCAPES_LABELS) == list(range(-1, 34))
    scored = [n for n, row in CITYSCAPES_LABELS.items() if row.has_instances and not row.is_ignored]
    assert scored == [24, 25, 26, 27, 28, 31, 32, 33]
    assert sum(not row.is_ignored for row in CITYSCAPES_LABELS.values()) == 19


def test_lines_become_detections_with_running_ids(folders):
    detections = read_detections(folders[0])[NAME]
    assert [(d.id, d.mask_name, d.category_id, d.score) for d in detections] == [
        (0, "m 0.png", 24, 0.9199999999999999),
        (1, "m 1.png", 26, 0.5),
        (2, "m 2.png", 26, 0.4),
    ]


@pytest.mark.parametrize(
    "file",
    [f"{NAME}_leftImg8bit_pred.txt", f"{NAME}_index.txt", f"aachen/{NAME}_pred.txt"],
)
def test_prediction_files_may_be_nested_or_called_index(tmp_path, file):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("masks/a.png 24 1\n")
    [detection] = read_detections(tmp_path)[NAME]
    assert detection.mask_path == path.parent / "masks" / "a.png"


def test_ids_run_over_all_files_in_the_order_of_names(tmp_path):
    (tmp_path / "b_index.txt").write_text("x.png 24 1\n")
    (tmp_path / "a_index.txt").write_text("x.png 24 1\nx.png 24 1\n")
    (tmp_path / "readme.txt").write_text("no prediction")
    found = read_detections(tmp_path)
    assert {name: [d.id for d in rows] for name, rows in found.items()} == {"a": [0, 1], "b": [2]}
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x.png 24", "line 2 is 'x.png 24', expected: mask_file class_id score"),
        ("x.png car 0.5", "line 2 is"),
        ("x.png 99 0.5", "line 2 has class 99, expected a Cityscapes label id"),
    ],
)
def test_bad_lines_are_refused_with_their_number(tmp_path, line, said):
    (tmp_path / "a_index.txt").write_text(f"x.png 24 1\n{line}\n")
    with pytest.raises(InputError, match=rf"a_index\.txt: {said}"):
        read_detections(tmp_path)


def test_folders_without_predictions_or_with_two_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no"):
        read_detections(tmp_path)
    (tmp_path / "a_index.txt").touch()
    (tmp_path / "a_pred.txt").touch()
    with pytest.raises(InputError, match="another prediction file"):
        read_detections(tmp_path)


def test_empty_masks_are_left_out_of_the_sample(folders):
    [sample] = read_cityscapes(*folders)
    assert sample.id == NAME
    assert sample.masks.tolist() == [[[1, 0, 0]], [[0, 1, 1]]]
    assert sample.labels.tolist() == [24, 26]
    assert [d.id for d in sample.meta["detections"]] == [0, 2]


def test_some_detections_are_loaded_alone(folders):
    [item], _ = find_cityscapes_items(*folders)
    sample = load_cityscapes_item(item, item.detections[2:])
    assert sample.masks.tolist() == [[[0, 1, 1]]]


def test_an_image_without_city_folder_is_found_and_a_missing_one_reported(folders):
    pred_dir, images_dir = folders
    file_name = f"{NAME}_leftImg8bit.png"
    (images_dir / "aachen" / file_name).rename(images_dir / file_name)
    [item], problems = find_cityscapes_items(pred_dir, images_dir)
    assert (item.image_path, problems) == (images_dir / file_name, [])
    items, [problem] = find_cityscapes_items(pred_dir, pred_dir)
    assert items == []
    assert file_name in problem


def test_a_mask_of_another_size_names_both_files(folders):
    save(folders[0] / "m 1.png", [[0, 1]])
    with pytest.raises(InputError, match=r"m 1\.png does not fit .*leftImg8bit\.png"):
        list(read_cityscapes(*folders))


@pytest.mark.parametrize(("published", "top"), [(False, 255), (True, 1)])
def test_masks_are_numbered_anew_and_scores_kept(folders, tmp_path, published, top):
    [sample] = read_cityscapes(*folders)
    write_cityscapes_sample(tmp_path / "out", sample, sample.masks, published=published)
    names = [f"{NAME}_leftImg8bit_0_person.png", f"{NAME}_leftImg8bit_1_car.png"]
    text = (tmp_path / "out" / f"{NAME}_leftImg8bit_pred.txt").read_text()
    assert text == f"{names[0]} 24 0.9199999999999999\n{names[1]} 26 0.4\n"
    assert read_label_map(tmp_path / "out" / names[1]).tolist() == [[0, top, top]]
    [again] = read_cityscapes(tmp_path / "out", folders[1])
    np.testing.assert_array_equal(again.masks, sample.masks)


def test_an_image_without_detections_gets_an_empty_file(tmp_path):
    assert write_cityscapes(tmp_path, NAME, []).read_bytes() == b""
    assert read_detections(tmp_path) == {NAME: ()}


def test_coco_entries_have_tight_boxes_and_skip_empty_masks(folders):
    infos = [{"id": 10, "file_name": f"aachen/{NAME}_leftImg8bit.png"}]
    entries = to_coco_entries(folders[0], infos)
    assert [(e["id"], e["bbox"], e["image_id"]) for e in entries] == [
        (0, [0, 0, 1, 1], 10),
        (2, [1, 0, 2, 1], 10),
    ]


def test_predictions_of_an_image_that_the_json_lacks_are_refused(folders):
    with pytest.raises(InputError, match=f"{NAME} is not among the images"):
        to_coco_entries(folders[0], [])


def test_coco_entries_are_those_of_the_published_script():
    fixture = Path(__file__).parents[1] / "parity" / "fixtures" / "bpr" / "e2e_cityscapes"
    if not (fixture / "inputs").is_dir():
        pytest.skip("bpr/e2e_cityscapes is not in this fixture set")
    infos = json.loads((fixture / "inputs" / "gt.json").read_text())["images"]
    expected = json.loads((fixture / "manifest.json").read_text())["coarse_json"]
    entries = to_coco_entries(fixture / "inputs" / "coarse", infos)
    assert json.dumps(entries) == json.dumps(expected)
