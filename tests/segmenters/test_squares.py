import numpy as np
import pytest

from maskhone.segmenters.pfanet import double_pixels, prepare_mask
from maskhone.segmenters.squares import (
    cut_from_square,
    fit_into_square,
    make_square_truth,
    resize_scores,
    shrink_to_square,
)

SIZES = [(1, 1), (1, 7), (7, 1), (16, 16), (16, 15), (40, 23), (9, 31)]


def test_a_panorama_is_padded_above_and_below():
    square = fit_into_square(np.ones((8, 32), np.float32), 16)
    assert (square[:6] == 0).all()
    assert (square[6:10] == 1).all()
    assert (square[10:] == 0).all()


def test_a_tall_picture_is_padded_left_and_right():
    wide = np.random.default_rng(0).random((8, 32, 3), dtype=np.float32)
    tall = fit_into_square(wide.swapaxes(0, 1), 16)
    np.testing.assert_allclose(tall.swapaxes(0, 1), fit_into_square(wide, 16), atol=1e-6)


def test_an_odd_margin_leaves_the_padded_picture_one_pixel_short():
    # 4 + 2 * 0 rows of 5 columns: the rows are stretched to the square, as published
    assert (fit_into_square(np.ones((4, 5), np.float32), 10) == 1).all()


def test_no_panorama_needs_a_huge_square():
    fit_into_square(np.zeros((2, 300_000), np.float32), 16)  # 360 GB when padded first


@pytest.mark.parametrize("size_hw", SIZES)
def test_scores_come_back_at_the_size_of_the_picture(size_hw):
    scores = np.full((1, 16, 16), 0.75, np.float32)
    for restore in (resize_scores, cut_from_square):
        restored = restore(scores, size_hw)
        assert restored.shape == (1, *size_hw)
        assert restored.dtype == np.float32
        np.testing.assert_allclose(restored, 0.75, atol=1e-6)


@pytest.mark.parametrize("size_hw", [(48, 64), (64, 48), (31, 64)])
def test_cutting_undoes_fitting(size_hw):
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    ramp = ((rows + columns) / 128).astype(np.float32)
    found = cut_from_square(fit_into_square(ramp, 64)[None], size_hw)[0]
    inside = np.s_[2:-2, 2:-2]  # the zeros around it reach in by a pixel
    np.testing.assert_allclose(found[inside], ramp[inside], atol=0.003)


def test_shrinking_averages_areas():
    picture = np.array([[0, 100], [100, 200]], np.uint8)
    assert shrink_to_square(picture, 1) == 100


def test_one_half_is_inside_a_square_truth():
    halves = np.array([[1, 0, 0.4], [1, 0, 0.4], [1, 0, 0.6]], np.float32).repeat(2, 1)
    columns = halves[:2, [0, 2, 4, 4]]  # mean of the first two columns: 0.5; of the last: 0.4
    truth = make_square_truth(columns.repeat(2, 0), 2)
    np.testing.assert_array_equal(truth, [[[1, 0], [1, 0]]])


def test_an_empty_mask_stays_empty():
    for prepare in (prepare_mask, make_square_truth):
        truth = prepare(np.zeros((5, 7), np.float32), 8)
        assert truth.shape == (1, 8, 8)
        assert not truth.any()


def test_a_faint_soft_mask_is_brought_up_to_one():
    truth = prepare_mask(np.full((8, 8), 0.25, np.float32), 8)
    np.testing.assert_array_equal(truth, np.ones((1, 8, 8)))


def test_pixels_are_doubled_along_both_axes():
    doubled = double_pixels(np.array([[[0.1, 0.2]]], np.float32))
    np.testing.assert_allclose(doubled, [[[0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]]])
