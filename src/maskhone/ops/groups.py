"""Groups of masks that fit into memory together."""

from collections.abc import Iterator

PIXELS_AT_ONCE = 64_000_000
"""The masks of a group, with their copies, have at most this many pixels (256 MB of scores)."""


def split_masks(count: int, size_hw: tuple[int, int], *, copies: int = 1) -> Iterator[slice]:
    """Yields which masks of one picture to do together, in order; at least one at a time.

    Args:
        count: masks of the picture.
        size_hw: of each.
        copies: arrays of this size that are held for each mask.

    Example:
        >>> list(split_masks(3, (4000, 8000)))
        [slice(0, 2, None), slice(2, 3, None)]
    """
    at_once = max(PIXELS_AT_ONCE // (size_hw[0] * size_hw[1] * copies), 1)
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))
