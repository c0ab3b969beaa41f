"""Losses that several networks share.

B batch; predictions are probabilities in (0, 1), targets lie in [0, 1]; float32 both.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, conv2d

_FOREGROUND_WEIGHT = 1.12  # PatchRefineNet section 5, and 10.2 for PFANet
_SMALLEST = 1e-15


def entropy_and_dice_loss(prediction_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Computes binary cross entropy plus one minus the Dice score of the whole batch.

    Source: PatchRefineNet section 10.1; Zhou et al., "D-LinkNet", CVPRW 2018.
    Differs: where prediction and target are both empty the Dice score is 1, and not 0/0.
    """
    shared = (prediction_B1HW * target_B1HW).sum()
    total = prediction_B1HW.sum() + target_B1HW.sum()
    smallest = torch.finfo(total.dtype).tiny
    dice = torch.where(total > 0, 2 * shared / total.clamp(min=smallest), 1.0)
    return binary_cross_entropy(prediction_B1HW, target_B1HW) + 1 - dice


def truth_loss(prediction_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Computes cross entropy with a little more weight on the foreground."""
    inside = _FOREGROUND_WEIGHT * target_B1HW * torch.log(prediction_B1HW + _SMALLEST)
    outside = (1 - target_B1HW) * torch.log(1 - prediction_B1HW + _SMALLEST)
    return -(inside + outside).mean()


def edge_loss(prediction_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Computes cross entropy between the edges of prediction and target."""
    return binary_cross_entropy(edges_of(prediction_B1HW), edges_of(target_B1HW))


def edges_of(mask_B1HW: Tensor) -> Tensor:
    """Returns the positive part of tanh of the Laplacian; beyond the border is 0."""
    kernel = torch.full((1, 1, 3, 3), -1.0, dtype=mask_B1HW.dtype, device=mask_B1HW.device)
    kernel[..., 1, 1] = 8.0
    return torch.relu(torch.tanh(conv2d(mask_B1HW, kernel, padding=1)))
