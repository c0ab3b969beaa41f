"""DeepGlobe, DUTS and Kvasir-SEG: which pictures are in a split, and what is read of them."""

import numpy as np
import pytest

from maskhone.data.deepglobe import find_deepglobe_items
from maskhone.data.duts import find_duts_items
from maskhone.data.kvasir import find_kvasir_items
from maskhone.data.splits import SPLITS, split_like_published
from maskhone.data.truth_pairs import load_truth_pair
from maskhone.errors import InputError, UsageError

N = 30
NAMES = [f"{i:02d}" for i in range(N)]


def touch(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


@pytest.fixture
def deepglobe(tmp_path):
    touch(tmp_path / "train", [f"{name}_sat.jpg" for name in NAMES])
    touch(tmp_path / "train_labels", [f"{name}_mask.png" for name in NAMES])
    return tmp_path


@pytest.fixture(params=["one level", "two levels"])
def duts(tmp_path, request):
    for part, names in (("DUTS-TR", NAMES[:4]), ("DUTS-TE", NAMES)):
        folder = tmp_path / part / (part if request.param == "two levels" else "")
        touch(folder / f"{part}-Image", [f"{name}.jpg" for name in names])
        touch(folder / f"{part}-Mask", [f"{name}.png" for name in names])
    return tmp_path


@pytest.fixture
def kvasir(tmp_path):
    for folder in ("train", "train_labels"):
        touch(tmp_path / folder, [f"{name}.jpg" for name in NAMES])
    (tmp_path / "train.txt").write_text("\n".join(NAMES[20:]) + "\n")
    (tmp_path / "test.txt").write_text("\n".join(reversed(NAMES[:20])) + "\n")
    return tmp_path


def list_ids(find, root):
    return {split: [item.id for item in find(root, split)] for split in SPLITS}


def pick(names, indices):
    return [names[i] for i in indices.tolist()]


def write_lists(root, ending="", mask_ending=""):
    for split, name in zip(SPLITS, ("03", "02", "01"), strict=True):
        line = f"{name}{ending},{name}{mask_ending}"
        (root / f"{split}.csv").write_text(f"img,target\n{line}\n")


def test_deepglobe_is_split_twice(deepglobe):
    found = list_ids(find_deepglobe_items, deepglobe)
    train, held = split_like_published(N)
    val, test = split_like_published(len(held))
    assert found["train"] == pick(NAMES, train)
    assert found["val"] == pick(NAMES, held[val])
    assert found["test"] == pick(NAMES, held[test])
    assert sorted(name for ids in found.values() for name in ids) == NAMES


def test_duts_splits_its_second_part(duts):
    found = list_ids(find_duts_items, duts)
    val, test = split_like_published(N)
    assert found == {"train": NAMES[:4], "val": pick(NAMES, val), "test": pick(NAMES, test)}


def test_kvasir_splits_its_test_list_in_the_order_of_the_list(kvasir):
    found = list_ids(find_kvasir_items, kvasir)
    val, test = split_like_published(20)
    listed = NAMES[:20][::-1]
    assert found == {"train": NAMES[20:], "val": pick(listed, val), "test": pick(listed, test)}


def test_items_name_their_files(deepglobe):
    item = find_deepglobe_items(deepglobe, "test")[0]
    assert item.image_path == deepglobe / "train" / f"{item.id}_sat.jpg"
    assert item.mask_paths == (deepglobe / "train_labels" / f"{item.id}_mask.png",)


@pytest.mark.parametrize("stray", ["desktop.ini", "Thumbs.db", "._00_sat.jpg", ".DS_Store"])
def test_a_stray_file_does_not_change_the_split(deepglobe, stray):
    before = list_ids(find_deepglobe_items, deepglobe)
    touch(deepglobe / "train", [stray])
    assert list_ids(find_deepglobe_items, deepglobe) == before


def test_a_stray_file_does_not_change_the_split_of_duts(duts):
    before = list_ids(find_duts_items, duts)
    for folder in duts.rglob("*-Image"):
        touch(folder, ["desktop.ini"])
    assert list_ids(find_duts_items, duts) == before


def test_empty_lines_of_a_list_do_not_change_the_split(kvasir):
    before = list_ids(find_kvasir_items, kvasir)
    for name in ("train.txt", "test.txt"):
        (kvasir / name).write_text((kvasir / name).read_text() + "\n\n")
    assert list_ids(find_kvasir_items, kvasir) == before


EXPECTED = {"train": ["03"], "val": ["02"], "test": ["01"]}


def test_the_authors_lists_are_preferred_for_deepglobe(deepglobe):
    write_lists(deepglobe, "_sat.jpg", "_mask.png")
    assert list_ids(find_deepglobe_items, deepglobe) == EXPECTED


def test_the_authors_lists_are_preferred_for_duts(duts):
    write_lists(duts, ".jpg", ".png")
    assert list_ids(find_duts_items, duts) == EXPECTED


def test_the_authors_lists_are_preferred_for_kvasir(kvasir):
    write_lists(kvasir, ".jpg", ".jpg")
    assert list_ids(find_kvasir_items, kvasir) == EXPECTED


def test_a_list_and_a_rule_are_not_mixed(kvasir):
    write_lists(kvasir, ".jpg", ".jpg")
    (kvasir / "val.csv").unlink()
    with pytest.raises(InputError, match=r"val\.csv: no such file, but train\.csv and test\.csv"):
        find_kvasir_items(kvasir, "val")


def test_a_listed_picture_that_is_missing_is_named(kvasir):
    write_lists(kvasir, ".jpg", ".jpg")
    (kvasir / "train_labels" / "02.jpg").unlink()
    with pytest.raises(InputError, match=r"val\.csv: names 02\.jpg, but .*train_labels"):
        find_kvasir_items(kvasir, "val")


def test_a_picture_without_truth_is_named(deepglobe):
    item = find_deepglobe_items(deepglobe, "train")[0]
    item.mask_paths[0].unlink()
    with pytest.raises(InputError, match=f"{item.id}_mask.png"):
        find_deepglobe_items(deepglobe, "train")


def test_a_listed_name_without_the_ending_is_refused(deepglobe):
    write_lists(deepglobe)
    with pytest.raises(InputError, match=r"03 does not end in _sat\.jpg"):
        find_deepglobe_items(deepglobe, "train")


def test_an_empty_list_is_refused(kvasir):
    (kvasir / "train.txt").write_text("\n")
    with pytest.raises(InputError, match="names no pictures"):
        find_kvasir_items(kvasir, "train")


@pytest.mark.parametrize("find", [find_deepglobe_items, find_duts_items, find_kvasir_items])
def test_a_missing_set_is_named(tmp_path, find):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="no such f") as error:
            find(root, "train")
        assert str(root) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_folder_without_pictures_is_named(deepglobe):
    for path in (deepglobe / "train").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train: holds no \*_sat\.jpg"):
        find_deepglobe_items(deepglobe, "val")


@pytest.mark.parametrize("find", [find_deepglobe_items, find_duts_items, find_kvasir_items])
def test_an_unknown_split_is_refused(tmp_path, find):
    with pytest.raises(UsageError, match="valid"):
        find(tmp_path, "valid")


@pytest.fixture
def first_pair(deepglobe, save_picture, photo, disc):
    """The first test pair of DeepGlobe with real pictures; its mask is RGB."""
    item = find_deepglobe_items(deepglobe, "test")[0]
    save_picture(item.image_path, photo)
    grey = disc.astype(np.uint8) * 255
    save_picture(item.mask_paths[0], np.repeat(grey[..., None], 3, axis=2))
    return item


def test_a_pair_is_read_as_picture_and_truth(first_pair, photo, disc):
    image, truth = load_truth_pair(first_pair)
    assert (image.shape, image.dtype) == (photo.shape, np.uint8)
    assert (truth.shape, truth.dtype) == ((1, *disc.shape), np.float32)
    np.testing.assert_array_equal(truth[0], disc)


def test_a_soft_truth_stays_soft(first_pair, save_picture, disc):
    save_picture(first_pair.mask_paths[0], disc.astype(np.uint8) * 51 + 51)
    assert set(np.unique(load_truth_pair(first_pair)[1])) == {np.float32(0.2), np.float32(0.4)}


def test_a_truth_in_slight_colours_is_read_as_grey(kvasir, save_picture, photo, disc):
    item = find_kvasir_items(kvasir, "train")[0]
    save_picture(item.image_path, photo)
    tinted = np.stack([disc * 255, disc * 250, disc * 253], axis=2).astype(np.uint8)
    save_picture(item.mask_paths[0], tinted, quality=90)
    truth = load_truth_pair(item)[1][0]
    np.testing.assert_array_equal(truth > 0.5, disc)


def test_the_noise_of_an_empty_jpeg_is_no_truth(kvasir, save_picture, photo):
    item = find_kvasir_items(kvasir, "train")[0]
    save_picture(item.image_path, photo)
    save_picture(item.mask_paths[0], np.ones(photo.shape[:2], np.uint8))
    assert load_truth_pair(item)[1].max() < 0.01


def test_a_truth_of_another_size_is_refused_with_both_names(first_pair, save_picture):
    save_picture(first_pair.mask_paths[0], np.zeros((48, 40), np.uint8))
    with pytest.raises(InputError, match="transpose") as error:
        load_truth_pair(first_pair)
    assert first_pair.image_path.name in str(error.value)
    assert first_pair.mask_paths[0].name in str(error.value)
