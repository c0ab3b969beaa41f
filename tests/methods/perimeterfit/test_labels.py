import numpy as np
import pytest

from maskhone.errors import InputError
from maskhone.methods.perimeterfit.labels import label_maps, make_affinity_labels


@pytest.fixture
def image():
    """The left half is dark, the right half bright."""
    image = np.zeros((12, 16, 3), dtype=np.uint8)
    image[:, 8:] = 200
    return image


def test_sure_classes_sure_background_and_the_unknown(image):
    maps = np.full((1, 12, 16), 0.5, dtype=np.float32)
    maps[:, :, :4], maps[:, :, 12:] = 0.1, 0.9
    labels = make_affinity_labels(image, maps, np.array([0, 12]), crf_iterations=0)
    assert (labels[:, :4] == 0).all()
    assert (labels[:, 4:12] == 255).all()
    assert (labels[:, 12:] == 12).all()


def test_of_equal_maps_the_first_wins_and_background_before_all(image):
    maps = np.full((2, 12, 16), 0.5, dtype=np.float32)
    keys = np.array([0, 5, 9])
    assert (label_maps(image, maps, keys, threshold=0.25, crf_iterations=0) == 5).all()
    assert (label_maps(image, maps, keys, threshold=0.5, crf_iterations=0) == 0).all()


def test_the_crf_follows_the_picture(image):
    maps = np.zeros((1, 12, 16), dtype=np.float32)
    maps[:, :, 8:] = 1
    maps[:, 6, 12] = 0
    labels = label_maps(image, maps, np.array([0, 3]), threshold=0.3, crf_iterations=5)
    assert (labels[:, :8] == 0).all()
    assert (labels[:, 8:] == 3).all()


@pytest.mark.parametrize("crf_iterations", [0, 1])
def test_a_picture_without_classes_is_background(image, crf_iterations):
    maps, keys = np.zeros((0, 12, 16), dtype=np.float32), np.array([0])
    labels = label_maps(image, maps, keys, threshold=0.3, crf_iterations=crf_iterations)
    assert labels.shape == (12, 16)
    assert labels.dtype == np.uint8
    assert not labels.any()
    assert not make_affinity_labels(image, maps, keys, crf_iterations=crf_iterations).any()


def test_maps_of_another_size_are_refused(image):
    maps = np.zeros((1, 12, 15), dtype=np.float32)
    with pytest.raises(InputError, match=r"\(12, 16\).*\(12, 15\)"):
        label_maps(image, maps, np.array([0, 3]), threshold=0.3, crf_iterations=0)


@pytest.mark.parametrize("keys", [[0], [3], [0, 1, 2], [1, 2]])
def test_keys_that_do_not_fit_are_refused(image, keys):
    maps = np.zeros((1, 12, 16), dtype=np.float32)
    with pytest.raises(InputError, match="1 class maps"):
        label_maps(image, maps, np.array(keys), threshold=0.3, crf_iterations=0)
