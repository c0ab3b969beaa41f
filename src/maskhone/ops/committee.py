"""Several refined masks of one object, and which of them to take."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image
from maskhone.ops.guard import Guard, guard_masks, share_given_back


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What a committee made of one mask.

    Attributes:
        scores: `(H, W)` in [0, 1].
        note: one line: what was chosen and why.
        kept: share of the changed pixels that the guard gave back, in [0, 1].
    """

    scores: NDArray[np.float32]
    note: str
    kept: float = 0.0


def choose(
    image: Image,
    coarse: NDArray[np.float32],
    candidates: Mapping[str, NDArray[np.float32]],
    *,
    guard: Guard = "safe",
) -> Choice:
    """Takes the candidate that agrees best with the others and the coarse mask, and guards it.

    Agreement is the mean IoU, masks cut at one half; of equals the first is taken. The rule is
    ours: methods of different kinds seldom make the same mistake.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(H, W)` scores.
        candidates: `(H, W)` scores by the name of the method, at least one.
        guard: of the candidate that was chosen; see `maskhone.ops.guard`.

    Example:
        >>> image, coarse = np.zeros((1, 4, 3), np.uint8), np.ones((1, 4), np.float32)
        >>> candidates = {"wild": coarse * 0, "tame": coarse}
        >>> choose(image, coarse, candidates).note
        'tame, which is nearest to wild and the coarse mask (mean IoU 0.50)'
    """
    cut = {name: scores > FOREGROUND for name, scores in candidates.items()}
    agreement = {
        name: _mean_agreement(mask, [coarse > FOREGROUND, *_leave_out(cut, name).values()])
        for name, mask in cut.items()
    }
    name = max(agreement, key=lambda each: agreement[each])
    stack, chosen = coarse[None], candidates[name][None]
    guarded = guard_masks(image, stack, chosen, guard=guard)
    kept = float(share_given_back(stack, chosen, guarded)[0])
    note = _explain(name, list(_leave_out(cut, name)), agreement[name], kept)
    return Choice(scores=guarded[0], note=note, kept=kept)


def _leave_out(masks: Mapping[str, NDArray[np.bool_]], name: str) -> dict[str, NDArray[np.bool_]]:
    return {other: mask for other, mask in masks.items() if other != name}


def _mean_agreement(mask: NDArray[np.bool_], others: list[NDArray[np.bool_]]) -> float:
    return sum(_agreement(mask, other) for other in others) / len(others)


def _agreement(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Measures the IoU of two masks; two empty ones agree."""
    either = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / either if either else 1.0


def _explain(name: str, others: list[str], agreement: float, kept: float) -> str:
    if others:
        why = f"{name}, which is nearest to {', '.join(others)} and the coarse mask"
    else:
        why = f"{name}, the only method that ran"
    said = f"{why} (mean IoU {agreement:.2f})"
    return f"{said}; the guard undid {100 * kept:.0f} % of its changes" if kept else said
