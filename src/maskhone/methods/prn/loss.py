"""What PatchRefineNet is trained on: pseudo-labels of the best patch thresholds, and the truth.

B batch; predictions are probabilities in (0, 1), targets are 0 or 1.
Source: PatchRefineNet section 5.
Differs: arguments are (prediction, target) throughout. The published loop hands them over in the
other order, whose gradients are not finite.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from maskhone.nn.losses import edge_loss, truth_loss

LABEL_SHARE = 0.7  # of the pseudo-labels; the truth has the rest
_REGION_SHARE = 0.7  # of the focal term; the edges have the rest
_FOCAL_WEIGHT = 0.75  # 1 - alpha with alpha 0.25, on both classes alike


def total_loss(branches: list[Tensor], label_B1HW: Tensor, truth_B1HW: Tensor) -> Tensor:
    """Computes the loss of all branches: the mean over branches of both parts.

    Args:
        branches: `(B, 1, H, W)` probabilities, of the global and, if there is one, local branch.
        label_B1HW: pseudo-label.
        truth_B1HW: ground truth.
    """
    to_label = torch.stack([region_loss(p, label_B1HW) for p in branches]).mean()
    to_truth = torch.stack([truth_loss(p, truth_B1HW) for p in branches]).mean()
    return LABEL_SHARE * to_label + (1 - LABEL_SHARE) * to_truth


def overlap_loss(branches: list[Tensor], label_B1HW: Tensor, truth_B1HW: Tensor) -> Tensor:
    """Computes another loss of all branches: cross entropy, and what the overlap lacks to 1.

    The published loss does not mind a map that stays below one half where little is foreground;
    this one does. Ours; the shares of pseudo-label and truth are the published ones. Overlap:
    Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks", ISVC 2016.

    Args:
        branches: `(B, 1, H, W)` probabilities, of the global and, if there is one, local branch.
        label_B1HW: pseudo-label.
        truth_B1HW: ground truth.
    """
    parts = []
    for target, share in ((label_B1HW, LABEL_SHARE), (truth_B1HW, 1 - LABEL_SHARE)):
        to_target = [binary_cross_entropy(p, target) + _lack(p, target) for p in branches]
        parts.append(share * torch.stack(to_target).mean())
    return torch.stack(parts).sum()


def _lack(prediction_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Returns one minus the soft IoU, smoothed by one pixel, as a mean over maps."""
    shared = (prediction_B1HW * target_B1HW).sum(dim=(1, 2, 3))
    either = (prediction_B1HW + target_B1HW).sum(dim=(1, 2, 3)) - shared
    return (1 - (shared + 1) / (either + 1)).mean()


def region_loss(prediction_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Computes a focal term over all pixels and cross entropy over the edges."""
    entropy = binary_cross_entropy(prediction_B1HW, target_B1HW, reduction="none")
    focal = (_FOCAL_WEIGHT * (1 - torch.exp(-entropy)).square() * entropy).mean()
    edges = edge_loss(prediction_B1HW, target_B1HW)
    return _REGION_SHARE * focal + (1 - _REGION_SHARE) * edges


LOSSES = {"published": total_loss, "overlap": overlap_loss}
