"""When epochs stop getting better: go back to the best weights with a lower rate, then give up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from maskhone.errors import UsageError

Advice = Literal["improved", "wait", "reload", "stop"]


@dataclass(frozen=True, kw_only=True)
class PlateauRule:
    """How long to bear epochs that are no better than the best one.

    Attributes:
        patience: after more bad epochs in a row than this, each further one goes back to the best
            weights and lowers the rate.
        limit: after more bad epochs in a row than this, training stops.
        factor: the rate is multiplied by it.
        least_rate: training stops instead of lowering a rate that is below this.
    """

    patience: int
    limit: int
    factor: float
    least_rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.patience <= self.limit:
            raise UsageError(
                f"patience {self.patience} and limit {self.limit}; expected 0 <= patience <= limit"
            )
        if not 0 < self.factor <= 1 or self.least_rate < 0:
            raise UsageError(
                f"factor {self.factor} and least_rate {self.least_rate}; "
                "expected a factor in (0, 1] and a rate of 0 or more"
            )


PUBLISHED_RULES: Mapping[str, PlateauRule] = {
    "prn": PlateauRule(patience=4, limit=8, factor=1 / 1.1, least_rate=5e-8),
    "dlinknet34": PlateauRule(patience=3, limit=6, factor=1 / 2, least_rate=5e-7),
    "pfanet": PlateauRule(patience=4, limit=8, factor=1 / 1.1, least_rate=5e-7),
    "resunetpp": PlateauRule(patience=6, limit=12, factor=1 / 1.1, least_rate=5e-8),
}
"""Source: savinay95n/PatchRefineNet; PatchRefineNet sections 6 and 10.1 to 10.3.

What is watched: `prn` its training loss, `dlinknet34` and `resunetpp` the loss on val, `pfanet` the
mean absolute error on val.
"""


class Plateau:
    """Watches one number per epoch, lower being better, and says what to do.

    The count of bad epochs is not reset by going back, so within one plateau the rate falls with
    every epoch from `patience + 1` to `limit`. The optimiser's moments are the caller's; as
    published they are kept.

    Differs: an epoch of NaN is a bad one; in the published programs it counts as the best.

    Args:
        rule: when to do what.
        learning_rate: at the start.

    Example:
        >>> rule = PlateauRule(patience=1, limit=2, factor=0.5, least_rate=0.0)
        >>> plateau = Plateau(rule, learning_rate=0.1)
        >>> [plateau.report(loss) for loss in (0.9, 0.8, 0.8, 0.8, 0.8)]
        ['improved', 'improved', 'wait', 'reload', 'stop']
        >>> plateau.learning_rate
        0.05
    """

    def __init__(self, rule: PlateauRule, learning_rate: float) -> None:
        self.rule = rule
        self.learning_rate = learning_rate
        self.best = math.inf
        self.bad_epochs = 0

    def report(self, score: float) -> Advice:
        """Takes the number of a finished epoch.

        Returns:
            `improved`: keep these weights as the best. `wait`: go on. `reload`: load the best
            weights, and go on with the new `learning_rate`. `stop`: train no further.
        """
        if score < self.best:
            self.best, self.bad_epochs = score, 0
            return "improved"
        self.bad_epochs += 1
        if self.bad_epochs <= self.rule.patience:
            return "wait"
        if self.bad_epochs > self.rule.limit or self.learning_rate < self.rule.least_rate:
            return "stop"
        self.learning_rate *= self.rule.factor
        return "reload"

    def get_state(self) -> dict[str, float]:
        """Returns what a stopped run needs to go on: plain numbers."""
        return {
            "learning_rate": self.learning_rate,
            "best": self.best,
            "bad_epochs": self.bad_epochs,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes up what `get_state` returned.

        Raises:
            UsageError: a number is missing.
        """
        missing = [name for name in self.get_state() if name not in state]
        if missing:
            raise UsageError(
                f"the state of the schedule lacks {', '.join(missing)}; "
                "it is of another version, start anew in another output folder"
            )
        self.learning_rate, self.best = float(state["learning_rate"]), float(state["best"])
        self.bad_epochs = int(state["bad_epochs"])
