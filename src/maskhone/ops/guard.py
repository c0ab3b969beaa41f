"""Keeps the coarse mask where a refined one is not to be trusted.

Nobody tells a refiner whether it knows what it looks at, but it shows. It is asked more than once
(`ops/looks.py`): the mirrored picture, a pass less. Where it knows the kind of object its answers
agree, it is certain, and the pixels that change sides go to the side that they look like. An
object for which that holds gets the mean of the answers. For any other, the change is put to the
vote pixel by pixel: the refiner, less so the less its answers agree, and the guided filter, which
knows nothing but edges. What has no clear majority stays as it was.

The rule is ours. `benchmarks/guard.py` chooses its numbers on train lists, and says what they do
on each set when the others choose them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.errors import UsageError
from maskhone.ops.guided_filter import RADIUS_SHARE, guide_masks
from maskhone.ops.looks import Looks, average_looks
from maskhone.ops.masks import near_outline, surround
from maskhone.ops.tiles import plan_tiles

Guard = Literal["off", "safe", "strict"]
"""How readily the coarse mask is kept: never, where the refined one is not trusted, or sooner."""

GUARDS: tuple[Guard, ...] = get_args(Guard)

TRUST_WEIGHTS = {"unanimity": 3.0, "certainty": 16.0, "likeness": 6.5}
TRUST_OFFSET = -10.5
"""A logistic regression on objects of train lists: whether the refined mask is better than the
vote's, losses counting more than gains (benchmarks/guard.py)."""

VOTE_WEIGHTS = {"refined": 2.0, "guided": 2.0, "coarse": 0.1}
"""Of the votes, each 2 s - 1: a logistic regression on changed pixels of train lists, rounded. It
was made with weights of an earlier stage; with the bundled ones it gives the guided filter less."""

TRUST_VOICE = 2.0
"""Votes that full trust adds to those of `VOTE_WEIGHTS`. Ours: with 4 more roads were lost."""

VOICE_AGREEMENT = 0.5
"""IoU with the coarse mask below which trust adds no votes. Ours."""

AGREEMENT_RAMP, CONSISTENCY_RAMP = (0.75, 0.85), (0.8, 0.92)
"""IoU from where a refiner has no vote to where it has its full one. Ours."""

GUIDED_RAMP = (0.5, 0.65)
"""The same of the guided filter, by its IoU with the coarse mask: it wears away lines of one pixel,
and mends vessels, where the IoU is 0.65 and more. Ours."""


@dataclass(frozen=True, kw_only=True)
class GuardRule:
    """How sure the guard wants to be.

    Attributes:
        least_trust: probability of being right that an object must have, see `Signs.trust`.
        least_agreement: IoU with the coarse mask that it must have as well: what deletes an
            object, or fills the picture, is not trusted however sure it is.
        majority: what the sum of votes must exceed for a pixel to change sides.
    """

    least_trust: float
    least_agreement: float
    majority: float


RULES = {
    "safe": GuardRule(least_trust=0.9, least_agreement=0.75, majority=1.0),
    "strict": GuardRule(least_trust=0.97, least_agreement=0.85, majority=1.5),
}
"""Ours: of the rules tried on 231 pictures of train lists, `safe` is the one that gains most while
fewer than one mask in fifty loses a point on any set (benchmarks/README.md)."""

_WINDOW_PX = 97
"""Side of the window in which the colours of both sides are averaged: an object's surroundings,
but not all of the picture. Ours."""

_TILE_PX, _BLUR_PX = 512, 8  # tiles save memory; how far a blur of one pixel reaches, and more


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What tells whether a refined mask is to be trusted; of all, more is better.

    Attributes:
        agreement: IoU of the refined mask and the coarse one, in [0, 1].
        consistency: the least IoU of the refined mask and one of the other looks, in [0, 1].
        unanimity: share of the changed pixels that all looks have on the same side, in [0, 1].
        certainty: mean of |2 s - 1| over the changed pixels, s the score in the mean of the looks.
        likeness: how much more the changed pixels look like the side they joined than like the
            one they left, in [-1, 1]; see `_compare_colours`.
    """

    agreement: float
    consistency: float
    unanimity: float
    certainty: float
    likeness: float

    @property
    def trust(self) -> float:
        """The probability that the refined object is better than what a vote would make of it."""
        logit = TRUST_OFFSET + sum(w * getattr(self, name) for name, w in TRUST_WEIGHTS.items())
        return float(1 / (1 + np.exp(-logit)))

    @property
    def steadiness(self) -> float:
        """The share of its vote that the refiner has for agreeing with itself, in [0, 1]."""
        return _rise(self.agreement, AGREEMENT_RAMP) * _rise(self.consistency, CONSISTENCY_RAMP)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Opinion:
    """A refiner's looks at one mask, and what they tell of it.

    Attributes:
        looks: `(H, W)` scores each.
        signs: None where no look changes a pixel: then nothing speaks against the refiner.
    """

    looks: Looks
    signs: Signs | None

    @property
    def trust(self) -> float:
        """See `Signs.trust`."""
        return 1.0 if self.signs is None else self.signs.trust

    @property
    def voice(self) -> float:
        """What its vote counts, in [0, 1 + TRUST_VOICE]; trust counts where it may decide alone."""
        if self.signs is None:
            return 1.0
        is_near = self.signs.agreement >= VOICE_AGREEMENT
        may_be_trusted = self.looks.can_be_trusted and is_near
        return self.signs.steadiness + (TRUST_VOICE * self.trust if may_be_trusted else 0.0)

    def is_sure(self, guard: Guard) -> bool:
        """Whether the object may have the refined scores as a whole; never without a guard."""
        if guard == "off" or not self.looks.can_be_trusted:
            return False
        rule = RULES[guard]
        is_near = self.signs is None or self.signs.agreement >= rule.least_agreement
        return is_near and self.trust > rule.least_trust


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What the guard made of one mask.

    Attributes:
        scores: `(H, W)`; no pixel is on a side on which neither the looks, the coarse nor the
            guided mask has it.
        is_trusted: whether the object got the refined scores as a whole.
        signs: what was seen; None where nothing changed.
        voice: what the refiner's vote counted, or would have, see `Opinion.voice`.
    """

    scores: NDArray[np.float32]
    is_trusted: bool
    signs: Signs | None
    voice: float = 1.0


def judge(image: Image, coarse: NDArray[np.float32], looks: Looks, *, guard: Guard) -> Verdict:
    """Judges the looks of a refiner at one mask.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(H, W)` scores.
        looks: of this mask alone.
        guard: `safe` or `strict`.
    """
    opinion = form_opinion(image, coarse, looks)
    refined, voice = looks.scores[0], opinion.voice
    if ((refined > FOREGROUND) == (coarse > FOREGROUND)).all():
        return Verdict(scores=refined, is_trusted=True, signs=None)
    if opinion.is_sure(guard):
        scores, is_trusted = looks.average(), True
    else:
        scores, is_trusted = put_to_vote(image, coarse, [opinion], guard=guard), False
    return Verdict(scores=scores, is_trusted=is_trusted, signs=opinion.signs, voice=voice)


def form_opinion(image: Image, coarse: NDArray[np.float32], looks: Looks) -> Opinion:
    """Reads the signs of one `(H, W)` mask, in the part of the picture that holds it."""
    window = _surround_changes(coarse, [looks])
    if window is None:
        return Opinion(looks=looks, signs=None)
    answers = np.stack([scores[window] for scores in looks.scores])
    return Opinion(looks=looks, signs=read_signs(image[window], coarse[window], answers))


def put_to_vote(
    image: Image, coarse: NDArray[np.float32], opinions: Sequence[Opinion], *, guard: Guard
) -> NDArray[np.float32]:
    """Puts one `(H, W)` mask to the vote of refiners, each with its voice; see `vote`."""
    window = _surround_changes(coarse, [opinion.looks for opinion in opinions])
    scores = coarse.copy()
    if window is not None:
        members = [
            (np.stack([each[window] for each in opinion.looks.scores]), opinion.voice)
            for opinion in opinions
        ]
        majority = RULES[guard].majority
        scores[window] = vote(image[window], coarse[window], members, majority=majority)
    return scores


def _surround_changes(
    coarse: NDArray[np.float32], looks: Sequence[Looks]
) -> tuple[slice, slice] | None:
    """Returns the part of the picture that holds an object and all that looks make of it.

    None when they leave every pixel on its side; without looks, when there is no object.
    """
    before = coarse > FOREGROUND
    changed = np.zeros_like(before)
    for look in looks:
        for scores in look.scores:
            changed |= (scores > FOREGROUND) != before
    if looks and not changed.any():
        return None
    reach_px = round(4 * RADIUS_SHARE * float(np.sqrt(np.count_nonzero(before))))
    return surround(changed | before, max(_WINDOW_PX // 2, reach_px))


def read_signs(image: Image, coarse: NDArray[np.float32], looks: Scores) -> Signs:
    """Reads the signs of one object from an image, `(H, W)` scores and `(L, H, W)` looks."""
    before, after = coarse > FOREGROUND, looks > FOREGROUND
    refined, others = after[0], after[1:]
    changed = refined != before
    if not changed.any():  # only other looks changed something
        changed = (after != before).any(axis=0)
    certainty = np.abs(2 * average_looks(looks) - 1)
    return Signs(
        agreement=_overlap(refined, before),
        consistency=min(_overlap(refined, other) for other in others),
        unanimity=float((after == refined).all(axis=0)[changed].mean()),
        certainty=float(certainty[changed].mean()),
        likeness=_measure_likeness(image, before, after, changed),
    )


def vote(
    image: Image,
    coarse: NDArray[np.float32],
    members: Sequence[tuple[Scores, float]],
    *,
    majority: float,
) -> NDArray[np.float32]:
    """Puts every pixel to the vote of refiners, the guided filter and the coarse mask.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(H, W)` scores.
        members: `(L, H, W)` looks of each refiner and its voice, 0 or more; may be empty. Together
            they have the vote of the one with the strongest voice.
        majority: a pixel changes sides when the weighted sum exceeds this.

    Returns:
        `(H, W)` scores: the refined ones where they are on the side that won, else the guided
        ones, else the coarse ones.
    """
    loudest, total = max((v for _, v in members), default=0.0), sum(v for _, v in members)
    refined = coarse
    if total > 0:
        shares = (average_looks(looks) * np.float32(v / total) for looks, v in members)
        refined = np.clip(sum(shares), 0.0, 1.0).astype(np.float32)
    guided = guide_masks(image, coarse[None])[0]
    heard = _rise(_overlap(guided > FOREGROUND, coarse > FOREGROUND), GUIDED_RAMP)
    votes = (
        VOTE_WEIGHTS["refined"] * loudest * (2 * refined - 1)
        + VOTE_WEIGHTS["guided"] * heard * (2 * guided - 1)
        + VOTE_WEIGHTS["coarse"] * (2 * coarse - 1)
    )
    inside = np.where(coarse > FOREGROUND, votes > -majority, votes > majority)
    result = coarse
    for scores in (guided, refined):  # the last one that is on the side that won
        result = np.where((scores > FOREGROUND) == inside, scores, result)
    return result.astype(np.float32)


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Measures the IoU of two masks; two empty ones agree."""
    either = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / either) if either else 1.0


def _rise(value: float, ramp: tuple[float, float]) -> float:
    start, stop = ramp
    return min(max((value - start) / (stop - start), 0.0), 1.0)


def _measure_likeness(
    image: Image, before: NDArray[np.bool_], after: NDArray[np.bool_], changed: NDArray[np.bool_]
) -> float:
    """Returns the mean of `_compare_colours` over the changed pixels, seen in tiles."""
    total = 0.0
    for tile in plan_tiles(before.shape, side_px=_TILE_PX, reach_px=_WINDOW_PX // 2 + _BLUR_PX):
        here, around = changed[tile.here], tile.around
        if here.any():
            towards = _compare_colours(image[around], before[around], after[:, *around])
            total += float(towards[tile.within][here].sum(dtype=np.float64))
    return total / int(changed.sum())


def _compare_colours(
    image: Image, before: NDArray[np.bool_], after: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Says from -1 to 1 how much more pixels look like the side they are on now than the other.

    A pixel's colour, in OpenCV's 8-bit Lab (L times 2.55), is compared with the means of what all
    looks and the coarse mask have inside, and outside, in a window around it; 0 where either has
    no such pixels.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab = np.asarray(cv2.GaussianBlur(lab, (0, 0), 1.0), dtype=np.float32)
    settled = (after == before).all(axis=0)
    away = []
    for side in (settled & ~before, settled & before):
        weight = _add_up(side.astype(np.float32))[..., None]
        mean = _add_up(lab * side[..., None]) / np.maximum(weight, 1)
        distance = np.linalg.norm(lab - mean, axis=2)
        away.append(np.where(weight[..., 0] > 0, distance, np.nan))
    outside, inside = away
    towards = np.nan_to_num((outside - inside) / (outside + inside + 1))
    return np.asarray(np.where(after[0], towards, -towards), dtype=np.float32)


def _add_up(values: NDArray[np.float32]) -> NDArray[np.float32]:
    size = (_WINDOW_PX, _WINDOW_PX)
    return np.asarray(cv2.boxFilter(values, cv2.CV_32F, size, normalize=False))


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
