"""PerimeterFit as a refiner: soft class maps are fitted to the picture's own segments."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.methods.perimeterfit.config import PerimeterFitConfig
from maskhone.methods.perimeterfit.perimeter import (
    SETTINGS,
    Bits,
    find_edges,
    find_perimeter,
    fit_pictures,
    fit_segments,
)
from maskhone.methods.perimeterfit.segments import (
    Labels,
    make_palette,
    paint,
    part_picture,
    pass_through_jpeg,
)
from maskhone.ops.masks import choose_band
from maskhone.ops.superpixels import check_installed


@dataclass(frozen=True, kw_only=True)
class PerimeterFitRefiner:
    """Trusts a pixel of a class more where the picture's segments agree, and less elsewhere.

    Attributes:
        config: how to fit; see `PerimeterFitConfig`.
        device: where to learn the segments.

    Source: Ostrowski et al., "SILOP", IJCNN 2023 (arXiv 2303.07892), sections 3 to 6 of our
    description.
    Differs: the original doubles a score where the fits agree, up to 2, and moves the threshold
    that follows by hand from 0.40 to 0.60. Here the odds are doubled where they agree and halved
    elsewhere: scores stay in [0, 1], one half stays the threshold, and a pixel needs more than one
    third to be taken where the fits agree, more than two thirds elsewhere - the same two to one.
    """

    config: PerimeterFitConfig = field(default_factory=PerimeterFitConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        check_installed()

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Weighs `(N, H, W)` scores; the segments of the picture are found once for all of them."""
        refined = masks.copy()
        chosen = [i for i, mask in enumerate(masks) if mask.any()]
        if not chosen:
            return refined
        soft = np.stack([soften(masks[i], self.config.soften_share) for i in chosen])
        agrees = np.ones(soft.shape, dtype=np.bool_)
        for fits in self._fit(image, soft):
            agrees &= fits
        refined[chosen] = weigh(soft, agrees, self.config.factor)
        return refined

    def _fit(self, image: Image, soft: Scores) -> Iterator[Bits]:
        """Yields the `(K, H, W)` fits to each kind of segments."""
        config = self.config
        for kind in config.kinds:
            segments = part_picture(
                image,
                kind,
                iterations=config.iterations,
                min_labels=config.min_labels,
                side_px=config.side_px,
                seed=config.seed,
                device=self.device,
            )
            yield fit(segments, draw_perimeter(segments, config), soft, kind, config)


def draw_perimeter(segments: Labels, config: PerimeterFitConfig) -> NDArray[np.uint8]:
    """Draws the outlines of `(H, W)` segments as 0 and 255, in the form that is set."""
    if config.form == "lossless":
        return find_perimeter(segments).astype(np.uint8) * np.uint8(255)
    return find_edges(pass_through_jpeg(paint(segments, make_palette(config.seed))))


def fit(
    segments: Labels,
    perimeter: NDArray[np.uint8],
    class_maps: Scores,
    kind: str,
    config: PerimeterFitConfig,
) -> Bits:
    """Fits `(K, H, W)` class maps to `(H, W)` segments of a kind, in the form that is set.

    Args:
        segments: labels.
        perimeter: see `draw_perimeter`.
        class_maps: scores in [0, 1].
        kind: of the superpixels behind the segments, `slic` or `quick`.
        config: see `PerimeterFitConfig`.
    """
    setting = replace(SETTINGS[kind], support_above=config.support_of(kind))
    if config.form == "lossless":
        return fit_segments(segments, perimeter > 0, class_maps, setting)
    picture = pass_through_jpeg(paint(segments, make_palette(config.seed)))
    return fit_pictures(picture, pass_through_jpeg(perimeter), class_maps, setting)


def weigh(scores: Scores, agrees: Bits, factor: float) -> Scores:
    """Multiplies the odds of pixels where the fits agree, and divides them elsewhere.

    Example:
        >>> scores = np.full((1, 1, 2), 0.5, dtype=np.float32)
        >>> weigh(scores, np.array([[[True, False]]]), 3.0).tolist()
        [[[0.75, 0.25]]]
    """
    claim = np.where(agrees, np.float32(factor), np.float32(1 / factor)) * scores
    weighed: Scores = claim / (claim + (1 - scores))
    return weighed


def soften(scores: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Gives an `(H, W)` mask of only 0 and 1 a soft rim; soft maps stay as they are.

    Args:
        scores: of one object, in [0, 1].
        share: width of the rim each way, as a share of the square root of the object's area; at
            least 2 px. 0 leaves all masks as they are.

    Returns:
        Scores that fall from 1 to 0 across the rim, with one half on the outline.
    """
    is_hard = bool(((scores == 0) | (scores == 1)).all())
    mask = scores > FOREGROUND
    if share == 0 or not is_hard or mask.all():
        return scores
    inside, outside = (
        cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        for side in (mask, ~mask)
    )
    away = np.where(mask, inside - 0.5, 0.5 - outside)  # the outline runs between pixels
    rim: NDArray[np.float32] = np.clip(0.5 + away / (2 * choose_band(mask, 0, share)), 0, 1)
    return rim.astype(np.float32)
