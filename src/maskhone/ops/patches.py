"""Patches: cut equal boxes out of an array, and average overlapping patches back together."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Boxes


def crop(array: NDArray[Any], boxes_xyxy: Boxes) -> NDArray[Any]:
    """Cuts boxes of one common size out of an array; what lies outside the array reads zero.

    Args:
        array: `(H, W)` or `(H, W, C)`, any dtype.
        boxes_xyxy: `(N, 4)`, all of the same width and height; may overhang.

    Returns:
        `(N, h, w)` or `(N, h, w, C)`, a copy.

    Example:
        >>> crop(np.arange(9).reshape(3, 3), np.array([[1, 1, 3, 3], [2, 2, 4, 4]])).tolist()
        [[[4, 5], [7, 8]], [[8, 0], [0, 0]]]
    """
    height, width = _common_size(boxes_xyxy)
    patches = np.zeros((len(boxes_xyxy), height, width, *array.shape[2:]), dtype=array.dtype)
    for patch, (x1, y1, x2, y2) in zip(patches, boxes_xyxy.tolist(), strict=True):
        inside = array[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
        top, left = max(-y1, 0), max(-x1, 0)
        patch[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return patches


def paste_average(
    patches: Iterable[NDArray[np.float32]], boxes_xyxy: Boxes, size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Averages patches where they overlap: the inverse of `crop` on covered pixels.

    Args:
        patches: N of `(h, w)` float32; an array, or made one after another.
        boxes_xyxy: `(N, 4)`, where each patch belongs; parts outside the image are dropped.
        size_hw: height and width of the result.

    Returns:
        The `(H, W)` float32 mean, zero where no patch lies, and the `(H, W)` bool covered pixels.

    Example:
        >>> mean, is_covered = paste_average(
        ...     np.array([[[1.0, 1.0]], [[0.0, 0.0]]], dtype=np.float32),
        ...     np.array([[0, 0, 2, 1], [1, 0, 3, 1]]), (1, 4))
        >>> mean.tolist(), is_covered.tolist()
        ([[1.0, 0.5, 0.0, 0.0]], [[True, True, True, False]])
    """
    total = np.zeros(size_hw, dtype=np.float32)
    count = np.zeros(size_hw, dtype=np.float32)
    for patch, (x1, y1, x2, y2) in zip(patches, boxes_xyxy.tolist(), strict=True):
        here = (slice(max(y1, 0), max(y2, 0)), slice(max(x1, 0), max(x2, 0)))
        top, left = max(-y1, 0), max(-x1, 0)
        height, width = total[here].shape
        total[here] += patch[top : top + height, left : left + width]
        count[here] += 1
    is_covered = count > 0
    return np.divide(total, count, out=total, where=is_covered), is_covered


def _common_size(boxes_xyxy: Boxes) -> tuple[int, int]:
    if len(boxes_xyxy) == 0:
        return 0, 0
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    assert (sides == sides[0]).all(), "crop needs boxes of one size"
    return int(sides[0, 1]), int(sides[0, 0])
