"""Joins the two maps of PatchRefineNet. Source: PatchRefineNet section 8."""

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND


def merge_branches(whole: NDArray[np.float32], local: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Adds to the global mask a rim of one pixel about what both branches agree on.

    Args:
        whole: `(..., H, W)` probabilities of the global branch.
        local: likewise of the local branch.

    Returns:
        `(..., H, W)` bool. The local branch can only add; it never removes, as published.
    """
    is_whole = whole > FOREGROUND
    agreed = is_whole & (local > FOREGROUND)
    flat = agreed.reshape(-1, *agreed.shape[-2:]).astype(np.uint8)
    kernel = np.ones((3, 3), dtype=np.uint8)
    grown = np.stack([cv2.dilate(mask, kernel) for mask in flat]).reshape(agreed.shape)
    return is_whole | (grown > 0)
