"""COCO run lengths: numbers of background and foreground pixels in turn, column by column."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycoco

from maskhone.errors import InputError

_LONGEST_RUN = 1 << 32  # COCO keeps run lengths in 32 bits


def read_runs(counts: Any, *, name: str = "segmentation") -> NDArray[np.int64]:
    """Reads the `counts` of a COCO code, a plain list or COCO's text form.

    Decoded here and not by pycocotools, which leaves memory unset when a code is too short.

    Source: cocodataset/cocoapi:common/maskApi.c `rleFrString`: 6 bits a character, from 48 on;
    the lower 5 belong to the number, the sixth says that more follow, the fifth of the last
    one is the sign. From the fourth number on, each is the difference to the second last.

    Raises:
        InputError: `counts` is no such code.

    Example:
        >>> read_runs("0150000000").tolist()
        [0, 1, 5, 1, 5, 1, 5, 1, 5, 1]
    """
    if isinstance(counts, list):
        if not all(isinstance(run, int) and 0 <= run < _LONGEST_RUN for run in counts):
            raise InputError(f"{name}: counts are not whole numbers; write the file again")
        return np.array(counts, dtype=np.int64)
    if isinstance(counts, str):
        counts = counts.encode("latin-1", "replace")
    text = np.frombuffer(counts if isinstance(counts, bytes) else b"", dtype=np.uint8)
    codes = text.astype(np.int64) - 48
    is_last = (codes & 32) == 0
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or not is_last[-1]:
        raise InputError(f"{name}: counts are no run-length code; write the file again")
    return _join_characters(codes, is_last, name)


def polygons_to_runs(
    polygons: list[Any], *, size_hw: tuple[int, int], name: str = "segmentation"
) -> NDArray[np.int64]:
    """Paints polygons, joined, as pycocotools does.

    Args:
        polygons: lists of x1, y1, x2, y2, ... in pixels, each of three corners or more; an empty
            list is an empty mask.
        size_hw: size of the image.
        name: what messages call it.

    Raises:
        InputError: something else than such lists, or corners far outside of the image.

    Example:
        >>> polygons_to_runs([[0, 0, 0, 2, 1, 2, 1, 0]], size_hw=(2, 2)).tolist()
        [0, 2, 2]
    """
    height, width = size_hw
    if not polygons:
        return np.array([height * width], dtype=np.int64)
    for polygon in polygons:
        if not _is_polygon(polygon, limit_px=10 * max(size_hw)):
            raise InputError(
                f"{name}: polygon {str(polygon)[:40]}, expected a list x1, y1, x2, y2, x3, y3, ... "
                f"in pixels of a {height}x{width} image"
            )
    painted = pycoco.merge(pycoco.frPyObjects(polygons, height, width))
    return read_runs(painted["counts"], name=name)


def _is_polygon(polygon: Any, *, limit_px: int) -> bool:
    """Checks the form, and that no corner is so far out that painting would take all memory."""
    try:
        corners = np.asarray(polygon, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    is_flat = corners.ndim == 1 and corners.size >= 6 and corners.size % 2 == 0
    return is_flat and bool((np.abs(corners) <= limit_px).all())


def _join_characters(
    codes: NDArray[np.int64], is_last: NDArray[np.bool_], name: str
) -> NDArray[np.int64]:
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > 7:  # more than 32 bits
        raise InputError(f"{name}: counts hold a number too large; write the file again")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[is_last] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
