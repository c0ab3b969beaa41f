"""What a stage of training makes small, and how fast.

B batch, C classes. Source: RWS section 6.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from maskhone.methods.rws.attention import pick_logits
from maskhone.ops.masks import IGNORE_LABEL

AUXILIARY_SHARE = 0.5
AUXILIARY_RATE = 10.0
"""Factor of the second head's learning rate."""

_COLDEST = 1e-3
_POWER = 0.9


def segmentation_loss(output: Any, target_BHW: Tensor) -> Tensor:
    """Computes the cross entropy of the logits, plus half that of a second head.

    Args:
        output: what a segmenter returns, see `pick_logits`; a second head is the `aux` of a dict.
            Logits smaller than the target are resized bilinearly.
        target_BHW: int64 labels; pixels of 255 do not count. Without any other it is 0.
    """
    loss = _mean_entropy(pick_logits(output), target_BHW)
    if isinstance(output, Mapping) and isinstance(output.get("aux"), Tensor):
        loss = loss + AUXILIARY_SHARE * _mean_entropy(pick_logits(output["aux"]), target_BHW)
    return loss


def _mean_entropy(logits: Tensor, target: Tensor) -> Tensor:
    logits, size = logits.float(), target.shape[-2:]
    if logits.shape[-2:] != size:
        logits = interpolate(logits, size=size, mode="bilinear", align_corners=False)
    total = cross_entropy(logits, target, ignore_index=IGNORE_LABEL, reduction="sum")
    return total / (target != IGNORE_LABEL).sum().clamp(min=1)


def published_rate_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Returns what the learning rate is multiplied by at a step: a linear rise, a polynomial fall.

    Args:
        step: from 0.
        steps: in all. When all are warm-up, the rate only rises.
        warmup_steps: one epoch as published.

    Example:
        >>> [round(published_rate_factor(s, steps=4, warmup_steps=2), 4) for s in range(5)]
        [0.001, 0.5005, 1.0, 0.5359, 0.0]
    """
    if step <= warmup_steps and warmup_steps:
        share = step / warmup_steps
        return _COLDEST * (1 - share) + share
    fall: float = (1 - (step - warmup_steps) / (steps - warmup_steps)) ** _POWER
    return fall
