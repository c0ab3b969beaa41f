import numpy as np
import pytest

from maskhone.errors import InputError, UsageError
from maskhone.methods.rws.slices import (
    SliceConfig,
    find_weak_slices,
    measure_coverage,
    plan_windows,
    sum_windows,
)


def make_scene():
    """A label square of 20 px whose upper half is hot."""
    label = np.zeros((60, 80), dtype=bool)
    label[20:40, 20:40] = True
    heat = np.zeros((60, 80), dtype=np.float32)
    heat[20:30, 20:40] = 0.5
    return heat, label


def measure_plainly(is_hot, is_class, boxes):
    found = []
    for x1, y1, x2, y2 in boxes:
        a, b = is_hot[y1:y2, x1:x2], is_class[y1:y2, x1:x2]
        either = (a | b).sum()
        found.append((a & b).sum() / either if either else np.nan)
    return np.array(found)


def test_windows_are_five_by_five_and_leave_the_last_tenth():
    for size_hw in [(60, 60), (375, 500), (1024, 2048)]:
        boxes = plan_windows(size_hw)
        assert len(boxes) == 25
        assert boxes[:, 2].max() <= 0.9 * size_hw[1]


def test_edges_can_be_covered():
    boxes = plan_windows((60, 80), SliceConfig(slice_covers_edges=True))
    assert len(boxes) == 36
    assert boxes[-1].tolist() == [40, 30, 80, 60]


def test_coverage_is_the_plain_loop():
    random = np.random.default_rng(0)
    is_hot, is_class = random.random((2, 71, 93)) < 0.3
    is_class[:, :60] = False
    is_hot[:, :60] = False
    boxes = plan_windows((71, 93))
    ours = measure_coverage(is_hot, is_class, boxes)
    np.testing.assert_allclose(ours, measure_plainly(is_hot, is_class, boxes))
    assert np.isnan(ours).any()


def test_what_is_weak_is_hot_but_not_all_of_it():
    heat, label = make_scene()
    found = find_weak_slices("a", 3, heat, label)
    assert found
    assert {one.id for one in found} == {"a"}
    assert {one.class_index for one in found} == {3}
    for one in found:
        inside = one.crop(label)
        assert inside.shape == one.size_hw == (30, 40)
        assert 0 < one.coverage < 0.95
        assert one.coverage == pytest.approx((one.crop(heat) > 0).sum() / inside.sum())


def test_constant_heat_gives_no_slice():
    _, label = make_scene()
    for value in (0.0, 1.0):
        heat = np.where(label, np.float32(value), np.float32(0))
        assert find_weak_slices("a", 1, heat, label) == []


def test_windows_without_heat_can_be_admitted():
    _, label = make_scene()
    config = SliceConfig(slice_least_coverage=-1)
    found = find_weak_slices("a", 1, np.zeros(label.shape, np.float32), label, config)
    assert len(found) == (sum_windows(label, plan_windows(label.shape)) > 0).sum()


def test_the_threshold_of_heat_counts():
    heat, label = make_scene()
    assert find_weak_slices("a", 1, heat, label, SliceConfig(slice_heat=0.5)) == []


def test_the_weakest_are_kept():
    heat, label = make_scene()
    every = find_weak_slices("a", 1, heat, label)
    few = find_weak_slices("a", 1, heat, label, SliceConfig(slice_most=2))
    assert len(few) == 2
    assert max(one.coverage for one in few) <= sorted(one.coverage for one in every)[1]
    apart = find_weak_slices("a", 1, heat, label, SliceConfig(slice_overlap=0.3))
    assert 0 < len(apart) < len(every)


def test_good_predictions_can_excuse():
    heat, label = make_scene()
    config = SliceConfig(slice_prediction_iou=0.5)
    assert find_weak_slices("a", 1, heat, label, config, is_predicted=label) == []
    missed = np.zeros_like(label)
    assert find_weak_slices("a", 1, heat, label, config, is_predicted=missed) == find_weak_slices(
        "a", 1, heat, label
    )
    with pytest.raises(UsageError, match="no prediction"):
        find_weak_slices("a", 1, heat, label, config)


def test_random_slices_are_as_many_and_hold_label():
    heat, label = make_scene()
    config = SliceConfig(slice_choice="random")
    found = find_weak_slices("a", 1, heat, label, config, random=np.random.default_rng(0))
    assert len(found) == len(find_weak_slices("a", 1, heat, label))
    assert all(one.crop(label).any() for one in found)
    assert len({one.number for one in found}) == len(found)


@pytest.mark.parametrize("size_hw", [(9, 80), (80, 1)])
def test_pictures_too_small_for_a_step_are_refused(size_hw):
    with pytest.raises(InputError, match="too small"):
        plan_windows(size_hw)


@pytest.mark.parametrize(
    "options",
    [
        {"slice_share": 0.0},
        {"slice_step_share": 1.5},
        {"slice_coverage": 0.2, "slice_least_coverage": 0.3},
        {"slice_heat": 1.0},
        {"slice_most": -1},
        {"slice_choice": "best"},
    ],
)
def test_settings_that_cannot_be_are_refused(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        SliceConfig(**options)
