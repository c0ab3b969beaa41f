"""Holds the metrics of SegRefiner's evaluation to the stored outputs of the published scripts."""

import json

import numpy as np
import pytest

from maskhone.metrics.average_precision import average_precision
from maskhone.metrics.boundary import BoundaryScores, band_radii_px, mean_boundary_accuracy
from maskhone.metrics.region import RegionScores, count_overlap
from tests.parity.golden import find_fixtures, tolerance_number


def unpack_masks(fixture):
    """Yields (entry, target, coarse, refined) of each image; the masks are stored as bits."""
    for number, entry in enumerate(fixture.manifest["images"]):
        height, width = entry["hw"]
        masks = [
            np.unpackbits(fixture.outputs[f"{name}_{number}"], count=height * width)
            for name in ("gt", "coarse", "refined")
        ]
        yield entry, *(mask.reshape(height, width).astype(bool) for mask in masks)


@pytest.mark.parametrize("fixture", find_fixtures("segrefiner", "metrics*"))
def test_each_image_scores_as_published(fixture):
    tolerance = tolerance_number(fixture.manifest["tolerance"])
    for entry, target, *predictions in unpack_masks(fixture):
        assert list(band_radii_px(target.shape)) == entry["radii"]
        for name, prediction in zip(("coarse", "refined"), predictions, strict=True):
            assert list(count_overlap(prediction, target)) == entry[f"inter_union_{name}"]
            expected = pytest.approx(entry[f"mba_{name}"], abs=tolerance)
            assert mean_boundary_accuracy(prediction, target) == expected


@pytest.mark.parametrize("which", ["coarse", "refined"])
@pytest.mark.parametrize("fixture", find_fixtures("segrefiner", "metrics*"))
def test_the_data_set_scores_as_published(fixture, which):
    tolerance = tolerance_number(fixture.manifest["tolerance"])
    region, boundary = RegionScores(), BoundaryScores()
    for _, target, coarse, refined in unpack_masks(fixture):
        prediction = coarse if which == "coarse" else refined
        region.update(prediction, target)
        boundary.update(prediction, target)
    expected = fixture.manifest["dataset"]
    assert region.compute()["pooled_iou"] == pytest.approx(expected[f"iou_{which}"], abs=tolerance)
    assert boundary.compute()["mba"] == pytest.approx(expected[f"mba_{which}"], abs=tolerance)


@pytest.mark.parametrize("kind", ["segm", "boundary"])
@pytest.mark.parametrize("fixture", find_fixtures("segrefiner", "lvis_ap*"))
def test_lvis_ap_equals_the_published_one(fixture, kind):
    pytest.importorskip("faster_coco_eval", reason="the extra `eval` is not installed")
    detections, target = (
        json.loads((fixture.path / name).read_text()) for name in ("dt.json", "gt.json")
    )
    scores = average_precision(detections, target, kind=kind)
    for name, expected in fixture.manifest["results"][kind].items():
        ours = scores[name.split("@")[0]]
        published = np.nan if expected == -1 else expected
        tolerance = tolerance_number(fixture.manifest["tolerance"])
        assert ours == pytest.approx(published, abs=tolerance, nan_ok=True), name
