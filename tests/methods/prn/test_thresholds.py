import numpy as np
import pytest

from maskhone.errors import UsageError
from maskhone.methods.prn.thresholds import (
    CANDIDATES,
    count_above,
    find_image_threshold,
    find_thresholds,
)


def search_slowly(scores, truth):
    """Tries every candidate on one patch."""
    best, best_iou = None, -1.0
    for threshold in CANDIDATES:
        mask = scores > threshold
        iou = ((mask & truth).sum() + 1) / ((mask | truth).sum() + 1)
        if iou > best_iou:
            best, best_iou = threshold, iou
    return best, best_iou


@pytest.fixture
def maps():
    random = np.random.default_rng(0)
    return random.random((24, 36), dtype=np.float32), random.random((24, 36)) > 0.6


def test_thresholds_are_those_of_a_plain_search(maps):
    scores, truth = maps
    found = find_thresholds(scores, truth, 12)
    assert found.thresholds.shape == (2, 3)
    for row in range(2):
        for column in range(3):
            patch = (slice(12 * row, 12 * row + 12), slice(12 * column, 12 * column + 12))
            threshold, iou = search_slowly(scores[patch], truth[patch])
            assert found.thresholds[row, column] == threshold
            assert found.curves[row, column].max() == pytest.approx(iou)
            np.testing.assert_array_equal(found.labels[patch], scores[patch] > threshold)


def test_one_patch_is_the_whole_image(maps):
    scores, truth = (m[:, :24] for m in maps)
    threshold, iou = find_image_threshold(scores, truth)
    found = find_thresholds(scores, truth, 24)
    assert found.thresholds.item() == threshold
    assert found.curves.max() == iou


@pytest.mark.parametrize(
    ("score", "is_object", "threshold", "label"),
    [
        (0.99, True, 0.05, True),
        (0.04, True, 0.05, False),
        (0.99, False, 1.0, False),
        (0.04, False, 0.05, False),
        (0.5, True, 0.05, True),
    ],
)
def test_constant_patches_follow_the_rules(score, is_object, threshold, label):
    scores = np.full((4, 4), score, dtype=np.float32)
    found = find_thresholds(scores, np.full((4, 4), is_object), 4)
    assert found.thresholds.item() == pytest.approx(threshold)
    assert found.labels.all() == label


def test_a_score_on_a_candidate_is_background_there():
    scores = np.array([[CANDIDATES[9], 0.9]], dtype=np.float32)
    found = find_thresholds(np.repeat(scores, 2, axis=0), np.array([[False, True]] * 2), 2)
    assert found.thresholds.item() == CANDIDATES[9]


@pytest.mark.parametrize("covers", [False, True])
def test_what_fills_no_patch_is_left_out_or_covered(covers):
    scores = np.full((5, 7), 0.9, dtype=np.float32)
    found = find_thresholds(scores, np.ones((5, 7), dtype=bool), 3, covers_rest=covers)
    assert found.labels.shape == (5, 7)
    assert found.labels.all() == covers
    assert found.labels[:3, :6].all()


@pytest.mark.parametrize("side", [0, 25])
def test_patches_that_do_not_fit_are_refused(maps, side):
    with pytest.raises(UsageError, match=f"{side} px"):
        find_thresholds(*maps, side)


def test_pixels_above_are_counted(maps):
    scores, truth = maps
    inside, above = count_above(scores, truth)
    assert inside[9] == (truth & (scores > CANDIDATES[9])).sum()
    assert above[9] == (scores > CANDIDATES[9]).sum()
