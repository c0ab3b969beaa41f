"""Refining arrays: who is asked how often, and what is said of each mask."""

import numpy as np
import pytest

from maskhone.methods.auto.config import AutoConfig
from maskhone.methods.auto.refine import AutoRefiner
from maskhone.methods.catalogue import load
from maskhone.ops.guard import form_opinion, judge
from maskhone.ops.looks import take_looks
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


class FarAway:
    """A refiner that is sure of a part far from the outline, and changes nothing else."""

    def refine(self, image, masks):
        refined = masks.copy()
        refined[:, -8:, :8] = 1
        return refined

    def look_again(self, image, masks):
        return [self.refine(image, masks)]


def auto_of_far_away():
    return AutoRefiner(config=AutoConfig(methods="bpr"), load=lambda name: FarAway())


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
def test_beyond_the_band_nothing_changes(photo, disc, guard, make):
    coarse = np.roll(disc, 5, axis=1)
    masks = coarse.astype(np.float32)[None]
    refined = refine_scores(make(), photo, masks, guard=guard, band_px=1)
    changed = (refined.scores[0] > 0.5) != coarse
    assert not (changed & ~near_outline(coarse, 1)).any()


@pytest.mark.parametrize("guard", ["safe", "strict"])
@pytest.mark.parametrize("make", [FarAway, auto_of_far_away])
def test_what_lies_beyond_the_band_is_not_judged(photo, disc, guard, make):
    image, masks = photo.copy(), disc.astype(np.float32)[None]
    image[-8:, :8] = image[disc][:64].reshape(8, 8, 3)  # the part looks like the disc
    free = refine_scores(make(), image, masks, guard=guard)
    assert "trust" in free.notes[0]
    assert (free.scores[0, -8:, :8] > 0.5).all()
    limited = refine_scores(make(), image, masks, guard=guard, band_px=3)
    assert "trust" not in limited.notes[0]
    assert "sure" not in limited.notes[0]
    assert limited.kept.tolist() == [0]
    np.testing.assert_array_equal(limited.scores, masks)


def test_the_voice_that_is_told_is_the_one_that_votes(photo, disc):
    torn = TwoLooks()
    torn.look_again = lambda image, masks: [np.roll(masks, 3, axis=2)]
    masks = 0.9 * np.roll(disc, 1, axis=1).astype(np.float32)[None]
    looks = take_looks(torn, photo, masks)
    verdict = judge(photo, masks[0], looks.of(0), guard="strict")
    (note,) = refine_scores(torn, photo, masks, guard="strict").notes
    assert not verdict.is_trusted
    assert verdict.signs.trust > 0.5  # so that trust is heard in the voice
    assert f"(trust {verdict.signs.trust:.2f}, voice {verdict.voice:.2f})" in note
    opinion = form_opinion(photo, masks[0], looks.of(0))
    assert verdict.voice == opinion.voice


def draw_masks(height, width):
    rows, columns = np.ogrid[:height, :width]
    masks = {
        "empty": np.zeros((height, width)),
        "full": np.ones((height, width)),
        "diagonal": np.broadcast_to(rows == columns, (height, width)),
        "soft": (1 + rows + columns) / (height + width),
    }
    return np.array(list(masks.values()), dtype=np.float32)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (2, 2), (40, 48)], ids=str)
@pytest.mark.parametrize("method", ["guided", "grabcut", "crf"])
def test_small_pictures_and_odd_masks_are_guarded(method, size_hw):
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    masks = draw_masks(*size_hw)
    before = masks.copy()
    refined = refine_scores(load(method), image, masks, guard="safe")
    assert (refined.scores.dtype, refined.scores.shape) == (np.float32, masks.shape)
    assert ((refined.scores >= 0) & (refined.scores <= 1)).all()
    assert refined.kept.shape == (4,)
    assert ((refined.kept >= 0) & (refined.kept <= 1)).all()
    assert len(refined.notes) == 4
    assert not refined.scores[0].any()
    np.testing.assert_array_equal(masks, before)


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
def test_no_masks_give_none(photo, guard):
    nothing = np.zeros((0, *photo.shape[:2]), dtype=np.float32)
    refined = refine_scores(OneLook(), photo, nothing, guard=guard)
    assert (refined.scores.shape, refined.notes) == (nothing.shape, ())
