import numpy as np
import pytest

from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.passes import count_halvings
from maskhone.ops.masks import mean_width
from maskhone.ops.roughen import measure_extent

CONFIG = BPRConfig(coarsest_side_px=10, narrowest_px=2)


def make_bar(length, width, side=200):
    mask = np.zeros((side, side), dtype=bool)
    mask[20 : 20 + length, 20 : 20 + width] = True
    return mask


@pytest.mark.parametrize(("side_px", "halvings"), [(5, 0), (19, 0), (20, 1), (39, 1), (40, 2)])
def test_halving_stops_between_one_and_two_times_the_coarsest_side(side_px, halvings):
    assert count_halvings(make_bar(side_px, side_px), CONFIG) == halvings


@pytest.mark.parametrize(("width_px", "halvings"), [(3, 0), (5, 1), (9, 2), (20, 3)])
def test_halving_stops_before_strands_are_lost(width_px, halvings):
    assert count_halvings(make_bar(150, width_px), CONFIG) == halvings


def test_an_empty_mask_is_never_halved():
    assert count_halvings(np.zeros((50, 50), dtype=bool), CONFIG) == 0


@pytest.mark.parametrize("width_px", [4, 8, 16])
def test_a_strand_is_as_wide_as_it_is(width_px):
    assert mean_width(make_bar(160, width_px)) == pytest.approx(width_px, rel=0.1)


def test_many_strands_are_as_wide_as_one():
    mask = np.zeros((200, 200), dtype=bool)
    mask[:, 10:190:20] = mask[:, 11:190:20] = mask[:, 12:190:20] = mask[:, 13:190:20] = True
    assert mean_width(mask) == pytest.approx(4, rel=0.1)


def test_the_extent_of_a_block_is_its_side_and_of_a_wire_some_widths():
    assert measure_extent(make_bar(100, 80)) == 100
    assert 20 < measure_extent(make_bar(150, 4)) < 50
    assert measure_extent(np.zeros((5, 5), dtype=bool)) == 1
