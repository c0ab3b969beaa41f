"""Refines masks again in ways that should change nothing, to see what a refiner is sure of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, LooksAgain, Refiner, Scores
from maskhone.ops.masks import mean_width

Number = TypeVar("Number", bound=np.generic)

_LOGIT_SHIFT = 1.0
"""Of soft masks, each way: one half becomes 0.27 or 0.73."""

_SHIFT_SHARE, _WIDTH_SHARE = 0.01, 1 / 6
"""Of masks of 0 and 1: pixels each way as a share of the square root of the area, but at most of
the mean width. The three shifts are ours; benchmarks/guard.py says what they give."""

_LEAST_MOVED = 0.01
"""Share of the object's pixels that a shift has to move, lest it is none. Ours."""

_LEAST_SCORE = 1 / 255  # of 8-bit masks; keeps logits finite


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """The answers of one refiner to the same masks, asked in several ways.

    Attributes:
        scores: arrays of one shape, `(N, H, W)` or `(H, W)`; the first is the answer to what was
            asked. A guard needs two or more.
        can_be_trusted: whether the ways are the refiner's own. Where all of them agree on a kind
            of object, it knows that kind.
    """

    scores: tuple[NDArray[np.float32], ...]
    can_be_trusted: bool = False

    def of(self, index: int) -> "Looks":
        """Returns the `(H, W)` answers to one of N masks."""
        return replace(self, scores=tuple(each[index] for each in self.scores))

    def average(self) -> NDArray[np.float32]:
        """Returns the average of the answers, of their shape; see `average_looks`."""
        return average_looks(self.scores)


def average_looks(looks: Scores | Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Averages looks of one shape; the first, which is what was asked for, counts twice.

    Example:
        >>> average_looks(np.array([[[1.0]], [[0.25]]], dtype=np.float32)).tolist()
        [[0.75]]
    """
    total = looks[0] + sum(looks)
    return np.asarray(total / np.float32(len(looks) + 1), dtype=np.float32)


def take_looks(refiner: Refiner, image: Image, masks: Scores) -> Looks:
    """Refines masks as they are, and again in ways that should give the same answer.

    A refiner that knows such ways says so by a method `look_again`. Any other one is given the
    same picture with masks a little smaller and a little larger: one that sees the outline in the
    picture finds it from both.

    Args:
        refiner: any.
        image: `(H, W, 3)` uint8 RGB.
        masks: `(N, H, W)` scores.
    """
    refined = refiner.refine(image, masks)
    if isinstance(refiner, LooksAgain):
        return Looks(scores=(refined, *refiner.look_again(image, masks)), can_be_trusted=True)
    again = []
    for way in (-1, 1):
        shifted = np.array([shift_outline(mask, way) for mask in masks], dtype=np.float32)
        again.append(refiner.refine(image, shifted.reshape(masks.shape)))
    return Looks(scores=(refined, *again))


def shift_outline(scores: NDArray[np.float32], way: int) -> NDArray[np.float32]:
    """Makes the object of `(H, W)` scores a little smaller (`way` -1) or larger (1).

    Soft scores are shifted as logits. Those of 0 and 1, and those too steep for the outline to
    move by that, lose or win a rim.

    Example:
        >>> shift_outline(np.array([[0.2, 0.6, 1.0]], dtype=np.float32), -1).round(2).tolist()
        [[0.07999999821186066, 0.36000001430511475, 0.9900000095367432]]
    """
    mask = scores > FOREGROUND
    if not mask.any():
        return scores
    sure = np.clip(scores, _LEAST_SCORE, 1 - _LEAST_SCORE)
    logits = np.log(sure / (1 - sure)) + way * _LOGIT_SHIFT
    shifted = np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)
    moved_px = np.count_nonzero((shifted > FOREGROUND) != mask)
    if moved_px > _LEAST_MOVED * np.count_nonzero(mask):
        return shifted
    wanted_px = _SHIFT_SHARE * float(np.sqrt(np.count_nonzero(mask)))
    reach_px = round(max(1.0, min(wanted_px, _WIDTH_SHARE * mean_width(mask))))
    side = 2 * reach_px + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    grow = cv2.dilate if way > 0 else cv2.erode
    return np.asarray(grow(np.ascontiguousarray(scores), disc), dtype=np.float32)


def mirror(array: NDArray[Number], *, axis: int) -> NDArray[Number]:
    """Mirrors an array along an axis, in memory of its own.

    Example:
        >>> mirror(np.array([[1, 2, 3]]), axis=1).tolist()
        [[3, 2, 1]]
    """
    return np.ascontiguousarray(np.flip(array, axis=axis))
