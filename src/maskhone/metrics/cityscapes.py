"""Cityscapes instance AP, and the boundary F of the instances that were found.

The AP is that of the public cityscapesScripts (evaluateInstanceLevelSemanticLabeling, 2.3.0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import describe_size_mismatch
from maskhone.errors import InputError
from maskhone.metrics.boundary import TOLERANCES_PX, boundary_precision_recall_f
from maskhone.metrics.region import Mask, content_window

Counts = NDArray[np.int64]
Reals = NDArray[np.float64]

THINGS: Mapping[int, str] = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Label ids of the eight scored classes (mcordts/cityscapesScripts:helpers/labels.py)."""

VOID_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
"""Label ids that are `ignoreInEval` (mcordts/cityscapesScripts:helpers/labels.py)."""

OVERLAPS = tuple(float(t) for t in np.arange(0.5, 1.0, 0.05))
"""IoU thresholds; a prediction matches when its IoU is strictly greater."""

MIN_PIXELS = 100
"""Smaller ground truth instances are ignored, neither hit nor miss."""

INSTANCE_FACTOR = 1000
"""An instance map holds label id * 1000 + k for instances, the bare label id for the rest."""


@dataclass(frozen=True)
class Instance:
    """One predicted object.

    Attributes:
        mask: `(H, W)` bool.
        label_id: Cityscapes label id, 24 for a person.
        score: confidence; larger is surer.
    """

    mask: Mask
    label_id: int
    score: float


@dataclass(frozen=True)
class _ClassOverlaps:
    """What one image says of one class: everything the AP needs, without the masks."""

    scores: Reals  # (P,)
    prediction_pixels: Counts  # (P,)
    void_pixels: Counts  # (P,)
    target_ids: Counts  # (G,)
    target_pixels: Counts  # (G,)
    intersections: Counts  # (P, G)

    def iou(self) -> Reals:
        areas = self.prediction_pixels[:, None] + self.target_pixels[None, :]
        result: Reals = self.intersections / (areas - self.intersections)
        return result


class CityscapesScores:
    """Runs over images: AP, AP50, AP of each class, and AF of the matched instances.

    AP follows the published rules: groups (a bare label id in the instance map), void and tiny
    ground truth excuse a false positive; a second match of one object counts as a false positive
    with the lower of the two scores; a class without ground truth is NaN and left out of the mean.

    AF is ours: for each ground truth instance of at least `min_pixels`, matched at IoU > 0.5, the
    boundary F of its surest match at 1, 2 and 3 px; mean over the instances of a class, then over
    the classes with at least one match. `AF` is the mean of the three. Instances that were missed
    do not count.

    Differs: BPR reports an AF too but says nowhere how it is averaged over instances; the two
    numbers must not be set side by side. A class whose predictions are all excused has AP 0 where
    the published script fails.

    Args:
        labels: label id to class name of the scored classes, in the order of `ap_matrix`.
        void_ids: label ids whose pixels excuse a false positive.
        overlaps: IoU thresholds.
        min_pixels: ground truth instances with fewer pixels are ignored.

    Example:
        >>> import numpy as np
        >>> target = np.full((20, 20), 7, dtype=np.int64)
        >>> target[:, :10] = 26001
        >>> metric = CityscapesScores()
        >>> metric.update([Instance(target == 26001, label_id=26, score=0.9)], target)
        >>> metric.compute()["AP"], metric.compute()["AF"]
        (1.0, 1.0)
    """

    def __init__(
        self,
        *,
        labels: Mapping[int, str] = THINGS,
        void_ids: Sequence[int] = VOID_IDS,
        overlaps: Sequence[float] = OVERLAPS,
        min_pixels: int = MIN_PIXELS,
    ) -> None:
        self.labels = dict(labels)
        self.void_ids = tuple(void_ids)
        self.overlaps = tuple(overlaps)
        self.min_pixels = min_pixels
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._images: dict[int, list[_ClassOverlaps]] = {label: [] for label in self.labels}
        self._f_scores: dict[int, list[list[float]]] = {label: [] for label in self.labels}

    def update(self, prediction: Sequence[Instance], target: NDArray[np.integer]) -> None:
        """Adds one image.

        Args:
            prediction: the instances found; empty masks and unscored labels are skipped.
            target: `(H, W)` instance map (`*_gtFine_instanceIds.png`).

        Raises:
            InputError: a mask has another size than the instance map, or is not bool.
        """
        for instance in prediction:
            _check_instance(instance, target.shape)
        shown = [each for each in prediction if each.label_id in self.labels and each.mask.any()]
        ids, index, pixels = np.unique(target, return_inverse=True, return_counts=True)
        ids, index = ids.astype(np.int64), index.reshape(target.shape)
        areas = [_count_by_id(each.mask, index, len(ids)) for each in shown]
        for label in self.labels:
            chosen = [k for k, each in enumerate(shown) if each.label_id == label]
            of_label = (ids == label) | (ids // INSTANCE_FACTOR == label)
            on_ids = np.array([areas[k] for k in chosen], dtype=np.int64).reshape(-1, len(ids))
            overlaps = _ClassOverlaps(
                scores=np.array([shown[k].score for k in chosen], dtype=np.float64),
                prediction_pixels=on_ids.sum(axis=1),
                void_pixels=on_ids[:, np.isin(ids, self.void_ids)].sum(axis=1),
                target_ids=ids[of_label],
                target_pixels=pixels[of_label].astype(np.int64),
                intersections=on_ids[:, of_label],
            )
            self._images[label].append(overlaps)
            masks = [shown[k].mask for k in chosen]
            self._f_scores[label] += self._score_matched_boundaries(overlaps, masks, target)

    def compute(self) -> dict[str, float]:
        """Returns `AP`, `AP50`, `AF`, `AF@1px` and so on, and `AP/person`, `AF/person` per class.

        Each lies in [0, 1] or is NaN where nothing defines it.
        """
        ap, f_scores = self.ap_matrix(), self._class_f_scores()
        at_half = np.isclose(self.overlaps, 0.5)
        scores = {"AP": _mean_of_defined(ap), "AP50": _mean_of_defined(ap[:, at_half])}
        scores["AF"] = _mean_of_defined(f_scores)
        for k, tolerance in enumerate(TOLERANCES_PX):
            scores[f"AF@{tolerance}px"] = _mean_of_defined(f_scores[:, k])
        for k, name in enumerate(self.labels.values()):
            scores[f"AP/{name}"] = _mean_of_defined(ap[k])
            scores[f"AP50/{name}"] = _mean_of_defined(ap[k, at_half])
            scores[f"AF/{name}"] = _mean_of_defined(f_scores[k])
        return scores

    def ap_matrix(self) -> Reals:
        """Returns the AP of each class at each overlap, `(labels, overlaps)`; NaN without truth."""
        return np.array(
            [
                [_average_precision(images, overlap, self.min_pixels) for overlap in self.overlaps]
                for images in self._images.values()
            ]
        )

    def _score_matched_boundaries(
        self, overlaps: _ClassOverlaps, masks: Sequence[Mask], target: NDArray[np.integer]
    ) -> list[list[float]]:
        iou = overlaps.iou()
        f_scores = []
        for column in np.flatnonzero(_is_scored(overlaps, self.min_pixels)):
            matches = np.flatnonzero(iou[:, column] > 0.5)
            if not len(matches):
                continue
            surest = masks[matches[np.argmax(overlaps.scores[matches])]]
            truth = target == overlaps.target_ids[column]
            window = content_window(surest, truth, margin_px=1)
            at_tolerances = boundary_precision_recall_f(surest[window], truth[window])
            f_scores.append([f_score for _, _, f_score in at_tolerances])
        return f_scores

    def _class_f_scores(self) -> Reals:
        undefined = np.full(len(TOLERANCES_PX), np.nan)
        return np.array(
            [np.mean(rows, axis=0) if rows else undefined for rows in self._f_scores.values()]
        )


def _check_instance(instance: Instance, size_hw: tuple[int, ...]) -> None:
    if instance.mask.dtype != np.bool_:
        raise InputError(f"predicted mask is {instance.mask.dtype}, expected bool; cut it first")
    if instance.mask.shape != size_hw:
        said = describe_size_mismatch(size_hw, instance.mask.shape)
        raise InputError(said.replace("image is", "instance map is"))


def _count_by_id(mask: Mask, index: NDArray[np.integer], ids: int) -> Counts:
    """Counts the pixels of a mask on each distinct value of the instance map."""
    window = content_window(mask)
    return np.bincount(index[window][mask[window]], minlength=ids).astype(np.int64)


def _is_scored(image: _ClassOverlaps, min_pixels: int) -> Mask:
    result: Mask = (image.target_ids >= INSTANCE_FACTOR) & (image.target_pixels >= min_pixels)
    return result


def _average_precision(images: Sequence[_ClassOverlaps], overlap: float, min_pixels: int) -> float:
    """Scores one class at one overlap over all images."""
    if not any(_is_scored(image, min_pixels).any() for image in images):
        return np.nan
    judged = [_judge(image, overlap, min_pixels) for image in images]
    hits = np.concatenate([hit for hit, _, _ in judged])
    false_alarms = np.concatenate([alarm for _, alarm, _ in judged])
    return _area_under_curve(hits, false_alarms, missed=sum(missed for _, _, missed in judged))


def _judge(image: _ClassOverlaps, overlap: float, min_pixels: int) -> tuple[Reals, Reals, int]:
    """Splits one image into the scores of hits, the scores of false alarms, and the misses."""
    is_match = image.iou() > overlap
    scored = _is_scored(image, min_pixels)
    hits: list[float] = []
    false_alarms: list[float] = []
    for column in np.flatnonzero(scored & is_match.any(axis=0)):
        ascending = np.sort(image.scores[is_match[:, column]])
        hits.append(ascending[-1])
        false_alarms.extend(ascending[:-1])
    unmatched = ~is_match.any(axis=1)
    unexcused = unmatched & (_excused_share(image, min_pixels) <= overlap)
    false_alarms.extend(image.scores[unexcused])
    missed = np.count_nonzero(scored & ~is_match.any(axis=0))
    return np.array(hits, dtype=np.float64), np.array(false_alarms, dtype=np.float64), int(missed)


def _excused_share(image: _ClassOverlaps, min_pixels: int) -> Reals:
    """Measures which share of each prediction lies on pixels that are not scored.

    A group below `min_pixels` counts twice, as in the published script.
    """
    times = (image.target_ids < INSTANCE_FACTOR).astype(np.int64)
    times += image.target_pixels < min_pixels
    share: Reals = (image.void_pixels + image.intersections @ times) / image.prediction_pixels
    return share


def _area_under_curve(hits: Reals, false_alarms: Reals, *, missed: int) -> float:
    """Integrates precision over recall, one point per distinct score and (1, 0) at the end.

    Each point is weighted with half the distance in recall between its two neighbours.
    """
    thresholds = np.unique(np.concatenate([hits, false_alarms]))
    if not len(thresholds):
        return 0.0
    true_positives = _count_at_least(hits, thresholds)
    false_positives = _count_at_least(false_alarms, thresholds)
    precision = np.append(true_positives / (true_positives + false_positives), 1.0)
    recall = np.append(true_positives / (len(hits) + missed), 0.0)
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ ((padded[:-2] - padded[2:]) / 2))


def _count_at_least(scores: Reals, thresholds: Reals) -> Counts:
    counts: Counts = len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
    return counts


def _mean_of_defined(values: Reals) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan
