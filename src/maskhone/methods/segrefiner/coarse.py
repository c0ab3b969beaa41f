"""Makes coarse masks out of clean ones, as the published training does.

An outline is thinned to a tenth of its points after one run of points has been cut off, and the
polygon that is left is dilated and eroded in random windows until it is wrong enough. Derived from
Cheng et al., "CascadePSP", CVPR 2020. Source: SegRefiner section 6.5.
"""

import math
import random
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

_FEWEST_POINTS = 10  # shorter contours vanish
_MOST_ROUNDS = 250
_OPERATIONS_PER_ROUND = 4
_KERNEL_SIDES = (3, 10)  # from, to (exclusive)


@dataclass(frozen=True)
class Draws:
    """Both generators that the original draws from, made explicit.

    Attributes:
        seed: of both.
        numpy: the stream of `numpy.random.seed(seed)`.
        python: the stream of `random.seed(seed)`.
    """

    seed: int
    numpy: np.random.RandomState = field(init=False, repr=False)
    python: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numpy", np.random.RandomState(self.seed))
        object.__setattr__(self, "python", random.Random(self.seed))


@dataclass(frozen=True, kw_only=True)
class CoarseRule:
    """How wrong a made mask is; the defaults are published.

    Attributes:
        cut_share: share of a contour's points that is cut off in one run.
        keep_share: share of the other points that is kept.
        move_rate: deviation of the kept points' distance to the centre; 0 moves none.
        iou_target: the mask is changed until its IoU with the thinned polygon falls below this.
    """

    cut_share: float = 0.1
    keep_share: float = 0.1
    move_rate: float = 0.0
    iou_target: float = 0.8


def make_coarse(
    mask: NDArray[np.bool_], draws: Draws, rule: CoarseRule | None = None
) -> NDArray[np.bool_]:
    """Returns a coarse version of an `(H, W)` mask.

    Example:
        >>> square = np.zeros((60, 60), dtype=bool)
        >>> square[10:50, 10:50] = True
        >>> coarse = make_coarse(square, Draws(0))
        >>> bool(0.3 < (coarse & square).sum() / (coarse | square).sum() < 1)
        True
    """
    rule = rule or CoarseRule()
    thinned = thin_outline(mask, draws, rule)
    return disturb(thinned, draws, iou_target=rule.iou_target)


def thin_outline(mask: NDArray[np.bool_], draws: Draws, rule: CoarseRule) -> NDArray[np.bool_]:
    """Keeps few points of each outline and fills what they enclose."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    polygons = [
        thin_contour(np.asarray(contour[:, 0], dtype=np.int32), draws, rule)
        for contour in contours
        if len(contour) >= _FEWEST_POINTS
    ]
    polygons = [polygon for polygon in polygons if len(polygon)]
    if not polygons:
        return mask.copy()
    canvas = np.zeros(mask.shape, dtype=np.uint8)
    cv2.drawContours(canvas, [p[:, None].astype(np.int32) for p in polygons], -1, 1, -1)
    return canvas > 0


def thin_contour(points_N2: NDArray[np.int32], draws: Draws, rule: CoarseRule) -> NDArray[np.int32]:
    """Cuts a run off whose ends lie close together, and keeps a few of the other points."""
    count = len(points_N2)
    cut = int(count * rule.cut_share)
    across = points_N2[: count - cut] - points_N2[cut:]
    nearest = np.argsort(np.square(across).sum(axis=1), kind="stable")
    shortlist = nearest[: math.ceil(rule.cut_share * len(nearest))].tolist()
    start = draws.python.choice(shortlist)
    left = np.delete(points_N2, np.arange(start, start + cut), axis=0)
    chosen = sorted(draws.python.sample(range(len(left)), int(len(left) * rule.keep_share)))
    return _move_from_centre(left[chosen], points_N2, draws, rule.move_rate)


def _move_from_centre(
    kept: NDArray[np.int32], contour: NDArray[np.int32], draws: Draws, rate: float
) -> NDArray[np.int32]:
    """Moves points along the line to the contour's centre; draws also when the rate is 0."""
    moments = cv2.moments(contour[:, None])
    if moments["m00"] == 0:
        return kept
    centre = np.round([moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]])
    shares = draws.numpy.normal(0, rate, size=len(kept))[:, None]
    moved: NDArray[np.int32] = (kept + shares * (kept - centre)).astype(np.int32)
    return moved


def disturb(mask: NDArray[np.bool_], draws: Draws, *, iou_target: float) -> NDArray[np.bool_]:
    """Dilates and erodes random windows until the IoU with the given mask is below the target."""
    height, width = mask.shape
    if height <= 2 or width <= 2:
        return mask
    changed = mask.astype(np.uint8) * 255
    for _ in range(_MOST_ROUNDS):
        for _ in range(_OPERATIONS_PER_ROUND):
            _disturb_window(changed, draws.numpy)
        if _iou(changed > 127, mask) < iou_target:
            break
    return changed > 127


def _disturb_window(changed: NDArray[np.uint8], numbers: np.random.RandomState) -> None:
    height, width = changed.shape
    left, top = numbers.randint(width), numbers.randint(height)
    right, bottom = numbers.randint(left + 1, width + 1), numbers.randint(top + 1, height + 1)
    if numbers.rand() < 0.25:
        middle = (top + bottom) // 2, (left + right) // 2
        changed[middle] = numbers.randint(2) * 255
    window = changed[top:bottom, left:right]
    operation = cv2.MORPH_DILATE if numbers.rand() < 0.5 else cv2.MORPH_ERODE
    window[:] = cv2.morphologyEx(window, operation, draw_kernel(numbers))


def draw_kernel(numbers: np.random.RandomState) -> NDArray[np.uint8]:
    """Draws the size and the shape of a structuring element."""
    side = numbers.randint(*_KERNEL_SIDES)
    return make_kernel(side, numbers.randint(1, 5))


def make_kernel(side: int, kind: int) -> NDArray[np.uint8]:
    """Returns a square (1), a round (2), a flat (3) or an upright (4) structuring element."""
    size_wh = {1: (side, side), 2: (side, side), 3: (side, side // 2), 4: (side // 2, side)}[kind]
    shape = cv2.MORPH_RECT if kind == 1 else cv2.MORPH_ELLIPSE
    return np.asarray(cv2.getStructuringElement(shape, size_wh), dtype=np.uint8)


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    shared, either = np.count_nonzero(one & other), np.count_nonzero(one | other)
    return (shared + 1e-6) / (either + 1e-6)
