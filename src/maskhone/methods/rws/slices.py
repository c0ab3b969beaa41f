"""Weak slices: windows of half the picture's size where the last stage overlooks the object.

H, W the picture, K windows, rows first. Source: RWS section 4.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Boxes
from maskhone.errors import InputError, UsageError

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SliceConfig:
    """Which windows are looked at, and which of them are weak. Defaults as published.

    Attributes:
        slice_share: sides of a window, as a share of the picture's.
        slice_step_share: step between windows, as a share of the picture's sides.
        slice_covers_edges: add a last row and column that end at the picture's border.
            Differs: as published, the last tenth is in no window.
        slice_heat: a pixel is attended to above this.
        slice_coverage: weak is a window whose agreement of heat and label is below this.
        slice_least_coverage: and above this; -1 admits windows without any heat, too.
        slice_prediction_iou: and whose IoU of prediction and label is below this; 0: not asked.
        slice_most: keep so many of a picture and class, the weakest; 0 keeps all.
        slice_overlap: of windows with a higher IoU keep the weaker; 0 keeps all.
        slice_choice: `weak`; or `random`, a placebo: as many windows that hold label.
    """

    slice_share: float = 0.5
    slice_step_share: float = 0.1
    slice_covers_edges: bool = False
    slice_heat: float = 0.0
    slice_coverage: float = 0.95
    slice_least_coverage: float = 0.0
    slice_prediction_iou: float = 0.0
    slice_most: int = 0
    slice_overlap: float = 0.0
    slice_choice: Literal["weak", "random"] = "weak"

    def __post_init__(self) -> None:
        for name in ("slice_share", "slice_step_share"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 < share <= 1")
        if self.slice_least_coverage >= self.slice_coverage:
            raise UsageError(
                f"slice_least_coverage is {self.slice_least_coverage}; expected less than "
                f"slice_coverage, {self.slice_coverage}"
            )
        if not 0 <= self.slice_heat < 1 or not 0 <= self.slice_overlap < 1 or self.slice_most < 0:
            raise UsageError(
                "slice_heat and slice_overlap lie in [0, 1), slice_most is 0 or more; received "
                f"{self.slice_heat}, {self.slice_overlap}, {self.slice_most}"
            )
        if self.slice_choice not in ("weak", "random"):
            raise UsageError(f"slice_choice is {self.slice_choice!r}; expected weak or random")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A window of a picture: a record, never a file.

    Attributes:
        id: of the picture.
        class_index: of the label that it is weak in.
        number: of the window in the picture's grid, rows first.
        box: x1 y1 x2 y2, end-exclusive.
        coverage: IoU of heat and label within.
    """

    id: str
    class_index: int
    number: int
    box: tuple[int, int, int, int]
    coverage: float

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.box[3] - self.box[1], self.box[2] - self.box[0]

    def crop(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cuts the window out of `(H, W)` or `(H, W, C)`."""
        x1, y1, x2, y2 = self.box
        return array[y1:y2, x1:x2]


def plan_windows(size_hw: Sequence[int], config: SliceConfig | None = None) -> Boxes:
    """Plans the windows of a picture, rows first.

    From 60 px on they are 5 x 5, and end at 90 % of each side, as published.

    Raises:
        InputError: a picture so small that the step is nothing.

    Example:
        >>> plan_windows((375, 500))[[0, 1, 24]].tolist()
        [[0, 0, 250, 187], [50, 0, 300, 187], [200, 148, 450, 335]]
    """
    config = config or SliceConfig()
    ys, h = _starts(size_hw, 0, config)
    xs, w = _starts(size_hw, 1, config)
    corners = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
    y, x = corners.T
    return np.stack([x, y, x + w, y + h], axis=1).astype(np.int64)


def _starts(
    size_hw: Sequence[int], axis: int, config: SliceConfig
) -> tuple[NDArray[np.int64], int]:
    side = size_hw[axis]
    window, step = (
        math.floor(side * share + 1e-9) for share in (config.slice_share, config.slice_step_share)
    )
    if step < 1 or window < 1:
        raise InputError(
            f"a picture of {size_hw[0]}x{size_hw[1]} is too small for slices: a step would be "
            f"{step} px; leave it out"
        )
    starts = step * np.arange((side - window) // step)
    if config.slice_covers_edges or not len(starts):
        starts = np.unique(np.append(starts, side - window))
    return starts, window


def measure_coverage(is_hot: Bools, is_class: Bools, boxes: Boxes) -> NDArray[np.float64]:
    """Measures the IoU of heat and label in each window: `(K,)`, NaN where neither is.

    Args:
        is_hot: `(H, W)`, where the heat is above its threshold.
        is_class: `(H, W)`, the label.
        boxes: `(K, 4)`.

    Source: RWS section 4, the coverage IoU.

    Example:
        >>> hot, label = np.array([[True, False]]), np.array([[True, True]])
        >>> measure_coverage(hot, label, np.array([[0, 0, 2, 1]])).tolist()
        [0.5]
    """
    shared = sum_windows(is_hot & is_class, boxes)
    either = sum_windows(is_hot | is_class, boxes)
    with np.errstate(invalid="ignore"):
        return np.asarray(shared / either, dtype=np.float64)


def sum_windows(values: Bools, boxes: Boxes) -> NDArray[np.float64]:
    """Counts the true pixels in each window, `(K,)`.

    Windows of a grid share few intervals of rows and of columns: one product of matrices sums over
    all pairs of them.
    """
    x1, y1, x2, y2 = boxes.T
    rows, of_rows = np.unique(np.stack([y1, y2], axis=1), axis=0, return_inverse=True)
    columns, of_columns = np.unique(np.stack([x1, x2], axis=1), axis=0, return_inverse=True)
    exact = np.float32 if values.size < 2**24 else np.float64  # of whole numbers
    y, x = (np.arange(side) for side in values.shape)
    in_rows = ((y >= rows[:, :1]) & (y < rows[:, 1:])).astype(exact)
    in_columns = ((x >= columns[:, :1]) & (x < columns[:, 1:])).astype(exact)
    table = in_rows @ values.astype(exact) @ in_columns.T
    return np.asarray(table[of_rows.ravel(), of_columns.ravel()], dtype=np.float64)


def find_weak_slices(
    id: str,
    class_index: int,
    heat: NDArray[np.float32],
    is_class: Bools,
    config: SliceConfig | None = None,
    *,
    is_predicted: Bools | None = None,
    random: np.random.Generator | None = None,
) -> list[Slice]:
    """Finds the windows where the heat covers some of the label, but not enough of it.

    Windows without label are never weak. As published, those without any heat are not either, so
    an object that is missed completely gives no slice.

    Args:
        id: of the picture.
        class_index: of the label.
        heat: `(H, W)` of the last layer, 0 outside the label.
        is_class: `(H, W)`, the label.
        config: thresholds.
        is_predicted: `(H, W)`, needed with `slice_prediction_iou`.
        random: needed with `slice_choice = "random"`.

    Returns:
        Slices in the order of their numbers.
    """
    config = config or SliceConfig()
    boxes = plan_windows(heat.shape, config)
    coverage = measure_coverage(heat > config.slice_heat, is_class, boxes)
    with np.errstate(invalid="ignore"):
        is_weak = (coverage > config.slice_least_coverage) & (coverage < config.slice_coverage)
    if config.slice_prediction_iou > 0:
        if is_predicted is None:
            raise UsageError("slice_prediction_iou is set, but there is no prediction")
        agreement = measure_coverage(is_predicted, is_class, boxes)
        is_weak &= ~(agreement >= config.slice_prediction_iou)
    numbers = _keep_weakest(np.flatnonzero(is_weak), coverage, boxes, config)
    if config.slice_choice == "random":
        if random is None:
            raise UsageError("random slices need a generator")
        filled = np.flatnonzero(sum_windows(is_class, boxes) > 0)
        numbers = np.sort(random.choice(filled, size=len(numbers), replace=False))
    return [
        Slice(
            id=id,
            class_index=class_index,
            number=int(k),
            box=tuple(boxes[k].tolist()),
            coverage=float(np.nan_to_num(coverage[k])),
        )
        for k in numbers
    ]


def count_coverage(slices: Iterable[Slice]) -> list[int]:
    """Counts slices by coverage: below 0.1, below 0.2 and so on; the last tenth holds 1, too.

    Example:
        >>> some = [Slice(id="a", class_index=1, number=0, box=(0, 0, 9, 9), coverage=0.25)]
        >>> count_coverage(some)
        [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    """
    counts, _ = np.histogram([one.coverage for one in slices], bins=10, range=(0, 1))
    return [int(count) for count in counts]


def _keep_weakest(
    numbers: NDArray[np.int64], coverage: NDArray[np.float64], boxes: Boxes, config: SliceConfig
) -> NDArray[np.int64]:
    """Thins out the weak windows, weakest first; equal ones by number."""
    ranked = numbers[np.argsort(coverage[numbers], kind="stable")]
    if config.slice_overlap > 0:
        kept: list[int] = []
        for k in ranked.tolist():
            if all(_iou(boxes[k], boxes[other]) <= config.slice_overlap for other in kept):
                kept.append(k)
        ranked = np.array(kept, dtype=np.int64)
    if config.slice_most:
        ranked = ranked[: config.slice_most]
    return np.sort(ranked)


def _iou(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    w, h = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).tolist()
    areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
    return float(w * h / (areas - w * h))
