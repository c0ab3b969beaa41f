import cv2
import numpy as np
import pytest

from maskhone.segmenters.augment import (
    augment_polyps,
    augment_roads,
    augment_salient_objects,
    flip_and_turn,
    rotate,
    shift_colours,
)

AUGMENTATIONS = [augment_roads, augment_salient_objects, augment_polyps]


@pytest.fixture
def pair():
    """A white disc off the centre of a black picture, and the same as a mask."""
    rows, columns = np.ogrid[:64, :80]
    mask = ((rows - 24) ** 2 + (columns - 50) ** 2 <= 12**2).astype(np.float32)
    return np.repeat(mask[..., None] * 255, 3, axis=2).astype(np.uint8), mask


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("seed", range(12))
def test_the_mask_moves_with_the_picture(augment, seed, pair):
    image, mask = augment(*pair, np.random.default_rng(seed))
    assert image.shape == (*mask.shape, 3)
    assert image.dtype == np.uint8
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    grey = image.mean(axis=2)
    is_white = grey > (grey.min() + grey.max()) / 2
    differs = is_white != (mask > 0.5)
    assert differs.sum() <= 0.05 * (mask > 0.5).sum()


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_same_seed_gives_the_same_pair_and_leaves_its_input_alone(augment, pair):
    before = [array.copy() for array in pair]
    first, again = (augment(*pair, np.random.default_rng(5)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(pair, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_seeds_differ(augment, pair):
    made = {augment(*pair, np.random.default_rng(seed))[1].tobytes() for seed in range(12)}
    assert len(made) > 1


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 9), (7, 2)])
def test_small_pictures_and_empty_masks_pass(augment, size_hw):
    for seed in range(6):
        image, mask = augment(
            np.full((*size_hw, 3), 90, np.uint8),
            np.zeros(size_hw, np.float32),
            np.random.default_rng(seed),
        )
        assert image.shape == (*mask.shape, 3)
        assert mask.size
        assert not mask.any()


def test_all_eight_orientations_but_those_of_two_turns_are_drawn():
    corner = np.arange(6).reshape(2, 3)
    made = set()
    for seed in range(60):
        first, second = flip_and_turn((corner, corner[..., None]), np.random.default_rng(seed))
        np.testing.assert_array_equal(first, second[..., 0])
        made.add((first.shape, first.tobytes()))
    assert len(made) == 8


def test_turning_is_to_the_left_and_comes_last():
    array = np.array([[1, 2], [3, 4]])
    for seed in range(20):
        is_mirrored, is_upside_down, is_turned = np.random.default_rng(seed).random(3) < 0.5
        expected = array[:, ::-1] if is_mirrored else array
        expected = expected[::-1] if is_upside_down else expected
        expected = np.rot90(expected) if is_turned else expected
        np.testing.assert_array_equal(
            flip_and_turn((array,), np.random.default_rng(seed))[0], expected
        )


def test_rotation_keeps_all_of_the_picture():
    turned = rotate(np.ones((40, 60), np.float32), 20)
    assert turned.shape == (round(60 * 0.342 + 40 * 0.9397), round(60 * 0.9397 + 40 * 0.342))
    assert turned.sum() == pytest.approx(40 * 60, rel=0.02)


def test_rotation_by_nothing_changes_nothing(pair):
    np.testing.assert_array_equal(rotate(pair[0], 0), pair[0])


def test_colours_are_shifted_no_further_than_published():
    rng = np.random.default_rng(0)
    hsv = np.full((1, 200, 3), (90, 128, 128), np.uint8)
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    for _ in range(40):
        shifted = cv2.cvtColor(shift_colours(image, rng), cv2.COLOR_RGB2HSV).astype(int)
        assert (np.abs(shifted - hsv.astype(int)) <= (32, 8, 16)).all()  # bytes round


def test_hues_go_round_at_256_as_published():
    red = np.array([[[200, 0, 0]]], np.uint8)
    hues = set()
    for seed in range(60):
        shifted = shift_colours(red, np.random.default_rng(seed))
        hues.add(int(cv2.cvtColor(shifted, cv2.COLOR_RGB2HSV)[0, 0, 0]))
    assert min(hues) <= 1  # shifted up from 0
    assert max(hues) <= 78  # 256 - 1 - 180 and rounding: never the violet reds above 149
    assert any(45 <= hue for hue in hues)
