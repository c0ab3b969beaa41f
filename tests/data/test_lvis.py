import json

import numpy as np
import pytest

from maskhone.data.coco import to_rle
from maskhone.data.lvis import to_coco
from maskhone.errors import InputError
from maskhone.metrics.average_precision import average_precision


@pytest.fixture
def lvis(disc):
    """Two images, a person in each (LVIS number 900), and a lamp that COCO does not know."""
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    images = [{"id": i, "height": 40, "width": 48, **lists} for i in (1, 2)]
    person = {"area": int(disc.sum()), "bbox": [14, 10, 21, 21], "segmentation": to_rle(disc)}
    annotations = [
        {"id": 5, "image_id": 1, "category_id": 900, **person},
        {"id": 6, "image_id": 2, "category_id": 900, **person},
        {"id": 7, "image_id": 1, "category_id": 12, **person},
    ]
    categories = [
        {"id": 900, "name": "person", "synset": "person.n.01", "frequency": "f"},
        {"id": 12, "name": "lamp", "synset": "lamp.n.01", "frequency": "r"},
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def detect(disc, image_id, category_id):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "score": 0.9,
        "bbox": [14, 10, 21, 21],
        "segmentation": to_rle(disc),
    }


def test_coco_results_are_scored_on_the_coco_part(lvis, disc):
    truth = to_coco(lvis, {"images": [{"id": 1}]})
    assert [each["category_id"] for each in truth["annotations"]] == [1]
    scores = average_precision([detect(disc, 1, 1), detect(disc, 2, 1)], truth)
    assert scores["AP"] == pytest.approx(1)
    assert np.isnan(scores["AP_rare"])


def test_detections_of_what_nobody_looked_for_do_not_count(lvis, disc):
    lamp_elsewhere = detect(disc, 2, 12)
    scores = average_precision([detect(disc, 1, 12), lamp_elsewhere], lvis)
    assert scores["AP_rare"] == pytest.approx(1)
    assert scores["AP_frequent"] == 0


@pytest.mark.parametrize("kind", ["segm", "boundary"])
def test_no_detections_score_zero_where_there_is_truth(lvis, kind):
    scores = average_precision([], lvis, kind=kind)
    assert scores["AP"] == scores["AP_rare"] == scores["AR"] == 0
    assert np.isnan(scores["AP_common"])


def test_results_without_boxes_are_scored_twice(lvis, disc):
    """The scorer completes entries; the caller's stay as they are."""
    results = [detect(disc, 1, 900), detect(disc, 2, 900)]
    for entry in results:
        del entry["bbox"]
    before = json.dumps(results)
    for kind in ("segm", "boundary"):
        scores = average_precision(results, lvis, kind=kind)
        assert scores["AP_frequent"] == pytest.approx(1)
    assert json.dumps(results) == before


@pytest.mark.parametrize("field", ["category_id", "score"])
def test_results_that_lack_a_field_are_refused(lvis, disc, field):
    entry = detect(disc, 1, 900)
    del entry[field]
    with pytest.raises(InputError, match=f"entry 0 has no {field}"):
        average_precision([entry], lvis)


def test_another_json_is_refused():
    with pytest.raises(InputError, match="categories"):
        to_coco({"images": [], "annotations": []}, {"images": []})
    with pytest.raises(InputError, match="COCO json has no images"):
        to_coco({"images": [], "annotations": [], "categories": []}, [])


def test_evaluate_finds_the_coco_part(run_cli, lvis, disc, tmp_path):
    for name, content in (
        ("lvis", lvis),
        ("coco", {"images": [{"id": 1}], "annotations": [], "categories": []}),
        ("results", [detect(disc, 1, 1)]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    paths = [tmp_path / "results.json", tmp_path / "lvis.json"]
    said = run_cli("evaluate", *paths, "--coco-images", tmp_path / "coco.json", "--json")
    assert said.code == 0
    assert json.loads(said.out)["rows"][0]["AP"] == pytest.approx(1)
