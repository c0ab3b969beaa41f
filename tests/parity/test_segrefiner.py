"""SegRefiner's evaluation against its own scripts (../shared/spec/segrefiner.md section 8)."""

import numpy as np
import pytest
from tests.parity.golden import Fixture, find_fixtures, tolerance_number

from maskhone.metrics.boundary import band_radii_px, mean_boundary_accuracy
from maskhone.metrics.region import RegionScores, count_overlap


def unpack(fixture: Fixture, name: str, size_hw: tuple[int, int]) -> np.ndarray:
    bits = np.unpackbits(fixture.outputs[name], count=size_hw[0] * size_hw[1])
    return bits.reshape(size_hw).astype(bool)


@pytest.mark.parametrize("kind", ["coarse", "refined"])
@pytest.mark.parametrize("fixture", find_fixtures("segrefiner", "metrics*"))
def test_iou_and_mba_are_those_of_the_scripts(fixture: Fixture, kind: str) -> None:
    tolerance = tolerance_number(fixture.manifest["tolerance"])
    region, accuracies = RegionScores(), []
    for i, image in enumerate(fixture.manifest["images"]):
        size_hw = tuple(image["hw"])
        target = unpack(fixture, f"gt_{i}", size_hw)
        prediction = unpack(fixture, f"{kind}_{i}", size_hw)
        assert list(band_radii_px(size_hw)) == image["radii"]
        assert list(count_overlap(prediction, target)) == image[f"inter_union_{kind}"]
        accuracies.append(mean_boundary_accuracy(prediction, target))
        assert accuracies[-1] == pytest.approx(image[f"mba_{kind}"], abs=tolerance)
        region.update(prediction, target)
    dataset = fixture.manifest["dataset"]
    assert region.compute()["pooled_iou"] == pytest.approx(dataset[f"iou_{kind}"], abs=tolerance)
    assert np.mean(accuracies) == pytest.approx(dataset[f"mba_{kind}"], abs=tolerance)
