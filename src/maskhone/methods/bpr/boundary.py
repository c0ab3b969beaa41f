"""Where BPR looks: overlapping square patches along the boundary of one mask."""

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Boxes
from maskhone.errors import UsageError
from maskhone.ops.boxes import fit_boxes


def boundary_score(mask: NDArray[np.bool_], *, window_px: int = 3) -> NDArray[np.float32]:
    """Scores how evenly a window around each pixel is split between inside and outside.

    Args:
        mask: `(H, W)` bool.
        window_px: odd side of the window; 3 in tinyalpha/BPR.

    Returns:
        `(H, W)` float32 in [0, 1): zero where the window is uniform. Outside the image counts as
        background, so foreground at the image border scores too.

    Source: BPR section 3.1; tinyalpha/BPR:tools/split_patches.py.

    Example:
        >>> (4.5 * boundary_score(np.array([[0, 0, 1, 1]], dtype=bool))).round().tolist()
        [[0.0, 1.0, 2.0, 2.0]]
    """
    half_area = np.float32(window_px * window_px / 2)
    return _window_balance(mask, window_px).astype(np.float32) / half_area


def plan_boundary_patches(
    mask: NDArray[np.bool_],
    *,
    patch_px: int,
    nms_iou: float,
    window_px: int = 3,
    edge_rule: str = "inside",
) -> tuple[Boxes, NDArray[np.float32]]:
    """Lays square boxes along the boundary of a mask, thinned by non-maximum suppression.

    Args:
        mask: `(H, W)` bool.
        patch_px: even side of a box.
        nms_iou: boxes that overlap a kept one by at least this IoU are dropped.
        window_px: odd side of the window that finds the boundary.
        edge_rule: what to do with boxes that leave the image. `inside` shifts them back; in an
            image smaller than a patch they overhang. `published` keeps the original's off-by-one
            (the last row and column are never covered) and plans nothing in an image with a side
            of at most `patch_px`.

    Returns:
        `(N, 4)` int64 boxes by descending boundary score, and their `(N,)` float32 scores.

    Source: BPR section 3.1; tinyalpha/BPR:tools/split_patches.py.
    Differs: ties of the score are broken in raster order; the original sort was unstable.

    Example:
        >>> square = np.zeros((8, 8), dtype=bool)
        >>> square[2:6, 2:6] = True
        >>> plan_boundary_patches(square, patch_px=4, nms_iou=0.2)[0].tolist()
        [[0, 0, 4, 4], [3, 0, 7, 4], [0, 3, 4, 7], [3, 3, 7, 7]]
    """
    if patch_px % 2 or patch_px < 2:
        raise UsageError(f"patch side is {patch_px} px; it must be even, for instance 64")
    nothing = np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.float32)
    if edge_rule == "published" and min(mask.shape) <= patch_px:
        return nothing
    centres_xy, balance = _find_candidates(mask, window_px)
    if len(centres_xy) == 0:
        return nothing
    kept = _suppress_neighbours(centres_xy, patch_px, nms_iou)
    start = centres_xy[kept] - patch_px // 2
    boxes = np.concatenate([start, start + patch_px], axis=1)
    scores = balance[kept].astype(np.float32) / np.float32(window_px * window_px / 2)
    return _EDGE_RULES[edge_rule](boxes, mask.shape), scores


def _window_balance(mask: NDArray[np.bool_], window_px: int) -> NDArray[np.uint8]:
    """Counts the rarer class in the window around each pixel."""
    assert window_px % 2 == 1, "the window must be odd"
    assert window_px <= 15, "the count must fit into uint8"
    inside = cv2.boxFilter(
        np.ascontiguousarray(mask).view(np.uint8),
        -1,
        (window_px, window_px),
        normalize=False,
        borderType=cv2.BORDER_CONSTANT,
    )
    balance = np.minimum(inside, np.uint8(window_px * window_px) - inside)
    return np.asarray(balance, dtype=np.uint8)


def _find_candidates(
    mask: NDArray[np.bool_], window_px: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Lists boundary pixels as x, y by descending score, ties in raster order."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    reach = window_px // 2
    top, left = max(y - reach, 0), max(x - reach, 0)
    near = np.ascontiguousarray(mask[top : y + height + reach, left : x + width + reach])
    balance = _window_balance(near, window_px)
    flat = np.flatnonzero(balance)
    order = np.argsort(-balance.ravel()[flat].astype(np.int16), kind="stable")
    flat = flat[order]
    rows, columns = np.divmod(flat, max(near.shape[1], 1))
    return np.stack([columns + left, rows + top], axis=1), balance.ravel()[flat]


def _suppress_neighbours(
    centres_xy: NDArray[np.int64], patch_px: int, nms_iou: float
) -> NDArray[np.int64]:
    """Runs greedy NMS over equal squares: each kept square paints out the centres it suppresses.

    Whether one square suppresses another depends only on their offset, so the suppressed offsets
    form a fixed stencil. The work is one small stencil per kept square, not one pass over all
    candidates. The result is that of `ops.boxes.nms`, box for box.
    """
    if nms_iou <= 0:
        return np.zeros(1, dtype=np.int64)  # everything overlaps by at least nothing
    stencil = _suppression_stencil(patch_px, nms_iou)
    side = len(stencil)
    local = centres_xy - centres_xy.min(axis=0)
    columns, rows = (local.max(axis=0) + side).tolist()
    is_suppressed = np.zeros((rows, columns), dtype=np.bool_)
    flat = local[:, 1] * columns + local[:, 0] + (side // 2) * (columns + 1)
    seen = memoryview(is_suppressed.view(np.uint8).reshape(-1))  # type: ignore[arg-type]
    kept = []
    for index, cell in enumerate(flat.tolist()):
        if not seen[cell]:
            kept.append(index)
            x, y = local[index].tolist()
            is_suppressed[y : y + side, x : x + side] |= stencil
    return np.array(kept, dtype=np.int64)


def _suppression_stencil(patch_px: int, nms_iou: float) -> NDArray[np.bool_]:
    """Marks the offsets at which two equal squares overlap by at least `nms_iou`."""
    shared = (patch_px - np.abs(np.arange(1 - patch_px, patch_px))).astype(np.float32)
    overlap = shared[:, None] * shared[None, :]
    union = np.float32(2 * patch_px * patch_px) - overlap
    stencil: NDArray[np.bool_] = overlap / union >= np.float32(nms_iou)
    return stencil


def _fit_as_published(boxes_xyxy: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """Moves boxes back as the original does: x2 = W is pulled to W - 1, one too far."""
    height, width = size_hw
    boxes = boxes_xyxy.copy()
    side = boxes[:, 2:] - boxes[:, :2]
    for axis, limit in ((0, width), (1, height)):
        low = boxes[:, axis] < 0
        boxes[low, axis], boxes[low, axis + 2] = 0, side[low, axis]
        high = boxes[:, axis + 2] >= limit
        boxes[high, axis], boxes[high, axis + 2] = limit - 1 - side[high, axis], limit - 1
    return boxes


_EDGE_RULES = {"inside": fit_boxes, "published": _fit_as_published}
