"""Refining arrays: what goes in is what comes out."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image, Refiner, Scores, check_image, check_masks
from maskhone.errors import UsageError
from maskhone.methods.auto.refine import AutoRefiner
from maskhone.methods.catalogue import METHODS, load
from maskhone.ops.band import limit_looks, limit_scores
from maskhone.ops.groups import split_masks
from maskhone.ops.guard import (
    Guard,
    Verdict,
    check_guard,
    judge,
    share_given_back,
)
from maskhone.ops.looks import take_looks
from maskhone.ops.masks import from_scores, to_scores

_COPIES = 6  # of a mask while it is refined: itself moved or mirrored, looks, limited looks


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined:
    """Refined masks of one picture, and what a person may want to know of each.

    Attributes:
        scores: `(N, H, W)` in [0, 1].
        kept: `(N,)` in [0, 1]: the share of the pixels the method changed that the guard gave
            back, 0 where it changed none; None without a guard.
        notes: a line of text for each mask: what was made of it and why, empty where nothing
            changed. None at all without a guard, but for `auto`.
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
    guard: Guard | None = None,
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
        guard: `off`, `safe` or `strict`: keep the coarse mask where the refined one is not
            trusted. None is `safe`, or `off` for methods that do not mend outlines (prn,
            perimeterfit).
        band_px: when positive, change nothing further than this from the coarse outline.
        options: fields of the method's configuration.

    Returns:
        An array of the same shape, type and kind; binary in, binary out.

    Raises:
        InputError: image and mask do not fit, or hold something else.
        UsageError: unknown method, device, dtype, guard or option.

    Example:
        >>> import numpy as np
        >>> image = np.zeros((8, 8, 3), dtype=np.uint8)
        >>> refine(image, np.zeros((8, 8), dtype=bool), method="guided").any()
        np.False_
    """
    guard = choose_guard(method, guard)
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
    refiner: Refiner, image: Image, masks: Scores, *, guard: Guard = "safe", band_px: int = 0
) -> Refined:
    """Refines checked `(N, H, W)` scores, keeping the coarse mask where asked and needed."""
    check_band(band_px)
    check_guard(guard)
    if isinstance(refiner, AutoRefiner):
        return _choose_scores(refiner, image, masks, guard=guard, band_px=band_px)
    if guard == "off":
        refined = refiner.refine(image, masks)
        return Refined(scores=limit_scores(masks, refined, band_px=band_px))
    return _guard_scores(refiner, image, masks, guard=guard, band_px=band_px)


def _guard_scores(
    refiner: Refiner, image: Image, masks: Scores, *, guard: Guard, band_px: int
) -> Refined:
    """Looks at every mask more than once and keeps of it what the guard trusts."""
    scores, kept = np.empty_like(masks), np.zeros(len(masks))
    notes: list[str] = []
    for here in split_masks(len(masks), masks.shape[1:], copies=_COPIES):
        group = masks[here]
        looks = limit_looks(group, take_looks(refiner, image, group), band_px=band_px)
        for index, mask in enumerate(group):
            verdict = judge(image, mask, looks.of(index), guard=guard)
            scores[here][index] = verdict.scores
            notes.append(_describe(verdict, can_be_trusted=looks.can_be_trusted))
        # the guided filter, which votes too, knows of no band
        scores[here] = limit_scores(group, scores[here], band_px=band_px)
        kept[here] = share_given_back(group, looks.scores[0], scores[here])
    notes = [_add_share(note, share) for note, share in zip(notes, kept.tolist(), strict=True)]
    return Refined(scores=scores, kept=kept, notes=tuple(notes))


def _describe(verdict: Verdict, *, can_be_trusted: bool) -> str:
    signs = verdict.signs
    if signs is None:
        return ""
    if verdict.is_trusted:
        return f"trusted ({signs.trust:.2f})"
    doubt = f"trust {signs.trust:.2f}, " if can_be_trusted else ""
    return f"put to the vote ({doubt}voice {verdict.voice:.2f})"


def _add_share(note: str, kept: float) -> str:
    return f"{note}; the guard undid {100 * kept:.0f} % of the changes" if kept else note


def _choose_scores(
    refiner: AutoRefiner, image: Image, masks: Scores, *, guard: Guard, band_px: int
) -> Refined:
    """Refines by a committee, which guards what it chooses and says why it chose it."""
    choices = refiner.choose_each(image, masks, guard=guard, band_px=band_px)
    scores = np.array([choice.scores for choice in choices], dtype=np.float32).reshape(masks.shape)
    kept = np.array([choice.kept for choice in choices], dtype=np.float64)
    return Refined(
        scores=scores,
        kept=None if guard == "off" else kept,
        notes=tuple(choice.note for choice in choices),
    )


def find_usual_guard(method: str) -> Guard:
    """Returns the guard of a method when none is asked for."""
    return "safe" if method not in METHODS or METHODS[method].is_guarded else "off"


def choose_guard(method: str, guard: Guard | None) -> Guard:
    """Returns the guard that was asked for, or the method's usual one.

    Raises:
        UsageError: not one of the three words, or a guard for a method that it cannot judge.

    Example:
        >>> choose_guard("bpr", None), choose_guard("prn", None)
        ('safe', 'off')
    """
    if guard is None:
        return find_usual_guard(method)
    if check_guard(guard) != "off" and find_usual_guard(method) == "off":
        raise UsageError(
            f"{method} does not mend outlines, which is what the guard judges; leave the guard "
            f"out, or off, instead of {guard}"
        )
    return guard


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
