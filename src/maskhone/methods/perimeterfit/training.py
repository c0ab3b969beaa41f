"""What the three trainings of the pipeline share: parts of their recipes, and the order of steps.

Source: PerimeterFit sections 1.4 to 1.9, 7.4 and 8.2.
Differs: an epoch is as many batches as the pictures fill, but the pictures that are left over come
first in the next one; none are passed by.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.backbones import find_backbone_weights, load_backbone
from maskhone.engine.checkpoints import check_keys
from maskhone.engine.epochs import Epochs
from maskhone.engine.recipe import Identity, split_recipe
from maskhone.engine.train import (
    Groups,
    LossFunction,
    ParameterGroup,
    SampleSource,
    Schedule,
    Validate,
    fit,
)
from maskhone.engine.weights import open_weights, save_weights
from maskhone.errors import UsageError
from maskhone.methods.perimeterfit.training_set import ImageSet, collate

logger = logging.getLogger(__name__)

Select = Literal["tags", "labels", "pixels", "last"]

_BODY = "model."

POLY: Mapping[str, Any] = {
    "optimizer": "sgd", "nesterov": True, "power": 0.9, "min_learning_rate": 0.0
}  # fmt: skip
"""What the published trainings have in common. Their momentum is what the published program has:
it hands the weight decay to the optimiser in the momentum's place, and trained so (section 1.5)."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a network is built on.

    Attributes:
        architecture: one of `maskhone.nn.backbones.ARCHITECTURES`.
        backbone_weights: file with ImageNet's weights of it, see `engine.backbones.RELEASES`, or
            `efficientnet_lite0` for the Python package; empty starts from fresh ones. As published
            it is given.
    """

    architecture: str = "resnest101"
    backbone_weights: str = ""


@dataclass(frozen=True, kw_only=True)
class Norms:
    """What batch normalisation does in training.

    Attributes:
        fixes_norms: it keeps its running statistics; scale and shift are trained all the same.
            Published as mode `fix`: for DeepLabv3+, not for the classifier.
    """

    fixes_norms: bool


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is learnt, pixel by pixel.

    Attributes:
        labels: folder of label maps, `<id>.png`: 0 background, 1 and up the classes, 255 unknown.
    """

    labels: str


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long training takes.

    Attributes:
        epochs: times through the pictures; 0 goes by the `iterations` of the recipe.
        epoch_iterations: steps of an epoch; 0: once through the pictures.
    """

    epochs: int
    epoch_iterations: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "epoch_iterations"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which weights are kept, of those at the end of each epoch.

    Attributes:
        select: the `last`; or the best on pictures that are held back: for the classifier by the
            mean average precision of their image labels (`tags`), for DeepLabv3+ by the mean IoU
            with their pseudo labels (`labels`). `pixels` is published and wants ground truth: the
            mean IoU with it, of the class maps at their best threshold or of the segmentation.
    """

    select: Select


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is ready to begin.

    Attributes:
        identity: of the weights.
        method: whose weights they are.
        config: what the network is built with.
        facts: what else the weights say of themselves.
        network: what is saved.
        learner: what is trained: the network, or what holds it.
        loss_of: of a batch.
        source: of samples.
        schedule: how to optimise.
        groups: which parameters are trained, and how.
        syncs_norms: with several processes, normalisation sees the batches of all; this would also
            replace norms that are fixed.
        epochs: when the best weights are chosen; None keeps the last.
        validate: chooses them.
        doubts: what can be trained, but hardly as it is meant; one line each, said at the start.
    """

    identity: Identity
    method: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    network: nn.Module
    learner: nn.Module
    loss_of: LossFunction
    source: SampleSource
    schedule: Schedule
    groups: Groups
    syncs_norms: bool
    epochs: Epochs | None = None
    validate: Validate | None = None
    doubts: Sequence[str] = ()

    def run(
        self,
        recipe: Mapping[str, Any],
        *,
        out_dir: Path,
        resume: bool,
        dry_run: bool,
        on_progress: Callable[[int, int], None] | None,
    ) -> Path:
        """Trains and saves; returns `out_dir/<name>.safetensors`.

        Args:
            recipe: is written down in the weights.
            out_dir: receives the checkpoint, the log and the weights.
            resume: go on from the checkpoint in `out_dir`.
            dry_run: read one sample, then stop.
            on_progress: called with finished and planned steps.
        """
        path = out_dir / f"{self.identity.name}.safetensors"
        for doubt in self.doubts:
            logger.warning(doubt)
        if dry_run:
            _ = self.source[0]
            return path
        fit(
            self.learner,
            self.loss_of,
            self.source,
            collate,
            schedule=self.schedule,
            out_dir=out_dir,
            resume=resume,
            validate=self.validate,
            epochs=self.epochs,
            groups=self.groups,
            syncs_norms=self.syncs_norms,
            on_progress=on_progress,
        )
        header = {
            "name": self.identity.name,
            "method": self.method,
            "licence": self.identity.licence,
            "config": dict(self.config),
            "recipe": dict(recipe),
            **self.facts,
        }
        return save_weights(path, self.network.state_dict(), header, half=False)


def parse_parts(
    recipe: Mapping[str, Any],
    types: Sequence[type],
    published: Mapping[str, Any],
    *,
    selects: Sequence[Select] = (),
) -> list[Any]:
    """Splits a flat table into what it sets; what it leaves out is as published.

    With `epochs` the number of steps is known only once the pictures are; until then it is 1.

    Raises:
        UsageError: an unknown key, or keys that contradict each other.
    """
    given = {k: v for k, v in recipe.items() if k != "method"}
    if "iterations" in given:
        if given.get("epochs"):
            raise UsageError("the recipe has epochs and iterations; leave one of them out")
        given["epochs"] = 0
    elif given.get("epochs", 1) == 0:
        raise UsageError("epochs is 0 and iterations is left out; give one of them")
    parts = split_recipe({"iterations": 1, **published, **given}, types)
    for part in parts:
        if isinstance(part, Selection) and part.select not in selects:
            raise UsageError(f"select is {part.select!r}; expected {', '.join(selects)}")
    return parts


def group_for_poly(
    network: nn.Module, *, weight_decay: float | None = None
) -> list[ParameterGroup]:
    """Groups parameters as published: weights and biases of the body, then those of new layers.

    New layers learn ten times as fast, biases twice as fast and without decay. A scale of a
    normalisation is a weight.

    Args:
        network: holds its body as `model`.
        weight_decay: of the weights; None takes the schedule's.

    Source: PerimeterFit section 1.5.
    """
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (in_body, is_weight): [] for in_body in (True, False) for is_weight in (True, False)
    }
    for name, parameter in network.named_parameters():
        found[f".{_BODY}" in f".{name}", "weight" in name].append(parameter)
    return [
        ParameterGroup(
            parameters=tuple(parameters),
            rate_factor=(1.0 if in_body else 10.0) * (1.0 if is_weight else 2.0),
            weight_decay=weight_decay if is_weight else 0.0,
        )
        for (in_body, is_weight), parameters in found.items()
    ]


Network = TypeVar("Network", bound=nn.Module)


def start_network(
    make: Callable[[], Network], identity: Identity, body: Body, *, method: str, seed: int
) -> Network:
    """Makes a network: fresh, with ImageNet's weights in its body, or of weights to go on from."""
    if identity.start_from and body.backbone_weights:
        raise UsageError("start_from replaces the whole network; leave backbone_weights out")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
    if body.backbone_weights:
        load_backbone(network, find_backbone_weights(body.backbone_weights))
    if identity.start_from:
        path, state, _ = open_weights(identity.start_from, method)
        check_keys(path, state, network.state_dict())
        network.load_state_dict(state)
    return network


def plan_epochs(n_images: int, course: Course, schedule: Schedule) -> tuple[Epochs, Schedule]:
    """Turns epochs into steps; an epoch without a full batch has one step."""
    steps = course.epoch_iterations or max(n_images // schedule.batch_size, 1)
    if course.epochs:
        schedule = replace(schedule, iterations=course.epochs * steps)
    return Epochs(iterations=steps, rule=None, watched="lack"), schedule


def check_norms(norms: Norms, schedule: Schedule) -> None:
    """Refuses batches of which normalisation can learn nothing."""
    if not norms.fixes_norms and schedule.batch_size < 2:
        raise UsageError(
            "batch_size is 1, of which batch normalisation can learn nothing; "
            "expected 2 or more, or fixes_norms = true"
        )


def check_held(data: ImageSet, selection: Selection) -> None:
    """Refuses a list of pictures to choose by where nothing is chosen."""
    if data.validation_list and selection.select == "last":
        raise UsageError(
            'validation_list chooses the best weights, but select is "last"; leave one out'
        )


def count_images(kept: Sequence[TaggedImage], held: Sequence[TaggedImage]) -> dict[str, int]:
    """Says how many pictures were trained on, and how many chose the weights."""
    return {"trained_on": len(kept), "chosen_by": len(held)}
