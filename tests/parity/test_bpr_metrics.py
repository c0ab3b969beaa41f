"""BPR's metrics against cityscapesScripts and SegFix (../shared/spec/bpr.md section 7)."""

import numpy as np
import pytest
from tests.parity.golden import Fixture, find_fixtures, tolerance_number

from maskhone.data.cityscapes import read_detections
from maskhone.data.images import read_label_map
from maskhone.metrics.boundary import boundary_map, boundary_precision_recall_f
from maskhone.metrics.cityscapes import OVERLAPS, CityscapesAP
from maskhone.pipelines.evaluate import THINGS, VOID_IDS


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "cityscapes_ap*"))
def test_cityscapes_ap_is_that_of_the_public_scripts(fixture: Fixture) -> None:
    manifest = fixture.manifest
    metric = CityscapesAP(THINGS, VOID_IDS, with_boundary=False)
    truths = {p.name.split("_gtFine")[0]: p for p in fixture.path.rglob("*_instanceIds.png")}
    detections = read_detections(fixture.path / "pred")
    assert truths
    for name, path in truths.items():
        lines = detections.get(name, ())
        found = [(read_label_map(x.mask_path) > 0, x.category_id, x.score) for x in lines]
        metric.update(read_label_map(path), found)
    tolerance = tolerance_number(manifest["tolerance"])
    table = metric.average_precisions()
    assert list(THINGS.values()) == manifest["labels"]
    np.testing.assert_allclose(OVERLAPS, manifest["overlaps"])
    np.testing.assert_allclose(table, fixture.outputs["ap"][0], rtol=0, atol=tolerance)
    scores = metric.compute()
    assert scores["AP"] == pytest.approx(manifest["allAp"], abs=tolerance)
    assert scores["AP50"] == pytest.approx(manifest["allAp50"], abs=tolerance)


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "boundary_f*"))
def test_boundary_f_is_that_of_segfix(fixture: Fixture) -> None:
    tolerance = tolerance_number(fixture.manifest["tolerance"])
    for case in fixture.manifest["cases"]:
        target = fixture.outputs[f"mask/{case['mask']}"] > 0
        prediction = np.roll(target, case["pred_shift"], axis=(0, 1))
        found = boundary_precision_recall_f(prediction, target, tolerances=[case["bound_th"]])
        precision, _, f_score = found[0]
        assert f_score == pytest.approx(case["F"], abs=tolerance), case
        assert precision == pytest.approx(case["precision"], abs=tolerance), case


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "boundary_f*"))
def test_boundary_maps_are_those_of_segfix(fixture: Fixture) -> None:
    names = [key.split("/")[1] for key in fixture.outputs if key.startswith("bmap/")]
    assert names
    for name in names:
        ours = boundary_map(fixture.outputs[f"mask/{name}"] > 0)
        np.testing.assert_array_equal(ours, fixture.outputs[f"bmap/{name}"] > 0, err_msg=name)
