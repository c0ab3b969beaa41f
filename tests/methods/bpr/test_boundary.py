import numpy as np
import pytest

from maskhone.errors import UsageError
from maskhone.methods.bpr.boundary import boundary_score, plan_boundary_patches
from maskhone.ops.boxes import nms


def square(size_hw, top, left, side):
    mask = np.zeros(size_hw, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def plan(mask, **options):
    return plan_boundary_patches(mask, **{"patch_px": 8, "nms_iou": 0.25, **options})


def test_the_score_counts_the_rarer_class_in_the_window():
    score = boundary_score(square((6, 6), 2, 2, 3)) * 4.5
    assert score.round().tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 2, 3, 2, 1],
        [0, 2, 4, 3, 4, 2],
        [0, 3, 3, 0, 3, 3],
        [0, 2, 4, 3, 4, 2],
        [0, 1, 2, 3, 2, 1],
    ]


def test_outside_the_image_is_background():
    score = boundary_score(np.ones((3, 3), dtype=bool)) * 4.5
    assert score.round().tolist() == [[4, 3, 4], [3, 0, 3], [4, 3, 4]]


@pytest.mark.parametrize("size_hw", [(1, 1), (5, 9), (40, 40)], ids=str)
def test_an_empty_mask_has_no_patches(size_hw):
    boxes, scores = plan(np.zeros(size_hw, dtype=bool))
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_every_boundary_pixel_is_near_a_patch():
    mask = square((40, 40), 10, 12, 17)
    is_covered = np.zeros(mask.shape, dtype=bool)
    for x1, y1, x2, y2 in plan(mask)[0]:
        is_covered[y1:y2, x1:x2] = True
    assert is_covered[boundary_score(mask) > 0].mean() > 0.9


def test_patches_come_by_descending_score():
    scores = plan(square((40, 40), 10, 12, 17))[1]
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("nms_iou", [0.1, 1 / 3, 0.55, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_suppression_is_plain_nms_box_for_box(nms_iou, seed):
    mask = np.random.default_rng(seed).random((30, 34)) > 0.8
    mask[[0, -1]] = mask[:, [0, -1]] = False
    score = boundary_score(mask)
    order = np.argsort(-score.ravel(), kind="stable")[: np.count_nonzero(score)]
    rows, columns = np.divmod(order, mask.shape[1])
    boxes = np.stack([columns - 4, rows - 4, columns + 4, rows + 4], axis=1).astype(np.float32)
    kept = nms(boxes, score.ravel()[order], nms_iou)
    _, found = plan(mask, nms_iou=nms_iou)
    np.testing.assert_array_equal(found, score.ravel()[order][kept])


def test_a_threshold_of_zero_keeps_one_patch():
    assert len(plan(square((40, 40), 10, 10, 20), nms_iou=0.0)[0]) == 1


def test_patches_are_moved_inside_and_reach_the_last_pixel():
    boxes, _ = plan(square((20, 24), 14, 18, 6))
    assert boxes.min() >= 0
    assert boxes[:, 2].max() == 24
    assert boxes[:, 3].max() == 20


def test_the_published_rule_never_covers_the_last_row_and_column():
    boxes, _ = plan(square((20, 24), 14, 18, 6), edge_rule="published")
    assert boxes[:, 2].max() == 23
    assert boxes[:, 3].max() == 19


def test_the_published_rule_plans_nothing_in_a_small_image():
    mask = square((8, 20), 2, 4, 4)
    assert len(plan(mask, edge_rule="published")[0]) == 0
    assert len(plan(mask)[0]) > 0


@pytest.mark.parametrize("patch_px", [0, 7])
def test_the_side_of_a_patch_must_be_even(patch_px):
    with pytest.raises(UsageError, match="even"):
        plan(square((20, 20), 5, 5, 5), patch_px=patch_px)
