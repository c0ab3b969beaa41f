"""Keeps the coarse mask where a refined one strays, or where it should not have been touched."""

import numpy as np

from maskhone.contracts import FOREGROUND, Scores
from maskhone.ops.masks import near_outline

LEAST_AGREEMENT = 0.75
"""Chosen on train lists by benchmarks/guard.py: nothing is lost where refining helps."""


def keep_coarse_where_strayed(
    coarse: Scores, refined: Scores, *, least_agreement: float = LEAST_AGREEMENT
) -> Scores:
    """Returns the refined masks, but the coarse one of every object whose refined mask strayed.

    A refiner mends outlines. When little of the mask it was given is left in what it returns, the
    object is of a kind that it does not understand.

    Args:
        coarse: `(N, H, W)` scores.
        refined: `(N, H, W)` scores.
        least_agreement: IoU of the two, each cut at one half, that a refined mask must reach.

    Example:
        >>> coarse = np.ones((1, 1, 4), dtype=np.float32)
        >>> refined = np.array([[[1, 0, 0, 0]]], dtype=np.float32)
        >>> keep_coarse_where_strayed(coarse, refined).tolist()
        [[[1.0, 1.0, 1.0, 1.0]]]
    """
    before, after = coarse > FOREGROUND, refined > FOREGROUND
    shared = (before & after).sum(axis=(1, 2))
    either = (before | after).sum(axis=(1, 2))
    has_strayed = shared < least_agreement * either
    return np.where(has_strayed[:, None, None], coarse, refined)


def keep_coarse_beyond_band(coarse: Scores, refined: Scores, *, band_px: int) -> Scores:
    """Returns the refined scores near the coarse outline, and the coarse ones elsewhere.

    Refiners that see the whole object may add or drop parts far from its outline; on masks that
    are right but for their edge, such as SAM's, those parts are mistakes.

    Args:
        coarse: `(N, H, W)` scores.
        refined: `(N, H, W)` scores.
        band_px: distance from the outline, each way, that may change.

    Example:
        >>> coarse = np.array([[[1, 1, 1, 0, 0, 0]]], dtype=np.float32)
        >>> keep_coarse_beyond_band(coarse, 1 - coarse, band_px=1).tolist()
        [[[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]]]
    """
    limited = coarse.copy()
    for before, after, result in zip(coarse, refined, limited, strict=True):
        is_near = near_outline(before > FOREGROUND, band_px)
        np.copyto(result, after, where=is_near)
    return limited
