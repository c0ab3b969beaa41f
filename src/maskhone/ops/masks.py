"""Masks: what their numbers mean, their boxes, label maps taken apart and joined."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Scores
from maskhone.errors import InputError, UsageError

IGNORE_LABEL = 255
"""The label of pixels that count nowhere (PASCAL VOC, Cityscapes train ids and CamVid agree)."""


@dataclass(frozen=True, kw_only=True)
class MaskKind:
    """What the numbers of a mask mean.

    Attributes:
        dtype: NumPy name of the array's type, such as `bool`, `uint8` or `float32`.
        top: the number that stands for a score of 1: 1, 255, 65535, or 1 for floats.
        is_binary: only 0 and `top` occur; otherwise the numbers are probabilities, v / top.
    """

    dtype: str
    top: int
    is_binary: bool


def to_scores(array: NDArray[Any], *, name: str = "mask") -> tuple[NDArray[np.float32], MaskKind]:
    """Reads the numbers of a mask as scores, and remembers what they were.

    Args:
        array: `(H, W)` or `(N, H, W)`; bool; integers that are all 0 or 1, or all 0 or 255; uint8
            or uint16 with other values, a probability v/255 or v/65535; floats in [0, 1].
            All-zero uint8 counts as 0 and 255, uint16 as 0 and 65535, others as 0 and 1.
        name: what messages call the mask.

    Returns:
        Scores of the same shape in [0, 1], and the kind that `from_scores` needs.

    Raises:
        InputError: NaN, floats outside [0, 1], other integers, or not two or three axes.

    Example:
        >>> scores, kind = to_scores(np.array([[0, 255]], dtype=np.uint8))
        >>> scores.tolist(), kind
        ([[0.0, 1.0]], MaskKind(dtype='uint8', top=255, is_binary=True))
    """
    if array.ndim not in (2, 3):
        raise InputError(
            f"{name}: mask has shape {array.shape}, "
            "expected (height, width) or (objects, height, width)"
        )
    kind = _find_kind(array, name)
    if kind.top == 1:
        return array.astype(np.float32), kind
    return array.astype(np.float32) / np.float32(kind.top), kind


def from_scores(
    scores: NDArray[np.float32], kind: MaskKind, *, binary: bool = False
) -> NDArray[Any]:
    """Writes scores as numbers of a kind: the inverse of `to_scores`.

    Args:
        scores: any shape, in [0, 1].
        kind: from `to_scores`.
        binary: cut probabilities at one half; the result holds only 0 and `kind.top`.

    Example:
        >>> scores = np.array([[0.2, 0.6]], dtype=np.float32)
        >>> from_scores(scores, MaskKind(dtype="uint8", top=255, is_binary=True)).tolist()
        [[0, 255]]
    """
    dtype = np.dtype(kind.dtype)
    if kind.is_binary or binary:
        cut: NDArray[Any] = (scores > FOREGROUND).astype(dtype)
        return cut * dtype.type(kind.top) if kind.top > 1 else cut
    if dtype.kind == "f":
        return scores.astype(dtype)
    return to_steps(scores, kind.top).astype(dtype)


def to_steps(scores: NDArray[np.floating[Any]], top: int) -> NDArray[np.float64]:
    """Rounds scores to whole steps of 1 / `top`; one half falls, so that it stays background.

    Example:
        >>> to_steps(np.array([0.2, 0.5, 0.503]), 255).tolist()
        [51.0, 127.0, 128.0]
    """
    steps: NDArray[np.float64] = np.ceil(scores.astype(np.float64) * top - 0.5)
    return steps


def tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Finds the smallest box around the true pixels of an `(H, W)` mask, as COCO writes it.

    Returns:
        x, y of the first pixel, width and height in pixels (last - first + 1); None when empty.

    Example:
        >>> tight_box(np.array([[0, 0, 0], [0, 1, 1]], dtype=bool))
        (1, 1, 2, 1)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def split_labels(
    label_map: NDArray[Any], *, ignore: int = IGNORE_LABEL
) -> tuple[NDArray[np.int64], Scores]:
    """Takes a label map apart into one binary mask for each label that occurs.

    Args:
        label_map: `(H, W)` integers; 0 is background.
        ignore: label that makes no mask.

    Returns:
        `(N,)` labels in ascending order and `(N, H, W)` scores of 0 and 1; N may be 0.

    Example:
        >>> labels, scores = split_labels(np.array([[0, 7], [255, 2]]))
        >>> labels.tolist(), scores.tolist()
        ([2, 7], [[[0.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 0.0]]])
    """
    found = np.unique(label_map).astype(np.int64)
    labels = found[(found != 0) & (found != ignore)]
    scores = np.zeros((len(labels), *label_map.shape), dtype=np.float32)
    for mask, label in zip(scores, labels.tolist(), strict=True):
        mask[label_map == label] = 1.0
    return labels, scores


def join_labels(
    scores: Scores,
    labels: NDArray[np.int64],
    original: NDArray[Any],
    *,
    ignore: int = IGNORE_LABEL,
) -> NDArray[Any]:
    """Joins masks to a label map: at each pixel the highest score above one half wins.

    Args:
        scores: `(N, H, W)` in [0, 1]; equal scores go to the earlier mask.
        labels: `(N,)`.
        original: `(H, W)` label map; gives the type, and the pixels that stay `ignore`.
        ignore: label of those pixels.

    Returns:
        `(H, W)`, 0 where no score exceeds one half.

    Example:
        >>> scores = np.array([[[0.9, 0.6, 0.2, 1.0]], [[0.2, 0.8, 0.4, 0.0]]], dtype=np.float32)
        >>> original = np.array([[3, 3, 5, 255]], dtype=np.uint8)
        >>> join_labels(scores, np.array([3, 5]), original).tolist()
        [[3, 5, 0, 255]]
    """
    joined = np.zeros_like(original)
    highest = np.full(original.shape, FOREGROUND, dtype=np.float32)
    for score, label in zip(scores, labels.tolist(), strict=True):
        joined[score > highest] = label
        highest = np.maximum(highest, score)
    joined[original == ignore] = ignore
    return joined


def choose_classes(refined: Scores, given: Scores) -> NDArray[np.int64]:
    """Chooses a class for each pixel from scores that were refined each against the rest.

    Args:
        refined: `(K, H, W)` in [0, 1]; they need not sum to 1.
        given: likewise, before refinement.

    Returns:
        `(H, W)` numbers 0 to K - 1: the class of the highest refined score, and where none is above
        one half, that of the highest score before.

    Source: PatchRefineNet section 14; the rule is ours, no code was published.
    """
    is_found = refined.max(axis=0) > FOREGROUND
    classes: NDArray[np.int64] = np.where(is_found, refined.argmax(axis=0), given.argmax(axis=0))
    return classes


def _find_kind(array: NDArray[Any], name: str) -> MaskKind:
    dtype = array.dtype.name
    if array.dtype.kind == "b":
        return MaskKind(dtype=dtype, top=1, is_binary=True)
    if array.dtype.kind == "f":
        _check_probabilities(array, name)
        return MaskKind(dtype=dtype, top=1, is_binary=False)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name}: mask holds {dtype}, expected bool, integers or floats")
    full = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    highest = int(array.max(initial=0))
    if highest in (0, 1, 255, full) and bool(np.all((array == 0) | (array == highest))):
        return MaskKind(dtype=dtype, top=highest or full, is_binary=True)
    if dtype not in ("uint8", "uint16"):
        raise InputError(
            f"{name}: mask holds {dtype} values {array.min()} to {highest}, expected 0 and 1, "
            "or 0 and 255; give class or object numbers as one mask each"
        )
    return MaskKind(dtype=dtype, top=full, is_binary=False)


def _check_probabilities(array: NDArray[Any], name: str) -> None:
    if array.size == 0:
        return
    lowest, highest = array.min(), array.max()
    if np.isnan(lowest):  # one NaN anywhere makes the minimum NaN
        raise InputError(f"{name}: mask holds NaN, expected scores in [0, 1]; mend its maker")
    if lowest < 0 or highest > 1:
        raise InputError(
            f"{name}: mask holds {lowest:g} to {highest:g}, expected scores in [0, 1]; "
            "apply a sigmoid to logits, or divide by 255"
        )


def surround(
    mask: NDArray[np.bool_], margin_px: int, *, least_px: int = 0
) -> tuple[slice, slice] | None:
    """Returns the rows and columns of an object with a margin, cut to the image; None when empty.

    Args:
        mask: `(H, W)`.
        margin_px: on each side.
        least_px: a window with shorter sides is widened to this, as far as the image goes.

    Example:
        >>> surround(np.array([[0, 0, 0], [0, 0, 1]], dtype=bool), 1)
        (slice(0, 2, None), slice(1, 3, None))
    """
    box = tight_box(mask)
    if box is None:
        return None
    x, y, width, height = box
    down = _widen(y - margin_px, y + height + margin_px, mask.shape[0], least_px)
    across = _widen(x - margin_px, x + width + margin_px, mask.shape[1], least_px)
    return down, across


def _widen(start: int, stop: int, limit: int, least: int) -> slice:
    """Cuts a span to 0..limit, and moves its ends apart until it is long enough."""
    start, stop, least = max(start, 0), min(stop, limit), min(least, limit)
    if stop - start < least:
        start = min(max((start + stop - least) // 2, 0), limit - least)
        stop = start + least
    return slice(start, stop)


def choose_band(mask: NDArray[np.bool_], band_px: int, band_share: float) -> int:
    """Returns how far from the outline, in pixels each way, a refiner may change an object.

    Args:
        mask: `(H, W)` bool.
        band_px: the answer, unless it is 0.
        band_share: otherwise this share of the square root of the object's area, at least 2 px.

    Raises:
        UsageError: a negative width, or no width at all.

    Example:
        >>> choose_band(np.ones((100, 100), dtype=bool), 0, 0.05)
        5
    """
    if band_px < 0 or band_share <= 0:
        raise UsageError(
            "band_px must be 0 or more and band_share more than 0; received "
            f"{band_px} and {band_share}"
        )
    return band_px or max(2, round(band_share * float(np.sqrt(np.count_nonzero(mask)))))


def near_outline(mask: NDArray[np.bool_], distance_px: float) -> NDArray[np.bool_]:
    """Marks the pixels within a Euclidean distance of the other side of the outline.

    Example:
        >>> near_outline(np.array([[0, 0, 0, 1, 1, 1]], dtype=bool), 1).astype(int).tolist()
        [[0, 0, 1, 1, 0, 0]]
    """
    sides = (mask.astype(np.uint8), (~mask).astype(np.uint8))
    away = [cv2.distanceTransform(s, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for s in sides]
    return np.asarray(np.maximum(*away) <= distance_px)


def mean_width(mask: NDArray[np.bool_]) -> float:
    """Measures the mean width of an object in pixels: twice its area by the length of its outline.

    That is the width of a long strand, and half the diameter of a disc.

    Args:
        mask: `(H, W)` bool, not empty.
    """
    found, _ = cv2.findContours(_bytes(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outline_px = sum(cv2.arcLength(contour, True) for contour in found)
    return float(2 * np.count_nonzero(mask) / max(outline_px, 1.0))


def longer_side(mask: NDArray[np.bool_]) -> int:
    """Measures the longer side of the tight box of an `(H, W)` mask; 0 when it is empty."""
    _, _, width, height = cv2.boundingRect(_bytes(mask))
    return max(width, height)


def _bytes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(mask).view(np.uint8)
