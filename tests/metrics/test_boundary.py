import math

import numpy as np
import pytest

from maskhone.metrics.boundary import (
    BoundaryScores,
    boundary_f,
    boundary_iou,
    mean_boundary_accuracy,
    replace_band,
)

SQUARE = np.zeros((60, 60), dtype=bool)
SQUARE[20:40, 20:40] = True
GROWN = np.zeros((60, 60), dtype=bool)
GROWN[18:42, 18:42] = True


def test_a_perfect_mask_scores_one_everywhere():
    scores = BoundaryScores()
    scores.update(SQUARE, SQUARE)
    found = scores.compute()
    assert found.pop("mba_undefined") == 0
    assert set(found.values()) == {1.0}


def test_a_grown_mask_loses_on_the_outline():
    assert mean_boundary_accuracy(GROWN, SQUARE) < 0.8
    assert boundary_iou(GROWN, SQUARE) < 0.2


def test_boundary_f_forgives_up_to_its_tolerance():
    assert boundary_f(GROWN, SQUARE, tolerance=3) == 1.0
    assert boundary_f(GROWN, SQUARE, tolerance=1) == 0.0


def test_mba_is_undefined_without_an_outline_and_counted():
    full = np.ones((9, 9), dtype=bool)
    assert math.isnan(mean_boundary_accuracy(full, full))
    scores = BoundaryScores()
    scores.update(full, full)
    assert scores.compute()["mba_undefined"] == 1


def test_replacing_a_band_of_two_pixels_mends_a_mask_grown_by_two():
    assert (replace_band(GROWN, SQUARE, distance_px=3) == SQUARE).all()
    assert boundary_iou(replace_band(GROWN, SQUARE, distance_px=1), SQUARE) < 1


def test_ignored_pixels_have_no_accuracy():
    ignore = GROWN & ~SQUARE
    assert mean_boundary_accuracy(GROWN, SQUARE, ignore=ignore) == pytest.approx(1.0)
