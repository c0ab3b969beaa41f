"""The dense CRF as a refiner: nearby pixels of like colour want one label."""

from dataclasses import dataclass, field

import numpy as np

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.errors import UsageError
from maskhone.ops.dense_crf import (
    LABEL_CERTAINTY,
    SOFTMAX_PARAMETERS,
    CRFParameters,
    infer,
    unary_from_probabilities,
)
from maskhone.ops.masks import surround


@dataclass(frozen=True, kw_only=True)
class CRFRefiner:
    """Runs a two-label dense CRF around each object.

    Attributes:
        parameters: of the kernels; the published ones for network scores.
        iterations: mean-field updates, 10 as published.
        certainty: scores are drawn into [1 - certainty, certainty], so that no pixel is beyond
            doubt; 0.7 is the published trust in a hard label.
        margin_share: context around the object, as a share of its longer side.

    Source: Krahenbuhl and Koltun, NIPS 2011; see `ops/dense_crf.py`.
    Differs: each object is solved in the part of the picture around it.
    """

    parameters: CRFParameters = field(default_factory=lambda: SOFTMAX_PARAMETERS)
    iterations: int = 10
    certainty: float = LABEL_CERTAINTY
    margin_share: float = 0.15

    def __post_init__(self) -> None:
        if not 0.5 < self.certainty <= 1 or self.iterations < 1 or self.margin_share < 0:
            raise UsageError(
                "certainty must be in (0.5, 1], iterations 1 or more, margin_share 0 or more; "
                f"received {self.certainty}, {self.iterations}, {self.margin_share}"
            )

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Returns foreground probabilities around each object; elsewhere scores stay."""
        refined = masks.copy()
        for scores in refined:
            mask = scores > FOREGROUND
            longer_px = max(np.ptp(np.nonzero(mask), axis=1)) + 1 if mask.any() else 0
            window = surround(mask, 8 + round(self.margin_share * longer_px))
            if window is not None and not mask.all():
                low = 1 - self.certainty
                inside = low + (self.certainty - low) * scores[window]
                unary = unary_from_probabilities(np.stack([1 - inside, inside]))
                scores[window] = infer(
                    unary,
                    np.ascontiguousarray(image[window]),
                    parameters=self.parameters,
                    iterations=self.iterations,
                )[1]
        return refined
