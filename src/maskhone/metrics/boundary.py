"""How well two masks agree along their outlines: mBA, boundary IoU, boundary F.

All functions take `(H, W)` bool masks. `ignore`, where given, marks pixels that are not scored:
they count as background in both masks, and no accuracy is taken on them.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.metrics.region import Mask, content_window, prepare_pair

TOLERANCES_PX = (1, 2, 3)
"""Tolerances at which boundary F is reported (BPR and SegFix report the same three)."""

BAND_RATIO = 0.02
"""Width of the boundary IoU band as a share of the image diagonal (Cheng et al., CVPR 2021)."""


def mean_boundary_accuracy(prediction: Mask, target: Mask, *, ignore: Mask | None = None) -> float:
    """Averages the pixel accuracy in five bands along the outline of the ground truth (mBA).

    Source: CascadePSP, Cheng et al., CVPR 2020; the formula is that of
    MengyuWang826/SegRefiner:eval/eval_miou.py. A band is the morphological gradient of the ground
    truth under an elliptic kernel; see `band_radii_px` for the five radii.

    Differs: a band without pixels is left out, where the published scripts give NaN.

    Args:
        prediction: `(H, W)` bool.
        target: `(H, W)` bool.
        ignore: `(H, W)` bool, true where a pixel is not scored.

    Returns:
        A share in [0, 1]; NaN when the ground truth has no outline (all true or all false).

    Raises:
        InputError: the masks differ in size or are not bool.

    Example:
        >>> import numpy as np
        >>> half = np.repeat([[True, False]], 10, axis=0).repeat(5, axis=1)
        >>> mean_boundary_accuracy(half, half), mean_boundary_accuracy(~half, half)
        (1.0, 0.0)
    """
    prediction, target = prepare_pair(prediction, target, ignore)
    radii_px = band_radii_px((target.shape[0], target.shape[1]))
    window = content_window(target, margin_px=max(radii_px) + 1)
    is_right = prediction[window] == target[window]
    scored = None if ignore is None else ~ignore[window]
    accuracy = {r: _band_accuracy(is_right, target[window], r, scored) for r in set(radii_px)}
    defined = [accuracy[r] for r in radii_px if not math.isnan(accuracy[r])]
    return float(np.mean(defined)) if defined else math.nan


def band_radii_px(size_hw: tuple[int, int]) -> tuple[int, ...]:
    """Lists the five band radii of mBA, from 1 px up to about (w + h) / 300.

    Example:
        >>> band_radii_px((900, 1200))
        (1, 2, 3, 4, 5)
    """
    largest = sum(size_hw) / 300
    return tuple(1 + int((largest - 1) / 5 * k) for k in range(5))


def boundary_iou(
    prediction: Mask,
    target: Mask,
    *,
    dilation_ratio: float = BAND_RATIO,
    ignore: Mask | None = None,
) -> float:
    """Measures the IoU of the inner boundary bands of two masks.

    Source: Cheng et al., Boundary IoU, CVPR 2021, equation 1. Two empty masks score 1.

    Args:
        prediction: `(H, W)` bool.
        target: `(H, W)` bool.
        dilation_ratio: band width as a share of the image diagonal; at least one pixel is taken.
        ignore: `(H, W)` bool, true where a pixel is not scored.

    Returns:
        A share in [0, 1].

    Raises:
        InputError: the masks differ in size or are not bool.

    Example:
        >>> import numpy as np
        >>> full, block = np.ones((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)
        >>> block[1:3, 1:3] = True
        >>> boundary_iou(full, full), boundary_iou(full, block)
        (1.0, 0.0)
    """
    prediction, target = prepare_pair(prediction, target, ignore)
    width_px = max(1, round(dilation_ratio * math.hypot(*target.shape)))
    window = content_window(prediction, target)  # outside lies background only: nothing to erode
    bands = [inner_band(mask[window], width_px=width_px) for mask in (prediction, target)]
    union = int(np.count_nonzero(bands[0] | bands[1]))
    return int(np.count_nonzero(bands[0] & bands[1])) / union if union else 1.0


def inner_band(mask: Mask, *, width_px: int) -> Mask:
    """Keeps the pixels of a mask that lie within `width_px` (chessboard) of its outside.

    The image border counts as outside (bowenc0221/boundary-iou-api pads one zero pixel).

    Example:
        >>> import numpy as np
        >>> inner_band(np.ones((3, 3), dtype=bool), width_px=1).sum()
        np.int64(8)
    """
    if not mask.size:
        return mask.copy()
    kernel = np.ones((2 * width_px + 1, 2 * width_px + 1), np.uint8)
    eroded = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    band: Mask = mask & (eroded == 0)
    return band


def boundary_f(
    prediction: Mask, target: Mask, *, tolerance: float, ignore: Mask | None = None
) -> float:
    """Measures how much of each outline lies near the other one (F of precision and recall).

    Source: DAVIS, Perazzi et al., CVPR 2016, in the form of SegFix
    (openseg-group/openseg.pytorch:lib/metrics/F1_running_score.py).

    Args:
        prediction: `(H, W)` bool.
        target: `(H, W)` bool.
        tolerance: pixels when at least 1; below 1 a share of the image diagonal, rounded up
            (0.00088 is 3 px on 1024x2048).
        ignore: `(H, W)` bool, true where a pixel is not scored.

    Returns:
        A share in [0, 1]. Without any outline in both masks it is 1, in only one of them 0.

    Raises:
        InputError: the masks differ in size or are not bool.

    Example:
        >>> import numpy as np
        >>> half = np.repeat([[True, False]], 8, axis=0).repeat(4, axis=1)
        >>> boundary_f(half, np.roll(half, 1, axis=1), tolerance=1)
        0.6666666666666666
    """
    return boundary_precision_recall_f(prediction, target, tolerances=[tolerance], ignore=ignore)[
        0
    ][2]


def boundary_precision_recall_f(
    prediction: Mask,
    target: Mask,
    *,
    tolerances: Sequence[float] = TOLERANCES_PX,
    ignore: Mask | None = None,
) -> list[tuple[float, float, float]]:
    """Returns (precision, recall, F) of the outlines at each tolerance; see `boundary_f`.

    Example:
        >>> import numpy as np
        >>> empty, dot = np.zeros((5, 5), dtype=bool), np.eye(5, dtype=bool)
        >>> boundary_precision_recall_f(empty, dot, tolerances=[1])
        [(1.0, 0.0, 0.0)]
    """
    prediction, target = prepare_pair(prediction, target, ignore)
    radii_px = [tolerance_px(t, (target.shape[0], target.shape[1])) for t in tolerances]
    window = content_window(prediction, target, margin_px=1)
    outlines = boundary_map(prediction[window]), boundary_map(target[window])
    away_of_prediction = _squared_distance(outlines[1])[outlines[0]]
    away_of_target = _squared_distance(outlines[0])[outlines[1]]
    return [
        _precision_recall_f(away_of_prediction, away_of_target, radius_px) for radius_px in radii_px
    ]


def tolerance_px(tolerance: float, size_hw: tuple[int, int]) -> float:
    """Turns a tolerance into pixels: below 1 it is a share of the diagonal, rounded up.

    Source: openseg-group/openseg.pytorch:lib/metrics/F1_running_score.py.

    Example:
        >>> tolerance_px(0.00088, (1024, 2048)), tolerance_px(2, (1024, 2048))
        (3, 2)
    """
    return tolerance if tolerance >= 1 else math.ceil(tolerance * math.hypot(*size_hw))


def boundary_map(mask: Mask) -> Mask:
    """Marks the pixels that differ from their east, south or south-east neighbour.

    Source: the seg2bmap of DAVIS and SegFix. The last row looks only east, the last column only
    south, the last pixel nowhere.

    Example:
        >>> import numpy as np
        >>> boundary_map(np.array([[False, False], [False, True]])).astype(int)
        array([[1, 1],
               [1, 0]])
    """
    if not mask.size:
        return mask.copy()
    around = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    east, south, south_east = around[:-1, 1:], around[1:, :-1], around[1:, 1:]
    return (mask ^ east) | (mask ^ south) | (mask ^ south_east)


def replace_band(prediction: Mask, target: Mask, *, distance_px: float) -> Mask:
    """Takes the ground truth wherever the predicted outline is near: an upper bound of refining.

    A pixel is near when some pixel of the other predicted value lies within the Euclidean distance;
    so 1 px replaces the pixels on both sides of the outline. Infinity replaces everything.
    Source: the idea of BPR, Tang et al., CVPR 2021, Table 1 (1, 2 and 3 px).

    Raises:
        InputError: the masks differ in size or are not bool.

    Example:
        >>> import numpy as np
        >>> prediction = np.array([[True, True, False, False]])
        >>> target = np.zeros((1, 4), dtype=bool)
        >>> replace_band(prediction, target, distance_px=1)
        array([[ True, False, False, False]])
    """
    prediction, target = prepare_pair(prediction, target)
    squared = np.where(prediction, _squared_distance(~prediction), _squared_distance(prediction))
    return np.where(squared <= distance_px**2, target, prediction)


class BoundaryScores:
    """Runs over many masks: mean mBA, boundary IoU, and boundary F at fixed tolerances.

    Differs: a mask whose ground truth has no outline is left out of the mean mBA and counted in
    `mba_undefined`; the published scripts let it turn the whole mean into NaN.

    Example:
        >>> import numpy as np
        >>> metric = BoundaryScores(tolerances_px=(1,))
        >>> _ = metric.update(np.eye(9, dtype=bool), np.eye(9, dtype=bool))
        >>> metric.compute()
        {'mba': 1.0, 'boundary_iou': 1.0, 'f_1px': 1.0, 'mba_undefined': 0.0}
    """

    def __init__(
        self, *, tolerances_px: Sequence[int] = TOLERANCES_PX, dilation_ratio: float = BAND_RATIO
    ) -> None:
        self.tolerances_px = tuple(tolerances_px)
        self.dilation_ratio = dilation_ratio
        self.reset()

    def reset(self) -> None:
        """Forgets all masks."""
        self._scores: list[dict[str, float]] = []

    def update(
        self, prediction: Mask, target: Mask, *, ignore: Mask | None = None
    ) -> dict[str, float]:
        """Adds one pair of `(H, W)` bool masks and returns the pair's own scores."""
        at_tolerances = boundary_precision_recall_f(
            prediction, target, tolerances=self.tolerances_px, ignore=ignore
        )
        scores = {
            "mba": mean_boundary_accuracy(prediction, target, ignore=ignore),
            "boundary_iou": boundary_iou(
                prediction, target, dilation_ratio=self.dilation_ratio, ignore=ignore
            ),
        }
        for tolerance, (_, _, f_score) in zip(self.tolerances_px, at_tolerances, strict=True):
            scores[f"f_{tolerance}px"] = f_score
        self._scores.append(scores)
        return dict(scores)

    def compute(self) -> dict[str, float]:
        """Returns the means over masks, and how many masks have no defined mBA."""
        names = ["mba", "boundary_iou", *(f"f_{t}px" for t in self.tolerances_px)]
        means = {name: _mean_of_defined([each[name] for each in self._scores]) for name in names}
        undefined = sum(math.isnan(each["mba"]) for each in self._scores)
        return {**means, "mba_undefined": float(undefined)}


def _band_accuracy(is_right: Mask, target: Mask, radius_px: int, scored: Mask | None) -> float:
    if not target.size:
        return math.nan
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    band = cv2.morphologyEx(target.astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
    if scored is not None:
        band = band & scored
    pixels = np.count_nonzero(band)
    return np.count_nonzero(is_right & band) / pixels if pixels else math.nan


def _squared_distance(marked: Mask) -> NDArray[np.float64]:
    """Returns each pixel's squared Euclidean distance to the nearest marked pixel, exactly."""
    if not marked.any():
        return np.full(marked.shape, np.inf)
    distance = cv2.distanceTransform((~marked).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.rint(distance.astype(np.float64) ** 2)  # squares of pixel distances are whole numbers


def _precision_recall_f(
    away_of_prediction: NDArray[np.float64], away_of_target: NDArray[np.float64], radius_px: float
) -> tuple[float, float, float]:
    if not len(away_of_prediction) or not len(away_of_target):
        precision = float(not len(away_of_prediction))
        recall = float(not len(away_of_target))
    else:
        precision = float(np.mean(away_of_prediction <= radius_px**2))
        recall = float(np.mean(away_of_target <= radius_px**2))
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def _mean_of_defined(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
