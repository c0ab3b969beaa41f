import numpy as np
import pytest

from maskhone.contracts import FOREGROUND
from maskhone.ops import guided_filter as guided_filter_module
from maskhone.ops.guided_filter import guide_masks, guided_filter


def errors(scores, truth):
    return int(((scores > FOREGROUND) != truth).sum())


def test_a_mask_that_is_too_large_shrinks_towards_the_edges(scene):
    image, truth, coarse = scene
    filtered = guide_masks(image, coarse, radius_px=8, smoothness=1e-3)
    assert filtered.dtype == np.float32
    assert ((filtered >= 0) & (filtered <= 1)).all()
    assert errors(filtered[0], truth) < errors(coarse[0], truth)


def test_a_mask_on_the_edges_stays_there(scene):
    image, truth, _ = scene
    filtered = guide_masks(image, truth[None].astype(np.float32), radius_px=8)
    assert errors(filtered[0], truth) == 0


def test_without_edges_a_mask_is_blurred(scene):
    _, _, coarse = scene
    filtered = guided_filter(
        np.zeros((64, 64, 3), np.uint8), coarse[0], radius_px=4, smoothness=1e-4
    )
    assert 0.3 < filtered[32, 17] < 0.7
    assert filtered[32, 32] == pytest.approx(1, abs=1e-4)
    assert filtered[2, 2] == pytest.approx(0, abs=1e-4)


def test_far_from_the_outline_nothing_changes(scene):
    image, _, coarse = scene
    filtered = guide_masks(image, coarse, radius_px=2)
    np.testing.assert_allclose(filtered[0, :12], 0, atol=1e-3)
    np.testing.assert_allclose(filtered[0, 23:41, 23:41], 1, atol=1e-3)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_empty_and_full_masks_stay(scene, fill):
    masks = np.full((1, 64, 64), fill, dtype=np.float32)
    np.testing.assert_array_equal(guide_masks(scene[0], masks), masks)


def test_masks_are_filtered_each_alone_and_left_as_they_were(scene):
    image, truth, coarse = scene
    both = np.concatenate([coarse, truth[None].astype(np.float32)])
    before = both.copy()
    filtered = guide_masks(image, both)
    np.testing.assert_array_equal(both, before)
    for index in range(2):
        np.testing.assert_array_equal(filtered[[index]], guide_masks(image, both[[index]]))


def test_the_radius_grows_with_the_object(scene):
    image, _, coarse = scene
    side = np.sqrt(np.count_nonzero(coarse))
    np.testing.assert_array_equal(
        guide_masks(image, coarse, radius_share=5 / side), guide_masks(image, coarse, radius_px=5)
    )


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_tiles_are_filtered_as_the_whole(monkeypatch, kind):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    scores = np.zeros((90, 110), dtype=np.float32)
    scores[30:70, 20:64] = 1 if kind == "hard" else random.random((40, 44))
    whole = guide_masks(image, scores[None], radius_px=3)
    monkeypatch.setattr(guided_filter_module, "_TILE_PX", (16, 16))  # 48 tiles
    np.testing.assert_allclose(guide_masks(image, scores[None], radius_px=3), whole, atol=1e-4)


@pytest.mark.parametrize("smoothness", [1e-4, np.float32(1e-4)], ids=["float", "float32"])
def test_the_spread_of_colours_is_made_invertible_in_double_precision(scene, smoothness):
    guide = scene[0].astype(np.float32) / 255
    found = guided_filter_module._spread(guide, guide, smoothness, 4)
    assert [each.dtype for each in found] == [np.float64] * 6


def test_slopes_solve_the_system_of_every_pixel():
    random = np.random.default_rng(0)
    square = random.normal(size=(4, 5, 3, 3))
    spread = square @ square.swapaxes(2, 3) + 1e-4 * np.eye(3)
    right = random.normal(size=(4, 5, 3)).astype(np.float32)
    upper = [spread[..., i, j] for i in range(3) for j in range(i, 3)]
    found = guided_filter_module._solve(upper, right)
    expected = np.linalg.solve(spread, right[..., None].astype(np.float64))[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
