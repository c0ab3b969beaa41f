import numpy as np
import pytest

from maskhone.errors import UsageError
from maskhone.ops.guard import (
    GUARDS,
    check_guard,
    guard_masks,
    keep_coarse_where_strayed,
    share_given_back,
)


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


IMAGE = np.zeros((1, 10, 3), dtype=np.uint8)
NINE, EIGHT, NONE = row(*[1] * 9, 0), row(*[1] * 8, 0, 0), TEN * 0


@pytest.mark.parametrize(
    ("guard", "trusted"),
    [("off", [True, True, True]), ("safe", [True, True, False]), ("strict", [True, False, False])],
)
def test_a_stricter_guard_gives_back_sooner(guard, trusted):
    for refined, is_trusted in zip([NINE, EIGHT, NONE], trusted, strict=True):
        guarded = guard_masks(IMAGE, TEN, refined, guard=guard)
        np.testing.assert_array_equal(guarded, refined if is_trusted else TEN)


def test_the_three_words_pass():
    assert [check_guard(word) for word in GUARDS] == ["off", "safe", "strict"]


@pytest.mark.parametrize(
    ("guard", "word"),
    [(True, "True is now 'safe'"), (False, "False is now 'off'"), ("on", "'on'"), (None, "None")],
)
def test_anything_else_is_refused_with_the_three_words(guard, word):
    with pytest.raises(UsageError, match=word) as refused:
        check_guard(guard)
    assert "off, safe, strict" in str(refused.value)


def test_what_a_guard_gave_back_is_a_share_of_what_changed():
    coarse = np.concatenate([TEN, TEN, TEN])
    refined = np.concatenate([EIGHT, EIGHT, TEN])
    guarded = np.concatenate([NINE, TEN, TEN])
    assert share_given_back(coarse, refined, guarded).tolist() == [0.5, 1.0, 0.0]
