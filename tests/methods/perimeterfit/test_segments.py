import numpy as np
import pytest
import torch

from maskhone.methods.perimeterfit.segments import (
    find_segments,
    learn_labels,
    make_network,
    make_palette,
    paint,
    pass_through_jpeg,
    vote,
)
from maskhone.ops.superpixels import find_slic


@pytest.fixture
def superpixels(photo):
    return find_slic(photo[..., ::-1], n_segments=60)


def test_ties_of_the_vote_go_to_the_smallest_label():
    assert vote(np.array([[9, 4, 4, 9]]), np.zeros((1, 4), np.int64)).tolist() == [[4, 4, 4, 4]]


def test_the_disc_and_its_ground_are_different_segments(photo, disc, superpixels):
    labels = find_segments(photo, superpixels, min_labels=2)
    assert labels.dtype == np.uint8
    inside, outside = (np.bincount(labels[where]).argmax() for where in (disc, ~disc))
    assert inside != outside


def test_learning_stops_at_the_first_map_with_too_few_labels(photo, superpixels):
    counts = [
        len(np.unique(r.labels))
        for r in learn_labels(make_network(), photo, superpixels, min_labels=12)
    ]
    assert counts[-1] < 12
    assert min(counts[:-1]) >= 12


def test_iterations_bound_the_time(photo, superpixels):
    rounds = learn_labels(make_network(), photo, superpixels, iterations=3, min_labels=0)
    assert len(list(rounds)) == 3


def test_the_same_seed_makes_the_same_segments_and_no_draws_are_lost(photo, superpixels):
    before = torch.random.get_rng_state()
    maps = [find_segments(photo, superpixels, iterations=2, seed=s) for s in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_segments_are_found_in_inference_mode_too(photo, superpixels):
    expected = find_segments(photo, superpixels, iterations=2)
    with torch.inference_mode():
        np.testing.assert_array_equal(find_segments(photo, superpixels, iterations=2), expected)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 2), (2, 1), (5, 3)], ids=str)
def test_tiny_pictures_have_segments(size_hw):
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    assert find_segments(image, find_slic(image)).shape == size_hw


def test_colours_are_given_by_rank():
    palette = make_palette()
    painted = paint(np.array([[30, 7], [7, 9]], dtype=np.uint8))
    np.testing.assert_array_equal(painted, palette[[[2, 0], [0, 1]]])


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 3)], ids=["grey", "colour"])
def test_jpeg_leaves_nearly_the_same_picture(shape):
    given = np.full(shape, 20, dtype=np.uint8)
    given[5:, 13:] = 200
    if given.ndim == 3:
        given[..., 2] = 60
    back = pass_through_jpeg(given)
    assert back.shape == given.shape
    assert (back != given).any()
    assert np.abs(back.astype(int) - given).mean() < 5
