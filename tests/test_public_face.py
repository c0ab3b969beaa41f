"""`import maskhone`: what is there, and what goes in is what comes out."""

from functools import partial

import numpy as np
import pytest

import maskhone
from maskhone.errors import InputError, MaskhoneError, UsageError, WeightsError
from maskhone.methods.classic.guided import GuidedRefiner

KINDS = {
    "bool": lambda disc: disc,
    "0 and 1": lambda disc: disc.astype(np.uint8),
    "0 and 255": lambda disc: disc.astype(np.uint8) * 255,
    "int64": lambda disc: disc.astype(np.int64),
    "16 bit probability": lambda disc: disc.astype(np.uint16) * 60000,
    "float32": lambda disc: disc.astype(np.float32),
    "float64": lambda disc: disc.astype(np.float64),
}


def test_every_public_name_is_there():
    assert all(hasattr(maskhone, name) for name in maskhone.__all__)


def test_no_public_name_vanishes_unseen():
    assert sorted(maskhone.__all__) == [
        "InputError", "METHODS", "MaskhoneError", "Refiner", "Sample", "Segmenter",
        "UsageError", "WeightsError", "load", "refine",
    ]  # fmt: skip


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nope"):
        maskhone.nope  # noqa: B018 - reading it is the test


@pytest.mark.parametrize("error", [InputError, UsageError, WeightsError])
def test_one_base_catches_every_error(error):
    assert issubclass(error, MaskhoneError)


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_in_is_what_comes_out(photo, disc, kind):
    mask = KINDS[kind](disc)
    refined = maskhone.refine(photo, mask, method="grabcut")
    assert refined.dtype == mask.dtype
    assert refined.shape == mask.shape
    if "probability" not in kind and "float" not in kind:
        assert set(np.unique(refined)) == set(np.unique(mask))


def test_many_masks_come_back_as_many(photo, disc):
    masks = np.stack([disc, ~disc, np.zeros_like(disc)])
    refined = maskhone.refine(photo, masks, method="guided")
    assert refined.shape == masks.shape
    assert not refined[2].any()


def test_a_shifted_disc_is_moved_back(photo, disc):
    coarse = np.roll(disc, 2, axis=1)
    refined = maskhone.refine(photo, coarse, method="grabcut", guard="off")
    assert np.count_nonzero(refined != disc) < np.count_nonzero(coarse != disc) / 4


def test_weights_are_taken_from_a_path(photo, disc, bpr_weights):
    options = {"device": "cpu", "dtype": "fp32", "guard": "off"}
    refined = maskhone.refine(photo, disc, weights=bpr_weights, **options)
    assert refined.dtype == np.bool_
    assert not np.array_equal(refined, disc)


@pytest.fixture
def ruinous(monkeypatch):
    """Makes a method one that returns empty masks."""
    monkeypatch.setattr(GuidedRefiner, "refine", lambda self, image, masks: masks * 0)


@pytest.mark.parametrize("options", [{}, {"guard": "safe"}, {"guard": "strict"}], ids=str)
def test_a_mask_that_would_be_ruined_is_kept(photo, disc, ruinous, options):
    np.testing.assert_array_equal(maskhone.refine(photo, disc, method="guided", **options), disc)


def test_without_a_guard_a_mask_can_be_ruined(photo, disc, ruinous):
    assert not maskhone.refine(photo, disc, method="guided", guard="off").any()


@pytest.mark.parametrize("guard", [True, False, "Safe", "", 1])
def test_other_words_than_the_three_are_refused(photo, disc, guard):
    with pytest.raises(UsageError, match="off, safe, strict"):
        maskhone.refine(photo, disc, method="guided", guard=guard)


@pytest.mark.parametrize("method", ["prn", "perimeterfit"])
def test_methods_that_mend_no_outlines_have_no_guard(photo, disc, prn_weights, method):
    weights = prn_weights if method == "prn" else None
    refine = partial(maskhone.refine, photo, disc, method=method, weights=weights, device="cpu")
    np.testing.assert_array_equal(refine(), refine(guard="off"))
    with pytest.raises(UsageError, match=f"{method} does not mend outlines"):
        refine(guard="safe")


@pytest.mark.parametrize(
    ("image", "mask", "word"),
    [
        (np.zeros((4, 6, 3), np.float32), np.zeros((4, 6), bool), "uint8"),
        (np.zeros((4, 6), np.uint8), np.zeros((4, 6), bool), "height, width, 3"),
        (np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4), bool), "transpose"),
        (np.zeros((4, 6, 3), np.uint8), np.zeros((2, 3), bool), "resize"),
        (np.zeros((4, 6, 3), np.uint8), np.zeros(6, bool), "height, width"),
        (np.zeros((4, 6, 3), np.uint8), np.full((4, 6), 3, np.int64), "0 and 1"),
        (np.zeros((4, 6, 3), np.uint8), np.full((4, 6), np.nan), "NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_a_remedy(image, mask, word):
    with pytest.raises(InputError, match=word):
        maskhone.refine(image, mask, method="guided")


def test_an_unknown_option_is_refused_by_name(photo, disc):
    with pytest.raises(UsageError, match="nope"):
        maskhone.refine(photo, disc, method="guided", nope=1)
