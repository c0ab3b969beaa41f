import numpy as np
import pytest

from maskhone.ops.guard import keep_coarse_where_strayed


def row(*scores):
    return np.array([[scores]], dtype=np.float32)


TEN = row(*[1] * 10)


@pytest.mark.parametrize(("kept_px", "is_trusted"), [(10, True), (8, True), (7, False), (0, False)])
def test_a_refined_mask_is_trusted_from_three_quarters_agreement(kept_px, is_trusted):
    refined = row(*[1] * kept_px, *[0] * (10 - kept_px))
    kept = keep_coarse_where_strayed(TEN, refined)
    np.testing.assert_array_equal(kept, refined if is_trusted else TEN)


def test_each_object_is_judged_alone():
    coarse = np.concatenate([TEN, TEN])
    refined = np.concatenate([TEN * 0.9, TEN * 0])
    kept = keep_coarse_where_strayed(coarse, refined)
    np.testing.assert_array_equal(kept, np.concatenate([TEN * np.float32(0.9), TEN]))


def test_two_empty_masks_agree():
    refined = TEN * np.float32(0.1)
    np.testing.assert_array_equal(keep_coarse_where_strayed(TEN * 0, refined), refined)


def test_the_least_agreement_can_be_set():
    refined = row(*[1] * 5, *[0] * 5)
    kept = keep_coarse_where_strayed(TEN, refined, least_agreement=0.5)
    np.testing.assert_array_equal(kept, refined)


def test_no_objects_stay_none():
    nothing = np.zeros((0, 2, 2), dtype=np.float32)
    assert keep_coarse_where_strayed(nothing, nothing).shape == (0, 2, 2)
