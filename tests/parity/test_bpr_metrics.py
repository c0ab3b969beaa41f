"""Holds the Cityscapes AP and the boundary F to the stored outputs of the published code."""

import cv2
import numpy as np
import pytest

from maskhone.metrics.boundary import boundary_map, boundary_precision_recall_f
from maskhone.metrics.cityscapes import THINGS, CityscapesScores, Instance
from tests.parity.golden import find_fixtures, tolerance_number


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "boundary_f*"))
def test_boundary_maps_equal_the_published_ones(fixture):
    for key, mask in fixture.outputs.items():
        if key.startswith("mask/"):
            expected = fixture.outputs[key.replace("mask/", "bmap/")]
            np.testing.assert_array_equal(boundary_map(mask > 0), expected > 0)


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "boundary_f*"))
def test_boundary_f_equals_the_published_one(fixture):
    tolerance = tolerance_number(fixture.manifest["tolerance"])
    for case in fixture.manifest["cases"]:
        target = fixture.outputs[f"mask/{case['mask']}"] > 0
        prediction = np.roll(target, case["pred_shift"], axis=(0, 1))
        precision, _, f_score = boundary_precision_recall_f(
            prediction, target, tolerances=[case["bound_th"]]
        )[0]
        assert f_score == pytest.approx(case["F"], abs=tolerance), case
        assert precision == pytest.approx(case["precision"], abs=tolerance), case


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "cityscapes_ap*"))
def test_cityscapes_ap_equals_the_published_one(fixture):
    manifest = fixture.manifest
    ids = {name: label_id for label_id, name in THINGS.items()}
    metric = CityscapesScores(
        labels={ids[name]: name for name in manifest["labels"]},
        overlaps=manifest["overlaps"],
        min_pixels=manifest["min_region"],
    )
    for path in sorted(fixture.path.glob("gt/*/*_gtFine_instanceIds.png")):
        stem = path.name.removesuffix("_gtFine_instanceIds.png")
        metric.update(read_predictions(fixture.path / "pred", stem), read(path))
    tolerance = tolerance_number(manifest["tolerance"])
    expected = fixture.outputs[manifest["array"].split("[")[0]][0]
    np.testing.assert_allclose(metric.ap_matrix(), expected, atol=tolerance, rtol=0)
    assert metric.compute()["AP"] == pytest.approx(manifest["allAp"], abs=tolerance)
    assert metric.compute()["AP50"] == pytest.approx(manifest["allAp50"], abs=tolerance)


def read_predictions(folder, stem):
    (listing,) = folder.glob(f"{stem}*_pred.txt")
    for line in listing.read_text().splitlines():
        png, label_id, score = line.split()
        yield Instance(read(folder / png) > 0, int(label_id), float(score))


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
