"""Training by epochs: a number at the end of each decides on best weights, rate and end."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskhone.engine.plateau import Advice, Plateau, PlateauRule
from maskhone.errors import InputError, UsageError


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """When an epoch ends, and which number is to fall.

    Attributes:
        iterations: optimiser steps of an epoch; the last one may be shorter.
        rule: what to do when the number no longer falls; None only keeps the best weights, and the
            rate follows the schedule.
        watched: name of a figure of the validation; empty takes the mean training loss.
        scores_start: the weights that training starts from are scored, too, and can be the best.
    """

    iterations: int
    rule: PlateauRule | None
    watched: str = "loss"
    scores_start: bool = False

    def __post_init__(self) -> None:
        if self.iterations <= 0:
            raise UsageError(
                f"an epoch has {self.iterations} steps; expected more than 0: "
                "the batch is larger than the data set?"
            )
        if self.scores_start and not self.watched:
            raise UsageError("scores_start needs a figure of the validation; name it in watched")


_PATIENT = PlateauRule(patience=sys.maxsize, limit=sys.maxsize, factor=1.0, least_rate=0.0)


class EpochWatch:
    """Keeps the best weights, and all that a stopped run needs to go on in the same way."""

    def __init__(self, epochs: Epochs, learning_rate: float, network: nn.Module) -> None:
        self.epochs = epochs
        self.plateau = Plateau(epochs.rule or _PATIENT, learning_rate)
        self.is_stopped = False
        self.best = _copy(network)
        self.losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Takes the loss of a step."""
        self.losses.append(loss.detach().float())

    def mean_loss(self) -> Tensor:
        """Returns the mean loss of the steps since the epoch began, as float64."""
        return torch.stack(self.losses).double().mean()

    def finish(self, network: nn.Module, score: float) -> Advice:
        """Ends the epoch: keeps the weights, goes on, goes back to the best ones, or stops.

        Args:
            network: changed in place when it goes back; the optimiser's moments stay, as published.
            score: the number that is watched; lower is better.
        """
        self.losses.clear()
        advice = self.plateau.report(score)
        if advice == "improved":
            self.best = _copy(network)
        elif advice == "reload":
            network.load_state_dict(self.best)
        self.is_stopped = advice == "stop"
        return advice

    def get_state(self) -> dict[str, Any]:
        """Returns plain numbers and tensors."""
        return {
            "plateau": self.plateau.get_state(),
            "is_stopped": self.is_stopped,
            "best": self.best,
            "losses": self.losses,
        }

    def set_state(self, state: Mapping[str, Any] | None, *, source: str) -> None:
        """Takes up what `get_state` returned.

        Raises:
            InputError: the run was not one by epochs.
        """
        if state is None:
            raise InputError(
                f"{source}: the run was begun without epochs; use another output folder"
            )
        self.plateau.set_state(state["plateau"])
        self.is_stopped, self.best = bool(state["is_stopped"]), dict(state["best"])
        device = next(iter(self.best.values())).device
        self.losses = [loss.to(device) for loss in state["losses"]]


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
