"""The guided filter: a mask becomes, locally, a linear function of the picture's colours."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.ops.masks import surround

Window = tuple[slice, slice]

_TILE_PX = 256, 1024  # sides of tiles, so that a large object takes little memory

RADIUS_SHARE = 0.03
"""Radius of the windows as a share of the square root of the object's area. Ours."""

SMOOTHNESS = 1e-4
"""Variance of colours in [0, 1] below which nothing is an edge. He et al. matte with 1e-6."""


def guide_masks(
    image: Image,
    masks: Scores,
    *,
    radius_px: int = 0,
    radius_share: float = RADIUS_SHARE,
    smoothness: float = SMOOTHNESS,
) -> Scores:
    """Filters masks around their objects; elsewhere they stay as they are.

    Args:
        image: `(H, W, 3)` uint8 RGB, the guide.
        masks: `(N, H, W)` scores.
        radius_px: of the windows; 0 takes `radius_share`.
        radius_share: the same as a share of the square root of the object's area, at least 2 px.
        smoothness: variance of the colours, on the scale of [0, 1], below which nothing is an edge.
    """
    filtered = masks.copy()
    for before, scores in zip(masks, filtered, strict=True):
        mask = before > FOREGROUND
        radius = radius_px or max(2, round(radius_share * float(np.sqrt(mask.sum()))))
        window = surround(mask, 4 * radius)
        if window is not None and not mask.all():
            for tile, around in plan_tiles(before[window], radius):
                scores[window][tile] = guided_filter(
                    image[window][around],
                    before[window][around],
                    radius_px=radius,
                    smoothness=smoothness,
                )[_within(tile, around)]
    return filtered


def plan_tiles(scores: NDArray[np.float32], radius_px: int) -> Iterator[tuple[Window, Window]]:
    """Yields tiles of `(H, W)` scores, and what must be seen of the picture to filter each.

    Where scores are the same all around, filtering changes nothing: such tiles are left out.

    Example:
        >>> scores = np.zeros((400, 1000), dtype=np.float32)
        >>> scores[:, :8] = 1
        >>> [around for _, around in plan_tiles(scores, 4)]
        [(slice(0, 264, None), slice(0, 264, None)), (slice(248, 400, None), slice(0, 264, None))]
    """
    height, width = scores.shape
    side_px, reach_px = int(np.clip(16 * radius_px, *_TILE_PX)), 2 * radius_px
    for top in range(0, height, side_px):
        for left in range(0, width, side_px):
            tile = slice(top, min(top + side_px, height)), slice(left, min(left + side_px, width))
            around = _widen(tile[0], reach_px, height), _widen(tile[1], reach_px, width)
            if scores[around].min() < scores[around].max():
                yield tile, around


def _widen(span: slice, by_px: int, limit: int) -> slice:
    return slice(max(span.start - by_px, 0), min(span.stop + by_px, limit))


def _within(tile: Window, around: Window) -> Window:
    """Says where a tile lies in its surroundings."""
    rows, columns = (
        slice(inner.start - outer.start, inner.stop - outer.start)
        for inner, outer in zip(tile, around, strict=True)
    )
    return rows, columns


def guided_filter(
    image: Image, scores: NDArray[np.float32], *, radius_px: int, smoothness: float
) -> NDArray[np.float32]:
    """Filters one `(H, W)` mask with the `(H, W, 3)` picture as guide.

    Source: He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, equations 8 to 11 and 14: per
    window the least-squares fit `q = a . I + b`, averaged over the windows that hold a pixel.
    Differs: at the picture's border windows are filled by reflection.

    Example:
        >>> image = np.zeros((6, 6, 3), dtype=np.uint8)
        >>> half = np.full((6, 6), 0.5, dtype=np.float32)
        >>> bool(np.allclose(guided_filter(image, half, radius_px=1, smoothness=1e-4), 0.5))
        True
    """
    guide = image.astype(np.float32) / 255
    mean_guide, mean_scores = _mean(guide, radius_px), _mean(scores, radius_px)
    covariance = _mean(guide * scores[..., None], radius_px) - mean_guide * mean_scores[..., None]
    products = guide[..., :, None] * guide[..., None, :]
    spread = _mean(products.reshape(*scores.shape, 9), radius_px).reshape(products.shape)
    spread = spread - mean_guide[..., :, None] * mean_guide[..., None, :]
    spread = spread + smoothness * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread.astype(np.float64), covariance[..., None].astype(np.float64))
    slope = slope[..., 0].astype(np.float32)
    offset = mean_scores - (slope * mean_guide).sum(axis=2)
    filtered = (_mean(slope, radius_px) * guide).sum(axis=2) + _mean(offset, radius_px)
    clipped: NDArray[np.float32] = np.clip(filtered, 0.0, 1.0).astype(np.float32)
    return clipped


def _mean(array: NDArray[Any], radius_px: int) -> NDArray[np.float32]:
    side = 2 * radius_px + 1
    channels = [array] if array.ndim == 2 else [array[..., i] for i in range(array.shape[2])]
    means = [
        cv2.boxFilter(np.ascontiguousarray(c), -1, (side, side), borderType=cv2.BORDER_REFLECT)
        for c in channels
    ]
    return np.asarray(means[0] if array.ndim == 2 else np.stack(means, axis=2), dtype=np.float32)
