"""Tiles of a picture, each with as much around it as it takes to compute its pixels."""

from collections.abc import Iterator
from dataclasses import dataclass

Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A part of a picture.

    Attributes:
        here: the part.
        around: the part and its surroundings, cut to the picture.
        within: where the part lies in its surroundings.
    """

    here: Window
    around: Window
    within: Window


def plan_tiles(size_hw: tuple[int, int], *, side_px: int, reach_px: int) -> Iterator[Tile]:
    """Yields tiles that cover a picture, row by row.

    Args:
        size_hw: of the picture.
        side_px: of a tile; the last ones may be smaller.
        reach_px: how far the surroundings go on each side.

    Example:
        >>> _, last = plan_tiles((1, 5), side_px=3, reach_px=1)
        >>> last.here[1], last.around[1], last.within[1]
        (slice(3, 5, None), slice(2, 5, None), slice(1, 3, None))
    """
    rows, columns = (_cut(length, side_px, reach_px) for length in size_hw)
    for row in rows:
        for column in columns:
            here, around, within = zip(row, column, strict=True)
            yield Tile(here=here, around=around, within=within)


def _cut(length: int, side_px: int, reach_px: int) -> list[tuple[slice, slice, slice]]:
    spans = []
    for start in range(0, length, side_px):
        stop = min(start + side_px, length)
        first, last = max(start - reach_px, 0), min(stop + reach_px, length)
        spans.append((slice(start, stop), slice(first, last), slice(start - first, stop - first)))
    return spans
