import numpy as np
import pytest

from maskhone.ops import collage
from maskhone.ops.collage import draw_shape, draw_strands, paste_into
from maskhone.ops.masks import mean_width


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


@pytest.mark.parametrize("seed", range(8))
def test_a_shaded_shape_is_the_ground_in_another_light(seed):
    nothing = np.zeros((60, 80), dtype=bool)
    joined, shape = paste_into(
        flat(120), flat(0), nothing, np.random.default_rng(seed), drawn_share=1, shaded_share=1
    )
    assert shape.any()
    assert not shape.all()
    assert np.abs(joined[shape].mean(axis=0) - joined[~shape].mean(axis=0)).max() > 2
    assert np.median(joined[shape]) > 20, "not the other picture, which is black"


def test_what_is_drawn_can_be_chosen():
    truth = np.zeros((60, 80), dtype=bool)
    truth[10:50, 10:70] = True
    random = np.random.default_rng(1)
    pasted = [paste_into(flat(0), flat(240), truth, random, drawn_share=0)[1] for _ in range(5)]
    assert all(shape.mean() > 0.1 for shape in pasted), "the object, turned and scaled"


def test_strands_are_thin_and_many_sided():
    drawn = [draw_strands((120, 160), np.random.default_rng(seed)) for seed in range(20)]
    assert all(strands.any() and not strands.all() for strands in drawn)
    assert np.median([mean_width(strands) for strands in drawn]) < 15
    assert len({strands.tobytes() for strands in drawn}) == 20
