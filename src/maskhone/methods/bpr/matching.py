"""Which detections a training set is built from, and the ground truth of each."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskhone.data.coco import Entry, from_rle
from maskhone.metrics.region import iou

LEAST_IOU = 0.5
"""A detection is trained on iff its best IoU is above this (BPR section 5)."""

SAMPLING_SEED = 2020
"""Of the original's sampling (tinyalpha/BPR:tools/split_patches.py)."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """The ground truth of one detection.

    Attributes:
        iou: of the two masks.
        annotation: place in the list of annotations; None when the image has none of the category.
    """

    iou: float
    annotation: int | None


def match_detections(
    detections: Sequence[Entry], annotations: Sequence[Entry], size_hw: tuple[int, int]
) -> list[Match]:
    """Finds, for every detection of one image, the annotation it overlaps most.

    Only annotations of the same category that are no crowds count; the first wins a tie; there is
    no threshold, and one annotation may serve many detections.

    Args:
        detections: COCO results of one image.
        annotations: COCO ground truth of the same image.
        size_hw: of the image.

    Source: BPR section 2; tinyalpha/BPR:tools/split_patches.py.
    """
    candidates: dict[int, list[tuple[int, NDArray[np.bool_]]]] = defaultdict(list)
    for index, annotation in enumerate(annotations):
        if not annotation.get("iscrowd", 0):
            mask = from_rle(annotation["segmentation"], size_hw=size_hw)
            candidates[annotation["category_id"]].append((index, mask))
    return [
        _best_match(
            from_rle(detection["segmentation"], size_hw=size_hw),
            candidates[detection["category_id"]],
        )
        for detection in detections
    ]


def _best_match(mask: NDArray[np.bool_], candidates: list[tuple[int, NDArray[np.bool_]]]) -> Match:
    if not candidates:
        return Match(iou=0.0, annotation=None)
    overlaps = [iou(mask, truth) if mask.any() or truth.any() else 0.0 for _, truth in candidates]
    best = int(np.argmax(overlaps))
    return Match(iou=overlaps[best], annotation=candidates[best][0])


def keep_good(matches: Sequence[Match]) -> list[int]:
    """Lists the detections good enough to train on, in order.

    Example:
        >>> keep_good([Match(iou=0.5, annotation=0), Match(iou=0.51, annotation=1)])
        [1]
    """
    return [i for i, match in enumerate(matches) if match.iou > LEAST_IOU]


def sample_detections(
    n_detections: int, n_wanted: int, *, with_replacement: bool = False, seed: int = SAMPLING_SEED
) -> NDArray[np.int64]:
    """Draws detections to train on; -1 takes all in order.

    Args:
        n_detections: how many there are.
        n_wanted: how many to draw; more than there are takes all, unless with replacement.
        with_replacement: draw exactly as the original, which repeats some.
            Differs: the default never draws one twice.
        seed: of the draw.

    Example:
        >>> sample_detections(3, -1).tolist()
        [0, 1, 2]
    """
    if n_wanted < 0 or (n_wanted >= n_detections and not with_replacement):
        return np.arange(n_detections)
    # the original's numbers come from NumPy's legacy generator
    random = np.random.RandomState(seed)
    drawn: NDArray[np.int64] = random.choice(n_detections, n_wanted, replace=with_replacement)
    return drawn
