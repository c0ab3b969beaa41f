import numpy as np
import pytest

from maskhone.ops.permutohedral import BLOCK, PermutohedralLattice, number


def test_the_filter_is_linear():
    random = np.random.default_rng(0)
    lattice = PermutohedralLattice(random.normal(size=(2, 50)).astype(np.float32) * 3)
    a, b = random.normal(size=(2, 50, 1)).astype(np.float32)
    np.testing.assert_allclose(
        lattice.filter(a + 2 * b), lattice.filter(a) + 2 * lattice.filter(b), atol=1e-4
    )


def test_columns_are_filtered_each_on_its_own():
    random = np.random.default_rng(1)
    lattice = PermutohedralLattice(random.normal(size=(3, 40)).astype(np.float32))
    values = random.random((40, 4)).astype(np.float32)
    each = [lattice.filter(column[:, None]) for column in values.T]
    np.testing.assert_allclose(lattice.filter(values), np.concatenate(each, axis=1), rtol=1e-5)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_filter_comes_near_a_gaussian(d):
    random = np.random.default_rng(d)
    points = random.uniform(-2, 2, size=(d, 600)).astype(np.float32)
    values = np.sign(points[:1].T)  # a step, that the filter smooths
    squares = ((points[:, :, None] - points[:, None]) ** 2).sum(axis=0)
    gaussian = np.exp(-squares / 2)
    lattice = PermutohedralLattice(points)
    means = lattice.filter(values) / lattice.filter(np.ones_like(values))
    wanted = gaussian @ values / gaussian.sum(axis=1, keepdims=True)
    assert np.abs(means - wanted).mean() < 0.05


def test_points_of_more_than_one_block_are_filtered_as_one_set():
    points = np.linspace(0, 50, BLOCK + 7, dtype=np.float32)[None]
    lattice = PermutohedralLattice(points)
    ones = np.ones((BLOCK + 7, 1), dtype=np.float32)
    sums = lattice.filter(ones)[1000:-1000]
    assert sums.max() / sums.min() < 1.1  # no seam


def test_the_normalised_filter_is_weighted():
    points = np.zeros((2, 30), dtype=np.float32)
    lattice = PermutohedralLattice(points)
    lattice.normalise(4.0)
    np.testing.assert_allclose(lattice.filter(np.ones((30, 1), np.float32)), 4, rtol=1e-4)


@pytest.mark.parametrize("n_distinct", [1, 10, 5000])
def test_numbers_are_those_of_a_sort(n_distinct):
    random = np.random.default_rng(n_distinct)
    codes = random.choice(random.integers(0, 2**62, n_distinct), 5000)
    distinct, places = number(codes)
    wanted, inverse = np.unique(codes, return_inverse=True)
    np.testing.assert_array_equal(distinct, wanted)
    np.testing.assert_array_equal(places, inverse)
