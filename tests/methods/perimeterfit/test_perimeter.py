import numpy as np
import pytest

from maskhone.errors import UsageError
from maskhone.methods.perimeterfit.perimeter import (
    SETTINGS,
    FitSetting,
    combine,
    find_edges,
    find_perimeter,
    fit_pictures,
    fit_segments,
    flood,
    number_components,
)
from maskhone.methods.perimeterfit.segments import paint

NO_LINES = np.zeros((4, 5), dtype=bool)
STRIPES = np.array([[1, 1, 2, 3, 3]] * 4)


def draw_segments(size_hw, seed=0):
    """Blocks of random labels, so that regions of one label touch and lie apart."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 5, (-(-size_hw[0] // 4), -(-size_hw[1] // 4)))
    return np.kron(blocks, np.ones((4, 4), int))[: size_hw[0], : size_hw[1]].astype(np.uint8)


def draw_maps(size_hw, n=3, seed=0):
    """Soft discs of random places."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    places = random.random((n, 2)) * size_hw
    far = [np.hypot(rows - y, columns - x) / max(size_hw) for y, x in places]
    return np.clip(1 - 2.5 * np.array(far).reshape(n, *size_hw), 0, 1).astype(np.float32)


def test_a_segment_that_reaches_outside_the_support_is_deleted():
    scores = np.zeros((1, 4, 5), np.float32)
    scores[0, :, 1:3] = 0.9
    fit = fit_segments(STRIPES, NO_LINES, scores, SETTINGS["slic"])[0]
    assert fit.tolist() == [[False, False, True, False, False]] * 4


def test_lines_count_inside_the_support_or_everywhere():
    scores = np.zeros((1, 4, 5), np.float32)
    scores[0, :, 1] = 0.9
    lines = find_perimeter(STRIPES)
    inside, everywhere = (
        fit_segments(STRIPES, lines, scores, SETTINGS[name])[0, 0] for name in ("slic", "quick")
    )
    assert inside.tolist() == [False, True, False, False, False]
    assert everywhere.tolist() == [False, True, True, False, False]


def test_the_settings_differ_in_what_supports_a_class():
    faint = np.full((1, 4, 5), 0.03, np.float32)
    assert not fit_segments(STRIPES, NO_LINES, faint, SETTINGS["slic"]).any()
    assert fit_segments(STRIPES, NO_LINES, faint, SETTINGS["quick"]).all()


def test_the_last_row_and_column_start_no_flood():
    scores = np.ones((1, 4, 5), np.float32)
    scores[0, -1], scores[0, :, -1] = 0, 0
    fit = fit_segments(STRIPES, NO_LINES, scores, SETTINGS["quick"])
    assert fit.all()


@pytest.mark.parametrize("size_hw", [(21, 30), (1, 1), (1, 7), (7, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("name", SETTINGS)
def test_both_forms_agree_on_pictures_that_no_jpeg_has_spoilt(size_hw, name):
    for seed in range(5):
        segments, scores = draw_segments(size_hw, seed), draw_maps(size_hw, seed=seed)
        lines = find_perimeter(segments)
        fits = fit_segments(segments, lines, scores, SETTINGS[name])
        line_picture = lines.astype(np.uint8) * 255
        flooded = fit_pictures(paint(segments), line_picture, scores, SETTINGS[name])
        np.testing.assert_array_equal(fits, flooded)


def test_no_classes_are_fitted_to_nothing():
    nothing = np.zeros((0, 4, 5), np.float32)
    fits = fit_segments(STRIPES, NO_LINES, nothing, SETTINGS["slic"])
    assert fits.shape == (0, 4, 5)
    painted = paint(STRIPES.astype(np.uint8))
    lines = NO_LINES.astype(np.uint8)
    assert fit_pictures(painted, lines, nothing, SETTINGS["slic"]).shape == (0, 4, 5)
    assert combine(nothing, fits, fits).shape == (0, 4, 5)
    assert combine(np.zeros((0, 1, 2), np.float32), fits, fits).shape == (0, 1, 2)


def test_many_classes_are_fitted_as_one_by_one():
    segments, scores = draw_segments((30, 40)), draw_maps((30, 40), n=70)
    lines = find_perimeter(segments)
    together = fit_segments(segments, lines, scores, SETTINGS["slic"])
    alone = [fit_segments(segments, lines, s[None], SETTINGS["slic"])[0] for s in scores]
    np.testing.assert_array_equal(together, alone)


def test_components_are_four_connected():
    numbers, bound = number_components(np.array([[1, 2, 1], [2, 1, 1], [2, 2, 2]]))
    assert numbers.max() < bound
    assert len(np.unique(numbers)) == 4
    assert numbers[1, 0] == numbers[2, 2] != numbers[0, 1]
    assert numbers[0, 2] == numbers[1, 1] != numbers[0, 0]


def test_a_flood_keeps_the_colour_of_its_seed():
    ramp = np.repeat(np.arange(60, 100, 4)[None, :, None], 2, axis=0) * [[[1, 0, 0]]]
    seeds = np.zeros((2, 10), bool)
    seeds[0, 3] = True
    assert (~flood(ramp, seeds)).tolist() == [[False] + [True] * 5 + [False] * 4] * 2


def test_near_black_seeds_start_no_flood():
    dark = np.full((3, 4, 3), 3)
    assert flood(dark, np.ones((3, 4), bool)).all()
    assert not flood(dark + 1, np.ones((3, 4), bool)).any()


def test_black_pictures_have_no_segments():
    black, lines = np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.uint8)
    assert not fit_pictures(black, lines, np.ones((1, 3, 4), np.float32), SETTINGS["quick"]).any()


def test_edges_of_a_picture_lie_along_the_segments():
    segments = np.zeros((20, 20), np.uint8)
    segments[:, 10:] = 1
    edges = find_edges(paint(segments))
    assert set(np.nonzero(edges)[1]) <= {9, 10}
    assert edges.any(axis=1).all()


def test_scores_double_where_both_fits_agree():
    scores = np.full((1, 1, 4), 0.4, np.float32)
    one, other = np.array([[[1, 1, 0, 0]]], bool), np.array([[[1, 0, 1, 0]]], bool)
    np.testing.assert_allclose(combine(scores, one, other), [[[0.8, 0.4, 0.4, 0.4]]])


def test_fits_are_made_smaller_before_they_are_multiplied():
    fits = np.zeros((1, 4, 4), bool)
    fits[:, :2] = True
    scores = np.full((1, 1, 1), 0.5, np.float32)
    assert combine(scores, fits, fits)[0, 0, 0] == pytest.approx(0.5 * (1 + 0.5 * 0.5))


def test_support_is_refused_outside_its_range():
    with pytest.raises(UsageError, match="support_above"):
        FitSetting(support_above=1.0)
