"""Between picture and network: patches cut out and enlarged, probabilities shrunk back."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Boxes, Image
from maskhone.methods.bpr.config import BPRConfig
from maskhone.ops.patches import crop


def cut_image_patches(image: Image, boxes_xyxy: Boxes, config: BPRConfig) -> NDArray[Any]:
    """Cuts image patches with their context and enlarges them to the network's size S.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        boxes_xyxy: `(K, 4)` without the context.
        config: sizes, and whether enlarged values are rounded.

    Returns:
        `(K, S, S, 3)` in 0..255: uint8 when `rounds_resized_image`, as the published file pipeline
        (BPR section 4.1, step 2), else float32, as its single-image demo (section 4.6).
    """
    patches = crop(image, widen(boxes_xyxy, config.padding_px))
    if not config.rounds_resized_image:
        patches = patches.astype(np.float32)
    return enlarge(patches, config.input_px, cv2.INTER_LINEAR)


def cut_mask_patches(
    scores: NDArray[np.float32], boxes_xyxy: Boxes, config: BPRConfig
) -> NDArray[np.float32]:
    """Cuts mask patches as the network sees them: `(K, S, S)` float32 in [0, 1]."""
    patches = crop(scores, widen(boxes_xyxy, config.padding_px))
    if config.mask_input == "soft":
        return enlarge(patches, config.input_px, cv2.INTER_LINEAR)
    is_inside = (patches > FOREGROUND).astype(np.float32)
    return enlarge(is_inside, config.input_px, cv2.INTER_NEAREST)


def widen(boxes_xyxy: Boxes, padding_px: int) -> Boxes:
    """Moves every side of the boxes outwards."""
    wide: Boxes = boxes_xyxy + np.array([-padding_px, -padding_px, padding_px, padding_px])
    return wide


def enlarge(patches: NDArray[Any], side_px: int, mode: int) -> NDArray[Any]:
    """Resizes `(K, h, w, ...)` patches to a square with an OpenCV interpolation mode."""
    resized = [cv2.resize(patch, (side_px, side_px), interpolation=mode) for patch in patches]
    if not resized:
        return np.zeros((0, side_px, side_px, *patches.shape[3:]), dtype=patches.dtype)
    return np.stack(resized)
