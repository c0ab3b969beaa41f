import numpy as np
import PIL.Image
import pytest

from maskhone.data.folder import (
    find_folder_items,
    find_training_items,
    load_folder_item,
    load_training_item,
    read_folder,
    write_folder_sample,
)
from maskhone.data.images import read_label_map
from maskhone.errors import InputError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.array(values, dtype=np.uint8)).save(path)


def save_photo(path, size_hw=(1, 2)):
    save(path, np.full((*size_hw, 3), 9))


@pytest.mark.parametrize(
    ("images", "mask", "image_id"),
    [
        (["a.jpg"], "a.png", "a"),
        (["a.JPG"], "a.npy", "a"),
        (["a.jpg"], "a_0.png", "a"),
        (["a.jpg"], "a-left.png", "a"),
        (["a.jpg"], "a.jpg.png", "a"),
        (["a.jpg"], "a/0.png", "a"),
        (["s/a.jpg"], "s/a/0.png", "s/a"),
        (["s/a.jpg", "a.jpg"], "s/a_1.png", "s/a"),
        (["a.jpg", "a_1.jpg"], "a_1.png", "a_1"),
        (["a.jpg", "a_1.jpg"], "a_1_7.png", "a_1"),
        (["a.jpg", "a_1.jpg"], "a_2.png", "a"),
        (["größe.jpg"], "gro\u0308ße_1.png", "größe"),
    ],
)
def test_a_mask_finds_its_image_by_name(tmp_path, images, mask, image_id):
    images_dir, masks_dir = touch(tmp_path / "i", *images), touch(tmp_path / "m", mask)
    items, problems = find_folder_items(images_dir, masks_dir)
    assert problems == []
    assert [item.id for item in items] == [image_id]
    assert items[0].mask_paths == (masks_dir / mask,)


@pytest.mark.parametrize(
    ("images", "mask", "said"),
    [
        (["a.jpg"], "b.png", "no image in"),
        (["a.jpg"], "ab.png", "no image in"),
        (["s/a.jpg"], "a.png", "no image in"),
        (["a.jpg", "a.png"], "a.png", "any of a.jpg, a.png"),
    ],
)
def test_masks_without_one_image_are_reported_by_name(tmp_path, images, mask, said):
    images_dir, masks_dir = touch(tmp_path / "i", *images), touch(tmp_path / "m", mask)
    items, [problem] = find_folder_items(images_dir, masks_dir)
    assert items == []
    assert problem.startswith(str(masks_dir / mask))
    assert said in problem


def test_items_are_sorted_and_masks_of_one_image_grouped(tmp_path):
    images_dir = touch(tmp_path / "i", "b.jpg", "a.jpg", "c.jpg", ".hidden.jpg", "notes.txt")
    masks_dir = touch(tmp_path / "m", "b_2.png", "b_1.png", "a.png", ".unfinished-1.png")
    items, problems = find_folder_items(images_dir, masks_dir)
    assert [(item.id, [path.name for path in item.mask_paths]) for item in items] == [
        ("a", ["a.png"]),
        ("b", ["b_1.png", "b_2.png"]),
    ]
    assert problems == []


@pytest.mark.parametrize(("images", "masks"), [("d", "d/masks"), ("d/images", "d")])
def test_one_folder_may_lie_in_the_other(tmp_path, images, masks):
    touch(tmp_path / images, "a.png")
    touch(tmp_path / masks, "a_mask.png")
    [item], problems = find_folder_items(tmp_path / images, tmp_path / masks)
    assert problems == []
    assert item.image_path == tmp_path / images / "a.png"
    assert item.mask_paths == (tmp_path / masks / "a_mask.png",)


def test_useless_folders_are_refused_by_name(tmp_path):
    full, empty = touch(tmp_path / "full", "a.png"), tmp_path / "empty"
    empty.mkdir()
    for images, masks, said in [
        (full, full, "share one folder"),
        (empty, full, "empty: holds no pictures"),
        (full, empty, "empty: holds no masks"),
        (full, tmp_path / "none", "none: no such folder"),
    ]:
        with pytest.raises(InputError, match=said):
            find_folder_items(images, masks)


def test_what_is_read_is_written_under_the_same_names(tmp_path):
    save_photo(tmp_path / "i" / "s" / "a.png")
    save(tmp_path / "m" / "s" / "a_0.png", [[0, 255]])
    save(tmp_path / "m" / "s" / "a_1.png", [[1, 0]])
    np.save(tmp_path / "m" / "s" / "a_2.npy", np.array([[[True, True]], [[False, True]]]))
    [sample] = read_folder(tmp_path / "i", tmp_path / "m")
    assert sample.id == "s/a"
    assert sample.masks.tolist() == [[[0, 1]], [[1, 0]], [[1, 1]], [[0, 1]]]
    written = write_folder_sample(tmp_path / "out", sample, 1 - sample.masks)
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == [
        "s/a_0.png",
        "s/a_1.png",
        "s/a_2.npy",
    ]
    assert [read_label_map(path).tolist() for path in written[:2]] == [[[255, 0]], [[0, 1]]]
    assert np.load(written[2]).tolist() == [[[False, False]], [[True, False]]]


def test_masks_without_image_are_logged_when_reading(tmp_path, caplog):
    save_photo(tmp_path / "i" / "a.png")
    save(tmp_path / "m" / "lost.png", [[0, 255]])
    assert list(read_folder(tmp_path / "i", tmp_path / "m")) == []
    assert "lost.png" in caplog.text


def test_a_mask_of_another_size_names_both_files(tmp_path):
    save_photo(tmp_path / "i" / "a.png", (2, 3))
    save(tmp_path / "m" / "a_1.png", [[0, 255]])
    [item], _ = find_folder_items(tmp_path / "i", tmp_path / "m")
    with pytest.raises(InputError, match=r"a_1\.png does not fit .*a\.png"):
        load_folder_item(item)


@pytest.fixture
def training_set(tmp_path):
    save_photo(tmp_path / "images" / "b.png", (1, 4))
    save(tmp_path / "masks" / "b.png", [[0, 3, 3, 255]])
    save(tmp_path / "coarse" / "b.png", [[0, 51, 255, 0]])
    (tmp_path / "train.txt").write_text("b\n\n", encoding="utf-8")
    return tmp_path


def test_a_training_picture_has_coarse_scores_and_truth(training_set):
    [item] = find_training_items(training_set, truth_value=3)
    sample = load_training_item(item)
    assert sample.id == "b"
    np.testing.assert_allclose(sample.masks, [[[0, 0.2, 1, 0]]])
    assert sample.target.tolist() == [[[0, 1, 1, 0]]]  # 255, not labelled, is background


def test_truth_without_a_value_is_any_mask(training_set):
    save(training_set / "masks" / "b.png", [[0, 255, 255, 0]])
    [item] = find_training_items(training_set, "train")
    assert load_training_item(item).target.tolist() == [[[0, 1, 1, 0]]]


def test_training_files_may_lie_in_other_folders(training_set):
    (training_set / "coarse").rename(training_set / "rough")
    [item] = find_training_items(training_set, coarse="rough")
    assert item.coarse_path == training_set / "rough" / "b.png"


def test_missing_training_files_are_named(training_set):
    with pytest.raises(InputError, match=r"val\.txt: no such file"):
        find_training_items(training_set, "val")
    (training_set / "train.txt").write_text("b\nc\n")
    with pytest.raises(InputError, match=r"train\.txt: lists c, but .*images"):
        find_training_items(training_set)
