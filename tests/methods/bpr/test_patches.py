import numpy as np
import pytest

from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.patches import cut_image_patches, cut_mask_patches, widen

BOX = np.array([[0, 0, 4, 4]])
CONFIG = BPRConfig(patch_px=4, input_px=32)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)


@pytest.fixture
def half():
    """Scores 0, 0, 0.6, 1 from left to right."""
    return np.tile(np.array([0, 0, 0.6, 1], dtype=np.float32), (4, 1))


def test_widening_moves_every_side_outwards():
    assert widen(BOX, 2).tolist() == [[-2, -2, 6, 6]]


def test_image_patches_have_the_size_of_the_network(image):
    patches = cut_image_patches(image, np.repeat(BOX, 3, axis=0), CONFIG)
    assert patches.shape == (3, 32, 32, 3)
    assert patches.dtype == np.uint8


def test_enlarged_values_are_rounded_only_when_asked(image):
    unrounded = BPRConfig(patch_px=4, input_px=32, rounds_resized_image=False)
    patches = cut_image_patches(image, BOX, unrounded)
    assert patches.dtype == np.float32
    np.testing.assert_allclose(patches, cut_image_patches(image, BOX, CONFIG), atol=1)


def test_binary_masks_are_cut_at_one_half(half):
    (patch,) = cut_mask_patches(half, BOX, CONFIG)
    assert patch[0, ::8].tolist() == [0, 0, 1, 1]
    assert np.unique(patch).tolist() == [0, 1]


def test_soft_masks_show_the_scores(half):
    soft = BPRConfig(patch_px=4, input_px=32, mask_input="soft")
    (patch,) = cut_mask_patches(half, BOX, soft)
    assert np.any((patch > 0.55) & (patch < 0.65))


def test_the_context_is_shown_around_the_patch(image):
    padded = BPRConfig(patch_px=2, padding_px=1, input_px=32)
    inner = np.array([[1, 1, 3, 3]])
    np.testing.assert_array_equal(
        cut_image_patches(image, inner, padded), cut_image_patches(image, BOX, CONFIG)
    )


def test_no_boxes_give_no_patches(image, half):
    nothing = np.zeros((0, 4), dtype=np.int64)
    assert cut_image_patches(image, nothing, CONFIG).shape == (0, 32, 32, 3)
    assert cut_mask_patches(half, nothing, CONFIG).shape == (0, 32, 32)
