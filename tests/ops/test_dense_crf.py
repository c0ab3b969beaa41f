import numpy as np

from maskhone.ops.dense_crf import PermutohedralLattice, infer, infer_labels, unary_from_labels

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


def test_the_filter_is_linear():
    random = np.random.default_rng(0)
    lattice = PermutohedralLattice(random.normal(size=(50, 2)).astype(np.float32) * 3)
    a, b = random.normal(size=(2, 50, 1)).astype(np.float32)
    np.testing.assert_allclose(
        lattice.filter(a + 2 * b), lattice.filter(a) + 2 * lattice.filter(b), atol=1e-4
    )
