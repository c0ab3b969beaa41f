"""PatchRefineNet against the original's own outputs."""

import numpy as np
import pytest
from tests.parity.golden import Fixture, find_fixtures, tolerance_number

from maskhone.methods.prn.thresholds import find_image_threshold, find_thresholds


def pcg(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def make_maps(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes the probability maps and truths of the threshold fixture."""
    scores, truths = [], []
    for i in range(n):
        g = pcg(seed + i)
        low = np.kron(g.random((32, 32)), np.ones((16, 16)))
        truth = (0.6 * low + 0.4 * g.random((512, 512)) > 0.55).astype(float)
        bias = np.kron(g.uniform(-0.35, 0.35, (8, 8)), np.ones((64, 64)))
        p = 0.35 * low + 0.2 * g.random((512, 512)) + 0.3 * truth + bias
        truth[0:64, 0:128] = 0
        p[64:128, 0:64] = 0.04
        p[128:192, 0:64] = 0.99
        truth[128:192, 0:64] = 1
        p[192:256, 0:64] = 1.0
        p[256:320, 0:64] = np.where(truth[256:320, 0:64], 0.5, 0.45)
        truth[448:, 448:] = 0
        p[448:, 448:] = 0.0
        scores.append(np.clip(p, 0, 1).astype(np.float32))
        truths.append(truth > 0)
    return np.stack(scores), np.stack(truths)


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def smoothed_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return ((mask & truth).sum() + 1) / ((mask | truth).sum() + 1)


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "optimal_thresholds*"))
def test_patch_thresholds_are_the_published_ones(fixture: Fixture) -> None:
    outputs, given = fixture.outputs, fixture.manifest["input"]
    tolerance = tolerance_number(fixture.manifest["tolerance"].split("IoU")[1])
    scores, truths = make_maps(given["seed"], given["n"])
    np.testing.assert_allclose(
        [scores.sum(dtype=np.float64), truths.sum()], outputs["input_checksum"], rtol=1e-9
    )
    sides = [int(k[1:].split("_")[0]) for k in outputs if k.endswith("_threshold") and k[0] == "p"]
    assert sides
    for side in sides:
        labels = unpack(outputs[f"p{side}_label_packed"], scores.shape)
        for i, (score, truth) in enumerate(zip(scores, truths, strict=True)):
            found = find_thresholds(score, truth, side)
            np.testing.assert_array_equal(
                found.thresholds.ravel(), outputs[f"p{side}_threshold"][i]
            )
            np.testing.assert_array_equal(found.labels, labels[i])
            iou = smoothed_iou(found.labels, truth)
            assert iou == pytest.approx(outputs[f"p{side}_image_iou"][i], abs=tolerance)
            curve = outputs.get(f"p{side}_iou_curve_image{i}")
            if curve is not None:
                np.testing.assert_allclose(found.curves.reshape(curve.shape), curve, atol=tolerance)


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "optimal_thresholds*"))
def test_image_thresholds_are_the_published_ones(fixture: Fixture) -> None:
    outputs, given = fixture.outputs, fixture.manifest["input"]
    scores, truths = make_maps(given["seed"], given["n"])
    labels = unpack(outputs["ist_label_packed"], scores.shape)
    for i, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        threshold, iou = find_image_threshold(score, truth)
        assert threshold == outputs["ist_threshold"][i]
        assert iou == pytest.approx(outputs["ist_iou"][i], abs=1e-6)
        np.testing.assert_array_equal(score > threshold, labels[i])
