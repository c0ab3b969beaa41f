"""Small pictures of one mask for a report: the object, its outlines, and what changed.

The picture is stored once and the drawings lie over it as see-through pictures of few colours, so
that a mask takes little room and its drawing can be taken away to see what lies below.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.ops.masks import longer_side, mean_width, surround

MOST_BYTES = 23_000
"""The pictures of one mask take at most this much text, the reason why some are smaller; with its
numbers a mask takes at most 25 kB."""

_SIDES_PX = (384, 288, 224, 160, 96, 48)
_QUALITIES = (62, 40, 20)  # WebP
_LOSSLESS = 101  # what OpenCV takes for it
_MOST_DRAWN_SHARE = 0.7  # of the bytes; more detailed drawings become smaller, not the crop blurred
_LARGEST_SCALE = 8.0  # of an object of few pixels
_MARGIN_SHARE, _LEAST_MARGIN_PX = 0.12, 6
_THIN_PX = 9.0  # in the small picture; outlines of thinner objects would hide them

_ORANGE, _BLUE = (238, 119, 51), (51, 187, 238)  # Paul Tol's vibrant scheme: safe for all eyes
_CLEAR, _EDGE, _BEFORE, _AFTER, _TRACE, _REMOVED, _ADDED = 0, 1, 2, 3, 4, 5, 7
_FAINT, _STRONG = 150, 235  # opacity of a small pixel of which less than half changed, or more
_COLOURS_RGBA = np.array(
    [
        (0, 0, 0, 0),
        (0, 0, 0, 180),
        (*_ORANGE, 255),
        (*_BLUE, 255),
        (255, 255, 255, 120),
        (*_ORANGE, _FAINT),
        (*_ORANGE, _STRONG),
        (*_BLUE, _FAINT),
        (*_BLUE, _STRONG),
    ],
    dtype=np.uint8,
)


@dataclass(frozen=True, kw_only=True)
class ChangePictures:
    """Pictures as `data:` addresses, all of one shape, to be laid over one another.

    Attributes:
        crop: the object with a margin, WebP.
        before: outline of the mask before, orange, lossless WebP with transparency.
        after: outline of the mask after, blue, likewise.
        changes: removed pixels orange, added ones blue, the outline before in white; likewise.
        size_wh: width and height of the drawings in pixels.
        scale: pixels of the drawings for one of the picture.
    """

    crop: str
    before: str
    after: str
    changes: str
    size_wh: tuple[int, int]
    scale: float


def draw_change(image: Image | None, before: Scores, after: Scores) -> ChangePictures:
    """Draws one mask before and after, cut to the object.

    Args:
        image: `(H, W, 3)` uint8 RGB; None shows the scores before in grey.
        before: `(H, W)` scores.
        after: likewise.

    Returns:
        Pictures of at most 384 px and together at most `MOST_BYTES` of text.
    """
    masks = before > FOREGROUND, after > FOREGROUND
    window = _choose_window(masks[0] | masks[1])
    base = _to_grey(before[window]) if image is None else image[window]
    was, became = masks[0][window], masks[1][window]
    for side_px in _SIDES_PX:
        scale = min(side_px / max(base.shape[:2]), _LARGEST_SCALE)
        size_wh = _scale_size(base, scale)
        drawings = [_encode_drawing(drawing) for drawing in _draw(was, became, size_wh)]
        n_drawn = sum(map(len, drawings))
        if n_drawn > _MOST_DRAWN_SHARE * MOST_BYTES:
            continue
        crop = _encode_crop(base, size_wh, MOST_BYTES - n_drawn)
        if crop is None:
            continue
        return ChangePictures(
            crop=crop,
            before=drawings[0],
            after=drawings[1],
            changes=drawings[2],
            size_wh=size_wh,
            scale=scale,
        )
    raise AssertionError("the smallest pictures always fit")


def _scale_size(base: Image, scale: float) -> tuple[int, int]:
    height, width = (max(round(side * scale), 1) for side in base.shape[:2])
    return width, height


def _draw(
    before: NDArray[np.bool_], after: NDArray[np.bool_], size_wh: tuple[int, int]
) -> Iterator[NDArray[np.uint8]]:
    """Draws the mask before, the mask after, and the difference, as numbers of colours."""
    removed, added = (_resize_share(mask, size_wh) for mask in (before & ~after, after & ~before))
    small = [_shrink(mask, size_wh) for mask in (before, after)]
    is_thin = any(mask.any() and mean_width(mask) < _THIN_PX for mask in small)
    shapes = [mask if is_thin else _find_line(mask) for mask in small]
    yield _draw_object(shapes[0], _BEFORE)
    yield _draw_object(shapes[1], _AFTER)
    yield _draw_difference(shapes[0], removed, added)


def _choose_window(either: NDArray[np.bool_]) -> tuple[slice, slice]:
    margin_px = max(_LEAST_MARGIN_PX, round(_MARGIN_SHARE * longer_side(either)))
    return surround(either, margin_px) or (slice(None), slice(None))


def _to_grey(scores: Scores) -> Image:
    grey = np.rint(scores * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _resize_share(mask: NDArray[np.bool_], size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Resizes a mask to the share of each pixel that it covers."""
    is_smaller = size_wh[0] < mask.shape[1]
    how = cv2.INTER_AREA if is_smaller else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(mask.astype(np.float32), size_wh, interpolation=how))


def _shrink(mask: NDArray[np.bool_], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    """Resizes a mask; of specks that would vanish, something stays."""
    share = _resize_share(mask, size_wh)
    small = share > FOREGROUND
    return small if small.any() else share > 0


def _draw_object(shape: NDArray[np.bool_], colour: int) -> NDArray[np.uint8]:
    """Draws an outline, or a thin object as a whole, with a dark edge."""
    drawing = np.full(shape.shape, _CLEAR, dtype=np.uint8)
    drawing[_grow(shape)] = _EDGE
    drawing[shape] = colour
    return drawing


def _draw_difference(
    trace: NDArray[np.bool_], removed: NDArray[np.float32], added: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Draws what changed over a trace of the mask before."""
    drawing = np.full(trace.shape, _CLEAR, dtype=np.uint8)
    drawing[trace] = _TRACE
    for share, faint in ((removed, _REMOVED), (added, _ADDED)):
        is_changed = (share > 0) & (share >= np.maximum(removed, added))
        drawing[is_changed] = faint + (share[is_changed] >= FOREGROUND)
    return drawing


def _find_line(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Marks the two pixels on both sides of an outline."""
    return _grow(mask) & _grow(~mask)


def _grow(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return cv2.dilate(mask.astype(np.uint8), cross) > 0


def _encode_crop(base: Image, size_wh: tuple[int, int], most_bytes: int) -> str | None:
    """Encodes a picture, shrunk to the drawings, as well as there is room; None without room."""
    is_smaller = size_wh[0] < base.shape[1]
    crop = cv2.resize(base, size_wh, interpolation=cv2.INTER_AREA) if is_smaller else base
    bgr = cv2.cvtColor(crop, cv2.COLOR_RGB2BGR)
    for quality in _QUALITIES:
        coded = _encode_webp(bgr, quality)
        if len(coded) <= most_bytes:
            return coded
    return None


def _encode_drawing(drawing: NDArray[np.uint8]) -> str:
    rgba = _COLOURS_RGBA[drawing]
    return _encode_webp(cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), _LOSSLESS)


def _encode_webp(picture: NDArray[Any], quality: int) -> str:
    _, coded = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return f"data:image/webp;base64,{base64.b64encode(coded.tobytes()).decode('ascii')}"
