import numpy as np
import pytest

from maskhone.errors import InputError
from maskhone.metrics.region import ClassScores, RegionScores, dice, iou

LEFT = np.array([[True, True, False, False]])
MIDDLE = np.array([[False, True, True, False]])


def test_iou_and_dice_of_two_shifted_masks():
    assert iou(LEFT, MIDDLE) == pytest.approx(1 / 3)
    assert dice(LEFT, MIDDLE) == pytest.approx(1 / 2)


def test_ignored_pixels_do_not_count():
    ignore = np.array([[True, False, True, False]])
    assert iou(LEFT, MIDDLE, ignore=ignore) == 1.0


def test_two_empty_masks_agree():
    assert iou(LEFT & False, LEFT & False) == 1.0


def test_masks_of_two_sizes_are_refused():
    with pytest.raises(InputError):
        iou(LEFT, LEFT.T)


def test_pooled_iou_weighs_by_pixels():
    scores = RegionScores()
    scores.update(np.ones((1, 9), dtype=bool), np.ones((1, 9), dtype=bool))
    scores.update(np.ones((1, 1), dtype=bool), np.zeros((1, 1), dtype=bool))
    found = scores.compute()
    assert found["iou"] == 0.5
    assert found["pooled_iou"] == 0.9


def test_class_scores_leave_out_labels_beyond_the_classes():
    scores = ClassScores(2)
    scores.update(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 255]))
    found = scores.compute()
    assert found["aAcc"] == pytest.approx(2 / 3)
    assert found["iou"].tolist() == [0.5, 0.5]
