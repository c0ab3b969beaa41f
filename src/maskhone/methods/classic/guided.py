"""The guided filter: a mask becomes, locally, a linear function of the picture's colours."""

from dataclasses import dataclass

from maskhone.contracts import Image, Scores
from maskhone.errors import UsageError
from maskhone.ops.guided_filter import RADIUS_SHARE, SMOOTHNESS, guide_masks


@dataclass(frozen=True, kw_only=True)
class GuidedRefiner:
    """Snaps soft masks to the edges of the picture.

    Attributes:
        radius_px: of the window in which mask and colours are related; 0 takes `radius_share`.
        radius_share: radius as a share of the square root of the object's area, at least 2 px.
        smoothness: variance of the colours, on the scale of [0, 1], below which nothing is an
            edge. He et al. use 1e-6 for matting feathers.

    Source: He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, section 3 (colour guide).
    Differs: at the picture's border windows are filled by reflection.
    """

    radius_px: int = 0
    radius_share: float = RADIUS_SHARE
    smoothness: float = SMOOTHNESS

    def __post_init__(self) -> None:
        if not (self.radius_px >= 0 and self.radius_share > 0 and self.smoothness > 0):
            raise UsageError(
                "radius_px must be 0 or more, radius_share and smoothness more than 0; received "
                f"{self.radius_px}, {self.radius_share}, {self.smoothness}"
            )

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Filters `(N, H, W)` scores around each object; elsewhere they stay as they are."""
        return guide_masks(
            image,
            masks,
            radius_px=self.radius_px,
            radius_share=self.radius_share,
            smoothness=self.smoothness,
        )
