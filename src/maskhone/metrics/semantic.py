"""How well label maps agree over a whole data set, and which threshold of class maps does best.

Label maps are `(H, W)` integers: 0 background, 1 and up the classes, 255 not scored. All counts are
64-bit: one data set has more background pixels than 32 bits count.

Source: PerimeterFit section 9; ErikOstrowski/Automated-Framework-...:evaluate.py.
Differs: every image is scored. OFRIN/PuzzleCAM:evaluate.py scores every eighth only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.errors import InputError
from maskhone.metrics.region import ClassScores
from maskhone.ops.masks import IGNORE_LABEL

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 16))
"""0.05 to 0.75, as published."""

LONG_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 31))
"""0.05 to 1.50: for maps that exceed 1, such as combined CAMs, which reach 2 (section 9.1)."""

LabelMap = NDArray[np.integer[Any]]
Row = Mapping[str, float]
"""One line of a sweep: `threshold` and what `SemanticScores.compute` returns."""

_EPSILON = 1e-10  # evaluate.py: in every quotient


class SemanticScores:
    """Runs over many label maps: mean IoU, and the shares of false positives and negatives.

    Args:
        n_labels: background and classes together; a prediction beyond them is wrong everywhere.

    Example:
        >>> metric = SemanticScores(3)
        >>> metric.update(np.array([[0, 1, 1, 2]]), np.array([[0, 1, 0, 255]]))
        >>> found = metric.compute()
        >>> round(found["miou"], 4), round(found["miou_present"], 4), round(found["fp"], 4)
        (0.3333, 0.5, 0.25)
    """

    def __init__(self, n_labels: int) -> None:
        self._counts = ClassScores(n_labels)

    def reset(self) -> None:
        """Forgets all label maps."""
        self._counts.reset()

    def update(self, prediction: LabelMap, target: LabelMap) -> None:
        """Adds one pair of label maps.

        Raises:
            InputError: they differ in size, or the target has a label beyond `n_labels`, not 255.
        """
        n_labels = self._counts.n_classes
        wrong = target[(target >= n_labels) & (target != IGNORE_LABEL)]
        if len(wrong):
            raise InputError(
                f"the target has label {wrong.min()}, expected 0 to {n_labels - 1} and 255; "
                "is the list of classes the right one?"
            )
        self._counts.update(prediction, target)

    def count(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Returns P, T and TP: the scored pixels predicted, true, and both, of each label."""
        return self._counts.count()

    def compute_each(self) -> dict[str, NDArray[np.float64]]:
        """Returns the figures of each label, in the order of the labels.

        Returns:
            `iou`, and `fp` and `fn`, the wrong and the missed pixels over the union; all 0 for a
            label that occurs nowhere. `t_over_tp` and `p_over_tp` are infinite for a label never
            hit, NaN for one that was not asked for or not given.
        """
        predicted, true, both = (counts.astype(np.float64) for counts in self.count())
        union = true + predicted - both + _EPSILON
        with np.errstate(divide="ignore", invalid="ignore"):
            over = {"t_over_tp": true / both, "p_over_tp": predicted / both}
        return {
            "iou": both / union,
            "fp": (predicted - both) / union,
            "fn": (true - both) / union,
            **over,
        }

    def compute(self) -> dict[str, float]:
        """Returns the figures of all label maps, as shares.

        Returns:
            `miou`, the mean IoU over all labels, those that occur nowhere counting 0, as published;
            `miou_present`, over those that occur; `miou_foreground`, without the background; `fp`
            and `fn`, means over the foreground labels, as in published tables; `fp_all` and
            `fn_all`, with the background, as the original logs while it trains.
        """
        each = self.compute_each()
        predicted, true, _ = self.count()
        present = each["iou"][(predicted > 0) | (true > 0)]
        return {
            "miou": float(each["iou"].mean()),
            "miou_present": float(present.mean()) if len(present) else 0.0,
            "miou_foreground": float(each["iou"][1:].mean()),
            "fp": float(each["fp"][1:].mean()),
            "fn": float(each["fn"][1:].mean()),
            "fp_all": float(each["fp"].mean()),
            "fn_all": float(each["fn"].mean()),
        }


class ThresholdScores:
    """Runs over soft class maps: the scores at each of several thresholds of the background.

    Args:
        n_labels: background and classes together.
        thresholds: what the highest class map has to exceed, ascending.
    """

    def __init__(self, n_labels: int, thresholds: Sequence[float] = THRESHOLDS) -> None:
        self._scores = {threshold: SemanticScores(n_labels) for threshold in thresholds}

    def reset(self) -> None:
        """Forgets all maps."""
        for scores in self._scores.values():
            scores.reset()

    def update(
        self, maps: NDArray[np.floating[Any]], keys: NDArray[np.integer[Any]], target: LabelMap
    ) -> None:
        """Adds the maps and keys of one image, see `label_by_threshold`, and its label map.

        Raises:
            InputError: maps and target differ in size, or as in `SemanticScores.update`.
        """
        highest, best = find_highest(maps, keys)
        for threshold, scores in self._scores.items():
            scores.update(np.where(highest > highest.dtype.type(threshold), best, 0), target)

    def get(self, threshold: float) -> SemanticScores:
        """Returns the scores at one of the thresholds."""
        return self._scores[threshold]

    def compute(self) -> list[dict[str, float]]:
        """Returns one row for each threshold, in order."""
        return [{"threshold": t, **scores.compute()} for t, scores in self._scores.items()]


def label_by_threshold(
    maps: NDArray[np.floating[Any]], keys: NDArray[np.integer[Any]], threshold: float
) -> NDArray[np.int64]:
    """Labels each pixel by its highest class map, or 0 where none exceeds the threshold.

    Args:
        maps: `(K, H, W)`; K may be 0.
        keys: `(K + 1,)`, 0 and then the label of each map; of equal maps the first one counts.
        threshold: rounded to the precision of the maps.

    Example:
        >>> maps = np.array([[[0.2, 0.6, 0.5]], [[0.3, 0.1, 0.5]]])
        >>> label_by_threshold(maps, np.array([0, 7, 12]), 0.25)
        array([[12,  7,  7]])
    """
    highest, best = find_highest(maps, keys)
    return np.where(highest > highest.dtype.type(threshold), best, 0)


def find_highest(
    maps: NDArray[np.floating[Any]], keys: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.int64]]:
    """Returns the highest of `(K, H, W)` maps at each pixel, and its label; without maps 0 and 0.

    Raises:
        InputError: the keys are not 0 and then one label for each map.
    """
    if maps.ndim != 3 or keys.shape != (len(maps) + 1,) or keys[0] != 0:
        raise InputError(
            f"class maps of shape {maps.shape} with the keys {keys.tolist()}; "
            "expected (K, height, width), and 0 and then one label for each map"
        )
    if not len(maps):
        nothing = np.zeros(maps.shape[1:])
        return nothing, nothing.astype(np.int64)
    best = maps.argmax(axis=0)
    highest = np.take_along_axis(maps, best[np.newaxis], axis=0)[0]
    return highest, keys[1:].astype(np.int64)[best]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a sweep recommends.

    Attributes:
        best: the row of the highest mean IoU; of equal ones the first.
        over: the row whose false positives are nearest to 1.6 times those of the best.
        under: the row whose false positives are nearest to 0.6 times those of the best.
    """

    best: Row
    over: Row
    under: Row


OVER, UNDER = 1.6, 0.6
"""By how much false positives are to exceed, or fall below, those of the best threshold."""


def choose_thresholds(rows: Sequence[Row]) -> Choice:
    """Chooses among the rows of a sweep.

    Raises:
        InputError: there are none.

    Source: PerimeterFit section 9.1, mode rw.
    """
    if not rows:
        raise InputError("a sweep over no threshold; give one or more")
    best = max(rows, key=lambda row: row["miou"])
    over, under = (
        min(rows, key=lambda row: abs(row["fp"] - factor * best["fp"])) for factor in (OVER, UNDER)
    )
    return Choice(best=best, over=over, under=under)
