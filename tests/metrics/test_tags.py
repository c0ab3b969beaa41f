import numpy as np
import pytest

from maskhone.metrics.tags import rank_tags


def test_a_perfect_ranking_scores_one_and_the_worst_the_least():
    truth = np.array([[True], [True], [False], [False]])
    scores = np.array([[4.0], [3.0], [2.0], [1.0]])
    assert rank_tags(scores, truth) == pytest.approx([1.0])
    assert rank_tags(-scores, truth) == pytest.approx([(1 / 3 + 2 / 4) / 2])


def test_equal_scores_are_taken_together():
    truth = np.array([[True], [False], [False], [True]])
    assert rank_tags(np.zeros((4, 1)), truth) == pytest.approx([0.5])


def test_a_class_in_no_picture_has_no_precision():
    found = rank_tags(np.zeros((2, 2)), np.array([[True, False], [True, False]]))
    assert found[0] == 1.0
    assert np.isnan(found[1])
