"""Limits what refiners did to a band around the coarse outline; 0 px stands for no limit."""

from dataclasses import replace

from maskhone.contracts import Scores
from maskhone.ops.guard import keep_coarse_beyond_band
from maskhone.ops.looks import Looks


def limit_scores(coarse: Scores, refined: Scores, *, band_px: int) -> Scores:
    """Returns `(N, H, W)` scores that are the coarse ones further than `band_px` from the outline.

    Example:
        >>> import numpy as np
        >>> coarse = np.array([[[1, 1, 1, 0, 0, 0]]], dtype=np.float32)
        >>> limit_scores(coarse, 1 - coarse, band_px=1).tolist()
        [[[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]]]
        >>> limit_scores(coarse, 1 - coarse, band_px=0).tolist()
        [[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]]
    """
    return keep_coarse_beyond_band(coarse, refined, band_px=band_px) if band_px else refined


def limit_looks(coarse: Scores, looks: Looks, *, band_px: int) -> Looks:
    """Limits every look, so that what lies beyond the band is not judged either.

    Args:
        coarse: `(N, H, W)` scores.
        looks: at these N masks.
        band_px: distance from the outline, each way, that may change; 0 sets no limit.
    """
    limited = tuple(limit_scores(coarse, each, band_px=band_px) for each in looks.scores)
    return replace(looks, scores=limited)
