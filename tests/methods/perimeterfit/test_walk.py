import numpy as np
import pytest

from maskhone.errors import InputError
from maskhone.methods.perimeterfit.pairs import list_directions, trace_path
from maskhone.methods.perimeterfit.walk import enlarge, make_step, walk


def walk_densely(maps, edges, *, radius, beta, steps):
    """The published form: the power of a dense matrix whose columns sum to 1, from the right."""
    height, width = edges.shape
    affinity = np.eye(height * width)
    for dy, dx in list_directions(radius).tolist():
        path = trace_path(dy, dx)
        for row in range(height - dy):
            for column in range(max(0, -dx), width - max(0, dx)):
                highest = edges[path[:, 0] + row, path[:, 1] + column].max()
                pair = row * width + column, (row + dy) * width + column + dx
                affinity[pair] = affinity[pair[::-1]] = 1 - highest
    step = affinity**beta
    power = np.linalg.matrix_power(step / step.sum(axis=0), steps)
    flat = (maps * (1 - edges)).reshape(len(maps), -1)
    return (flat @ power).reshape(maps.shape)


@pytest.mark.parametrize("size_hw", [(7, 9), (1, 1), (1, 6), (6, 1), (3, 2), (2, 3)])
def test_the_sparse_walk_is_the_dense_power(size_hw):
    random = np.random.default_rng(0)
    maps = random.random((3, *size_hw), dtype=np.float32)
    edges = random.random(size_hw, dtype=np.float32) * np.float32(0.7)
    dense = walk_densely(maps, edges, radius=4, beta=3, steps=8)
    np.testing.assert_allclose(walk(maps, edges, radius=4, beta=3, exp_times=3), dense, rtol=1e-5)


def test_a_step_takes_a_mean():
    edges = np.random.default_rng(1).random((6, 8), dtype=np.float32)
    step = make_step(edges)
    np.testing.assert_allclose(step @ np.ones(48), 1)


def test_maps_walk_alone():
    random = np.random.default_rng(2)
    maps = random.random((4, 6, 8), dtype=np.float32)
    edges = random.random((6, 8), dtype=np.float32)
    each = [walk(one[None], edges)[0] for one in maps]
    np.testing.assert_array_equal(walk(maps, edges), each)


def test_no_maps_stay_none():
    edges = np.zeros((3, 4), dtype=np.float32)
    walked = walk(np.zeros((0, 3, 4), dtype=np.float32), edges)
    assert walked.shape == (0, 3, 4)
    assert enlarge(walked, (11, 14)).shape == (0, 11, 14)


def test_maps_of_nothing_stay_nothing():
    assert enlarge(np.zeros((2, 3, 4), dtype=np.float32), (12, 16)).max() == 0


def test_enlarged_maps_share_one_maximum():
    maps = np.stack([np.full((3, 4), 0.5), np.full((3, 4), 0.25)]).astype(np.float32)
    large = enlarge(maps, (9, 14))
    assert large.shape == (2, 9, 14)
    assert (large[0] == 1).all()
    assert (large[1] == 0.5).all()


def test_the_arguments_are_left_alone():
    maps, edges = np.ones((1, 3, 4), dtype=np.float32), np.full((3, 4), 0.5, dtype=np.float32)
    maps.flags.writeable = edges.flags.writeable = False
    enlarge(walk(maps, edges), (12, 16))
    enlarge(maps, (12, 16))


def test_maps_of_another_picture_are_refused():
    with pytest.raises(InputError, match=r"\(3, 5\).*\(3, 4\)"):
        walk(np.ones((1, 3, 5), dtype=np.float32), np.zeros((3, 4), dtype=np.float32))
