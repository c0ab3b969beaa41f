import numpy as np
import pytest

from maskhone.ops import groups
from maskhone.ops.groups import split_masks


@pytest.mark.parametrize(("copies", "lengths"), [(1, [4, 3]), (2, [2, 2, 2, 1]), (99, [1] * 7)])
def test_groups_hold_every_mask_once_in_order_and_fit(monkeypatch, copies, lengths):
    monkeypatch.setattr(groups, "PIXELS_AT_ONCE", 4 * 6)
    parts = list(split_masks(7, (2, 3), copies=copies))
    assert np.concatenate([np.arange(7)[part] for part in parts]).tolist() == list(range(7))
    assert [part.stop - part.start for part in parts] == lengths


def test_no_masks_make_no_group():
    assert list(split_masks(0, (2, 3))) == []
