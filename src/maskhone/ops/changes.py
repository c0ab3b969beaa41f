"""What became of a mask: how much changed, how far from its outline, where, and in which pieces."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.ops.masks import choose_band, surround

_NEAR_SHARE = 0.02  # of the square root of the area; about 1 % of a disc's diameter
_MOST_STEPS = 5.0  # a pixel further than this many near distances counts no more than there
_PIECE_WEIGHT = 0.05  # of a piece or hole that came or went, in shares of the object
_MOST_PIECES = 10
_PLACES = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
_MAIN_PLACE_SHARE = 0.5  # of the changes that must lie in one ninth of the box to name it


@dataclass(frozen=True, kw_only=True)
class MaskChange:
    """What differs between a mask before and after.

    Attributes:
        before_px: area before.
        after_px: area after.
        added_px: pixels that only the mask after holds.
        removed_px: pixels that only the mask before holds.
        share: added and removed pixels by the area before, or after where nothing was before.
        reach_px: distance of the furthest changed pixel from the other side of the outline before,
            1 for the pixels that touch it; 0 without change, None where there was no outline.
        near_px: distance up to which changes are those of an outline: 2 % of the square root of
            the area before, at least 2.
        place: in which ninth of the object's box at least half of the changes lie, otherwise
            `all around`; empty without change.
        pieces_before: connected parts before, pixels that touch by a corner being one part.
        pieces_after: likewise after.
        holes_before: connected parts of the background that the mask encloses.
        holes_after: likewise after.
        attention: 0 to 100, how much a person should look; see `measure_change`.
    """

    before_px: int
    after_px: int
    added_px: int
    removed_px: int
    share: float
    reach_px: float | None
    near_px: int
    place: str
    pieces_before: int
    pieces_after: int
    holes_before: int
    holes_after: int
    attention: float


def measure_change(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> MaskChange:
    """Measures what changed between two `(H, W)` masks of one object.

    Attention is `100 * s / (s + 1)` where `s` adds up: each changed pixel, counted as its distance
    from the old outline by `near_px` (at most 5), over the object's area; and 0.05 for each piece
    and each hole that came or went (at most 10). An outline moved a little scores low, a part that
    was added or lost far from it high, a mask that came from nothing or was lost the most. The
    rule is ours.

    Example:
        >>> before = np.zeros((5, 9), dtype=bool)
        >>> before[1:4, 1:4] = True
        >>> after = before.copy()
        >>> after[2, 7] = True
        >>> change = measure_change(before, after)
        >>> change.added_px, change.reach_px, change.pieces_after, change.place
        (1, 4.0, 2, 'right')
    """
    window = surround(before | after, 1) or (slice(0, 1), slice(0, 1))
    before, after = before[window], after[window]
    changed = before != after
    before_px, after_px = int(np.count_nonzero(before)), int(np.count_nonzero(after))
    added_px = int(np.count_nonzero(changed & after))
    removed_px = int(np.count_nonzero(changed)) - added_px
    area_px = max(before_px or after_px, 1)
    near_px = choose_band(before, 0, _NEAR_SHARE)
    away = _away_from_outline(before, changed)
    pieces_before, holes_before = _count_parts(before)
    pieces_after, holes_after = _count_parts(after)
    n_came_or_went = abs(pieces_after - pieces_before) + abs(holes_after - holes_before)
    steps = np.full(np.count_nonzero(changed), _MOST_STEPS) if away is None else away / near_px
    weighed = float(np.minimum(steps, _MOST_STEPS).sum()) / area_px
    weighed += _PIECE_WEIGHT * min(n_came_or_went, _MOST_PIECES)
    return MaskChange(
        before_px=before_px,
        after_px=after_px,
        added_px=added_px,
        removed_px=removed_px,
        share=(added_px + removed_px) / area_px,
        reach_px=None if away is None else float(away.max(initial=0)),
        near_px=near_px,
        place=_name_place(before | after, changed),
        pieces_before=pieces_before,
        pieces_after=pieces_after,
        holes_before=holes_before,
        holes_after=holes_after,
        attention=100 * weighed / (weighed + 1),
    )


def _away_from_outline(
    before: NDArray[np.bool_], changed: NDArray[np.bool_]
) -> NDArray[np.float32] | None:
    """Measures how far each changed pixel lies from the other side; None without an outline."""
    if not changed.any():
        return np.zeros(0, dtype=np.float32)
    if before.all() or not before.any():
        return None
    away = np.zeros(before.shape, dtype=np.float32)
    for side in (before, ~before):
        away += cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return away[changed]


def _count_parts(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Counts connected parts and the holes they enclose."""
    pieces, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    ground, _ = cv2.connectedComponents(
        np.pad(~mask, 1, constant_values=True).astype(np.uint8), connectivity=4
    )
    return pieces - 1, ground - 2


def _name_place(either: NDArray[np.bool_], changed: NDArray[np.bool_]) -> str:
    """Names the ninth of the object's box where most changes lie."""
    rows, columns = np.nonzero(changed)
    window = surround(either, 0)
    if len(rows) == 0 or window is None:
        return ""
    down, across = window
    row_thirds = (rows - down.start) * 3 // (down.stop - down.start)
    column_thirds = (columns - across.start) * 3 // (across.stop - across.start)
    ninths = np.bincount(3 * row_thirds + column_thirds, minlength=9)
    most = int(ninths.argmax())
    if ninths[most] < _MAIN_PLACE_SHARE * len(rows):
        return "all around"
    return _PLACES[most // 3][most % 3]
