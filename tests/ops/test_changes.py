"""What became of a mask, in numbers that can be counted by eye."""

import numpy as np
import pytest

from maskhone.ops.changes import measure_change


def square(*, at=(20, 20), side=20, size=60):
    mask = np.zeros((size, size), dtype=bool)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return mask


def test_an_equal_mask_did_not_change():
    change = measure_change(square(), square())
    assert (change.share, change.reach_px, change.place, change.attention) == (0, 0, "", 0)
    assert change.before_px == change.after_px == 400


def test_a_mask_that_grew_by_a_pixel_changed_along_its_outline():
    change = measure_change(square(), square(at=(19, 19), side=22))
    assert (change.added_px, change.removed_px) == (22 * 22 - 400, 0)
    assert change.share == 84 / 400
    assert change.reach_px == pytest.approx(2**0.5)
    assert change.reach_px <= change.near_px
    assert change.place == "all around"


def test_a_hole_and_a_piece_are_counted_and_placed():
    after = square()
    after[22:25, 22:25] = False
    holed = measure_change(square(), after)
    assert (holed.holes_before, holed.holes_after, holed.place) == (0, 1, "top left")
    assert (holed.removed_px, holed.reach_px) == (9, 5)
    pieces = measure_change(square(), square() | square(at=(50, 50), side=4))
    assert (pieces.pieces_before, pieces.pieces_after, pieces.place) == (1, 2, "bottom right")


@pytest.mark.parametrize("border", [(0, 0), (40, 40)])
def test_background_at_the_border_is_no_hole(border):
    change = measure_change(square(at=border), square(at=border))
    assert (change.pieces_before, change.holes_before) == (1, 0)


def test_pieces_that_touch_by_a_corner_are_one():
    before = np.eye(4, dtype=bool)
    assert measure_change(before, before).pieces_before == 1


def test_attention_grows_with_distance_and_with_lost_parts():
    base = square(side=30, at=(10, 10))
    outline, far = base.copy(), base.copy()
    outline[10, 10:34] = False
    far[20:24, 22:28] = False
    near, away = measure_change(base, outline), measure_change(base, far)
    assert near.removed_px == away.removed_px == 24
    assert 0 < near.attention < away.attention < measure_change(base, base & False).attention < 100


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [(False, True, 1.0), (True, False, 1.0), (False, False, 0.0), (True, True, 0.0)],
)
def test_empty_and_full_masks_have_no_outline(before, after, share):
    change = measure_change(np.full((8, 9), before), np.full((8, 9), after))
    assert change.share == share
    assert change.reach_px == (None if share else 0)
    assert (change.attention > 80) == bool(share)


def test_where_the_mask_lies_in_the_picture_does_not_matter():
    one = measure_change(square(), square(side=18))
    other = measure_change(square(at=(5, 3), size=90), square(at=(5, 3), side=18, size=90))
    assert one == other


def test_masks_stay_as_they_were():
    before, after = square(), square(side=5)
    measure_change(before, after)
    assert before.sum() == 400
    assert after.sum() == 25
