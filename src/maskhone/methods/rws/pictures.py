"""Pictures of what each stage misses.

Source: RWS section 9.
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image

Colours = Literal["natural", "swapped"]


def draw_missing_weights(
    missing: NDArray[np.float32],
    label: NDArray[np.uint8],
    *,
    image: Image | None = None,
    colours: Colours = "natural",
) -> Image:
    """Draws the missing weights of one layer over the label; what is background stays black.

    Args:
        missing: `(H, W)` float32 in [0, 1], omega of a layer.
        label: `(H, W)` uint8, 0 background. Its numbers are the grey beneath, as published: 255
            is bright, a small class number nearly black.
        image: drawn beneath in place of the label.
        colours: `natural`: blue is nothing missing and red much; `swapped` as published, where the
            file writer swapped red and blue.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Source: RWS section 9.
    """
    drawn = keep_foreground(overlay(missing, label, image=image), label)
    return np.ascontiguousarray(drawn[..., ::-1]) if colours == "swapped" else drawn


def overlay(
    missing: NDArray[np.float32], label: NDArray[np.uint8], *, image: Image | None = None
) -> Image:
    """Blends the JET colours of `(H, W)` values, half and half, with the label as grey."""
    levels = (255 * missing).astype(np.uint8)
    jet = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1].astype(np.float32) / 255
    base = label[..., None] if image is None else image
    blend = 0.5 * jet + 0.5 * base.astype(np.float32) / 255
    scaled: Image = (255 * (blend / blend.max())).astype(np.uint8)
    return scaled


def keep_foreground(drawn: Image, label: NDArray[np.uint8]) -> Image:
    """Blackens the background, and pixels without red and green."""
    is_kept = (label != 0) & drawn[..., :2].any(axis=-1)
    kept: Image = np.where(is_kept[..., None], drawn, np.uint8(0))
    return kept
