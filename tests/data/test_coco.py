import json

import numpy as np
import PIL.Image
import pytest

from maskhone.data.coco import (
    find_coco_items,
    from_rle,
    load_coco_item,
    load_results,
    refined_entry,
    to_rle,
    write_results,
)
from maskhone.errors import InputError

LEFT = np.array([[1, 0, 0], [1, 0, 0]], dtype=bool)
FULL = np.ones((2, 3), dtype=bool)


def dump(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def save_photo(path, size_hw=(2, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.zeros((*size_hw, 3), dtype=np.uint8)).save(path)


def entry(image_id, mask=LEFT, **fields):
    return {"image_id": image_id, "category_id": 5, "segmentation": to_rle(mask), **fields}


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param(to_rle(LEFT), id="text"),
        pytest.param({"size": [2, 3], "counts": to_rle(LEFT)["counts"].encode()}, id="bytes"),
        pytest.param({"size": [2, 3], "counts": [0, 2, 4]}, id="plain"),
        pytest.param([[0, 0, 0, 2, 1, 2, 1, 0]], id="polygon"),
    ],
)
def test_every_form_of_segmentation_decodes(segmentation):
    assert from_rle(segmentation, size_hw=(2, 3)).tolist() == LEFT.tolist()


@pytest.mark.parametrize("mask", [LEFT, FULL, ~FULL, FULL[:1, :1]])
def test_codes_give_the_mask_back(mask):
    coded = to_rle(mask.astype(np.float32))
    assert isinstance(coded["counts"], str)
    assert from_rle(json.loads(json.dumps(coded)), size_hw=mask.shape).tolist() == mask.tolist()


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [3, 2], "counts": [6]}, "image is 2x3 but mask is 3x2.*transpose"),
        ({"size": [2, 3], "counts": [5]}, "covers 5 pixels, expected 6"),
        ({"size": [2, 3], "counts": [7]}, "covers 7 pixels, expected 6"),
        ({"size": [2, 3], "counts": "garb!!"}, "no run-length code"),
        ({"size": [2, 3]}, "expected a dict of size and counts"),
        ({"size": 6, "counts": [6]}, "expected a dict of size and counts"),
        ("abc", "expected a dict of size and counts"),
        (None, "expected a dict of size and counts"),
    ],
)
def test_bad_segmentations_are_refused_by_name(segmentation, said):
    with pytest.raises(InputError, match=f"^entry 4: .*{said}"):
        from_rle(segmentation, size_hw=(2, 3), name="entry 4")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{not json", "not json"),
        (b"\xff\xfe\x00", "not json"),
        (b'{"images": []}', "without annotations"),
        (b"7", "holds int"),
        (b'[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "entry 0 lacks .*not of boxes"),
        (b'[{"image_id": [], "segmentation": []}]', "entry 0 lacks"),
        (b"[3]", "entry 0 lacks"),
        (b'{"annotations": [], "images": [{}]}', "images each have an id"),
    ],
)
def test_files_that_are_no_results_are_refused_by_name(tmp_path, content, said):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"r\.json: .*{said}"):
        load_results(tmp_path / "r.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"r\.json: cannot read \(No such file"):
        load_results(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("file", "image_id", "row"),
    [
        ("000000000139.jpg", 139, None),
        ("x1.jpg", "x1", None),
        ("s/139.png", 139, None),
        ("größe.jpg", 139, {"id": 139, "file_name": "größe.jpg"}),
        ("val/a.jpg", 139, {"id": 139, "file_name": "val/a.jpg"}),
        ("a.jpg", 139, {"id": 139, "file_name": "val/a.jpg"}),
        ("val2017/a.jpg", 7, {"id": 7, "coco_url": "http://images.org/val2017/a.jpg"}),
    ],
)
def test_images_are_found_by_name_or_number(tmp_path, file, image_id, row):
    save_photo(tmp_path / "i" / file)
    plain = load_results(dump(tmp_path / "r.json", [entry(image_id)]))
    images_json = dump(tmp_path / "images.json", {"images": [row]}) if row else None
    [item], problems = find_coco_items(plain, tmp_path / "i", images_json)
    assert problems == []
    assert item.image_path == tmp_path / "i" / file
    whole = {"annotations": [entry(image_id)], "images": [row] if row else []}
    assert find_coco_items(load_results(dump(tmp_path / "d.json", whole)), tmp_path / "i") == (
        [item],
        [],
    )


def test_an_entrys_own_file_name_is_the_last_resort(tmp_path):
    save_photo(tmp_path / "a.jpg")
    results = load_results(dump(tmp_path / "r.json", [entry(3, file_name="a.jpg")]))
    [item], _ = find_coco_items(results, tmp_path)
    assert item.image_path == tmp_path / "a.jpg"


def test_unknown_images_are_reported_and_the_rest_goes_on(tmp_path):
    save_photo(tmp_path / "2.jpg")
    results = load_results(dump(tmp_path / "r.json", [entry(1), entry(2), entry(1)]))
    items, [problem] = find_coco_items(results, tmp_path)
    assert [item.image_id for item in items] == [2]
    assert "r.json: image 1 (2 entries) is not in" in problem
    assert "images_json" in problem


def test_entries_are_grouped_in_order_of_first_appearance(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        save_photo(tmp_path / name)
    results = load_results(dump(tmp_path / "r.json", [entry(2), entry(1), entry(2)]))
    items, _ = find_coco_items(results, tmp_path)
    assert [(item.image_id, item.entry_indices) for item in items] == [(2, (0, 2)), (1, (1,))]


def test_some_or_all_masks_of_an_image_are_loaded(tmp_path):
    save_photo(tmp_path / "1.jpg")
    results = load_results(dump(tmp_path / "r.json", [entry(1), entry(1, FULL, category_id=8)]))
    [item], _ = find_coco_items(results, tmp_path)
    both = load_coco_item(item, results)
    np.testing.assert_array_equal(both.masks, [LEFT, FULL])
    assert both.labels.tolist() == [5, 8]
    last = load_coco_item(item, results, [1], image=both.image)
    np.testing.assert_array_equal(last.masks, [FULL])
    assert last.meta["entry_indices"] == (1,)
    assert last.image is both.image


def test_a_code_of_another_size_names_image_entry_and_sizes(tmp_path):
    save_photo(tmp_path / "1.jpg", (4, 6))
    results = load_results(dump(tmp_path / "r.json", [entry(1)]))
    [item], _ = find_coco_items(results, tmp_path)
    with pytest.raises(InputError, match=r"entry 0 \(image 1, 1\.jpg\): image is 4x6 but .* 2x3"):
        load_coco_item(item, results)


def test_a_refined_entry_keeps_all_but_the_mask():
    old = entry(1, score=0.1, bbox=[0.5, 0, 1, 2], extra="kept")
    new = refined_entry(old, FULL)
    assert {**new, "segmentation": None} == {**old, "segmentation": None}
    assert new["segmentation"] == to_rle(FULL)
    assert old["segmentation"] == to_rle(LEFT)


@pytest.mark.parametrize(
    ("mask", "bbox", "area"), [(LEFT, [0, 0, 1, 2], 2), (~FULL, [0, 0, 0, 0], 0)]
)
def test_box_and_area_are_recomputed_on_request(mask, bbox, area):
    new = refined_entry(entry(1, bbox=[9, 9, 9, 9], area=81), mask, recompute_box=True)
    assert (new["bbox"], new["area"]) == (bbox, area)


@pytest.mark.parametrize("form", ["list", "data set", "empty"])
def test_results_are_written_in_form_and_order(tmp_path, form):
    entries = [] if form == "empty" else [entry(n, score=0.1 * n, name="é") for n in (3, 1, 2)]
    document = entries
    if form == "data set":
        document = {"info": {"y": 1}, "annotations": entries, "categories": [{"id": 5}]}
    results = load_results(dump(tmp_path / "r.json", document))
    refined = {1: refined_entry(entries[1], FULL)} if entries else {}
    write_results(tmp_path / "out" / "r.json", results, refined)
    if entries:
        entries[1] = refined[1]
    written = json.loads((tmp_path / "out" / "r.json").read_text(encoding="utf-8"))
    assert written == document
    assert list(written) == list(document)
