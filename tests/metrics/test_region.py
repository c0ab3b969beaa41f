import numpy as np
import pytest

from maskhone.errors import InputError
from maskhone.metrics.region import ClassScores, ForegroundScores, RegionScores, dice, iou

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


def score_foreground(*pairs, **options):
    metric = ForegroundScores(**options)
    for scores, truth in pairs:
        metric.update(np.array([scores], dtype=np.float32), np.array([truth], dtype=bool))
    return metric.compute()


def test_the_definitions_of_a_binary_task_side_by_side():
    found = score_foreground(([0.9, 0.9, 0.1, 0.1], [1, 0, 0, 0]), ([0.9, 0.1], [1, 1]))
    assert found == pytest.approx(
        {
            "iou": 1 / 2,
            "dice": 2 / 3,
            "iou_acc": (2 + 1) / (4 + 1),
            "iou_two": (2 / 4 + 2 / 4) / 2,
            "f1": 2 * 2 / (3 + 3),
            "precision": 2 / 3,
            "recall": 2 / 3,
            "mae": (0.1 + 0.9 + 0.1 + 0.1 + 0.1 + 0.9) / 6,
        },
        abs=1e-6,
    )


def test_a_score_equal_to_the_threshold_counts_only_where_asked():
    assert score_foreground(([0.5, 0.5], [1, 1]))["recall"] == 0.0
    assert score_foreground(([0.5, 0.5], [1, 1]), keeps_equal=True)["recall"] == 1.0


def test_foreground_scores_of_nothing_found_where_nothing_is():
    found = score_foreground(([0.0, 0.0], [0, 0]))
    assert found.pop("mae") == 0.0
    assert set(found.values()) == {1.0}


def test_foreground_scores_are_unknown_before_any_map():
    metric = ForegroundScores()
    metric.update(np.ones((1, 2), np.float32), np.ones((1, 2), bool))
    metric.reset()
    assert all(np.isnan(value) for value in metric.compute().values())


def test_class_scores_take_a_prediction_beyond_the_classes_for_a_miss():
    scores = ClassScores(2)
    scores.update(np.array([255, 1]), np.array([0, 1]))
    assert [counts.tolist() for counts in scores.count()] == [[0, 1], [1, 1], [0, 1]]
