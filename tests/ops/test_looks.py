import numpy as np
import pytest

from maskhone.contracts import FOREGROUND
from maskhone.ops.looks import Looks, mirror, shift_outline, take_looks

IMAGE = np.zeros((40, 48, 3), dtype=np.uint8)


class Plain:
    """A refiner that returns what it gets, and remembers it."""

    def __init__(self):
        self.seen = []

    def refine(self, image, masks):
        self.seen.append(masks.copy())
        return masks * np.float32(0.5)


class Own(Plain):
    """One that knows ways of its own."""

    def look_again(self, image, masks):
        return [masks * np.float32(0.25), masks * np.float32(0.75)]


@pytest.fixture
def hard(disc):
    return disc.astype(np.float32)


@pytest.fixture
def soft(hard):
    """Scores that fall off from 0.9 in the middle of the disc."""
    rows, columns = np.ogrid[: hard.shape[0], : hard.shape[1]]
    away = np.hypot(rows - 20, columns - 24)
    return np.clip(1.2 - away / 12, 0.05, 0.9).astype(np.float32)


def test_any_refiner_is_given_a_smaller_and_a_larger_mask(hard):
    refiner = Plain()
    looks = take_looks(refiner, IMAGE, hard[None])
    same, smaller, larger = (masks[0] > FOREGROUND for masks in refiner.seen)
    np.testing.assert_array_equal(same, hard > FOREGROUND)
    assert (smaller <= same).all()
    assert (same <= larger).all()
    assert 0 < smaller.sum() < same.sum() < larger.sum()
    assert len(looks.scores) == 3
    assert not looks.can_be_trusted
    for answer, seen in zip(looks.scores, refiner.seen, strict=True):
        np.testing.assert_array_equal(answer, seen * np.float32(0.5))


def test_a_refiner_with_ways_of_its_own_is_asked_in_those(hard):
    refiner = Own()
    looks = take_looks(refiner, IMAGE, hard[None])
    assert len(refiner.seen) == 1
    assert [float(each.max()) for each in looks.scores] == [0.5, 0.25, 0.75]
    assert looks.can_be_trusted


@pytest.mark.parametrize("refiner", [Plain(), Own()], ids=["plain", "own"])
def test_no_masks_give_looks_at_none(refiner):
    looks = take_looks(refiner, IMAGE, np.zeros((0, 40, 48), dtype=np.float32))
    assert {each.shape for each in looks.scores} == {(0, 40, 48)}


def test_each_mask_is_shifted_alone(hard, soft):
    together, alone = Plain(), Plain()
    take_looks(together, IMAGE, np.stack([hard, soft]))
    take_looks(alone, IMAGE, soft[None])
    for both, one in zip(together.seen, alone.seen, strict=True):
        np.testing.assert_array_equal(both[1:], one)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_shifted_outline_lies_within_or_around(request, kind):
    scores = request.getfixturevalue(kind)
    smaller, larger = shift_outline(scores, -1), shift_outline(scores, 1)
    assert smaller.dtype == larger.dtype == np.float32
    assert ((0 <= smaller) & (smaller <= scores)).all()
    assert ((scores <= larger) & (larger <= 1)).all()
    n_before = np.count_nonzero(scores > FOREGROUND)
    assert 0 < np.count_nonzero(smaller > FOREGROUND) < n_before
    assert np.count_nonzero(larger > FOREGROUND) > n_before


@pytest.mark.parametrize("way", [-1, 1])
def test_an_empty_mask_stays_empty(way):
    assert not shift_outline(np.zeros((4, 5), dtype=np.float32), way).any()


def test_shifting_leaves_the_mask_alone(hard):
    before = hard.copy()
    shift_outline(hard, 1)
    np.testing.assert_array_equal(hard, before)


def test_looks_at_one_mask_and_their_average():
    first, second = np.zeros((2, 1, 3), np.float32), np.ones((2, 1, 3), np.float32)
    first[1] = 0.5
    one = Looks(scores=(first, second), can_be_trusted=True).of(1)
    assert one.can_be_trusted
    assert [each.tolist() for each in one.scores] == [[[0.5] * 3], [[1.0] * 3]]
    assert one.average().tolist() == [[pytest.approx(2 / 3)] * 3]
    assert one.average().dtype == np.float32


def test_a_mirrored_array_has_memory_of_its_own():
    array = np.array([[1, 2, 3]])
    mirrored = mirror(array, axis=1)
    mirrored[:] = 0
    assert array.tolist() == [[1, 2, 3]]
    assert mirrored.flags.c_contiguous


@pytest.mark.parametrize("way", [-1, 1])
def test_one_soft_pixel_does_not_keep_an_outline_from_moving(way):
    hard = np.zeros((60, 60), dtype=np.float32)
    hard[15:45, 15:45] = 1
    nearly = hard.copy()
    nearly[30, 30] = 0.9
    moved, wanted = (shift_outline(each, way) > 0.5 for each in (nearly, hard))
    assert wanted.sum() != (hard > 0.5).sum()
    np.testing.assert_array_equal(moved, wanted)
