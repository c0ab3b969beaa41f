"""Whole pictures (HR-SegRefiner): a look at the whole, then at its uncertain parts at full size."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from maskhone.contracts import Boxes
from maskhone.methods.segrefiner.config import SegRefinerConfig
from maskhone.ops.boxes import fit_boxes, nms
from maskhone.ops.patches import crop


def shrink_picture(array: NDArray[np.generic], config: SegRefinerConfig) -> NDArray[np.float32]:
    """Resizes `(H, W, C)` to the network's square `(S, S, C)` float32, its shape stretched.

    Source: SegRefiner section 5, step 1.
    Differs: bilinear with antialiasing unless `config.picks_nearest`.
    """
    side = config.model_px
    return _resize(array.astype(np.float32), (side, side), is_nearest=config.picks_nearest)


def enlarge_map(
    values: NDArray[np.float32], size_hw: tuple[int, int], config: SegRefinerConfig
) -> NDArray[np.float32]:
    """Resizes an `(S, S)` map to the picture: `(H, W)`."""
    return _resize(values[..., None], size_hw, is_nearest=config.picks_nearest)[..., 0]


def _resize(
    array: NDArray[np.float32], size_hw: tuple[int, int], *, is_nearest: bool
) -> NDArray[np.float32]:
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]
    if is_nearest:
        resized = interpolate(tensor, size=size_hw, mode="nearest")
    else:
        resized = interpolate(
            tensor, size=size_hw, mode="bilinear", align_corners=False, antialias=True
        )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def find_uncertain(
    fine_probability: NDArray[np.float32], size_hw: tuple[int, int], config: SegRefinerConfig
) -> tuple[Boxes, NDArray[np.float32]]:
    """Lays a square of the network's size about every cell that is not surely fine.

    Args:
        fine_probability: `(S, S)` after the look at the whole.
        size_hw: of the picture.
        config: `fine_share` and `model_px`.

    Returns:
        `(N, 4)` boxes in the picture, row by row, and `(N,)` how uncertain each is.

    Source: SegRefiner section 5, steps 3 and 4.
    Differs: in a picture smaller than the square, boxes overhang on the right and below.
    """
    least = np.float32(config.fine_share) * fine_probability.max()
    rows, columns = np.nonzero(fine_probability < least)
    cells = np.array(fine_probability.shape)
    x = (columns * (size_hw[1] / cells[1])).astype(np.int64)
    y = (rows * (size_hw[0] / cells[0])).astype(np.int64)
    half = config.model_px // 2
    boxes = np.stack([x - half, y - half, x - half, y - half], axis=1)
    boxes[:, 2:] += config.model_px
    return fit_boxes(boxes, size_hw), 1 - fine_probability[rows, columns]


def choose_patches(
    boxes_xyxy: Boxes,
    uncertainty: NDArray[np.float32],
    mask: NDArray[np.bool_],
    config: SegRefinerConfig,
) -> Boxes:
    """Thins the boxes out and keeps those in which the mask has an outline.

    Args:
        boxes_xyxy: `(N, 4)`.
        uncertainty: `(N,)`; the most uncertain of overlapping boxes stays.
        mask: `(H, W)` bool.
        config: `nms_iou` and `max_patches`.

    Returns:
        `(K, 4)` by falling uncertainty.

    Source: SegRefiner section 5, steps 5 and 6.
    """
    kept: Boxes = boxes_xyxy[suppress(boxes_xyxy, uncertainty, config)]
    inside = crop(mask, kept)
    is_in_image = crop(np.ones_like(mask), kept)
    has_both = inside.any(axis=(1, 2)) & (is_in_image & ~inside).any(axis=(1, 2))
    chosen: Boxes = kept[has_both]
    return chosen[: config.max_patches] if config.max_patches else chosen


def suppress(
    boxes_xyxy: Boxes, uncertainty: NDArray[np.float32], config: SegRefinerConfig
) -> NDArray[np.int64]:
    """Runs non-maximum suppression; a box at exactly the threshold stays.

    Source: open-mmlab/mmcv 1.7.1 `nms`.
    """
    just_above = np.nextafter(np.float32(config.nms_iou), np.float32(2))
    return nms(boxes_xyxy.astype(np.float32), uncertainty, float(just_above))
