"""GrabCut inside a band: the outline is moved to where the colours of inside and outside part."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.errors import UsageError
from maskhone.ops.masks import choose_band, near_outline, surround


@dataclass(frozen=True, kw_only=True)
class GrabCutRefiner:
    """Decides the pixels near the outline by colour models and a graph cut.

    Attributes:
        band_px: distance from the outline, each way, that may change; 0 takes `band_share`.
        band_share: the same as a share of the square root of the object's area, at least 2 px.
        iterations: rounds of fitting colours and cutting; 5 is OpenCV's example.

    Source: Rother, Kolmogorov and Blake, "GrabCut", SIGGRAPH 2004, in OpenCV.
    """

    band_px: int = 0
    band_share: float = 0.05
    iterations: int = 5

    def __post_init__(self) -> None:
        choose_band(np.zeros((1, 1), dtype=np.bool_), self.band_px, self.band_share)
        if self.iterations < 1:
            raise UsageError(f"iterations is {self.iterations}; expected 1 or more")

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Returns scores of 0 and 1 around each object; elsewhere they stay as they are."""
        refined = masks.copy()
        for scores in refined:
            mask = scores > FOREGROUND
            band_px = choose_band(mask, self.band_px, self.band_share)
            window = surround(mask, 4 * band_px)
            if window is not None:
                self._cut(image[window], mask[window], band_px, scores[window])
        return refined

    def _cut(
        self, image: Image, mask: NDArray[np.bool_], band_px: int, scores: NDArray[np.float32]
    ) -> None:
        """Writes 0 and 1 into the band of `scores`."""
        trimap = make_trimap(mask, band_px)
        has_both = (trimap == cv2.GC_FGD).any() and (trimap == cv2.GC_BGD).any()
        if not has_both:
            return  # an object thinner than the band has no certain colours to learn from
        is_band = trimap >= cv2.GC_PR_BGD
        cv2.setRNGSeed(0)  # the colour models start from a random clustering
        models = np.zeros((2, 1, 65), dtype=np.float64)
        cut, _, _ = cv2.grabCut(
            np.ascontiguousarray(image),
            trimap,
            (0, 0, 1, 1),  # not read in this mode
            models[0],
            models[1],
            self.iterations,
            cv2.GC_INIT_WITH_MASK,
        )
        is_inside = (cut == cv2.GC_FGD) | (cut == cv2.GC_PR_FGD)
        scores[is_band] = is_inside[is_band]


def make_trimap(mask: NDArray[np.bool_], band_px: int) -> NDArray[np.uint8]:
    """Marks certain and probable fore- and background with OpenCV's numbers.

    Example:
        >>> make_trimap(np.array([[0, 0, 0, 1, 1, 1]], dtype=bool), 1).tolist()
        [[0, 0, 2, 3, 1, 1]]
    """
    is_near = near_outline(mask, band_px)
    certain = np.where(mask, cv2.GC_FGD, cv2.GC_BGD)
    probable = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    return np.where(is_near, probable, certain).astype(np.uint8)
