import numpy as np
import pytest

from maskhone.errors import InputError
from maskhone.ops.masks import (
    choose_classes,
    from_scores,
    join_labels,
    split_labels,
    surround,
    tight_box,
    to_scores,
)

KINDS = [
    pytest.param(np.array([[True, False]]), [[1, 0]], id="bool"),
    pytest.param(np.array([[0, 1]], dtype=np.uint8), [[0, 1]], id="0/1"),
    pytest.param(np.array([[0, 255]], dtype=np.uint8), [[0, 1]], id="0/255"),
    pytest.param(np.array([[1, 1]], dtype=np.uint8), [[1, 1]], id="all 1"),
    pytest.param(np.array([[255, 255]], dtype=np.uint8), [[1, 1]], id="all 255"),
    pytest.param(np.array([[0, 0]], dtype=np.uint8), [[0, 0]], id="all 0"),
    pytest.param(np.array([[0, 51, 255]], dtype=np.uint8), [[0, 0.2, 1]], id="uint8"),
    pytest.param(np.array([[0, 255]], dtype=np.uint16), [[0, 1]], id="uint16 0/255"),
    pytest.param(np.array([[0, 65535]], dtype=np.uint16), [[0, 1]], id="uint16 0/65535"),
    pytest.param(np.array([[0, 13107]], dtype=np.uint16), [[0, 0.2]], id="uint16"),
    pytest.param(np.array([[0, 1]], dtype=np.int64), [[0, 1]], id="int64 0/1"),
    pytest.param(np.array([[0, 0]], dtype=np.int8), [[0, 0]], id="int8 all 0"),
    pytest.param(np.array([[0, 0.25, 1]], dtype=np.float64), [[0, 0.25, 1]], id="float64"),
    pytest.param(np.array([[0, 1]], dtype=np.float16), [[0, 1]], id="float16 0/1"),
    pytest.param(np.zeros((0, 2, 3), dtype=np.float32), np.zeros((0, 2, 3)), id="no objects"),
    pytest.param(np.array([[[7]]], dtype=np.uint8), [[[7 / 255]]], id="one pixel"),
]


@pytest.mark.parametrize(("array", "expected"), KINDS)
def test_what_goes_in_is_what_comes_out(array, expected):
    scores, kind = to_scores(array)
    np.testing.assert_allclose(scores, expected, atol=1e-7)
    assert scores.dtype == np.float32
    back = from_scores(scores, kind)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_every_probability_step_survives(dtype, top):
    array = np.arange(top + 1, dtype=dtype)[np.newaxis]
    np.testing.assert_array_equal(from_scores(*to_scores(array)), array)


def test_binary_cuts_probabilities_strictly_above_one_half():
    scores, kind = to_scores(np.array([[0.5, 0.51]]))
    assert from_scores(scores, kind, binary=True).tolist() == [[0.0, 1.0]]
    scores, kind = to_scores(np.array([[127, 128, 3]], dtype=np.uint8))
    assert from_scores(scores, kind, binary=True).tolist() == [[0, 255, 0]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([[0.1, np.nan]]), "NaN"),
        (np.array([[-3.0, 4.0]]), "sigmoid"),
        (np.array([[0.0, np.inf]]), "sigmoid"),
        (np.array([[0, 7]]), "one mask each"),
        (np.array([[-1, 1]]), "one mask each"),
        (np.array([["a"]]), "expected bool, integers or floats"),
        (np.zeros(3), "expected \\(height, width\\)"),
    ],
)
def test_unusable_masks_are_refused_by_name(array, said):
    with pytest.raises(InputError, match=f"cat.npy: .*{said}"):
        to_scores(array, name="cat.npy")


def test_tight_box_spans_first_to_last_pixel():
    mask = np.zeros((5, 6), dtype=bool)
    assert tight_box(mask) is None
    mask[1, 2] = mask[3, 5] = True
    assert tight_box(mask) == (2, 1, 4, 3)
    assert tight_box(np.ones((1, 1), dtype=bool)) == (0, 0, 1, 1)


def test_labels_split_and_joined_give_the_label_map_back():
    label_map = np.array([[0, 1, 1], [9, 255, 0]], dtype=np.uint8)
    labels, scores = split_labels(label_map)
    assert labels.tolist() == [1, 9]
    np.testing.assert_array_equal(join_labels(scores, labels, label_map), label_map)


def test_a_label_map_of_background_and_ignore_has_no_masks():
    label_map = np.array([[0, 255]], dtype=np.uint8)
    labels, scores = split_labels(label_map)
    assert scores.shape == (0, 1, 2)
    np.testing.assert_array_equal(join_labels(scores, labels, label_map), label_map)


def test_joining_needs_more_than_one_half_and_gives_ties_to_the_first():
    scores = np.array([[[0.5, 0.7, 0.6]], [[0.5, 0.7, 0.8]]], dtype=np.float32)
    original = np.zeros((1, 3), dtype=np.uint8)
    assert join_labels(scores, np.array([4, 5]), original).tolist() == [[0, 4, 5]]


@pytest.mark.parametrize(
    ("pixel_yx", "least_px", "expected"),
    [
        ((5, 5), 0, (4, 7, 4, 7)),
        ((5, 5), 5, (3, 8, 3, 8)),
        ((0, 9), 6, (0, 6, 4, 10)),
        ((5, 5), 50, (0, 10, 0, 10)),
    ],
)
def test_a_window_is_widened_as_far_as_the_image_goes(pixel_yx, least_px, expected):
    mask = np.zeros((10, 10), dtype=bool)
    mask[pixel_yx] = True
    down, across = surround(mask, 1, least_px=least_px)
    assert (down.start, down.stop, across.start, across.stop) == expected


def test_classes_are_the_highest_refined_or_the_highest_before():
    given = np.array([[[0.1], [0.3]], [[0.9], [0.7]]], dtype=np.float32)
    refined = given / 2
    refined[0, 0] = 0.6
    np.testing.assert_array_equal(choose_classes(refined, given), [[0], [1]])
