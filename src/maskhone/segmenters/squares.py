"""Between pictures of any size and the square that a network sees."""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Scores

_Number = TypeVar("_Number", np.uint8, np.float32)


def shrink_to_square(picture: NDArray[_Number], side_px: int) -> NDArray[_Number]:
    """Resizes `(H, W)` or `(H, W, C)` to a square by averaging areas; the shape is not kept.

    A side that has to grow is interpolated, or its pixels are repeated when the factor is whole:
    OpenCV's `INTER_AREA`, as in the published loaders.
    """
    return _resize(picture, (side_px, side_px), cv2.INTER_AREA)


def make_square_truth(mask: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    """Turns `(H, W)` scores into a `(1, S, S)` truth of 0 and 1.

    The averages are rounded to steps of 1/255 as by the published loaders, and one half is inside.

    Source: PatchRefineNet section 10.1.
    """
    grey = np.rint(mask * 255.0).astype(np.uint8)
    inside = shrink_to_square(grey, side_px) / 255.0 >= 0.5
    return inside[np.newaxis].astype(np.float32)


def resize_scores(scores: Scores, size_hw: Sequence[int]) -> Scores:
    """Resizes `(1, h, w)` scores bilinearly."""
    return _resize(scores[0], size_hw, cv2.INTER_LINEAR)[np.newaxis]


def fit_into_square(picture: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    """Pads `(H, W)` or `(H, W, C)` with zeros to a square and shrinks that to S x S.

    The same amount is added on both sides; where it is odd, the padded picture is one pixel short
    of a square. The longer side is shrunk before the padding, which gives the same values and
    keeps a panorama from becoming a huge square.

    Source: PatchRefineNet section 10.2.
    """
    h, w = picture.shape[:2]
    if h > w:
        turned = fit_into_square(picture.swapaxes(0, 1), side_px)
        return np.ascontiguousarray(turned.swapaxes(0, 1))
    margin = (w - h) // 2
    narrow = _resize(picture, (h, side_px), cv2.INTER_AREA)
    padded = np.pad(narrow, [(margin, margin), *[(0, 0)] * (picture.ndim - 1)])
    return _resize(padded, (side_px, side_px), cv2.INTER_AREA)


def cut_from_square(scores: Scores, size_hw: Sequence[int]) -> Scores:
    """Undoes `fit_into_square` for `(1, S, S)` scores, bilinearly: returns `(1, H, W)`."""
    h, w = size_hw
    if h > w:
        turned = cut_from_square(scores.swapaxes(1, 2), (w, h))
        return np.ascontiguousarray(turned.swapaxes(1, 2))
    margin = (w - h) // 2
    tall = _resize(scores[0], (h + 2 * margin, scores.shape[2]), cv2.INTER_LINEAR)
    return _resize(tall[margin : margin + h], (h, w), cv2.INTER_LINEAR)[np.newaxis]


def _resize(
    picture: NDArray[_Number], size_hw: Sequence[int], interpolation: int
) -> NDArray[_Number]:
    resized = cv2.resize(
        np.ascontiguousarray(picture), tuple(size_hw)[::-1], interpolation=interpolation
    )
    return np.asarray(resized, dtype=picture.dtype)
