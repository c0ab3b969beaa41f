"""How well two masks agree as areas: IoU, Dice, and IoU pooled over a data set.

Unless said otherwise, functions take two `(H, W)` bool masks. `ignore`, where given, marks pixels
that are not scored (unlabelled ground truth).
"""

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, describe_size_mismatch
from maskhone.errors import InputError

Mask = NDArray[np.bool_]  # (H, W)


def iou(prediction: Mask, target: Mask, *, ignore: Mask | None = None) -> float:
    """Measures the intersection of two masks over their union.

    Two empty masks agree fully and score 1.

    Args:
        prediction: `(H, W)` bool.
        target: `(H, W)` bool.
        ignore: `(H, W)` bool, true where a pixel is not scored.

    Returns:
        A share in [0, 1].

    Raises:
        InputError: the masks differ in size or are not bool.

    Example:
        >>> import numpy as np
        >>> left, top = np.zeros((2, 4, 4), dtype=bool)
        >>> left[:, :2] = top[:2] = True
        >>> round(iou(left, top), 4)
        0.3333
    """
    intersection, union = count_overlap(prediction, target, ignore=ignore)
    return intersection / union if union else 1.0


def dice(prediction: Mask, target: Mask, *, ignore: Mask | None = None) -> float:
    """Measures twice the intersection over the sum of both areas (F1 of the pixels).

    Arguments, errors and the value of two empty masks are those of `iou`.

    Example:
        >>> import numpy as np
        >>> left, top = np.zeros((2, 4, 4), dtype=bool)
        >>> left[:, :2] = top[:2] = True
        >>> dice(left, top)
        0.5
    """
    return _dice_of_counts(*count_overlap(prediction, target, ignore=ignore))


def count_overlap(prediction: Mask, target: Mask, *, ignore: Mask | None = None) -> tuple[int, int]:
    """Counts the pixels of the intersection and of the union.

    Example:
        >>> import numpy as np
        >>> count_overlap(np.eye(3, dtype=bool), np.ones((3, 3), dtype=bool))
        (3, 9)
    """
    prediction, target = prepare_pair(prediction, target, ignore)
    intersection = int(np.count_nonzero(prediction & target))
    union = int(np.count_nonzero(prediction) + np.count_nonzero(target)) - intersection
    return intersection, union


class RegionScores:
    """Runs over many masks: mean IoU, mean Dice, and IoU pooled over all pixels.

    `pooled_iou` is the sum of all intersections over the sum of all unions; it is the number that
    SegRefiner reports as mIoU on BIG and DIS (MengyuWang826/SegRefiner:eval/eval_miou.py).

    Example:
        >>> import numpy as np
        >>> metric = RegionScores()
        >>> _ = metric.update(np.eye(2, dtype=bool), np.ones((2, 2), dtype=bool))
        >>> metric.compute()["iou"]
        0.5
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all masks."""
        self._counts: list[tuple[int, int]] = []

    def update(
        self, prediction: Mask, target: Mask, *, ignore: Mask | None = None
    ) -> dict[str, float]:
        """Adds one pair of `(H, W)` bool masks and returns the pair's own scores."""
        counts = count_overlap(prediction, target, ignore=ignore)
        self._counts.append(counts)
        return _scores_of_counts(counts)

    def compute(self) -> dict[str, float]:
        """Returns `iou`, `dice` (means over masks) and `pooled_iou`; NaN before any update."""
        if not self._counts:
            return dict.fromkeys(("iou", "dice", "pooled_iou"), np.nan)
        each = [_scores_of_counts(counts) for counts in self._counts]
        intersection, union = np.sum(self._counts, axis=0)
        return {
            "iou": float(np.mean([scores["iou"] for scores in each])),
            "dice": float(np.mean([scores["dice"] for scores in each])),
            "pooled_iou": float(intersection / union) if union else 1.0,
        }


class ForegroundScores:
    """Runs over many score maps: what papers call IoU or F1 of a binary task, side by side.

    Counts are integers, so the order of the maps and their number of pixels do not matter.

    Args:
        threshold: a score above it is foreground.
        keeps_equal: a score equal to the threshold is foreground too.

    Source: PatchRefineNet section 9; its "mIoU" is `iou_acc`.

    Example:
        >>> import numpy as np
        >>> metric = ForegroundScores()
        >>> scores = np.array([[0.9, 0.8, 0.2, 0.5]], dtype=np.float32)
        >>> _ = metric.update(scores, np.array([[True, False, False, False]]))
        >>> found = metric.compute()
        >>> round(found["iou_acc"], 4), found["iou"], round(found["iou_two"], 4), found["recall"]
        (0.6667, 0.5, 0.5833, 1.0)
    """

    def __init__(self, threshold: float = FOREGROUND, *, keeps_equal: bool = False) -> None:
        self.threshold = threshold
        self.keeps_equal = keeps_equal
        self.reset()

    def reset(self) -> None:
        """Forgets all maps."""
        self._each: list[dict[str, float]] = []
        self._total = np.zeros(4, dtype=np.int64)
        self._error, self._n_pixels = 0.0, 0

    def update(self, scores: NDArray[np.floating], target: Mask) -> dict[str, float]:
        """Adds one map of scores and its truth, and returns the map's own scores.

        Args:
            scores: `(H, W)` in [0, 1].
            target: `(H, W)` bool.

        Raises:
            InputError: they differ in size, or the target is not bool.
        """
        is_above = scores >= self.threshold if self.keeps_equal else scores > self.threshold
        counts = _count_four(is_above, target)
        error = float(np.abs(scores.astype(np.float64) - target).sum())
        self._total += counts
        self._error += error
        self._n_pixels += target.size
        self._each.append(_foreground_scores(counts, error))
        return self._each[-1]

    def compute(self) -> dict[str, float]:
        """Returns the scores of all maps; NaN before any update.

        Returns:
            `iou` and `dice` are means over maps, two empty masks scoring 1. The rest is of all
            pixels together: `iou_acc`, `(I + 1) / (U + 1)`; `iou_two`, the mean of the IoU of
            foreground and of background; `f1`, `precision`, `recall` of the foreground; `mae`, the
            mean of |score - target|.
        """
        if not self._each:
            return dict.fromkeys(_foreground_scores(self._total, 0.0), np.nan)
        means = {k: float(np.mean([scores[k] for scores in self._each])) for k in ("iou", "dice")}
        return {**_foreground_scores(self._total, self._error), **means}


def _count_four(prediction: Mask, target: Mask) -> NDArray[np.int64]:
    """Counts pixels: right and wrong foreground, missed foreground, right background."""
    prediction, target = prepare_pair(prediction, target)
    both = np.count_nonzero(prediction & target)
    wrong, missed = np.count_nonzero(prediction) - both, np.count_nonzero(target) - both
    return np.array([both, wrong, missed, target.size - both - wrong - missed], dtype=np.int64)


def _foreground_scores(counts: NDArray[np.int64], error: float) -> dict[str, float]:
    both, wrong, missed, neither = counts.tolist()
    n_wrong = wrong + missed
    iou = _share(both, both + n_wrong)
    return {
        "iou": iou,
        "dice": _share(2 * both, 2 * both + n_wrong),
        "iou_acc": (both + 1) / (both + n_wrong + 1),
        "iou_two": (iou + _share(neither, neither + n_wrong)) / 2,
        "f1": _share(2 * both, 2 * both + n_wrong),
        "precision": _share(both, both + wrong),
        "recall": _share(both, both + missed),
        "mae": error / max(both + n_wrong + neither, 1),
    }


def _share(part: int, whole: int) -> float:
    """Divides; nothing asked and nothing given is full agreement."""
    return part / whole if whole else 1.0


def prepare_pair(prediction: Mask, target: Mask, ignore: Mask | None = None) -> tuple[Mask, Mask]:
    """Checks a pair of masks and clears the ignored pixels in both.

    Raises:
        InputError: the masks differ in size, or one is not a bool array of two dimensions.

    Example:
        >>> import numpy as np
        >>> prepare_pair(np.ones((1, 2), bool), np.ones((1, 2), bool), np.eye(1, 2, dtype=bool))[0]
        array([[False,  True]])
    """
    named = {"prediction": prediction, "target": target}
    for name, mask in named.items() if ignore is None else [*named.items(), ("ignore", ignore)]:
        if mask.dtype != np.bool_ or mask.ndim != 2:
            raise InputError(
                f"{name} is {mask.dtype} of shape {mask.shape}, expected bool (height, width); "
                "cut scores first, e.g. scores[0] > 0.5"
            )
        if mask.shape != target.shape:
            said = describe_size_mismatch(target.shape, mask.shape)
            raise InputError(f"{name}: {said.replace('image is', 'target is')}")
    if ignore is None:
        return prediction, target
    return prediction & ~ignore, target & ~ignore


def content_window(*masks: Mask, margin_px: int = 0) -> tuple[slice, slice]:
    """Finds the smallest window that holds every true pixel, widened by a margin.

    The window stays inside the image. It is empty when no pixel is true.

    Example:
        >>> import numpy as np
        >>> content_window(np.diag([False, True, False, False]), margin_px=1)
        (slice(0, 3, None), slice(0, 3, None))
    """
    sides = []
    for axis in (1, 0):
        occupied = np.flatnonzero(np.logical_or.reduce([mask.any(axis=axis) for mask in masks]))
        if not len(occupied):
            return slice(0, 0), slice(0, 0)
        sides.append(slice(max(0, int(occupied[0]) - margin_px), int(occupied[-1]) + 1 + margin_px))
    height, width = masks[0].shape
    rows, columns = sides
    return slice(rows.start, min(rows.stop, height)), slice(columns.start, min(columns.stop, width))


def _scores_of_counts(counts: tuple[int, int]) -> dict[str, float]:
    intersection, union = counts
    return {"iou": intersection / union if union else 1.0, "dice": _dice_of_counts(*counts)}


def _dice_of_counts(intersection: int, union: int) -> float:
    both_areas = intersection + union
    return 2 * intersection / both_areas if both_areas else 1.0


class ClassScores:
    """Runs over many label maps: accuracy and IoU per class, and their means.

    Args:
        n_classes: labels are 0 to `n_classes - 1`; other target labels are not scored. A
            prediction outside them is a miss and nothing else.

    Source: open-mmlab/mmsegmentation 0.7 `mean_iou` (aAcc, mAcc, mIoU).
    """

    def __init__(self, n_classes: int) -> None:
        self.n_classes = n_classes
        self.reset()

    def reset(self) -> None:
        """Forgets all label maps."""
        self._counts = np.zeros((self.n_classes, self.n_classes + 1), dtype=np.int64)

    def update(self, prediction: NDArray[np.integer], target: NDArray[np.integer]) -> None:
        """Adds label maps of one shape.

        Raises:
            InputError: they differ in shape.
        """
        if prediction.shape != target.shape:
            raise InputError(
                f"label maps of shapes {prediction.shape} and {target.shape}; expected one shape"
            )
        is_scored = (target >= 0) & (target < self.n_classes)
        given = prediction[is_scored].astype(np.int64)
        given[(given < 0) | (given > self.n_classes)] = self.n_classes
        pairs = target[is_scored].astype(np.int64) * (self.n_classes + 1) + given
        self._counts += np.bincount(pairs, minlength=self._counts.size).reshape(self._counts.shape)

    def count(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Returns the scored pixels of each class: predicted, true, and both at once."""
        known = self._counts[:, : self.n_classes]
        return known.sum(axis=0), self._counts.sum(axis=1), np.diag(known).copy()

    def compute(self) -> dict[str, NDArray[np.float64]]:
        """Returns `aAcc`, `mAcc`, `mIoU`, and `acc` and `iou` per class (NaN without pixels)."""
        of_prediction, of_target, both = self.count()
        right = both.astype(np.float64)
        with np.errstate(invalid="ignore"):
            acc, iou = right / of_target, right / (of_target + of_prediction - right)
            all_acc = right.sum() / self._counts.sum()
        means = {"mAcc": np.nanmean(acc), "mIoU": np.nanmean(iou)}
        return {"aAcc": all_acc, **means, "acc": acc, "iou": iou}
