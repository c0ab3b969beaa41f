"""Pictures for people: image, coarse mask, refined mask, and what changed, side by side."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.data.images import write_image

_TINT = (64, 156, 255)  # the mask
_ADDED = (38, 194, 78)
_REMOVED = (230, 50, 50)
_GAP_PX = 6


def write_comparison(path: Path, image: Image, coarse: Scores, refined: Scores) -> Path:
    """Writes image | coarse | refined | what changed; added pixels are green, removed ones red.

    Args:
        path: picture to write.
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(N, H, W)` scores; objects are shown together.
        refined: likewise.
    """
    before = np.any(coarse > FOREGROUND, axis=0)
    after = np.any(refined > FOREGROUND, axis=0)
    changed = tint(tint(_greyed(image), after & ~before, _ADDED), before & ~after, _REMOVED)
    panels = [image, outline(image, before), outline(image, after), changed]
    gap = np.full((image.shape[0], _GAP_PX, 3), 255, dtype=np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    return write_image(path, np.concatenate(row, axis=1))


def tint(
    image: Image, mask: NDArray[np.bool_], colour: tuple[int, int, int], *, share: float = 0.7
) -> Image:
    """Mixes a colour into the masked pixels.

    Example:
        >>> tint(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), bool), (100, 0, 0)).tolist()
        [[[70, 0, 0]]]
    """
    painted = image.copy()
    mixed = (1 - share) * image[mask] + share * np.array(colour)
    painted[mask] = mixed.round().astype(np.uint8)
    return painted


def outline(image: Image, mask: NDArray[np.bool_]) -> Image:
    """Tints a mask and draws its outline in white."""
    padded = np.pad(mask, 1, mode="edge")
    middle = padded[1:-1, 1:-1]
    is_inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    painted = tint(image, mask, _TINT, share=0.45)
    painted[middle & ~is_inner] = 255
    return painted


def _greyed(image: Image) -> Image:
    grey = (image.mean(axis=2, keepdims=True) * 0.6 + 80).astype(np.uint8)
    return np.repeat(grey, 3, axis=2)
