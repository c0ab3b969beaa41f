import numpy as np
import pytest

from maskhone.ops.patches import crop, paste_average

IMAGE = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("box", [[1, 1, 3, 3], [-1, -2, 3, 2], [2, 1, 6, 5], [0, 0, 9, 9]], ids=str)
def test_pasting_what_was_cut_gives_the_image_back_on_covered_pixels(box):
    boxes = np.array([box])
    pasted, is_covered = paste_average(crop(IMAGE, boxes), boxes, IMAGE.shape)
    x1, y1, x2, y2 = np.maximum(box, 0)
    expected = np.zeros(IMAGE.shape, dtype=bool)
    expected[y1:y2, x1:x2] = True
    np.testing.assert_array_equal(is_covered, expected)
    np.testing.assert_array_equal(pasted, IMAGE * expected)


def test_what_lies_outside_reads_zero():
    assert crop(IMAGE, np.array([[3, 2, 5, 4]])).tolist() == [[[11, 0], [0, 0]]]


def test_a_box_far_outside_reads_only_zeros():
    assert not crop(IMAGE + 1, np.array([[-9, -9, -7, -7], [20, 20, 22, 22]])).any()


def test_colours_and_types_are_kept():
    image = np.zeros((3, 4, 3), dtype=np.uint8)
    patches = crop(image, np.array([[0, 0, 2, 2]]))
    assert patches.shape == (1, 2, 2, 3)
    assert patches.dtype == np.uint8


def test_patches_are_copies():
    image = IMAGE.copy()
    crop(image, np.array([[0, 0, 2, 2]]))[:] = -1
    np.testing.assert_array_equal(image, IMAGE)


def test_paste_average_averages_where_patches_overlap():
    patches = np.array([[[1.0, 1.0]], [[4.0, 4.0]], [[4.0, 4.0]]], dtype=np.float32)
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1], [1, 0, 3, 1]])
    mean, _ = paste_average(patches, boxes, (1, 3))
    assert mean.tolist() == [[1, 3, 4]]


def test_paste_average_leaves_uncovered_pixels_zero():
    mean, is_covered = paste_average(
        np.ones((1, 1, 1), np.float32), np.array([[1, 0, 2, 1]]), (1, 3)
    )
    assert mean.tolist() == [[0, 1, 0]]
    assert is_covered.tolist() == [[False, True, False]]


def test_no_patches_cover_nothing():
    nothing = np.zeros((0, 4), dtype=np.int64)
    mean, is_covered = paste_average(np.zeros((0, 2, 2), np.float32), nothing, (2, 3))
    assert mean.shape == (2, 3)
    assert not is_covered.any()
    assert len(crop(IMAGE, nothing)) == 0
