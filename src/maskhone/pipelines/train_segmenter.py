"""Trains a base model from a recipe and packs it as weights.

B batch, S side of the square that the network sees. Source: PatchRefineNet section 10.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskhone.contracts import Image
from maskhone.data.folder import FolderItem
from maskhone.engine.epochs import Epochs
from maskhone.engine.plateau import PUBLISHED_RULES, PlateauRule
from maskhone.engine.recipe import Identity, split_recipe
from maskhone.engine.train import Batch, Schedule, Validate, fit
from maskhone.engine.weights import find_weights, load_weights, save_weights
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.nn.losses import entropy_and_dice_loss
from maskhone.pipelines.segmenters import load_imagenet_start
from maskhone.pipelines.truth_sets import TruthSet, find_items, load_pair
from maskhone.segmenters.augment import (
    Mask,
    augment_polyps,
    augment_roads,
    augment_salient_objects,
)
from maskhone.segmenters.catalogue import SEGMENTERS, build_network
from maskhone.segmenters.dlinknet import SIDE_PX as ROADS_PX
from maskhone.segmenters.dlinknet import prepare_image as prepare_roads
from maskhone.segmenters.pfanet import SIDE_PX as SALIENT_PX
from maskhone.segmenters.pfanet import prepare_image as prepare_salient
from maskhone.segmenters.pfanet import prepare_mask as prepare_salient_mask
from maskhone.segmenters.pfanet import saliency_loss
from maskhone.segmenters.resunetpp import SIDE_PX as POLYPS_PX
from maskhone.segmenters.resunetpp import prepare_image as prepare_polyps
from maskhone.segmenters.squares import make_square_truth, shrink_to_square

Prepared = tuple[NDArray[np.float32], NDArray[np.float32]]
"""`(3, S, S)` input and `(1, S, S)` truth."""


@dataclass(frozen=True, kw_only=True)
class PretrainedIdentity(Identity):
    """What the weights are called and come from, a pretrained part among that.

    Attributes:
        init_from: torchvision's state dict of ResNet-34 (`dlinknet34`) or VGG-16 (`pfanet`),
            trained on ImageNet; empty for fresh weights. As published it is given.
    """

    init_from: str = ""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long and on what size of picture.

    Attributes:
        epochs: at most; the plateau rule mostly ends training before.
        side_px: of the square that the network sees; 0 takes the published one.
        augments: change pictures at random, each model in its own way.
    """

    epochs: int = 300
    side_px: int = 0
    augments: bool = True


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is particular to one base model.

    Attributes:
        side_px: published side of the square.
        stride_px: sides are multiples of it.
        prepare: turns a picture and its truth into what the network and the loss see.
        augment: changes both at random.
        squares_first: shrink before changing; otherwise after.
        loss_of: gives the loss and the scores `(B, 1, S, S)` of a batch.
        watched: the figure of the validation that the plateau rule goes by.
        published: recipe keys with the published values, where they are not the defaults.
    """

    side_px: int
    stride_px: int
    prepare: Callable[[Image, Mask, int], Prepared]
    augment: Callable[[Image, Mask, np.random.Generator], tuple[Image, Mask]]
    squares_first: bool
    loss_of: Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
    watched: str
    published: Mapping[str, Any]


def train(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Trains as the recipe says; returns the weight file `out_dir/<name>.safetensors`.

    Args:
        recipe: `method`, a key of `SEGMENTERS`; the other keys are the fields of
            `PretrainedIdentity`, `TruthSet`, `Course`, `PlateauRule` and `Schedule`. What is left
            out is as published.
        out_dir: receives the checkpoint, the log and the weights.
        resume: go on from the checkpoint in `out_dir`.
        dry_run: find the files of the data, then stop.
        on_progress: called with finished and planned steps.
    """
    method = str(recipe["method"])
    identity, data, course, rule, schedule = parse_recipe(recipe)
    pairs = PairSource(data, find_items(data, "train"), method, course, schedule)
    held = find_items(data, "val")
    path = out_dir / f"{identity.name}.safetensors"
    if dry_run:
        return path
    schedule = pairs.fit_schedule(schedule)
    network = start_network(method, identity, seed=schedule.seed)
    fit(
        network,
        make_loss(method),
        pairs,
        collate,
        schedule=schedule,
        out_dir=out_dir,
        resume=resume,
        validate=make_validation(method, data, held, course, schedule),
        epochs=Epochs(iterations=pairs.steps_per_epoch, rule=rule, watched=LESSONS[method].watched),
        on_progress=on_progress,
    )
    header = {
        "name": identity.name,
        "method": method,
        "licence": identity.licence,
        "config": {"side_px": course.side_px},
        "recipe": dict(recipe),
    }
    return save_weights(path, network.state_dict(), header, half=False)


def parse_recipe(
    recipe: Mapping[str, Any],
) -> tuple[PretrainedIdentity, TruthSet, Course, PlateauRule, Schedule]:
    """Splits a flat table into what it sets; unknown keys are refused by name."""
    method = str(recipe.get("method"))
    if method not in LESSONS:
        raise UsageError(f"{method!r} is no base model; known: {', '.join(LESSONS)}")
    lesson = LESSONS[method]
    if "iterations" in recipe or "validate_every" in recipe:
        raise UsageError("base models train by epochs and are validated after each; set epochs")
    rule = {f.name: getattr(PUBLISHED_RULES[method], f.name) for f in fields(PlateauRule)}
    table = {**_PUBLISHED, **lesson.published, **rule, **recipe, "iterations": 1}
    del table["method"]
    parts = split_recipe(table, [PretrainedIdentity, TruthSet, Course, PlateauRule, Schedule])
    identity, data, course, plateau, schedule = parts
    course = replace(course, side_px=course.side_px or lesson.side_px)
    if course.side_px % lesson.stride_px or course.side_px < lesson.stride_px:
        raise UsageError(
            f"side_px is {course.side_px}; {method} takes multiples of {lesson.stride_px}"
        )
    if course.epochs < 1:
        raise UsageError(f"epochs is {course.epochs}; expected 1 or more")
    return identity, data, course, plateau, schedule


def start_network(method: str, identity: PretrainedIdentity, *, seed: int) -> nn.Module:
    """Builds the network: fresh, with ImageNet's weights in its encoder, or from a weight file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(method)
    if identity.init_from:
        load_imagenet_start(network, method, Path(identity.init_from))
    if identity.start_from:
        path = find_weights(identity.start_from)
        state, header = load_weights(path)
        if header.get("method") != method:
            raise WeightsError(f"{path}: weights of {header.get('method')}, not of {method}")
        network.load_state_dict(state)
    return network


class PairSource:
    """Gives the pairs of one epoch after another, each epoch in an order of its own.

    Pairs that do not fill a batch at the end of an epoch are left out of that epoch.
    """

    def __init__(
        self,
        data: TruthSet,
        items: list[FolderItem],
        method: str,
        course: Course,
        schedule: Schedule,
    ) -> None:
        self.data, self.items, self.lesson, self.course = data, items, LESSONS[method], course
        self.seed = schedule.seed
        if len(items) < schedule.batch_size:
            raise InputError(
                f"{len(items)} pictures to train on, but batch_size is {schedule.batch_size}; "
                "expected at least one batch"
            )
        self.steps_per_epoch = len(items) // schedule.batch_size
        self.per_epoch = self.steps_per_epoch * schedule.batch_size
        self._order = lru_cache(2)(self._shuffle)

    def fit_schedule(self, schedule: Schedule) -> Schedule:
        """Turns epochs into steps, and validates after each epoch."""
        return replace(
            schedule,
            iterations=self.steps_per_epoch * self.course.epochs,
            validate_every=self.steps_per_epoch,
        )

    def __getitem__(self, index: int) -> Prepared:
        """Returns pair number `index`, counted on through all epochs."""
        epoch, place = divmod(index, self.per_epoch)
        item = self.items[self._order(epoch)[place]]
        image, mask = load_pair(item, self.data)
        if self.course.augments:
            if self.lesson.squares_first:
                image = shrink_to_square(image, self.course.side_px)
                mask = shrink_to_square(mask, self.course.side_px)
            random = np.random.default_rng([self.seed, 1, index])
            image, mask = self.lesson.augment(image, mask, random)
        return self.lesson.prepare(image, mask, self.course.side_px)

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.items))


def collate(pairs: list[Prepared]) -> dict[str, Tensor]:
    """Joins pairs into `inputs` `(B, 3, S, S)` and `target` `(B, 1, S, S)`."""
    inputs, targets = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    return {"inputs": inputs, "target": targets}


def make_loss(method: str) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """Returns the loss of a batch; the log also holds the mean absolute error."""

    def loss_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        loss, scores = LESSONS[method].loss_of(network, batch)
        return {"loss": loss, "mae": (scores.detach() - batch["target"]).abs().mean()}

    return loss_of


def make_validation(
    method: str, data: TruthSet, items: list[FolderItem], course: Course, schedule: Schedule
) -> Validate:
    """Returns what measures mean loss and mean absolute error on the held pairs."""
    lesson, measure = LESSONS[method], make_loss(method)

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        totals = {"loss": 0.0, "mae": 0.0}
        for start in range(0, len(items), schedule.batch_size):
            pairs = [
                lesson.prepare(*load_pair(item, data), course.side_px)
                for item in items[start : start + schedule.batch_size]
            ]
            batch = {name: part.to(device) for name, part in collate(pairs).items()}
            for name, value in measure(network, batch).items():
                totals[name] += value.item() * len(pairs)
        return {name: total / len(items) for name, total in totals.items()}

    return validate


def _entropy_and_dice(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = network(batch["inputs"])
    with torch.autocast(logits.device.type, enabled=False):  # logarithms need float32
        scores = logits.float().sigmoid()
        return entropy_and_dice_loss(scores, batch["target"]), scores


def _saliency(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    logits, attention = network(batch["inputs"])
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.float().sigmoid()
        return saliency_loss(scores, batch["target"], attention.float()), scores


def _prepare_roads(image: Image, mask: Mask, side_px: int) -> Prepared:
    return prepare_roads(image, side_px), make_square_truth(mask, side_px)


def _prepare_salient(image: Image, mask: Mask, side_px: int) -> Prepared:
    return prepare_salient(image, side_px), prepare_salient_mask(mask, side_px)


def _prepare_polyps(image: Image, mask: Mask, side_px: int) -> Prepared:
    return prepare_polyps(image, side_px), make_square_truth(mask, side_px)


_PUBLISHED = {"optimizer": "adam", "weight_decay": 0.0}

LESSONS = {
    "dlinknet34": Lesson(
        side_px=ROADS_PX,
        stride_px=32,
        prepare=_prepare_roads,
        augment=augment_roads,
        squares_first=True,
        loss_of=_entropy_and_dice,
        watched="loss",
        published={"learning_rate": 2e-4, "batch_size": 4, "epochs": 300},
    ),
    "pfanet": Lesson(
        side_px=SALIENT_PX,
        stride_px=16,
        prepare=_prepare_salient,
        augment=augment_salient_objects,
        squares_first=False,
        loss_of=_saliency,
        watched="mae",
        published={"learning_rate": 4e-4, "batch_size": 4, "epochs": 391},
    ),
    "resunetpp": Lesson(
        side_px=POLYPS_PX,
        stride_px=8,
        prepare=_prepare_polyps,
        augment=augment_polyps,
        squares_first=True,
        loss_of=_entropy_and_dice,
        watched="loss",
        published={"learning_rate": 2e-4, "batch_size": 2, "epochs": 300},
    ),
}
"""Source: PatchRefineNet sections 10.1 to 10.3."""

assert LESSONS.keys() == SEGMENTERS.keys()
