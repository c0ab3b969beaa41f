import numpy as np
import pytest

from maskhone.ops.tiles import plan_tiles


@pytest.mark.parametrize("size_hw", [(1, 1), (7, 20), (8, 16), (9, 3)], ids=str)
@pytest.mark.parametrize("reach_px", [0, 3, 50])
def test_tiles_cover_a_picture_once_and_know_their_place(size_hw, reach_px):
    picture = np.arange(size_hw[0] * size_hw[1]).reshape(size_hw)
    count = np.zeros(size_hw, dtype=int)
    for tile in plan_tiles(size_hw, side_px=4, reach_px=reach_px):
        count[tile.here] += 1
        np.testing.assert_array_equal(picture[tile.around][tile.within], picture[tile.here])
        for here, around, length in zip(tile.here, tile.around, size_hw, strict=True):
            assert around == slice(max(here.start - reach_px, 0), min(here.stop + reach_px, length))
    assert (count == 1).all()
