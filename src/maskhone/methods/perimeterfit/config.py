"""What can be set about PerimeterFit as a refiner of given class maps."""

from dataclasses import dataclass
from typing import Literal

from maskhone.errors import UsageError

KINDS = ("slic", "quick", "both")
FORMS = ("lossless", "published")


@dataclass(frozen=True, kw_only=True)
class PerimeterFitConfig:
    """How soft class maps are fitted to the segments of their picture.

    The published values are those of ErikOstrowski/Automated-Framework-for-Semantic-Segmentation-
    Using-Image-Labels-Based-On-Object-Perimeters, below PF.

    Attributes:
        superpixels: which segments must agree: those from `slic`, from `quick`shift, or `both` as
            published.
        form: `lossless` labels, or `published`: JPEG pictures of them, with speckles and slow.
        iterations: steps of learning the segments, at most; 64 as published.
        min_labels: learning stops when fewer labels are left; 20 as published.
        side_px: longer side of the picture in which segments are learnt; larger ones are made
            smaller. 0 = as they are, as published. Ours: 320 did no worse than 512, in a third of
            the time.
        slic_support: a class's support is where its map lies above this; 0.05 as published.
        quick_support: the same for the other segments; 0 as published.
        factor: of the odds of a pixel: times it where the fits agree, divided by it elsewhere.
        soften_share: a mask of only 0 and 1 gets a soft rim, each way this share of the square
            root of its area, at least 2 px; 0 leaves such masks as they are. Ours.
        seed: of the learning; 43 as published.
    """

    superpixels: Literal["slic", "quick", "both"] = "both"
    form: Literal["lossless", "published"] = "lossless"
    iterations: int = 64
    min_labels: int = 20
    side_px: int = 320
    slic_support: float = 0.05
    quick_support: float = 0.0
    factor: float = 2.0
    soften_share: float = 0.0
    seed: int = 43

    def __post_init__(self) -> None:
        _require(self.superpixels in KINDS, "superpixels", self.superpixels, ", ".join(KINDS))
        _require(self.form in FORMS, "form", self.form, ", ".join(FORMS))
        _require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        _require(0 <= self.min_labels <= 32, "min_labels", self.min_labels, "0 to 32")
        is_side = self.side_px == 0 or self.side_px >= 16
        _require(is_side, "side_px", self.side_px, "16 or more, or 0 for the picture's own size")
        for name in ("slic_support", "quick_support"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, value, "0 or more, below 1")
        _require(self.factor > 1, "factor", self.factor, "more than 1")
        _require(0 <= self.soften_share < 1, "soften_share", self.soften_share, "0 to 1")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of superpixels that are used."""
        return ("slic", "quick") if self.superpixels == "both" else (self.superpixels,)

    def support_of(self, kind: str) -> float:
        """Returns above what a map supports its class, for segments of a kind."""
        return {"slic": self.slic_support, "quick": self.quick_support}[kind]


def _require(is_met: bool, name: str, received: object, expected: str) -> None:
    if not is_met:
        raise UsageError(f"{name} is {received!r}; expected {expected}")
