"""Keeps the coarse mask where a refined one strays."""

import numpy as np

from maskhone.contracts import FOREGROUND, Scores

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
