"""The guided filter: a mask becomes, locally, a linear function of the picture's colours."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.ops.masks import surround
from maskhone.ops.tiles import plan_tiles

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
            _filter_in_tiles(image[window], before[window], scores[window], radius, smoothness)
    return filtered


def _filter_in_tiles(
    image: Image,
    before: NDArray[np.float32],
    scores: NDArray[np.float32],
    radius_px: int,
    smoothness: float,
) -> None:
    """Writes filtered scores; where all around is the same, filtering changes nothing."""
    side_px = int(np.clip(16 * radius_px, *_TILE_PX))
    for tile in plan_tiles(before.shape, side_px=side_px, reach_px=2 * radius_px):
        seen = before[tile.around]
        if seen.min() < seen.max():
            scores[tile.here] = guided_filter(
                image[tile.around], seen, radius_px=radius_px, smoothness=smoothness
            )[tile.within]


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
    slope = _solve(_spread(guide, mean_guide, smoothness, radius_px), covariance)
    offset = mean_scores - (slope * mean_guide).sum(axis=2)
    filtered = (_mean(slope, radius_px) * guide).sum(axis=2) + _mean(offset, radius_px)
    clipped: NDArray[np.float32] = np.clip(filtered, 0.0, 1.0).astype(np.float32)
    return clipped


def _spread(
    guide: NDArray[Any], mean_guide: NDArray[Any], smoothness: float, radius_px: int
) -> list[NDArray[np.float64]]:
    """Returns rr, rg, rb, gg, gb, bb of the windows' covariance of colours, made invertible."""
    return [
        (
            _mean(guide[..., i] * guide[..., j], radius_px)
            - mean_guide[..., i] * mean_guide[..., j]
        ).astype(np.float64)  # before adding: NumPy 1 would stay at float32
        + (smoothness if i == j else 0.0)
        for i in range(3)
        for j in range(i, 3)
    ]


def _solve(spread: list[NDArray[np.float64]], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Solves the symmetric 3 x 3 system of every pixel by Cramer's rule, all of them at once."""
    rr, rg, rb, gg, gb, bb = spread
    first, second, third = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    fourth, fifth, sixth = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = rr * first + rg * second + rb * third
    red, green, blue = (right[..., i] for i in range(3))
    slope = np.stack(
        [
            first * red + second * green + third * blue,
            second * red + fourth * green + fifth * blue,
            third * red + fifth * green + sixth * blue,
        ],
        axis=2,
    )
    return np.asarray(slope / determinant[..., None], dtype=np.float32)


def _mean(array: NDArray[Any], radius_px: int) -> NDArray[np.float32]:
    side = 2 * radius_px + 1
    channels = [array] if array.ndim == 2 else [array[..., i] for i in range(array.shape[2])]
    means = [
        cv2.boxFilter(np.ascontiguousarray(c), -1, (side, side), borderType=cv2.BORDER_REFLECT)
        for c in channels
    ]
    return np.asarray(means[0] if array.ndim == 2 else np.stack(means, axis=2), dtype=np.float32)
