"""Several refiners of one object: one that is sure decides alone, the others put it to the vote."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image
from maskhone.ops.band import limit_scores
from maskhone.ops.guard import Guard, Opinion, form_opinion, put_to_vote
from maskhone.ops.guided_filter import guide_masks
from maskhone.ops.looks import Looks


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What a committee made of one mask.

    Attributes:
        scores: `(H, W)` in [0, 1].
        note: one line: what was chosen and why.
        kept: share, in [0, 1], of the pixels that any member changed and that stayed as they were.
    """

    scores: NDArray[np.float32]
    note: str
    kept: float = 0.0


def choose(
    image: Image, coarse: NDArray[np.float32], members: Mapping[str, Looks], *, guard: Guard
) -> Choice:
    """Takes the refined mask of the member that is surest; where none is sure, all vote.

    The rule is ours; what makes a member sure, and its voice in a vote, are told in `ops/guard.py`.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(H, W)` scores.
        members: looks at this mask by the name of the method, none or more. The guided filter and
            the coarse mask vote in any case.
        guard: how sure is sure; `off` takes the answer of the first member.

    Example:
        >>> image, coarse = np.zeros((1, 4, 3), np.uint8), np.ones((1, 4), np.float32)
        >>> wild = Looks(scores=(coarse * 0, coarse))
        >>> choice = choose(image, coarse, {"wild": wild}, guard="safe")
        >>> choice.scores.tolist(), choice.kept
        ([[1.0, 1.0, 1.0, 1.0]], 1.0)
    """
    if guard == "off":
        return _take_first(image, coarse, members)
    opinions = {name: form_opinion(image, coarse, looks) for name, looks in members.items()}
    return choose_from_opinions(image, coarse, opinions, guard=guard)


def choose_from_opinions(
    image: Image,
    coarse: NDArray[np.float32],
    opinions: Mapping[str, Opinion],
    *,
    guard: Guard,
    band_px: int = 0,
) -> Choice:
    """Does what `choose` does, of looks whose signs were read before.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(H, W)` scores.
        opinions: by the name of the method, of looks that keep to the band.
        guard: see `choose`.
        band_px: what is chosen changes nothing further than this from the coarse outline, the
            guided filter included; 0 sets no limit.
    """
    if guard == "off":
        members = {name: opinion.looks for name, opinion in opinions.items()}
        first = _take_first(image, coarse, members)
        return replace(first, scores=_limit(coarse, first.scores, band_px))
    surest = find_surest(opinions, guard=guard)
    if surest is None:
        scores = put_to_vote(image, coarse, list(opinions.values()), guard=guard)
        why = _explain_vote(opinions)
    else:
        opinion = opinions[surest]
        refined = opinion.looks.scores[0]
        if ((refined > FOREGROUND) == (coarse > FOREGROUND)).all():
            scores, why = refined, f"{surest}, which changes nothing"
        else:
            scores = opinion.looks.average()
            why = f"{surest}, which is sure here (trust {opinion.trust:.2f})"
    scores = _limit(coarse, scores, band_px)
    kept = _share_kept(coarse, opinions, scores)
    undone = f"; {100 * kept:.0f} % of the changes were undone" if kept else ""
    return Choice(scores=scores, note=f"{why}{undone}", kept=kept)


def find_surest(opinions: Mapping[str, Opinion], *, guard: Guard) -> str | None:
    """Returns which of those that are sure has the greatest trust, the first of equals."""
    sure = [name for name, opinion in opinions.items() if opinion.is_sure(guard)]
    return max(sure, key=lambda name: opinions[name].trust, default=None)


def _limit(
    coarse: NDArray[np.float32], scores: NDArray[np.float32], band_px: int
) -> NDArray[np.float32]:
    limited: NDArray[np.float32] = limit_scores(coarse[None], scores[None], band_px=band_px)[0]
    return limited


def _take_first(image: Image, coarse: NDArray[np.float32], members: Mapping[str, Looks]) -> Choice:
    for name, looks in members.items():
        return Choice(scores=looks.scores[0], note=f"{name}, without a guard")
    note = "guided, as no other method ran, without a guard"
    return Choice(scores=guide_masks(image, coarse[None])[0], note=note)


def _explain_vote(opinions: Mapping[str, Opinion]) -> str:
    if not opinions:
        return "a vote of the guided filter and the coarse mask, as no other method ran"
    voters = ", ".join(f"{name} (voice {each.voice:.2f})" for name, each in opinions.items())
    asked = {name: each for name, each in opinions.items() if each.looks.can_be_trusted}
    doubts = ", ".join(f"{name} (trust {each.trust:.2f})" for name, each in asked.items())
    why = f"; not sure here: {doubts}" if doubts else ""
    return f"a vote of {voters} and the guided filter{why}"


def _share_kept(
    coarse: NDArray[np.float32], opinions: Mapping[str, Opinion], scores: NDArray[np.float32]
) -> float:
    before = coarse > FOREGROUND
    changed = np.zeros_like(before)
    for opinion in opinions.values():
        changed |= (opinion.looks.scores[0] > FOREGROUND) != before
    stayed = changed & ((scores > FOREGROUND) == before)
    return float(stayed.sum() / max(int(changed.sum()), 1))
