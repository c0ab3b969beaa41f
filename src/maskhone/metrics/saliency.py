"""Scores of saliency research for soft maps: F-, S- and E-measure, and mean absolute error.

A map of scores in [0, 1] meets one bool truth. F and E are measured at 256 thresholds, which gives
a curve, and at an adaptive one. T thresholds, N pixels of a picture.

Differs: where the authors' formulas divide by nothing (a truth of one pixel, a picture of one
pixel, a quarter without pixels) the term counts as if it could not vary, and scores stay finite.
"""

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import describe_size_mismatch
from maskhone.errors import InputError

Map = NDArray[np.float64]  # (H, W), in [0, 1]
Mask = NDArray[np.bool_]  # (H, W)
Curve = NDArray[np.float64]  # (T,), from the threshold 255/255 down to 0

BETA_SQUARED = 0.3
"""Weight of precision against recall (Achanta et al., CVPR 2009)."""

OBJECT_SHARE = 0.5
"""Weight of the object-aware part of the S-measure (Fan et al., ICCV 2017, alpha)."""

_LEVELS = 256
_TINY = float(np.finfo(np.float64).eps)


class SaliencyScores:
    """Runs over many maps: F- and E-measure (adaptive, best, mean), S-measure and MAE.

    The best and the mean are those of the curve averaged over the maps, as in published tables.

    Args:
        stretches: each map is first stretched to [0, 1], as the tools behind published tables do;
            a constant map stays as it is.

    Example:
        >>> scores = np.array([[0.9, 0.6], [0.3, 0.0]], dtype=np.float32)
        >>> metric = SaliencyScores(stretches=False)
        >>> _ = metric.update(scores, scores > 0.5)
        >>> found = metric.compute()
        >>> round(found["f_max"], 4), round(found["s_measure"], 4), round(found["mae"], 4)
        (1.0, 0.931, 0.2)
    """

    def __init__(self, *, stretches: bool = True) -> None:
        self.stretches = stretches
        self.reset()

    def reset(self) -> None:
        """Forgets all maps."""
        self._count = 0
        self._sums: dict[str, float] = dict.fromkeys(
            ("f_adaptive", "s_measure", "e_adaptive", "mae"), 0.0
        )
        self._f_sum, self._e_sum = np.zeros((2, _LEVELS))

    def update(self, scores: NDArray[np.floating], target: Mask) -> dict[str, float]:
        """Adds one map and its truth, and returns the map's own scores.

        Args:
            scores: `(H, W)` in [0, 1].
            target: `(H, W)` bool.

        Raises:
            InputError: the two differ in size, the scores leave [0, 1], or the truth is not bool.
        """
        values = _prepare(scores, target, stretches=self.stretches)
        counts, counts_at_mean = _count_at_levels(values, target), _count_at_mean(values, target)
        f_curve, e_curve = _f_measure(*counts, target), _e_measure(*counts, target)
        single = {
            "f_adaptive": float(_f_measure(*counts_at_mean, target)[0]),
            "s_measure": _s_measure(values, target),
            "e_adaptive": float(_e_measure(*counts_at_mean, target)[0]),
            "mae": float(np.abs(values - target).mean()),
        }
        for name, score in single.items():
            self._sums[name] += score
        self._f_sum += f_curve
        self._e_sum += e_curve
        self._count += 1
        return _name_scores(single, f_curve, e_curve)

    def compute(self) -> dict[str, float]:
        """Returns the means over maps under the names of `update`; NaN before any update."""
        n = self._count or np.nan
        means = {name: total / n for name, total in self._sums.items()}
        return _name_scores(means, self._f_sum / n, self._e_sum / n)


def f_curve(scores: NDArray[np.floating], target: Mask) -> Curve:
    """Measures the F of precision and recall at all thresholds: `(256,)`, from 255/255 down to 0.

    Args:
        scores: `(H, W)` in [0, 1]; cut into 256 levels by `floor(255 * score)`.
        target: `(H, W)` bool. An empty one scores 0 everywhere.

    Raises:
        InputError: as `SaliencyScores.update`.

    Source: Achanta et al., CVPR 2009; lartpang/PySODMetrics.

    Example:
        >>> f_curve(np.array([[1.0, 0.0]]), np.array([[True, False]]))[[0, 255]].round(4).tolist()
        [1.0, 0.5652]
    """
    values = _prepare(scores, target, stretches=False)
    return _f_measure(*_count_at_levels(values, target), target)


def e_curve(scores: NDArray[np.floating], target: Mask) -> Curve:
    """Measures the alignment of mask and truth at all thresholds: `(256,)`, 255/255 down to 0.

    Args:
        scores: as in `f_curve`.
        target: `(H, W)` bool; of an empty or a full one the right pixels are counted.

    Returns:
        About 0 to 1; a perfect mask scores N / (N - 1), as in the authors' program.

    Raises:
        InputError: as `SaliencyScores.update`.

    Source: Fan et al., IJCAI 2018, equations 2 to 5.

    Example:
        >>> e_curve(np.array([[1.0, 0.0]]), np.array([[True, False]]))[[0, 255]].round(4).tolist()
        [2.0, 0.5]
    """
    values = _prepare(scores, target, stretches=False)
    return _e_measure(*_count_at_levels(values, target), target)


def s_measure(scores: NDArray[np.floating], target: Mask) -> float:
    """Measures the likeness in structure, of the object as a whole and of the four quarters.

    Args:
        scores: `(H, W)` in [0, 1].
        target: `(H, W)` bool; an empty one scores 1 less the mean of the map, a full one the mean.

    Raises:
        InputError: as `SaliencyScores.update`.

    Source: Fan et al., ICCV 2017, equations 3 to 10.

    Example:
        >>> round(s_measure(np.eye(4), np.eye(4, dtype=bool)), 6)
        1.0
    """
    return _s_measure(_prepare(scores, target, stretches=False), target)


def _prepare(scores: NDArray[np.floating], target: Mask, *, stretches: bool) -> Map:
    """Checks a pair and gives the scores in float64."""
    if target.dtype != np.bool_ or target.ndim != 2 or not target.size:
        raise InputError(
            f"target is {target.dtype} of shape {target.shape}, expected bool (height, width); "
            "cut it first, e.g. target[0] > 0.5"
        )
    if scores.shape != target.shape:
        said = describe_size_mismatch(target.shape, scores.shape)
        raise InputError(f"scores: {said.replace('image is', 'target is')}")
    low, high = float(scores.min()), float(scores.max())
    if not (low >= 0 and high <= 1):  # true for NaN too
        raise InputError(
            f"scores lie in {low:g} to {high:g}, expected [0, 1]; divide by 255 or use a sigmoid"
        )
    values = scores.astype(np.float64)
    if scores.dtype == np.float32:
        values = _restore_levels(values)
    if stretches and low != high:
        values = (values - values.min()) / (values.max() - values.min())
    return values


def _restore_levels(values: Map) -> Map:
    """Makes v/255 exact again where float32 rounded it; it would fall below its level."""
    levels = np.rint(values * (_LEVELS - 1))
    is_level = np.abs(values * (_LEVELS - 1) - levels) < (_LEVELS - 1) * np.finfo(np.float32).eps
    return np.where(is_level, levels / (_LEVELS - 1), values)


def _count_at_levels(values: Map, target: Mask) -> tuple[Curve, Curve]:
    """Counts, for each threshold, the pixels at or above it: of the truth, and in all."""
    cells = (values * (_LEVELS - 1)).astype(np.intp) + _LEVELS * target
    counts = np.bincount(cells.ravel(), minlength=2 * _LEVELS).reshape(2, _LEVELS)
    outside, inside = counts[:, ::-1].cumsum(axis=1).astype(np.float64)
    return inside, inside + outside


def _count_at_mean(values: Map, target: Mask) -> tuple[Curve, Curve]:
    """Counts the pixels at or above twice the mean, which is at most 1: `(1,)` each."""
    is_above = values >= min(2 * float(values.mean()), 1.0)
    both, above = np.count_nonzero(is_above & target), np.count_nonzero(is_above)
    return np.array([both], dtype=np.float64), np.array([above], dtype=np.float64)


def _f_measure(inside: Curve, above: Curve, target: Mask) -> Curve:
    """F = (1 + b2) P R / (b2 P + R) with P = I/A and R = I/T is (1 + b2) I / (b2 T + A)."""
    beneath = BETA_SQUARED * np.count_nonzero(target) + above
    return (1 + BETA_SQUARED) * inside / np.maximum(beneath, _TINY)


def _e_measure(inside: Curve, above: Curve, target: Mask) -> Curve:
    """Averages the enhanced alignment; it has one value for each of the four kinds of pixels."""
    n, n_true = target.size, int(np.count_nonzero(target))
    beneath = max(n - 1, 1)
    if n_true in (0, n):
        right = n - above if n_true == 0 else above
        return right / beneath
    total = np.zeros_like(above)
    kinds = (  # prediction, truth, pixels
        (1, 1, inside),
        (1, 0, above - inside),
        (0, 1, n_true - inside),
        (0, 0, n - n_true - above + inside),
    )
    for predicted, true, count in kinds:
        a, b = predicted - above / n, true - n_true / n  # equation 2: the bias is removed
        alignment = 2 * a * b / (a**2 + b**2 + _TINY)  # equation 3
        total += count * (alignment + 1) ** 2 / 4  # equation 4
    return total / beneath


def _s_measure(values: Map, target: Mask) -> float:
    share = float(target.mean())
    if share == 0:
        return 1 - float(values.mean())
    if share == 1:
        return float(values.mean())
    whole = share * _object_likeness(values[target])
    whole += (1 - share) * _object_likeness(1 - values[~target])
    return max(0.0, OBJECT_SHARE * whole + (1 - OBJECT_SHARE) * _region_likeness(values, target))


def _object_likeness(values: NDArray[np.float64]) -> float:
    """Rates how high and how even the scores of one kind of pixels are (equation 6)."""
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _TINY)


def _region_likeness(values: Map, target: Mask) -> float:
    """Averages the likeness of four quarters, which meet at the middle of the truth, by area."""
    middle = np.argwhere(target).mean(axis=0).round().astype(int) + 1
    rows, columns = ((slice(None, m), slice(m, None)) for m in middle.tolist())
    total = 0.0
    for quarter in ((row, column) for row in rows for column in columns):
        if target[quarter].size:
            likeness = _structural_likeness(values[quarter], target[quarter].astype(np.float64))
            total += likeness * target[quarter].size / target.size
    return total


def _structural_likeness(values: Map, target: Map) -> float:
    """Multiplies the likenesses of mean, spread and course (equation 8).

    Of an even map the rounding of its mean can decide between 0 and 1; the field's tools, which
    this follows operation for operation, have the same.
    """
    mean, true_mean = float(values.mean()), float(target.mean())
    off, true_off = values - mean, target - true_mean
    degrees = max(values.size - 1, 1)
    covariance = float((off * true_off).sum()) / degrees
    spread = float((off**2).sum() + (true_off**2).sum()) / degrees
    above = 4 * mean * true_mean * covariance
    beneath = (mean**2 + true_mean**2) * spread
    if above == 0:
        return 1.0 if beneath == 0 else 0.0
    return above / (beneath + _TINY)


def _name_scores(single: dict[str, float], f: Curve, e: Curve) -> dict[str, float]:
    return {
        "f_adaptive": single["f_adaptive"],
        "f_max": float(f.max()),
        "f_mean": float(f.mean()),
        "s_measure": single["s_measure"],
        "e_adaptive": single["e_adaptive"],
        "e_max": float(e.max()),
        "e_mean": float(e.mean()),
        "mae": single["mae"],
    }
