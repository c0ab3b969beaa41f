"""Where training looks: about an object, and at full size along its outline.

Boxes are x1, y1, x2, y2, end-exclusive. Source: SegRefiner sections 6.3 and 6.4.
"""

import numpy as np
from numpy.typing import NDArray

from maskhone.methods.segrefiner.coarse import Draws, make_coarse

Box = tuple[int, int, int, int]

_MOST_TRIES = 1000  # the original tries for ever


def draw_object_crop(
    object_xyxy: Box, size_hw: tuple[int, int], numbers: np.random.RandomState, *, margin_px: int
) -> Box:
    """Draws a crop that holds the object, shifted by up to half the margin (LR).

    Args:
        object_xyxy: tight box.
        size_hw: of the picture.
        numbers: all randomness comes from here.
        margin_px: added to the object's width and height; 40 as published.
    """
    x1, y1, x2, y2 = object_xyxy
    left, right = _draw_span(x1, x2, size_hw[1], numbers, margin_px)
    top, bottom = _draw_span(y1, y2, size_hw[0], numbers, margin_px)
    return left, top, right, bottom


def _draw_span(
    start: int, end: int, limit: int, numbers: np.random.RandomState, margin_px: int
) -> tuple[int, int]:
    half = min(end - start + margin_px, limit) / 2
    low, high = int(max(half, end - half)), int(min(start + half, limit - half))
    centre = numbers.randint(low, high + 1)
    return max(int(centre - half), 0), min(int(centre + half), limit)


def draw_wide_crop(
    object_xyxy: Box, size_hw: tuple[int, int], numbers: np.random.RandomState
) -> Box:
    """Draws any crop between the object and the whole picture (HR, the look at the whole)."""
    height, width = size_hw
    x1, y1, x2, y2 = object_xyxy
    left = 0 if x1 == 0 else numbers.randint(0, x1)
    right = width if x2 == width else numbers.randint(x2, width)
    top = 0 if y1 == 0 else numbers.randint(0, y1)
    bottom = height if y2 == height else numbers.randint(y2, height)
    return left, top, right, bottom


def draw_outline_patch(
    mask: NDArray[np.bool_], numbers: np.random.RandomState, *, side_px: int
) -> Box:
    """Draws a square in which the mask has an outline (HR, the look at full size).

    Args:
        mask: `(H, W)` bool.
        numbers: all randomness comes from here.
        side_px: of the square; half the picture's shorter side where it does not fit.

    Differs: gives up after many tries and returns the last square; the original never ends when
    the mask is empty or full.
    """
    height, width = mask.shape
    side = side_px if min(height, width) >= side_px else max(min(height, width) // 2, 1)
    for _ in range(_MOST_TRIES):
        top = numbers.randint(0, height - side + 1)
        left = numbers.randint(0, width - side + 1)
        inside = mask[top : top + side, left : left + side]
        if inside.any() and not inside.all():
            break
    return left, top, left + side, top + side


def draw_patch_coarse(
    truth: NDArray[np.bool_], stored: NDArray[np.bool_], draws: Draws
) -> NDArray[np.bool_]:
    """Takes the stored coarse mask of a patch or, at even odds, makes one from its truth (HR)."""
    return stored if draws.numpy.rand() <= 0.5 else make_coarse(truth, draws)
