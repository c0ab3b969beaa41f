import builtins

import numpy as np
import pytest

from maskhone.errors import MissingExtraError
from maskhone.methods.catalogue import load
from maskhone.ops.superpixels import SUPERPIXELS, check_installed, find_quickshift, find_slic


@pytest.fixture
def halves():
    """A picture that is dark on the left and bright on the right."""
    image = np.full((30, 40, 3), 30, dtype=np.uint8)
    image[:, 20:] = 220
    return image


@pytest.mark.parametrize("name", SUPERPIXELS)
def test_superpixels_do_not_cross_a_sharp_edge(halves, name):
    labels = SUPERPIXELS[name](halves)
    assert labels.dtype == np.int32
    assert labels.shape == halves.shape[:2]
    assert not set(labels[:, :20].ravel()) & set(labels[:, 20:].ravel())


@pytest.mark.parametrize("name", SUPERPIXELS)
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (9, 1), (2, 3), (13, 17)], ids=str)
def test_pictures_of_any_size_have_superpixels(name, size_hw):
    noise = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise)):
        labels = SUPERPIXELS[name](image)
        assert labels.shape == size_hw
        assert labels.min() >= 0


def test_options_reach_scikit_image(halves):
    assert find_slic(halves, n_segments=4).max() < find_slic(halves, n_segments=100).max()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert find_quickshift(noise, max_dist=20).max() < find_quickshift(noise, max_dist=2).max()


@pytest.mark.parametrize(
    "door",
    [find_slic, find_quickshift, lambda _: check_installed(), lambda _: load("perimeterfit")],
)
def test_without_scikit_image_one_line_says_how_to_get_it(halves, door, monkeypatch):
    real = builtins.__import__

    def without(module, *arguments, **options):
        if module.startswith("skimage"):
            raise ImportError(module)
        return real(module, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'maskhone\[wsss\]'$"):
        door(halves)
