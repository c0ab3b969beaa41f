import shutil

import numpy as np
import PIL.Image
import pytest

from maskhone.data.voc import (
    VOC_CLASSES,
    VOC_LISTS,
    find_voc_images,
    hash_ids,
    read_voc_labels,
    read_voc_list,
    read_voc_tags,
    write_voc_labels,
)
from maskhone.errors import InputError

CAT, DOG = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")


def make_annotation(path, objects, *, width=20, height=10):
    boxes = "".join(
        f"<object><name>{name}</name><difficult>1</difficult><bndbox>"
        f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        "<part><name>head</name></part></object>"
        for name, (x0, y0, x1, y1) in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{size}{boxes}</annotation>")
    return path


def make_voc(root, tags):
    for id, names in tags.items():
        make_annotation(root / f"Annotations/{id}.xml", [(name, (1, 1, 5, 5)) for name in names])
        (root / "JPEGImages").mkdir(exist_ok=True)
        PIL.Image.new("RGB", (20, 10)).save(root / f"JPEGImages/{id}.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(tags) + "\n")
    return root


@pytest.mark.parametrize("name", list(VOC_LISTS))
def test_the_lists_of_the_package_have_the_published_hashes(name):
    assert hash_ids(read_voc_list(name)) == VOC_LISTS[name]


def test_the_lists_overlap_as_published():
    lists = {name: set(read_voc_list(name)) for name in VOC_LISTS}
    assert lists["train"] < lists["train_aug"]
    assert not lists["val"] & lists["train_aug"]


def test_tags_are_sorted_and_named_once(tmp_path):
    objects = [("dog", (1, 1, 5, 5)), ("cat", (0, 0, 3, 3)), ("dog", (2, 2, 4, 4))]
    assert read_voc_tags(make_annotation(tmp_path / "a.xml", objects)) == (CAT, DOG)


@pytest.mark.parametrize(
    ("box", "counts"),
    [
        ((1, 1, 2, 2), True),
        (("1.9", "1.2", "2.7", "2.1"), True),  # integer parts: 1 to 2
        (("1.1", "1", "1.9", "5"), False),
        ((19, 1, 40, 5), False),  # clipped to one column
        ((18, 1, 40, 5), True),
        ((-5, 2, 0, 5), False),
        ((3, 9, 6, 30), False),
    ],
)
def test_an_object_counts_when_its_clipped_box_has_an_area(tmp_path, box, counts):
    path = make_annotation(tmp_path / "a.xml", [("cat", box)])
    assert read_voc_tags(path) == ((CAT,) if counts else ())


def test_an_unknown_class_is_named_with_the_nearest_known_one(tmp_path):
    path = make_annotation(tmp_path / "a.xml", [("catt", (1, 1, 5, 5))])
    with pytest.raises(InputError, match=r"a\.xml: unknown class 'catt'; did you mean cat\?"):
        read_voc_tags(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation>", "cannot read the annotation"),
        ("<annotation></annotation>", "size/width is None, expected a number"),
    ],
)
def test_a_damaged_annotation_is_refused(tmp_path, text, said):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_voc_tags(tmp_path / "a.xml")


def test_pictures_come_in_the_order_of_the_folders_own_list(tmp_path):
    root = make_voc(tmp_path, {"b": ["dog"], "a": ["cat", "dog"], "c": []})
    write_voc_labels(root / "SegmentationClass/a.png", np.zeros((10, 20), dtype=np.uint8))
    items = find_voc_images(root, "train")
    assert [item.id for item in items] == ["b", "a", "c"]
    assert [item.classes for item in items] == [(DOG,), (CAT, DOG), ()]
    assert [item.truth_path is not None for item in items] == [False, True, False]


def test_an_annotation_is_needed_unless_said_otherwise(tmp_path):
    root = make_voc(tmp_path, {"a": ["dog"]})
    (root / "Annotations/a.xml").unlink()
    with pytest.raises(InputError, match="no such annotation"):
        find_voc_images(root, "train")
    assert find_voc_images(root, "train", needs_tags=False)[0].classes == ()


def test_without_a_list_the_folders_own_counts(tmp_path):
    root = make_voc(tmp_path, {"b": ["dog"], "a": ["cat"], "c": []})
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("b\n")
    (lists / "trainval.txt").write_text("b\na\n")
    assert [item.id for item in find_voc_images(root)] == ["b"]
    (lists / "train.txt").unlink()
    assert [item.id for item in find_voc_images(root)] == ["b", "a"]
    (lists / "trainval.txt").unlink()
    assert [item.id for item in find_voc_images(root)] == ["a", "b", "c"]
    shutil.rmtree(root / "Annotations")
    with pytest.raises(InputError, match="is this a folder of VOC's layout"):
        find_voc_images(root)


def test_the_published_list_counts_when_it_is_named(tmp_path):
    root = make_voc(tmp_path, {"a": ["cat"]})
    with pytest.raises(InputError, match=r"but VOC 2012's list train_aug names it, and .* has no"):
        find_voc_images(root, "train_aug")
    (root / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("a\n")
    assert [item.id for item in find_voc_images(root, "train_aug")] == ["a"]


@pytest.mark.parametrize("ending", [".jpeg", ".png", ".JPG"])
def test_pictures_may_have_other_endings(tmp_path, ending):
    root = make_voc(tmp_path, {"a": ["cat"]})
    other = root / "JPEGImages" / f"a{ending}"
    PIL.Image.new("RGB", (20, 10)).save(other)
    (root / "JPEGImages" / "a.jpg").unlink(missing_ok=True)
    if not other.exists():  # a disk that takes a.JPG for a.jpg
        pytest.skip("names do not tell small letters from capitals here")
    assert find_voc_images(root, "train")[0].image_path == other
    other.unlink()
    with pytest.raises(InputError, match="train: no picture a in"):
        find_voc_images(root, "train")


def test_objects_of_other_classes_than_ones_own_do_not_count(tmp_path):
    root = make_voc(tmp_path, {"a": ["dog", "hat"], "b": ["cat", "person"], "c": []})
    items = find_voc_images(root, "train", class_names=("hat", "dog"), ignores_others=True)
    assert [item.classes for item in items] == [(0, 1), (), ()]
    with pytest.raises(InputError, match="unknown class 'cat'"):
        find_voc_images(root, "train", class_names=("hat", "dog"))


def test_own_classes_that_nothing_shows_or_that_are_written_otherwise_are_refused(tmp_path):
    root = make_voc(tmp_path, {"a": ["dog"], "b": ["cat"]})
    with pytest.raises(InputError, match="no annotation names catt; they name cat, dog"):
        find_voc_images(root, "train", class_names=("catt",), ignores_others=True)
    with pytest.raises(InputError, match=r"a\.xml: unknown class 'dog'; did you mean Dog\?"):
        find_voc_images(root, "train", class_names=("cat", "Dog"), ignores_others=True)


def test_missing_lists_and_pictures_are_said(tmp_path):
    root = make_voc(tmp_path, {"a": ["dog"]})
    with pytest.raises(InputError, match="2008_000006"):
        find_voc_images(root, "test")
    with pytest.raises(InputError, match="nothing: no such list"):
        find_voc_images(root, "nothing")
    (root / "twice.txt").write_text("a\na\n")
    with pytest.raises(InputError, match="names a twice"):
        find_voc_images(root, str(root / "twice.txt"))


def test_label_maps_keep_255_and_have_vocs_colours(tmp_path):
    labels = np.array([[0, 1, 20], [255, 15, 0]], dtype=np.uint8)
    path = write_voc_labels(tmp_path / "new" / "a.png", labels)
    assert np.array_equal(read_voc_labels(path, n_labels=21), labels)
    with PIL.Image.open(path) as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
        assert picture.convert("RGB").getpixel((0, 1)) == (224, 224, 192)


def test_black_and_white_labels_stay_numbers(tmp_path):
    labels = np.array([[0, 255]], dtype=np.uint8)
    path = write_voc_labels(tmp_path / "a.png", labels)
    assert np.array_equal(read_voc_labels(path), labels)


def test_labels_beyond_the_classes_are_refused(tmp_path):
    path = write_voc_labels(tmp_path / "a.png", np.full((2, 2), 30, dtype=np.uint8))
    with pytest.raises(InputError, match="has label 30, expected 0 to 20 and 255"):
        read_voc_labels(path, n_labels=21)
    PIL.Image.new("RGB", (2, 2), (128, 0, 0)).save(tmp_path / "colours.png")
    with pytest.raises(InputError, match="colours"):
        read_voc_labels(tmp_path / "colours.png")
    with pytest.raises(InputError, match=r"written as \.png"):
        write_voc_labels(tmp_path / "a.jpg", np.zeros((2, 2), dtype=np.uint8))
