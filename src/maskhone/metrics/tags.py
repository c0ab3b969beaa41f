"""How well scores of whole pictures rank those that hold a class."""

import numpy as np
from numpy.typing import NDArray


def rank_tags(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Measures the average precision of each class: how early its pictures come by their score.

    It is the mean, over the pictures with the class, of the precision among those scored at least
    as high; equal scores are taken together.

    Args:
        scores: `(N, C)`, of any range.
        truth: `(N, C)`, whether picture n holds class c.

    Returns:
        `(C,)` in [0, 1]; NaN for a class that no picture holds.

    Example:
        >>> scores = np.array([[0.9], [0.8], [0.1]])
        >>> rank_tags(scores, np.array([[True], [False], [True]])).round(4)
        array([0.8333])
    """
    assert scores.shape == truth.shape, f"{scores.shape} and {truth.shape}"
    found = np.full(scores.shape[1], np.nan)
    for c in np.flatnonzero(truth.any(axis=0)):
        ordered = np.sort(scores[:, c])
        held = np.sort(scores[truth[:, c], c])
        n_above = len(ordered) - np.searchsorted(ordered, held, side="left")
        n_right = len(held) - np.searchsorted(held, held, side="left")
        found[c] = (n_right / n_above).mean()
    return found
