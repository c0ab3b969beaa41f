import numpy as np
import pytest
import torch

from maskhone.errors import UsageError
from maskhone.methods.catalogue import load
from maskhone.methods.perimeterfit import refine as module
from maskhone.methods.perimeterfit.config import PerimeterFitConfig
from maskhone.methods.perimeterfit.refine import (
    PerimeterFitRefiner,
    draw_perimeter,
    fit,
    soften,
    weigh,
)
from maskhone.methods.perimeterfit.segments import part_picture


@pytest.fixture
def blurred(disc):
    """A soft disc, 3 px too far right, whose scores fall slowly."""
    rows, columns = np.mgrid[:40, :48]
    away = np.hypot(rows - 20, columns - 27)
    return np.clip(0.5 + (10 - away) / 14, 0, 1).astype(np.float32)


def test_a_blurred_map_comes_nearer_to_the_disc(photo, disc, blurred):
    refined = load("perimeterfit", device="cpu", min_labels=4).refine(photo, blurred[None])[0]
    wrong_before, wrong_after = (((scores > 0.5) != disc).sum() for scores in (blurred, refined))
    assert wrong_after < wrong_before


def test_odds_move_by_the_factor():
    scores = np.linspace(0, 1, 11, dtype=np.float32).reshape(1, 1, 11)
    up, down = (weigh(scores, np.full(scores.shape, agrees), 2.0) for agrees in (True, False))
    inner = scores[..., 1:-1]
    np.testing.assert_allclose(up[..., 1:-1] / (1 - up[..., 1:-1]), 2 * inner / (1 - inner), 1e-5)
    np.testing.assert_allclose(
        down[..., 1:-1] / (1 - down[..., 1:-1]), inner / (1 - inner) / 2, 1e-5
    )
    for weighed in (up, down):
        assert weighed[0, 0, [0, -1]].tolist() == [0.0, 1.0]
        assert (np.diff(weighed) > 0).all()


def test_hard_masks_stay_unless_they_are_softened(photo, disc):
    mask = np.roll(disc, 3, axis=1).astype(np.float32)[None]
    stays = PerimeterFitRefiner(config=PerimeterFitConfig(iterations=2)).refine(photo, mask)
    np.testing.assert_array_equal(stays, mask)
    config = PerimeterFitConfig(iterations=2, soften_share=0.3)
    changed = PerimeterFitRefiner(config=config).refine(photo, mask)
    assert ((changed > 0.5) != (mask > 0.5)).any()


def test_a_softened_mask_has_its_outline_at_one_half(disc):
    mask = disc.astype(np.float32)
    soft = soften(mask, 0.3)
    np.testing.assert_array_equal(soft > 0.5, disc)
    assert len(np.unique(soft)) > 5
    np.testing.assert_array_equal(soften(soft, 0.3), soft)
    for whole in (np.zeros_like(mask), np.ones_like(mask)):
        np.testing.assert_array_equal(soften(whole, 0.3), whole)


def test_segments_are_found_once_for_all_masks(photo, blurred, monkeypatch):
    calls = []

    def count(image, kind, **options):
        calls.append(kind)
        return part_picture(image, kind, **options)

    monkeypatch.setattr(module, "part_picture", count)
    refiner = PerimeterFitRefiner(config=PerimeterFitConfig(iterations=1))
    refiner.refine(photo, np.stack([blurred] * 5))
    assert calls == ["slic", "quick"]
    refiner.refine(photo, np.zeros((5, *blurred.shape), np.float32))
    assert calls == ["slic", "quick"]


@pytest.mark.parametrize("form", ["lossless", "published"])
@pytest.mark.parametrize("superpixels", ["slic", "quick"])
def test_what_agrees_is_what_fits(photo, blurred, form, superpixels):
    config = PerimeterFitConfig(iterations=3, form=form, superpixels=superpixels)
    refined = PerimeterFitRefiner(config=config).refine(photo, blurred[None])
    segments = part_picture(photo, superpixels, iterations=3)
    perimeter = draw_perimeter(segments, config)
    agrees = fit(segments, perimeter, blurred[None], superpixels, config)
    assert 0 < agrees.mean() < 1
    np.testing.assert_array_equal(refined, weigh(blurred[None], agrees, 2.0))


def test_both_kinds_have_to_agree(photo, blurred):
    slic, quick, both = (
        load("perimeterfit", device="cpu", iterations=3, superpixels=kind).refine(
            photo, blurred[None]
        )
        for kind in ("slic", "quick", "both")
    )
    np.testing.assert_array_equal(both, np.minimum(slic, quick))


def test_large_pictures_are_parted_at_a_bounded_size():
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (5, 8, 3), dtype=np.uint8)
    picture = np.kron(blocks, np.ones((20, 20, 1), np.uint8))
    bounded = part_picture(picture, "slic", iterations=1, side_px=32)
    assert bounded.shape == (100, 160)
    assert len(np.unique(bounded)) > 1
    np.testing.assert_array_equal(bounded[::5, ::5].repeat(5, 0).repeat(5, 1), bounded)
    whole = part_picture(picture, "slic", iterations=1)
    np.testing.assert_array_equal(whole, part_picture(picture, "slic", iterations=1, side_px=160))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("superpixels", "watershed"), ("form", "jpeg"), ("iterations", 0), ("min_labels", 33),
        ("side_px", 3), ("slic_support", 1.0), ("quick_support", -0.1), ("factor", 1.0),
        ("soften_share", 1.5), ("seed", -1),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(option, value):
    with pytest.raises(UsageError, match=option):
        load("perimeterfit", **{option: value})


def test_options_reach_the_refiner():
    refiner = load("perimeterfit", device="cpu", iterations=5, factor=3.0)
    assert refiner.device == torch.device("cpu")
    assert (refiner.config.iterations, refiner.config.factor) == (5, 3.0)
