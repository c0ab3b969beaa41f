"""The dense CRF as a refiner: near the outline, pixels of like colour want one label."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.errors import UsageError
from maskhone.ops.dense_crf import (
    LABEL_CERTAINTY,
    LABEL_PARAMETERS,
    CRFParameters,
    infer,
    unary_from_probabilities,
)
from maskhone.ops.masks import choose_band, near_outline, surround

_SETTLED = np.float32(100.0)  # a cost that no pull of the kernels outweighs


@dataclass(frozen=True, kw_only=True)
class CRFRefiner:
    """Runs a two-label dense CRF around each object; only a band along the outline may change.

    Attributes:
        parameters: of the kernels; the published ones for label maps. Those for network scores
            pull so far that they swallow whole objects of mixed colours.
        iterations: mean-field updates, 10 as published.
        certainty: how far a mask of only 0 and 1 is trusted, 0.7 as published. Soft scores are
            taken as they are.
        band_px: distance from the outline, each way, that may change; 0 takes `band_share`.
        band_share: the same as a share of the square root of the object's area, at least 2 px.

    Source: Krahenbuhl and Koltun, NIPS 2011; see `ops/dense_crf.py`.
    Differs: each object is solved in the part of the picture around it, and outside the band its
    labels are settled beforehand.
    """

    parameters: CRFParameters = field(default_factory=lambda: LABEL_PARAMETERS)
    iterations: int = 10
    certainty: float = LABEL_CERTAINTY
    band_px: int = 0
    band_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0.5 < self.certainty <= 1 or self.iterations < 1:
            raise UsageError(
                "certainty must be in (0.5, 1] and iterations 1 or more; received "
                f"{self.certainty} and {self.iterations}"
            )
        choose_band(np.zeros((1, 1), dtype=np.bool_), self.band_px, self.band_share)

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Returns foreground probabilities in the band of each object; elsewhere scores stay."""
        refined = masks.copy()
        for scores in refined:
            mask = scores > FOREGROUND
            band_px = choose_band(mask, self.band_px, self.band_share)
            window = surround(mask, 4 * band_px)
            if window is not None and not mask.all():
                self._solve(image[window], band_px, scores[window])
        return refined

    def _solve(self, image: Image, band_px: int, scores: NDArray[np.float32]) -> None:
        """Writes probabilities into the band of `scores`."""
        mask = scores > FOREGROUND
        is_near = near_outline(mask, band_px)
        is_hard = bool(((scores == 0) | (scores == 1)).all())
        certainty = self.certainty if is_hard else 1.0
        inside = (1 - certainty) + (2 * certainty - 1) * scores
        unary = unary_from_probabilities(np.stack([1 - inside, inside]))
        unary[0][~is_near] = np.where(mask, _SETTLED, 0)[~is_near]
        unary[1][~is_near] = np.where(mask, 0, _SETTLED)[~is_near]
        solved = infer(
            unary,
            np.ascontiguousarray(image),
            parameters=self.parameters,
            iterations=self.iterations,
        )
        scores[is_near] = solved[1][is_near]
