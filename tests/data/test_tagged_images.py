import numpy as np
import PIL.Image
import pytest

from maskhone.data.tagged_images import (
    check_truth_sizes,
    choose_images,
    find_pictures_of,
    find_tagged_images,
    read_class_names,
)
from maskhone.errors import InputError

CLASSES = ("cat", "dining table", "dog")


def find(folder, text, names=("a.jpg", "b.png", "sub/c.jpg"), **options):
    images = folder / "images"
    for name in names:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (4, 3)).save(images / name)
    (folder / "list.csv").write_text(text)
    return find_tagged_images(folder / "list.csv", images, CLASSES, **options)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("cat", (0,)),
        ("dog cat", (0, 2)),
        ("dog;cat; dog", (0, 2)),
        ("dining table", (1,)),
        ("dining table;cat dog", (0, 1, 2)),
        ('"dining table, cat"', (0, 1)),
        ('"cat,dog"', (0, 2)),
        ("", ()),
        (";", ()),
    ],
)
def test_labels_are_separated_by_semicolons_spaces_or_quoted_commas(tmp_path, text, classes):
    (item,) = find(tmp_path, f"image,labels\na.jpg,{text}\n")
    assert item.classes == classes


def test_pictures_come_in_the_order_of_the_lines(tmp_path):
    items = find(tmp_path, "image,labels\nsub/c.jpg,dog\n\nb,cat\na.jpg,\n")
    assert [item.id for item in items] == ["sub/c", "b", "a"]
    assert items[1].image_path.name == "b.png"
    assert items[0].truth_path is None


def test_truths_are_found_by_id(tmp_path):
    truths = tmp_path / "truths"
    truths.mkdir()
    PIL.Image.fromarray(np.zeros((3, 4), dtype=np.uint8)).save(truths / "b.png")
    items = find(tmp_path, "image,labels\na.jpg,cat\nb.png,dog\n", truths_dir=truths)
    assert [item.truth_path for item in items] == [None, truths / "b.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,labels\na.jpg,dogg\n", "line 2: unknown class 'dogg'; did you mean dog?"),
        ("image,labels\na.jpg,xyz\n", "known: cat, dining table, dog"),
        ("image,labels\na.jpg,cat\nx.jpg,cat\n", "line 3: no picture x.jpg"),
        ("image,labels\na.jpg,cat\na,dog\n", "line 3: a has a line already"),
        ("image,labels\n,dog\n", "line 2: names no picture"),
        ("image,labels\na.jpg,cat,dog\n", "line 2: has too many cells"),
        ("image,labels\n../a.jpg,cat\n", "lies outside"),
        ("image,labels\n", "has no lines below the header"),
        ("", "the first line is ''; expected image,labels"),
        ("name,tags\na.jpg,cat\n", "the first line is 'name,tags'"),
    ],
)
def test_bad_lines_are_refused_in_one_clear_line(tmp_path, text, said):
    with pytest.raises(InputError) as caught:
        find(tmp_path, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_without_suffix_must_fit_one_picture(tmp_path):
    with pytest.raises(InputError, match=r"a may be any of a\.jpg, a\.png"):
        find(tmp_path, "image,labels\na,cat\n", names=("a.jpg", "a.png"))


def test_one_picture_under_two_suffixes_is_one(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.JPG").symlink_to("a.jpg")  # so where upper and lower case are one
    (item,) = find(tmp_path, "image,labels\na,cat\n", names=("a.jpg",))
    assert item.id == "a"


def test_absolute_names_are_taken_where_they_lie_in_the_folder(tmp_path):
    (item,) = find(tmp_path, f"image,labels\n{tmp_path}/images/sub/c.jpg,cat\n")
    assert (item.id, item.image_path) == ("sub/c", tmp_path / "images" / "sub" / "c.jpg")
    with pytest.raises(InputError, match="lies outside"):
        find(tmp_path, f"image,labels\n{tmp_path}/c.jpg,cat\n")


def test_a_missing_list_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        find_tagged_images(tmp_path / "list.csv", tmp_path, CLASSES)


def test_ids_choose_pictures(tmp_path):
    items = find(tmp_path, "image,labels\na.jpg,cat\nb.png,dog\n")
    (tmp_path / "ids.txt").write_text("b\n")
    assert choose_images(items, tmp_path / "ids.txt") == [items[1]]
    (tmp_path / "ids.txt").write_text("b.png\na\n")
    assert choose_images(items, tmp_path / "ids.txt") == [items[1], items[0]]
    (tmp_path / "ids.txt").write_text("b.png\nb\n")
    with pytest.raises(InputError, match="names b twice"):
        choose_images(items, tmp_path / "ids.txt")
    (tmp_path / "ids.txt").write_text("z\n")
    with pytest.raises(InputError, match="z has no line"):
        choose_images(items, tmp_path / "ids.txt")


def test_class_names_are_lines_and_unique(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("dining table\n\ncat\n")
    assert read_class_names(path) == ("dining table", "cat")
    path.write_text("cat\ncat\n")
    with pytest.raises(InputError, match="'cat' twice"):
        read_class_names(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="names no class"):
        read_class_names(path)


def test_pictures_without_labels_are_found_by_their_ids(tmp_path):
    find(tmp_path, "image,labels\na,cat\n")
    PIL.Image.new("L", (4, 3)).save(tmp_path / "b.png")
    items = find_pictures_of(
        ["sub/c", "b"], tmp_path / "images", truths_dir=tmp_path, source="test.txt"
    )
    assert [(item.id, item.classes) for item in items] == [("sub/c", ()), ("b", ())]
    assert [item.truth_path for item in items] == [None, tmp_path / "b.png"]
    for ids, said in ((["z"], "no picture z"), (["b", "b"], "b twice"), ([], "names no picture")):
        with pytest.raises(InputError, match=rf"test\.txt.*{said}"):
            find_pictures_of(ids, tmp_path / "images", source="test.txt")


def test_sizes_of_truths_are_those_of_upright_pictures(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # lies on its side
    find(tmp_path, "image,labels\na,cat\n")
    PIL.Image.new("RGB", (4, 3)).save(tmp_path / "images" / "a.jpg", exif=exif)
    ids = {"truths_dir": tmp_path, "source": "test.txt"}
    PIL.Image.new("L", (3, 4)).save(tmp_path / "a.png")
    check_truth_sizes(find_pictures_of(["a", "b"], tmp_path / "images", **ids))
    PIL.Image.new("L", (4, 5)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png is \(5, 4\), but .*a\.jpg is \(4, 3\)"):
        check_truth_sizes(find_pictures_of(["a"], tmp_path / "images", **ids))
    (tmp_path / "images" / "b.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"b\.png: not a picture"):
        check_truth_sizes(find_pictures_of(["b"], tmp_path / "images", **ids))
