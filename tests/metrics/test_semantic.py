import numpy as np
import pytest

from maskhone.errors import InputError
from maskhone.metrics.semantic import (
    SemanticScores,
    ThresholdScores,
    choose_thresholds,
    find_highest,
    label_by_threshold,
)

#         background  one    two      not scored
TARGET = np.array([[0, 0, 1, 1, 2, 2, 255, 255]])
GUESS = np.array([[0, 1, 1, 1, 0, 3, 1, 3]])


def score(prediction, target, n_labels=4):
    metric = SemanticScores(n_labels)
    metric.update(prediction, target)
    return metric


def test_counts_are_of_scored_pixels_only():
    predicted, true, both = score(GUESS, TARGET).count()
    assert predicted.tolist() == [2, 3, 0, 1]
    assert true.tolist() == [2, 2, 2, 0]
    assert both.tolist() == [1, 2, 0, 0]


def test_figures_by_hand():
    metric = score(GUESS, TARGET)
    found, each = metric.compute(), metric.compute_each()
    assert each["iou"] == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert found["miou"] == pytest.approx(1 / 4)
    assert found["miou_present"] == pytest.approx(1 / 4)
    assert found["miou_foreground"] == pytest.approx(2 / 9)
    assert found["fp"] == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert found["fn"] == pytest.approx((0 + 1 + 0) / 3)
    assert found["fp_all"] == pytest.approx((1 / 3 + 1 / 3 + 0 + 1) / 4)
    assert found["fn_all"] == pytest.approx((1 / 3 + 0 + 1 + 0) / 4)
    assert each["t_over_tp"][:3].tolist() == [2.0, 1.0, np.inf]
    assert each["p_over_tp"][1] == 1.5


def test_classes_that_occur_nowhere_count_zero_unless_left_out():
    found = score(np.array([[0, 1]]), np.array([[0, 1]]), n_labels=4).compute()
    assert found["miou"] == pytest.approx(0.5)
    assert found["miou_present"] == pytest.approx(1.0)


def test_a_predicted_255_is_a_miss_of_the_true_label_and_no_false_positive():
    predicted, true, both = score(np.array([[255, 0]]), np.array([[0, 0]])).count()
    assert (predicted[0], true[0], both[0]) == (1, 2, 1)
    assert predicted.sum() == 1


def test_counts_do_not_overflow_32_bits():
    metric = SemanticScores(2)
    metric.update(np.zeros((1, 4), dtype=np.uint8), np.zeros((1, 4), dtype=np.uint8))
    metric._counts._counts *= 2**31
    metric.update(np.zeros((1, 4), dtype=np.uint8), np.zeros((1, 4), dtype=np.uint8))
    assert metric.count()[1][0] == 2**33 + 4


def test_targets_beyond_the_classes_and_other_sizes_are_refused():
    with pytest.raises(InputError, match="label 7, expected 0 to 3 and 255"):
        score(np.array([[0]]), np.array([[7]]))
    with pytest.raises(InputError, match="expected one shape"):
        score(np.array([[0]]), np.array([[0, 0]]))


def test_reset_forgets():
    metric = score(GUESS, TARGET)
    metric.reset()
    assert metric.count()[1].sum() == 0


def test_a_map_that_only_reaches_the_threshold_stays_background():
    maps = np.array([[[0.4, 0.41]]], dtype=np.float32)
    assert label_by_threshold(maps, np.array([0, 3]), 0.4).tolist() == [[0, 3]]


def test_without_maps_all_is_background():
    nothing = np.zeros((0, 2, 3), dtype=np.float32)
    assert label_by_threshold(nothing, np.array([0]), 0.1).tolist() == [[0] * 3] * 2


def test_one_label_belongs_to_each_map():
    with pytest.raises(InputError, match="0 and then one label for each map"):
        find_highest(np.zeros((2, 3, 3)), np.array([1, 2, 3]))


def test_a_sweep_is_the_scores_of_each_threshold():
    random = np.random.default_rng(0)
    maps, keys = random.random((2, 5, 6), dtype=np.float32), np.array([0, 1, 3])
    target = random.integers(0, 4, (5, 6))
    sweep = ThresholdScores(4, (0.2, 0.7))
    sweep.update(maps, keys, target)
    for row in sweep.compute():
        alone = score(label_by_threshold(maps, keys, row["threshold"]), target).compute()
        assert row == {"threshold": row["threshold"], **alone}


def test_over_and_under_go_by_the_false_positives_of_the_best():
    rows = [
        {"threshold": t, "miou": miou, "fp": fp}
        for t, miou, fp in [(0.1, 0.3, 0.31), (0.2, 0.4, 0.17), (0.3, 0.5, 0.1), (0.4, 0.4, 0.05)]
    ]
    choice = choose_thresholds(rows)
    assert [row["threshold"] for row in (choice.best, choice.over, choice.under)] == [0.3, 0.2, 0.4]
    with pytest.raises(InputError):
        choose_thresholds([])
