"""The numbers of the guard: two logistic regressions on what was measured.

Both ask for weights that are not negative: of every sign and of every voter, more is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

SIGNS = ("unanimity", "certainty", "likeness")
"""Of `maskhone.ops.guard.Signs`, those that trust is made of. With agreement and consistency
beside them no set that was left out fared better."""

VOTERS = ("refined", "guided", "coarse", "side")
"""`side` is 1 on what the coarse mask holds and -1 elsewhere: its weight is the majority at which
a change is as often right as wrong."""

HARM = 6.0
"""How much more a point of IoU lost against the coarse mask counts than one gained. Ours."""

MOST_GAIN = 0.1
"""Gains and losses beyond this count as this: one mask in ruins is no reason to doubt all."""

TRUST_PENALTY, VOTE_PENALTY = 3e-3, 1e-3  # times the sum of the squared weights; ours

_MOST_LOGIT = 100.0  # bound of the offset, for masks that are all of one kind

Mask = dict[str, Any]  # what benchmarks/guard.py measured of a mask
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The numbers by which an object is trusted as a whole.

    Attributes:
        weights: of the signs, not negative.
        offset: what is added to their sum.
    """

    weights: dict[str, float]
    offset: float

    def of(self, signs: dict[str, float]) -> float:
        """Returns the probability that the refined object is better than the vote's."""
        return float(expit(self.offset + sum(w * signs[name] for name, w in self.weights.items())))


@dataclass(frozen=True, kw_only=True, eq=False)
class Ballot:
    """Votes on pixels of one mask that somebody wants to change.

    Attributes:
        group: what counts the same: its set and kind of input.
        votes: `(P, 4)` in [-1, 1], in the order of `VOTERS`; that of the refiner times its voice.
        truth: `(P,)` whether the pixel belongs to the object.
        stake: how much the mask counts: the root of the share of the object that is voted on.
    """

    group: tuple[str, str]
    votes: NDArray[np.float32]
    truth: NDArray[np.bool_]
    stake: float


def fit_trust(masks: Sequence[Mask], *, vote: str) -> Trust:
    """Fits when the average of the looks is better than the vote; every set and input counts alike.

    Args:
        masks: those where nothing changed are left out.
        vote: the score that the average is compared with, such as `vote 0.5`.
    """
    masks = [mask for mask in masks if mask["signs"] is not None]
    signs = np.array([[mask["signs"][name] for name in SIGNS] for mask in masks])
    ious = {
        key: np.array([m["scores"][key][0] for m in masks]) for key in ("average", vote, "coarse")
    }
    gain = np.clip(ious["average"] - ious[vote], -MOST_GAIN, MOST_GAIN)
    gain = gain + HARM * np.clip(ious["average"] - ious["coarse"], -MOST_GAIN, 0)
    centre, spread = signs.mean(axis=0), np.maximum(signs.std(axis=0), 1e-6)
    found, offset = fit_logistic(
        (signs - centre) / spread,
        gain > 0,
        np.abs(gain) * balance([(mask["set"], mask["input"]) for mask in masks]),
        penalty=TRUST_PENALTY,
    )
    weights = found / spread
    return Trust(
        weights=dict(zip(SIGNS, weights.tolist(), strict=True)),
        offset=offset - float(weights @ centre),
    )


def fit_votes(ballots: Sequence[Ballot]) -> dict[str, float]:
    """Fits how much each voter is worth on pixels that somebody wants to change."""
    each = balance([ballot.group for ballot in ballots])
    weights, _ = fit_logistic(
        np.concatenate([ballot.votes for ballot in ballots]).astype(np.float64),
        np.concatenate([ballot.truth for ballot in ballots]),
        np.concatenate(
            [
                np.full(len(b.truth), w * b.stake / len(b.truth))
                for w, b in zip(each, ballots, strict=True)
            ]
        ),
        penalty=VOTE_PENALTY,
        has_offset=False,
    )
    return dict(zip(VOTERS, weights.tolist(), strict=True))


def balance(groups: Sequence[tuple[str, str]]) -> Floats:
    """Returns weights by which every group counts the same.

    Example:
        >>> balance([("davis", "soft"), ("davis", "soft"), ("cfd", "soft")]).tolist()
        [0.5, 0.5, 1.0]
    """
    return np.array([1 / groups.count(group) for group in groups])


def fit_logistic(
    values: Floats,
    is_true: NDArray[np.bool_],
    weights: Floats,
    *,
    penalty: float,
    has_offset: bool = True,
) -> tuple[Floats, float]:
    """Fits a logistic regression with weights that are not negative.

    Args:
        values: `(N, K)`.
        is_true: `(N,)`.
        weights: `(N,)`, how much each line counts; scaled to a sum of 1.
        penalty: on the squares of the K weights, not on the offset.
        has_offset: without, the offset is 0.

    Returns:
        The `(K,)` weights and the offset.
    """
    shares, sign = weights / weights.sum(), np.where(is_true, 1.0, -1.0)

    def loss(numbers: Floats) -> tuple[float, Floats]:
        slopes, offset = numbers[:-1], numbers[-1]
        margins = sign * (values @ slopes + offset)
        pull = -shares * sign * expit(-margins)
        value = shares @ np.logaddexp(0, -margins) + penalty * slopes @ slopes
        return float(value), np.append(values.T @ pull + 2 * penalty * slopes, pull.sum())

    n = values.shape[1]
    reach = _MOST_LOGIT if has_offset else 0.0
    bounds = [(0, None)] * n + [(-reach, reach)]
    found = minimize(loss, np.zeros(n + 1), jac=True, bounds=bounds, method="L-BFGS-B").x
    return found[:-1], float(found[-1])
