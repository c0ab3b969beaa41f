import numpy as np
import pytest

from maskhone.errors import UsageError
from maskhone.ops.dense_crf import CRFParameters, infer, infer_labels, unary_from_labels

FLAT = np.full((12, 12, 3), 90, dtype=np.uint8)


def test_a_lone_pixel_joins_its_surroundings():
    labels = np.zeros((12, 12), dtype=np.int64)
    labels[6, 6] = 1
    assert not infer_labels(labels, FLAT, 2).any()


def test_one_label_is_returned_as_it_is():
    labels = np.zeros((12, 12), dtype=np.int64)
    assert (infer_labels(labels, FLAT, 1) == labels).all()


def test_the_outline_moves_to_the_edge_of_the_picture():
    image = FLAT.copy()
    image[:, 6:] = 200
    labels = np.zeros((12, 12), dtype=np.int64)
    labels[:, 7:] = 1  # one column too few
    assert (infer_labels(labels, image, 2)[:, 6:] == 1).all()


def test_probabilities_sum_to_one():
    labels = np.arange(144).reshape(12, 12) % 3
    probabilities = infer(unary_from_labels(labels, 3), FLAT)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)


def test_a_smaller_range_than_the_lattice_can_number_is_refused():
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    tight = CRFParameters(colour_range=0.1, colour_position_px=0.1)
    wide = np.broadcast_to(noise[:, :1], (12, 3000, 3))
    with pytest.raises(UsageError, match="too small"):
        infer(np.zeros((2, 12, 3000), dtype=np.float32), wide, parameters=tight)
