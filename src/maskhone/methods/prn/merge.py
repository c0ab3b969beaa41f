"""Joins the two maps of PatchRefineNet. Source: PatchRefineNet section 8."""

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND

MERGES = ("published", "global", "local", "mean", "and", "or")
_SQUARE = np.ones((3, 3), dtype=np.uint8)


def merge_scores(
    whole: NDArray[np.float32], local: NDArray[np.float32] | None, rule: str
) -> NDArray[np.float32]:
    """Joins the probabilities of both branches.

    Args:
        whole: `(H, W)` of the global branch.
        local: likewise of the local branch; None for a network without one, whatever the rule.
        rule: `published`: the global map, and about every pixel the lower of both maps spread by
            one pixel; above one half are exactly the pixels of `merge_branches`. `global`, `local`:
            one of them. `mean`. `and`: the lower. `or`: the higher.

    Returns:
        `(H, W)` in [0, 1].

    Differs: the original has only the published rule, and only its mask.

    Example:
        >>> whole = np.array([[1.0, 0.5, 0.25]], dtype=np.float32)
        >>> local = np.array([[0.75, 0.125, 1.0]], dtype=np.float32)
        >>> merge_scores(whole, local, "published").tolist()
        [[1.0, 0.75, 0.25]]
    """
    if local is None or rule == "global":
        return whole
    if rule == "local":
        return local
    if rule == "mean":
        return np.asarray((whole + local) / 2, dtype=np.float32)
    if rule == "or":
        return np.maximum(whole, local)
    agreed: NDArray[np.float32] = np.minimum(whole, local)
    if rule == "and":
        return agreed
    assert rule == "published", rule
    grown = np.asarray(cv2.dilate(agreed, _SQUARE), dtype=np.float32)
    return np.maximum(whole, grown)


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
    grown = np.stack([cv2.dilate(mask, _SQUARE) for mask in flat]).reshape(agreed.shape)
    return is_whole | (grown > 0)
