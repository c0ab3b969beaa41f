"""Boxes: `(N, 4)` rows of x1, y1, x2, y2, end-exclusive."""

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Boxes


def nms(
    boxes_xyxy: NDArray[np.float32],
    scores: NDArray[np.float32],
    iou_threshold: float,
    *,
    offset_px: int = 0,
) -> NDArray[np.int64]:
    """Keeps the best of every group of overlapping boxes (greedy, hard).

    Boxes are visited by descending score, equal scores in input order; a later box goes when its
    IoU with a kept one is at least the threshold.

    Args:
        boxes_xyxy: `(N, 4)` corners in pixels.
        scores: `(N,)`, higher is better.
        iou_threshold: in [0, 1]; a box at exactly this IoU is dropped.
        offset_px: added to every width and height; 1 counts both end pixels, as old mmdet did.

    Returns:
        Indices into the input, by descending score.

    Source: the CPU rule of open-mmlab/mmcv 1.1.6 `nms`.
    Differs: ties are broken by input order; the original sort was unstable.

    Example:
        >>> boxes = np.array([[0, 0, 4, 4], [1, 0, 5, 4], [8, 8, 9, 9]], dtype=np.float32)
        >>> nms(boxes, np.array([0.5, 0.9, 0.1], dtype=np.float32), 0.5).tolist()
        [1, 2]
    """
    threshold = np.float32(iou_threshold)
    x1, y1, x2, y2 = boxes_xyxy.astype(np.float32).T
    area = (x2 - x1 + offset_px) * (y2 - y1 + offset_px)
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        width = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest]) + offset_px
        height = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest]) + offset_px
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        order = rest[overlap / (area[best] + area[rest] - overlap) < threshold]
    return np.array(kept, dtype=np.int64)


def fit_boxes(boxes_xyxy: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """Shifts boxes that leave the image back inside, keeping their size.

    A box larger than the image starts at 0 and overhangs on the right or below.

    Example:
        >>> fit_boxes(np.array([[-3, 8, 1, 12]]), (10, 10)).tolist()
        [[0, 6, 4, 10]]
    """
    start = boxes_xyxy[:, :2]
    side = boxes_xyxy[:, 2:] - start
    room = np.array(size_hw[::-1]) - side
    start = np.clip(start, 0, np.maximum(room, 0))
    return np.concatenate([start, start + side], axis=1)


def enclose_boxes(boxes_xyxy: Boxes, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns the smallest box x1, y1, x2, y2 that holds all boxes, cut to the image.

    Example:
        >>> enclose_boxes(np.array([[1, 2, 5, 6], [4, 0, 9, 3]]), (8, 8))
        (1, 0, 8, 6)
    """
    x1, y1 = np.maximum(boxes_xyxy[:, :2].min(axis=0), 0)
    x2, y2 = np.minimum(boxes_xyxy[:, 2:].max(axis=0), size_hw[::-1])
    return int(x1), int(y1), int(x2), int(y2)
