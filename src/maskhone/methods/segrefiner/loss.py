"""What SegRefiner is trained on: being right at every pixel, and having the right edges.

B batch. Source: SegRefiner section 6.1.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, conv2d

TEXTURE_WEIGHT = 5.0
_SOBEL_X = ((0.25, 0.0, -0.25), (0.5, 0.0, -0.5), (0.25, 0.0, -0.25))
_EDGE_FLOOR = 1e-4


def mask_loss(logits_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Computes the mean binary cross entropy; targets are 0 or 1."""
    return binary_cross_entropy_with_logits(logits_B1HW, target_B1HW)


def texture_loss(logits_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Computes the weighted mean difference between the edges of prediction and target."""
    difference = edge_strength(logits_B1HW.sigmoid()) - edge_strength(target_B1HW)
    return TEXTURE_WEIGHT * difference.abs().mean()


def edge_strength(mask_B1HW: Tensor) -> Tensor:
    """Computes the Sobel gradient of the mask, smoothed first: `(B, 1, H, W)`, at least 0.01.

    What lies beyond the border counts as 0, also in the averages.
    """
    smooth = avg_pool2d(mask_B1HW, 3, stride=1, padding=1)
    across = sobel_kernel(mask_B1HW)
    gradients = [conv2d(smooth, kernel, padding=1) for kernel in (across, across.mT)]
    return (gradients[0].square() + gradients[1].square() + _EDGE_FLOOR).sqrt()


def sobel_kernel(like: Tensor) -> Tensor:
    """Returns the `(1, 1, 3, 3)` kernel that finds edges across; its transpose finds the others."""
    return torch.tensor(_SOBEL_X, dtype=like.dtype, device=like.device)[None, None]


def batch_iou(logits_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Computes the IoU of each row, `(B, 1)`; for the log only."""
    predicted, truth = logits_B1HW >= 0, target_B1HW >= 0.5
    shared = (predicted & truth).sum(dim=(2, 3))
    either = (predicted | truth).sum(dim=(2, 3))
    return shared / (either + 1e-3)
