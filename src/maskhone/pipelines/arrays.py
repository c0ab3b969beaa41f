"""Refining arrays: what goes in is what comes out."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Refiner, Scores, check_image, check_masks
from maskhone.errors import UsageError
from maskhone.methods.catalogue import load
from maskhone.ops.guard import keep_coarse_beyond_band, keep_coarse_where_strayed
from maskhone.ops.masks import from_scores, to_scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """Refined masks of one picture, and what a person may want to know of each.

    Attributes:
        scores: `(N, H, W)` in [0, 1].
        kept: `(N,)` in [0, 1]: the share of the pixels the method changed that the guard gave
            back, 0 where it changed none; None without a guard.
        notes: a line of text for each mask, such as what was chosen for it and why; or empty.
    """

    scores: Scores
    kept: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()


def refine(
    image: Image,
    mask: NDArray[Any],
    *,
    method: str = "bpr",
    weights: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    guard: bool = False,
    band_px: int = 0,
    **options: Any,
) -> NDArray[Any]:
    """Refines one mask or many of one picture; the result is of the kind that went in.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        mask: `(H, W)` or `(N, H, W)`: bool; integers of 0 and 1, or 0 and 255; other uint8 or
            uint16 as a probability v/255 or v/65535; floats in [0, 1].
        method: see `maskhone methods`; the default uses the bundled weights.
        weights: a weight file, or the name of bundled weights.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: `auto`, `fp32`, `bf16`, `fp16`.
        guard: keep the coarse mask where the refined one strays.
        band_px: when positive, change nothing further than this from the coarse outline.
        options: fields of the method's configuration.

    Returns:
        An array of the same shape, type and kind; binary in, binary out.

    Raises:
        InputError: image and mask do not fit, or hold something else.
        UsageError: unknown method, device, dtype or option.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((8, 8, 3), dtype=np.uint8)
        >>> refine(image, np.zeros((8, 8), dtype=bool), method="guided").any()
        np.False_
    """
    check_image(image)
    scores, kind = to_scores(mask)
    stack = scores[None] if scores.ndim == 2 else scores
    check_masks(stack, size_hw=image.shape[:2])
    refiner = _load_once(
        method, str(weights) if weights else None, device, dtype, tuple(sorted(options.items()))
    )
    refined = refine_scores(refiner, image, stack, guard=guard, band_px=band_px)
    return from_scores(refined.scores.reshape(scores.shape), kind)


def refine_scores(
    refiner: Refiner, image: Image, masks: Scores, *, guard: bool = False, band_px: int = 0
) -> Refined:
    """Refines checked `(N, H, W)` scores, keeping the coarse mask where asked and needed."""
    check_band(band_px)
    refined = refiner.refine(image, masks)
    if band_px:
        refined = keep_coarse_beyond_band(masks, refined, band_px=band_px)
    if not guard:
        return Refined(scores=refined)
    guarded = keep_coarse_where_strayed(masks, refined)
    return Refined(scores=guarded, kept=_share_given_back(masks, refined, guarded))


def _share_given_back(coarse: Scores, refined: Scores, guarded: Scores) -> NDArray[np.float64]:
    """Measures, for each mask, which share of its changed pixels a guard gave back."""
    before, after, result = (scores > FOREGROUND for scores in (coarse, refined, guarded))
    changed = np.count_nonzero(before != after, axis=(1, 2))
    given_back = np.count_nonzero((before != after) & (before == result), axis=(1, 2))
    shares: NDArray[np.float64] = given_back / np.maximum(changed, 1)
    return shares


def check_band(band_px: int) -> None:
    """Refuses a negative width; 0 stands for no limit."""
    if band_px < 0:
        raise UsageError(
            f"the band is {band_px} px; expected a number of pixels, or 0 for no limit"
        )


@lru_cache(maxsize=2)
def _load_once(
    method: str,
    weights: str | None,
    device: str,
    dtype: str,
    options: tuple[tuple[str, Any], ...],
) -> Refiner:
    """Keeps the last refiners, so that calls in a loop load weights once."""
    return load(method, weights=weights, device=device, dtype=dtype, **dict(options))
