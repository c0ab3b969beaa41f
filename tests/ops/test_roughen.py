import numpy as np
import pytest

from maskhone.ops.roughen import is_thin, misread_strands


@pytest.fixture
def wires():
    mask = np.zeros((120, 160), dtype=bool)
    mask[30:34] = mask[90:94] = True
    mask[:, 60:64] = True
    return mask


def test_misread_strands_lie_on_the_strands(wires):
    for seed in range(12):
        coarse = misread_strands(wires, np.random.default_rng(seed), width_px=4)
        assert coarse.dtype == np.float32
        assert ((coarse >= 0) & (coarse <= 1)).all()
        assert coarse[wires].mean() > coarse[~wires].mean() + 0.2


def test_misread_strands_are_too_wide_and_have_gaps_and_specks(wires):
    masks = [
        misread_strands(wires, np.random.default_rng(seed), width_px=4) > 0.5 for seed in range(20)
    ]
    far = np.ones_like(wires)
    far[18:46] = far[78:106] = far[:, 48:76] = False
    assert any(np.count_nonzero(m) > 1.5 * np.count_nonzero(wires) for m in masks)
    assert any(np.count_nonzero(m & wires) < 0.9 * np.count_nonzero(wires) for m in masks)
    assert any((m & far).any() for m in masks), "specks"


@pytest.mark.parametrize(("height_px", "expected"), [(4, True), (60, False)])
def test_thin_is_much_longer_than_wide(height_px, expected):
    mask = np.zeros((100, 200), dtype=bool)
    mask[20 : 20 + height_px, 10:190] = True
    assert is_thin(mask) is expected


def test_nothing_is_not_thin():
    assert not is_thin(np.zeros((5, 5), dtype=bool))
