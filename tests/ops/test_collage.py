import numpy as np
import pytest

from maskhone.ops import collage
from maskhone.ops.collage import draw_shape, paste_into


def flat(value, size_hw=(60, 80)):
    return np.full((*size_hw, 3), value, dtype=np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_the_truth_of_a_collage_is_where_the_other_picture_shows(seed):
    truth = np.zeros((60, 80), dtype=bool)
    truth[15:45, 20:60] = True
    joined, shape = paste_into(flat(0, (90, 50)), flat(240), truth, np.random.default_rng(seed))
    assert joined.shape == (60, 80, 3)
    assert joined.dtype == np.uint8
    assert shape.any()
    assert not shape.all()
    assert joined[shape].mean() > joined[~shape].mean() + 40


def test_collages_are_a_function_of_the_generator():
    truth = np.eye(60, 80, dtype=bool)
    one, two = (
        paste_into(flat(0), flat(240), truth, np.random.default_rng(seed))[0] for seed in (5, 5)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("draw", collage._DRAWINGS)
@pytest.mark.parametrize("size_hw", [(64, 96), (7, 5), (1, 1)])
def test_every_drawing_fills_its_canvas_somehow(draw, size_hw):
    drawn = [draw(size_hw, np.random.default_rng(seed)) for seed in range(5)]
    assert all(shape.shape == size_hw and shape.dtype == bool for shape in drawn)
    if size_hw == (64, 96):
        assert all(0.001 < shape.mean() < 0.999 for shape in drawn)


def test_strands_are_thin():
    shares = [collage._draw_strands((200, 200), np.random.default_rng(s)).mean() for s in range(8)]
    assert np.median(shares) < 0.5


def test_shapes_differ():
    assert len({draw_shape((40, 40), np.random.default_rng(s)).tobytes() for s in range(10)}) == 10
