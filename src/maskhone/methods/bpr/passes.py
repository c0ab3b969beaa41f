"""Coarse-to-fine passes: how far an image is shrunk for the first look at an object."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.methods.bpr.config import BPRConfig
from maskhone.ops.masks import longer_side, mean_width


def count_halvings(mask: NDArray[np.bool_], config: BPRConfig) -> int:
    """Counts how often the image is halved for the first pass over an object.

    The object's longer side in that pass is between one and two times `coarsest_side_px`, and its
    mean width at least `narrowest_px`.

    Args:
        mask: `(H, W)` bool.
        config: `coarsest_side_px` 0 never halves.

    Example:
        >>> square, wire = np.ones((400, 300), dtype=bool), np.zeros((400, 300), dtype=bool)
        >>> wire[:, 150:155] = True
        >>> config = BPRConfig(coarsest_side_px=96)
        >>> count_halvings(square, config), count_halvings(wire, config)
        (2, 0)
    """
    if config.coarsest_side_px == 0 or not mask.any():
        return 0
    halvings = max(longer_side(mask) // config.coarsest_side_px, 1).bit_length() - 1
    width_px = mean_width(mask)
    while halvings and width_px / 2**halvings < config.narrowest_px:
        halvings -= 1
    return halvings


def shrink(array: NDArray[Any], factor: int) -> NDArray[Any]:
    """Averages `factor` x `factor` pixels into one; the last row and column fill up the rest.

    Args:
        array: `(H, W)` or `(H, W, C)`.
        factor: 1 returns the array itself.

    Returns:
        Height and width are `ceil(H / factor)` and `ceil(W / factor)`.

    Example:
        >>> shrink(np.array([[0, 4, 8]], dtype=np.uint8), 2).tolist()
        [[2, 8]]
    """
    if factor == 1:
        return array
    height, width = array.shape[:2]
    full = cv2.copyMakeBorder(array, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE)
    size_wh = (full.shape[1] // factor, full.shape[0] // factor)
    return cv2.resize(full, size_wh, interpolation=cv2.INTER_AREA)
