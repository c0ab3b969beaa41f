"""Objects one by one (LR-SegRefiner): each is cropped, resized, refined and put back."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from maskhone.contracts import FOREGROUND, Boxes
from maskhone.methods.segrefiner.config import SegRefinerConfig
from maskhone.ops.masks import tight_box


def plan_crops(masks: NDArray[np.bool_], config: SegRefinerConfig) -> tuple[list[int], Boxes]:
    """Chooses the objects that are large enough, and their boxes with context.

    Args:
        masks: `(N, H, W)` bool.
        config: `least_area_px` and `context_px`.

    Returns:
        Indices of K objects in input order, and `(K, 4)` boxes inside the image.

    Source: SegRefiner section 4, steps 1 and 2.
    """
    size_hw = masks.shape[1:]
    chosen, boxes = [], []
    for i, mask in enumerate(masks):
        box = tight_box(mask)
        if box is None or np.count_nonzero(mask) < config.least_area_px:
            continue
        x, y, width, height = box
        chosen.append(i)
        boxes.append((x, y, x + width, y + height))
    plan = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    reach = config.context_px
    plan = plan + np.array([-reach, -reach, reach, reach])
    return chosen, np.clip(plan, 0, [size_hw[1], size_hw[0], size_hw[1], size_hw[0]])


def crop_object(
    image: NDArray[np.generic], mask: NDArray[np.bool_], box_xyxy: NDArray[np.int64], side_px: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cuts an object out and resizes it to a square, its shape stretched.

    Args:
        image: `(H, W, 3)`, any range.
        mask: `(H, W)` bool.
        box_xyxy: `(4,)` inside the image.
        side_px: side S of the square.

    Returns:
        `(S, S, 3)` float32 and `(S, S)` float32, 0 or 1.

    Source: SegRefiner section 4, step 3.
    """
    x1, y1, x2, y2 = box_xyxy.tolist()
    rgb = stretch(image[y1:y2, x1:x2].astype(np.float32), side_px)
    soft = stretch(mask[y1:y2, x1:x2, None].astype(np.float32), side_px)
    return rgb, (soft[..., 0] >= FOREGROUND).astype(np.float32)


def stretch(array: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    """Resizes `(h, w, C)` to `(S, S, C)` bilinearly, half-pixel centres, no antialiasing."""
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]
    resized = interpolate(tensor, size=(side_px, side_px), mode="bilinear", align_corners=False)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def paste_object(
    probability_SS: NDArray[np.float32],
    box_xyxy: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    fades: bool,
) -> None:
    """Writes the probability of a square crop into `(H, W)` scores; elsewhere they become 0.

    Args:
        probability_SS: `(S, S)` in [0, 1].
        box_xyxy: `(4,)` where the crop came from.
        scores: written to.
        fades: count as 0 what lies beyond the crop, so that its outermost half pixel fades.

    Source: SegRefiner section 4, step 5.
    """
    x1, y1, x2, y2 = box_xyxy.tolist()
    height, width = scores.shape
    side = len(probability_SS)
    rim_x, rim_y = (-(-(b - a) // side) if fades else 0 for a, b in ((x1, x2), (y1, y2)))
    left, right = max(x1 - rim_x, 0), min(x2 + rim_x, width)
    top, bottom = max(y1 - rim_y, 0), min(y2 + rim_y, height)
    across, down = _positions(left, right, x1, x2), _positions(top, bottom, y1, y2)
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)[None]
    pasted = grid_sample(
        torch.from_numpy(np.ascontiguousarray(probability_SS))[None, None],
        grid,
        mode="bilinear",
        padding_mode="zeros" if fades else "border",
        align_corners=False,
    )
    scores[:] = 0
    scores[top:bottom, left:right] = pasted[0, 0].numpy()


def _positions(first: int, end: int, start: int, stop: int) -> Tensor:
    """Places the centres of pixels `first` to `end` on the axis -1..1 from `start` to `stop`."""
    centres = torch.arange(first, end, dtype=torch.float32) + 0.5
    return (centres - start) / (stop - start) * 2 - 1
