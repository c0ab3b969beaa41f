"""The best threshold of every patch of a probability map, known the truth.

A model's scores are too high in some patches and too low in others; what one threshold per patch
could gain over one for all is the most that PatchRefineNet can learn. R, C rows and columns of
patches, K candidate thresholds. Source: PatchRefineNet section 2.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.errors import UsageError

CANDIDATES = (0.05 * np.arange(1, 21)).astype(np.float32)
"""0.05, 0.10, ..., 1.00, as published; the last predicts nothing."""

_SLACK = 1e-3  # of a step: more than rounding can be off, less than a step


@dataclass(frozen=True, kw_only=True)
class PatchThresholds:
    """What the best thresholds are and what comes of them.

    Attributes:
        thresholds: `(R, C)` float32.
        labels: `(H, W)` bool, the map cut patch by patch.
        curves: `(R, C, K)` float64 smoothed IoU of every candidate.
    """

    thresholds: NDArray[np.float32]
    labels: NDArray[np.bool_]
    curves: NDArray[np.float64]


def find_thresholds(
    scores: NDArray[np.float32],
    truth: NDArray[np.bool_],
    side_px: int,
    *,
    candidates: NDArray[np.float32] = CANDIDATES,
    covers_rest: bool = False,
) -> PatchThresholds:
    """Finds, in each square patch, the threshold whose mask has the highest IoU with the truth.

    A pixel is foreground when its score is strictly above the threshold, compared in float32. The
    IoU is smoothed, `(I + 1) / (U + 1)`; among equals the lowest threshold wins.

    Args:
        scores: `(H, W)` float32 in [0, 1].
        truth: `(H, W)` bool.
        side_px: of the patches.
        candidates: `(K,)` rising thresholds.
        covers_rest: what is left on the right and below makes smaller patches. Otherwise it is left
            out and its labels are false, as published.

    Raises:
        UsageError: patches larger than the map, or of no size.

    Example:
        >>> scores = np.array([[0.2, 0.4, 0.7, 0.9]] * 2, dtype=np.float32)
        >>> truth = np.array([[False, True, False, True]] * 2)
        >>> find_thresholds(scores, truth, 2).thresholds.tolist()[0]
        [0.20000000298023224, 0.699999988079071]
    """
    height, width = scores.shape
    if covers_rest and side_px >= 1:
        rest = [(0, -height % side_px), (0, -width % side_px)]
        whole = find_thresholds(
            np.pad(scores, rest), np.pad(truth, rest), side_px, candidates=candidates
        )
        return replace(whole, labels=whole.labels[:height, :width])
    if not 1 <= side_px <= min(height, width):
        raise UsageError(f"patches of {side_px} px do not fit into a map of {height}x{width}")
    curves = _iou_curves(_split(scores, side_px), _split(truth, side_px), candidates)
    thresholds = candidates[curves.argmax(axis=-1)]
    labels = np.zeros(scores.shape, dtype=np.bool_)
    inner = (slice(thresholds.shape[0] * side_px), slice(thresholds.shape[1] * side_px))
    spread = thresholds.repeat(side_px, axis=0).repeat(side_px, axis=1)
    labels[inner] = scores[inner] > spread
    return PatchThresholds(thresholds=thresholds, labels=labels, curves=curves)


def find_image_threshold(
    scores: NDArray[np.float32],
    truth: NDArray[np.bool_],
    *,
    candidates: NDArray[np.float32] = CANDIDATES,
) -> tuple[np.float32, np.float64]:
    """Finds the one best threshold of a whole map of any shape, and its smoothed IoU."""
    curve = _iou_curves(scores.reshape(1, 1, -1), truth.reshape(1, 1, -1), candidates)[0, 0]
    best = int(curve.argmax())
    return candidates[best], curve[best]


def count_above(
    scores: NDArray[np.float32],
    truth: NDArray[np.bool_],
    *,
    candidates: NDArray[np.float32] = CANDIDATES,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts, for every candidate, the pixels above it: of the truth, and in all; `(K,)` each."""
    inside, above = _count(scores.reshape(1, 1, -1), truth.reshape(1, 1, -1), candidates)
    return inside[0, 0], above[0, 0]


def _split(array: NDArray[np.generic], side_px: int) -> NDArray[np.generic]:
    """Arranges a map as `(R, C, side * side)`."""
    rows, columns = (n // side_px for n in array.shape)
    inner = array[: rows * side_px, : columns * side_px]
    patches = inner.reshape(rows, side_px, columns, side_px).swapaxes(1, 2)
    return patches.reshape(rows, columns, side_px * side_px)


def _iou_curves(
    scores: NDArray[np.generic], truth: NDArray[np.generic], candidates: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Computes the smoothed IoU of each patch and candidate: `(R, C, K)`."""
    inside, above = _count(scores, truth, candidates)
    union = truth.sum(axis=-1, dtype=np.int64)[..., None] + above - inside
    curves: NDArray[np.float64] = (inside + 1) / (union + 1)
    return curves


def _count(
    scores: NDArray[np.generic], truth: NDArray[np.generic], candidates: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts pixels above each candidate from one histogram per patch: `(R, C, K)` each.

    A score passes as many candidates as lie below it, so the pixels above candidate k are those
    that pass more than k. One row of patches at a time: small arrays stay in the caches.
    """
    rows, columns, _ = scores.shape
    bins = len(candidates) + 1
    counts = np.empty((rows, columns, bins, 2), dtype=np.int64)
    starts = 2 * bins * np.arange(columns)[:, None]
    for row in range(rows):
        cells = 2 * _count_passed(scores[row], candidates) + truth[row].astype(np.bool_) + starts
        found = np.bincount(cells.ravel(), minlength=counts[row].size)
        counts[row] = found.reshape(columns, bins, 2)
    above = counts[:, :, ::-1].cumsum(axis=2)[:, :, -2::-1]
    return above[..., 1], above.sum(axis=-1)


def _count_passed(
    scores: NDArray[np.generic], candidates: NDArray[np.float32]
) -> NDArray[np.integer[Any]]:
    """Counts, for every score, the candidates below it: at once where they are evenly spaced.

    The place among evenly spaced ones is computed, a little too low, and then put right by one
    comparison.
    """
    steps = np.diff(candidates)
    if len(steps) == 0 or not np.allclose(steps, steps[0]) or steps[0] <= 0:
        found: NDArray[np.int64] = np.searchsorted(candidates, scores, side="left")
        return found
    bounds = np.append(candidates, np.float32(np.inf))
    scale = np.float32(1 / steps.mean())
    shift = np.float32(1 - _SLACK) - candidates[0] * scale
    places = (np.asarray(scores, dtype=np.float32) * scale + shift).clip(0, len(candidates))
    passed: NDArray[np.int16] = places.astype(np.int16)
    passed += np.asarray(scores, dtype=np.float32) > bounds.take(passed)
    return passed
