"""Refining arrays: who is asked how often, and what is said of each mask."""

import numpy as np
import pytest

from maskhone.ops.masks import near_outline
from maskhone.pipelines.arrays import refine_scores


class TwoLooks:
    """A refiner that moves masks by a column, and knows a second way that agrees."""

    def refine(self, image, masks):
        return np.roll(masks, 1, axis=2)

    def look_again(self, image, masks):
        return [np.roll(masks, 1, axis=2)]


class OneLook:
    def __init__(self):
        self.calls = 0

    def refine(self, image, masks):
        self.calls += 1
        return np.roll(masks, 1, axis=2)


@pytest.mark.parametrize("guard", ["safe", "strict"])
@pytest.mark.parametrize("make", [TwoLooks, OneLook])
def test_many_masks_in_groups_come_out_as_at_once(photo, disc, monkeypatch, guard, make):
    masks = np.stack([np.roll(disc, n, axis=1) for n in range(5)]).astype(np.float32)
    masks[3] = 0
    together = refine_scores(make(), photo, masks, guard=guard)
    monkeypatch.setattr("maskhone.ops.groups.PIXELS_AT_ONCE", 1)
    grouped = refine_scores(make(), photo, masks, guard=guard)
    np.testing.assert_array_equal(together.scores, grouped.scores)
    np.testing.assert_array_equal(together.kept, grouped.kept)
    assert together.notes == grouped.notes
    assert len(together.notes) == 5
    assert together.notes[3] == ""
    assert together.kept[3] == 0


def test_without_a_guard_a_refiner_is_asked_once(photo, disc):
    refiner, masks = OneLook(), disc.astype(np.float32)[None]
    refined = refine_scores(refiner, photo, masks, guard="off")
    assert refiner.calls == 1
    np.testing.assert_array_equal(refined.scores, np.roll(masks, 1, axis=2))
    assert (refined.kept, refined.notes) == (None, ())


def test_with_a_guard_a_refiner_is_asked_three_times_and_says_so(photo, disc):
    refiner, masks = OneLook(), np.roll(disc, -1, axis=1).astype(np.float32)[None]
    refined = refine_scores(refiner, photo, masks, guard="safe")
    assert refiner.calls == 3
    assert refined.notes[0].startswith("put to the vote (voice ")


def test_a_mask_that_a_refiner_is_sure_of_is_noted(photo, disc):
    masks = np.roll(disc, -1, axis=1).astype(np.float32)[None]
    refined = refine_scores(TwoLooks(), photo, masks, guard="safe")
    assert refined.notes[0].startswith("trusted (")
    np.testing.assert_array_equal(refined.scores[0] > 0.5, disc)


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
@pytest.mark.parametrize("make", [TwoLooks, OneLook])
def test_the_band_limits_looks_and_votes(photo, disc, guard, make):
    coarse = np.roll(disc, 5, axis=1)
    masks = coarse.astype(np.float32)[None]
    refined = refine_scores(make(), photo, masks, guard=guard, band_px=1)
    changed = (refined.scores[0] > 0.5) != coarse
    assert not (changed & ~near_outline(coarse, 1)).any()


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
def test_no_masks_give_none(photo, guard):
    nothing = np.zeros((0, *photo.shape[:2]), dtype=np.float32)
    refined = refine_scores(OneLook(), photo, nothing, guard=guard)
    assert (refined.scores.shape, refined.notes) == (nothing.shape, ())
