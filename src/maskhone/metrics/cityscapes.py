"""Cityscapes instance AP, and a boundary F over the matched instances."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskhone.metrics.boundary import TOLERANCES_PX, boundary_precision_recall_f
from maskhone.metrics.region import Mask

OVERLAPS = np.arange(0.5, 1.0, 0.05)
"""IoU thresholds (mcordts/cityscapesScripts, evalInstanceLevelSemanticLabeling.py)."""

SMALLEST_PX = 100
"""Ground-truth instances below this area are ignored (the same file, minRegionSizes)."""


@dataclass(eq=False)
class _Truth:
    """One ground-truth instance, or a group that nobody separated."""

    label: int
    area: int
    is_group: bool
    overlaps: dict[int, int] = field(default_factory=dict)  # prediction number -> shared pixels

    @property
    def is_small(self) -> bool:
        return self.area < SMALLEST_PX

    @property
    def is_counted(self) -> bool:
        return not (self.is_group or self.is_small)


@dataclass(eq=False)
class _Prediction:
    label: int
    score: float
    area: int
    void: int  # its pixels on void labels
    overlaps: dict[int, int] = field(default_factory=dict)  # truth number -> shared pixels


class CityscapesAP:
    """AP of the public cityscapesScripts, and "AF", a boundary F of our own definition.

    AF: per class, over pairs that match at IoU > 0.5, the mean boundary F at 1, 2 and 3 px; then
    the mean over classes. The BPR paper reports an AF whose averaging is not documented; this one
    is not claimed to equal it.

    Args:
        labels: label id to name of the classes with instances, in the order of the results.
        void_ids: label ids that are not scored.
        with_boundary: also compute AF, which costs a distance transform per pair.

    Source: BPR section 7.1; mcordts/cityscapesScripts 2.3.0.
    """

    def __init__(
        self, labels: Mapping[int, str], void_ids: Sequence[int], *, with_boundary: bool = True
    ) -> None:
        self.labels, self.void_ids, self.with_boundary = dict(labels), void_ids, with_boundary
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._images: list[tuple[list[_Truth], list[_Prediction]]] = []
        self._outline: dict[int, list[float]] = defaultdict(list)

    def update(
        self, instance_ids: NDArray[np.integer], predictions: Sequence[tuple[Mask, int, float]]
    ) -> None:
        """Adds one image.

        Args:
            instance_ids: `(H, W)`; label id * 1000 + k for an instance, else the label id.
            predictions: mask, label id and score of each; empty masks are skipped.
        """
        ids = instance_ids.astype(np.int64)
        truths, numbers = self._list_truths(ids)
        is_void = np.isin(ids, self.void_ids)
        found: list[_Prediction] = []
        for mask, label, score in predictions:
            if label not in self.labels or not mask.any():
                continue
            prediction = _Prediction(label, score, int(mask.sum()), int(is_void[mask].sum()))
            covered, pixels = np.unique(ids[mask], return_counts=True)
            for value, shared in zip(covered.tolist(), pixels.tolist(), strict=True):
                if value in numbers and truths[numbers[value]].label == label:
                    truths[numbers[value]].overlaps[len(found)] = shared
                    prediction.overlaps[numbers[value]] = shared
                    self._add_outline(
                        truths[numbers[value]], prediction, shared, mask, ids == value
                    )
            found.append(prediction)
        self._images.append((truths, found))

    def _list_truths(self, ids: NDArray[np.int64]) -> tuple[list[_Truth], dict[int, int]]:
        truths: list[_Truth] = []
        numbers: dict[int, int] = {}
        values, pixels = np.unique(ids, return_counts=True)
        for value, area in zip(values.tolist(), pixels.tolist(), strict=True):
            label = value // 1000 if value >= 1000 else value
            if label in self.labels:
                numbers[value] = len(truths)
                truths.append(_Truth(label, area, is_group=value < 1000))
        return truths, numbers

    def _add_outline(
        self, truth: _Truth, prediction: _Prediction, shared: int, mask: Mask, truth_mask: Mask
    ) -> None:
        union = truth.area + prediction.area - shared
        if self.with_boundary and truth.is_counted and shared > 0.5 * union:
            scores = boundary_precision_recall_f(mask, truth_mask, tolerances=TOLERANCES_PX)
            self._outline[truth.label].append(float(np.mean([f for _, _, f in scores])))

    def average_precisions(self) -> NDArray[np.float64]:
        """Returns `(labels, overlaps)`; NaN for a class without ground truth."""
        rows = [[self._one(label, t) for t in OVERLAPS] for label in self.labels]
        return np.array(rows, dtype=np.float64).reshape(len(self.labels), len(OVERLAPS))

    def compute(self) -> dict[str, float]:
        """Returns `AP`, `AP50`, one `AP <class>` each, and `AF` where asked."""
        table = self.average_precisions()
        with np.errstate(invalid="ignore"):
            scores = {"AP": _mean(table), "AP50": _mean(table[:, 0])}
        for name, row in zip(self.labels.values(), table, strict=True):
            scores[f"AP {name}"] = _mean(row)
        if self.with_boundary:
            per_class = [float(np.mean(values)) for values in self._outline.values()]
            scores["AF"] = float(np.mean(per_class)) if per_class else float("nan")
        return scores

    def _one(self, label: int, overlap: float) -> float:
        is_true: list[bool] = []
        scores: list[float] = []
        n_missed, has_truth = 0, False
        for truths, predictions in self._images:
            counted = [t for t in truths if t.label == label and t.is_counted]
            has_truth |= bool(counted)
            for truth in counted:
                matched = sorted(
                    (
                        predictions[i].score
                        for i, shared in truth.overlaps.items()
                        if shared / (truth.area + predictions[i].area - shared) > overlap
                    ),
                    reverse=True,
                )
                n_missed += not matched
                scores += matched
                is_true += [True, *[False] * (len(matched) - 1)] if matched else []
            for prediction in predictions:
                if prediction.label == label and _is_false_alarm(prediction, truths, overlap):
                    scores.append(prediction.score)
                    is_true.append(False)
        if not has_truth:
            return float("nan")
        return _integrate(np.array(scores), np.array(is_true, dtype=bool), n_missed)


def _is_false_alarm(prediction: _Prediction, truths: list[_Truth], overlap: float) -> bool:
    """Says whether a prediction matches nothing and does not lie on ignored pixels."""
    ignored = prediction.void
    for number, shared in prediction.overlaps.items():
        truth = truths[number]
        if shared / (truth.area + prediction.area - shared) > overlap:
            return False
        ignored += shared * truth.is_group + shared * truth.is_small  # both: twice, as published
    return ignored / prediction.area <= overlap


def _integrate(scores: NDArray[np.float64], is_true: NDArray[np.bool_], n_missed: int) -> float:
    """Integrates precision over recall as cityscapesScripts does, one point per distinct score."""
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    found = np.concatenate([[0], np.cumsum(is_true[order])])
    first = np.unique(scores[order], return_index=True)[1]
    n_true = found[-1] - found[first]
    precision = np.append(n_true / (len(scores) - first), 1.0)
    recall = np.append(n_true / (found[-1] + n_missed) if found[-1] + n_missed else n_true, 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(np.dot(precision, (padded[:-2] - padded[2:]) / 2))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
