import subprocess
import sys

import numpy as np
import pytest
import torch

from maskhone.contracts import Segmenter
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.segmenters.catalogue import SEGMENTERS, build_network, make_segmenter

SIDE_PX = 32  # of the squares, so that the tests are quick
SIZES = [(1, 1), (1, 40), (37, 1), (20, 31), (64, 48)]


@pytest.fixture(scope="module")
def segmenters():
    """One of each, of a network that was never trained."""
    made = {}
    for name in SEGMENTERS:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            state = build_network(name).state_dict()
        made[name] = make_segmenter(name, state, device=torch.device("cpu"), side_px=SIDE_PX)
    return made


def draw(size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size_hw", SIZES)
def test_any_size_comes_back_as_scores_of_that_size(segmenters, name, size_hw):
    image = draw(size_hw)
    before = image.copy()
    scores = segmenters[name].segment(image)
    assert scores.shape == (1, *size_hw)
    assert scores.dtype == np.float32
    assert scores.min() >= 0
    assert scores.max() <= 1
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(segmenters[name].segment(image), scores)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_the_square_is_what_the_network_made(segmenters, name):
    square = segmenters[name].score_square(draw((50, 40)))
    side = 2 * SIDE_PX if name == "pfanet" else SIDE_PX
    assert square.shape == (1, side, side)
    assert isinstance(segmenters[name], Segmenter)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_scores_depend_on_the_order_of_colours(segmenters, name):
    image = draw((32, 32))
    swapped = np.ascontiguousarray(image[..., ::-1])
    assert np.abs(segmenters[name].segment(image) - segmenters[name].segment(swapped)).max() > 1e-5


@pytest.mark.parametrize("name", SEGMENTERS)
def test_anything_but_a_colour_picture_is_refused(segmenters, name):
    with pytest.raises(InputError, match="float64"):
        segmenters[name].segment(np.zeros((8, 8, 3)))
    with pytest.raises(InputError, match="shape"):
        segmenters[name].segment(np.zeros((8, 8), np.uint8))


def test_unknown_models_and_foreign_tensors_are_refused():
    with pytest.raises(UsageError, match="known: dlinknet34, pfanet, resunetpp"):
        build_network("unet")
    with pytest.raises(WeightsError, match="here: these are not the weights of pfanet"):
        make_segmenter("pfanet", {"a": torch.zeros(1)}, device=torch.device("cpu"), source="here")


def test_the_biases_of_the_dilated_centre_start_at_zero():
    state = build_network("dlinknet34").state_dict()
    assert not any(state[f"dblock.dilate{i}.bias"].any() for i in (1, 2, 3, 4))


def test_reduced_precision_is_close(segmenters):
    exact = segmenters["resunetpp"]
    rough = type(exact)(network=exact.network, dtype=torch.bfloat16, side_px=SIDE_PX)
    image = draw((32, 32))
    np.testing.assert_allclose(rough.segment(image), exact.segment(image), atol=0.05)


def test_listing_the_models_needs_no_torch():
    code = "import sys, maskhone.segmenters.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
