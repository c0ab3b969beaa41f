import numpy as np
import pytest

from maskhone.ops.boxes import enclose_boxes, fit_boxes, nms


def keep(boxes, scores, threshold, **options):
    arrays = np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(scores, dtype=np.float32)
    return nms(*arrays, threshold, **options).tolist()


PAIR = [[0, 0, 2, 2], [1, 0, 3, 2]]  # share 2 of 6 pixels


def test_a_box_at_exactly_the_threshold_is_dropped():
    assert keep([[0, 0, 2, 1], [0, 0, 1, 1]], [2, 1], 0.5) == [0]


@pytest.mark.parametrize(("threshold", "kept"), [(0.33, [1]), (0.34, [1, 0])])
def test_the_weaker_of_two_overlapping_boxes_goes(threshold, kept):
    assert keep(PAIR, [1, 2], threshold) == kept


def test_of_equal_scores_the_first_stays():
    assert keep(PAIR, [1, 1], 0.3) == [0]


def test_a_dropped_box_drops_no_other():
    row = [[0, 0, 4, 1], [2, 0, 6, 1], [4, 0, 8, 1]]
    assert keep(row, [3, 2, 1], 0.3) == [0, 2]


def test_an_offset_counts_both_end_pixels():
    assert keep([[0, 0, 1, 1], [1, 0, 2, 1]], [2, 1], 0.3) == [0, 1]
    assert keep([[0, 0, 1, 1], [1, 0, 2, 1]], [2, 1], 0.3, offset_px=1) == [0]


def test_no_boxes_keep_none():
    assert keep([], [], 0.5) == []


@pytest.mark.parametrize(
    ("box", "fitted"),
    [
        ([2, 2, 6, 6], [2, 2, 6, 6]),
        ([-3, -1, 1, 3], [0, 0, 4, 4]),
        ([8, 7, 12, 11], [6, 4, 10, 8]),
        ([-1, 1, 11, 13], [0, 0, 12, 12]),
    ],
    ids=["inside", "above left", "below right", "too large"],
)
def test_boxes_are_shifted_into_the_image_and_keep_their_size(box, fitted):
    assert fit_boxes(np.array([box]), (8, 10)).tolist() == [fitted]


def test_the_enclosing_box_is_cut_to_the_image():
    boxes = np.array([[-2, 3, 4, 5], [1, 1, 20, 4]])
    assert enclose_boxes(boxes, (8, 10)) == (0, 1, 10, 5)
