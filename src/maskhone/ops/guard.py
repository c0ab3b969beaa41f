"""Keeps the coarse mask where a refined one strays, or where it should not have been touched."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.errors import UsageError
from maskhone.ops.masks import near_outline

Guard = Literal["off", "safe", "strict"]
"""How readily the coarse mask is kept: never, where the refined one is not trusted, or sooner."""

GUARDS: tuple[Guard, ...] = get_args(Guard)

LEAST_AGREEMENT = 0.75
"""Of `safe`. Chosen on train lists by benchmarks/guard.py: nothing is lost where refining helps."""

STRICT_AGREEMENT = 0.85
"""Of `strict`. The rule is ours."""


def check_guard(guard: Any) -> Guard:
    """Returns one of the three words; refuses anything else.

    Raises:
        UsageError: another word, or the True and False of earlier versions.

    Example:
        >>> check_guard("strict")
        'strict'
    """
    known = ", ".join(GUARDS)
    if isinstance(guard, bool):
        meant = "safe" if guard else "off"
        raise UsageError(f"guard is {guard}; expected one of {known}: {guard} is now {meant!r}")
    if guard not in GUARDS:
        raise UsageError(f"guard is {guard!r}; expected one of {known}")
    word: Guard = guard
    return word


def guard_masks(image: Image, coarse: Scores, refined: Scores, *, guard: Guard) -> Scores:
    """Returns the refined masks, but the coarse ones where the refined are not trusted.

    What is given back may be a whole mask or a part of one.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(N, H, W)` scores.
        refined: `(N, H, W)` scores.
        guard: `off` trusts everything, `strict` less than `safe`.

    Example:
        >>> image = np.zeros((1, 4, 3), dtype=np.uint8)
        >>> coarse = np.ones((1, 1, 4), dtype=np.float32)
        >>> guard_masks(image, coarse, coarse * 0, guard="safe").tolist()
        [[[1.0, 1.0, 1.0, 1.0]]]
    """
    if guard == "off":
        return refined
    least = STRICT_AGREEMENT if guard == "strict" else LEAST_AGREEMENT
    return keep_coarse_where_strayed(coarse, refined, least_agreement=least)


def share_given_back(coarse: Scores, refined: Scores, guarded: Scores) -> NDArray[np.float64]:
    """Measures, for each mask, which share of its changed pixels a guard gave back.

    Args:
        coarse: `(N, H, W)` scores before refining.
        refined: `(N, H, W)` scores as the method returned them.
        guarded: `(N, H, W)` scores as the guard left them.

    Returns:
        `(N,)` in [0, 1]; 0 where the method changed nothing.

    Example:
        >>> coarse, refined, guarded = np.array([[[[1, 1, 1]]], [[[1, 0, 0]]], [[[1, 1, 0]]]])
        >>> share_given_back(coarse, refined, guarded).tolist()
        [0.5]
    """
    before, after, result = (scores > FOREGROUND for scores in (coarse, refined, guarded))
    changed = np.count_nonzero(before != after, axis=(1, 2))
    given_back = np.count_nonzero((before != after) & (before == result), axis=(1, 2))
    shares: NDArray[np.float64] = given_back / np.maximum(changed, 1)
    return shares


def keep_coarse_where_strayed(
    coarse: Scores, refined: Scores, *, least_agreement: float = LEAST_AGREEMENT
) -> Scores:
    """Returns the refined masks, but the coarse one of every object whose refined mask strayed.

    A refiner mends outlines. When little of the mask it was given is left in what it returns, the
    object is of a kind that it does not understand.

    Args:
        coarse: `(N, H, W)` scores.
        refined: `(N, H, W)` scores.
        least_agreement: IoU of the two, each cut at one half, that a refined mask must reach.

    Example:
        >>> coarse = np.ones((1, 1, 4), dtype=np.float32)
        >>> refined = np.array([[[1, 0, 0, 0]]], dtype=np.float32)
        >>> keep_coarse_where_strayed(coarse, refined).tolist()
        [[[1.0, 1.0, 1.0, 1.0]]]
    """
    before, after = coarse > FOREGROUND, refined > FOREGROUND
    shared = (before & after).sum(axis=(1, 2))
    either = (before | after).sum(axis=(1, 2))
    has_strayed = shared < least_agreement * either
    return np.where(has_strayed[:, None, None], coarse, refined)


def keep_coarse_beyond_band(coarse: Scores, refined: Scores, *, band_px: int) -> Scores:
    """Returns the refined scores near the coarse outline, and the coarse ones elsewhere.

    Refiners that see the whole object may add or drop parts far from its outline; on masks that
    are right but for their edge, such as SAM's, those parts are mistakes.

    Args:
        coarse: `(N, H, W)` scores.
        refined: `(N, H, W)` scores.
        band_px: distance from the outline, each way, that may change.

    Example:
        >>> coarse = np.array([[[1, 1, 1, 0, 0, 0]]], dtype=np.float32)
        >>> keep_coarse_beyond_band(coarse, 1 - coarse, band_px=1).tolist()
        [[[1.0, 1.0, 0.0, 1.0, 0.0, 0.0]]]
    """
    limited = coarse.copy()
    for before, after, result in zip(coarse, refined, limited, strict=True):
        is_near = near_outline(before > FOREGROUND, band_px)
        np.copyto(result, after, where=is_near)
    return limited
