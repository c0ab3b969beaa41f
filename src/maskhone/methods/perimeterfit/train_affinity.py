"""Trains AffinityNet, the pipeline's finder of edges, on affinity labels.

Source: PerimeterFit section 7.4; OFRIN/PuzzleCAM:train_affinitynet.py.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskhone.engine.recipe import Identity
from maskhone.engine.train import Batch, LossFunction, ParameterGroup, Schedule
from maskhone.errors import UsageError
from maskhone.methods.perimeterfit.affinity import find_losses, sort_pairs
from maskhone.methods.perimeterfit.augment import Views
from maskhone.methods.perimeterfit.network import AffinityNet
from maskhone.methods.perimeterfit.pairs import PathIndex, index_paths, measure_affinities
from maskhone.methods.perimeterfit.training import (
    POLY,
    Body,
    Course,
    Labels,
    Training,
    count_images,
    parse_parts,
    plan_epochs,
    start_network,
)
from maskhone.methods.perimeterfit.training_set import (
    ImageSet,
    LabelSource,
    read_classes,
    split_images,
    with_labels,
)

METHOD = "affinitynet"

PUBLISHED: Mapping[str, Any] = {
    **POLY,
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "momentum": 1e-4,
    "batch_size": 32,
    "epochs": 3,
}
"""What a recipe need not say."""

_CELL_PX = 4


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which pairs of cells AffinityNet learns from.

    Attributes:
        radius: of the cells of 4 x 4 pixels; pairs are nearer than this. 10 as published.
    """

    radius: int = 10

    def __post_init__(self) -> None:
        if self.radius < 2:
            raise UsageError(f"radius is {self.radius}; expected 2 or more")


PARTS = (Identity, ImageSet, Labels, Views, Body, Pairs, Course, Schedule)
"""Whose fields are the lines of a recipe."""


def train_affinity(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Trains AffinityNet on affinity labels; returns `out_dir/<name>.safetensors`.

    The body keeps its weights, which are ImageNet's as published; the last weights are kept.

    Args:
        recipe: keys are the fields of `Identity`, `ImageSet`, `Labels`, `Views`, `Body`, `Pairs`,
            `Course` and `Schedule`; what is left out is as published.
        out_dir: as for `train_classifier`, like the rest.
        resume: see there.
        dry_run: see there.
        on_progress: see there.
    """
    training = prepare_affinity(recipe)
    return training.run(
        recipe, out_dir=out_dir, resume=resume, dry_run=dry_run, on_progress=on_progress
    )


def prepare_affinity(recipe: Mapping[str, Any], *, coming: Collection[str] = ()) -> Training:
    """Checks all that can be checked, and makes the network.

    Args:
        recipe: see `train_affinity`.
        coming: see `with_labels`.
    """
    parts = parse_affinity_recipe(recipe)
    identity, data, targets, views, body, pairs, course, schedule = parts
    if data.validation_list:
        raise UsageError("AffinityNet keeps its last weights; leave validation_list out")
    grid_px = ceil(views.image_px / _CELL_PX)
    if grid_px < 2 * pairs.radius - 1:
        raise UsageError(
            f"image_px is {views.image_px}, {grid_px} cells; expected "
            f"{_CELL_PX * (2 * pairs.radius - 1)} or more for the radius {pairs.radius}"
        )
    kept, _ = split_images(data, holds_back=False, keeps_apart=True, seed=schedule.seed)
    kept = with_labels(kept, targets.labels, coming=coming)
    n_labels = len(read_classes(data)) + 1
    network = start_network(
        lambda: AffinityNet(body.architecture), identity, body, method=METHOD, seed=schedule.seed
    )
    network.model.requires_grad_(False)
    _, schedule = plan_epochs(len(kept), course, schedule)
    return Training(
        identity=identity,
        method=METHOD,
        config={"architecture": body.architecture},
        facts={"images": count_images(kept, [])},
        network=network,
        learner=network,
        loss_of=make_affinity_loss(pairs.radius, grid_px),
        source=LabelSource(kept, views, n_labels, grid_px=grid_px, seed=schedule.seed),
        schedule=schedule,
        groups=group_heads,
        syncs_norms=False,
    )


def parse_affinity_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, ImageSet, Labels, Views, Body, Pairs, Course, Schedule]:
    """Splits a flat table into what it sets; see `parse_parts`."""
    identity, data, labels, views, body, pairs, course, schedule = parse_parts(
        recipe, PARTS, PUBLISHED
    )
    return identity, data, labels, views, body, pairs, course, schedule


def make_affinity_loss(radius: int, grid_px: int) -> LossFunction:
    """Returns the loss of a batch, and that of each kind of pair."""
    indices: dict[torch.device, PathIndex] = {}

    def loss_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = network(batch["images"])[:, 0]
        if logits.device not in indices:
            indices[logits.device] = index_paths(radius, (grid_px, grid_px), device=logits.device)
        index = indices[logits.device]
        with torch.autocast(logits.device.type, enabled=False):  # logarithms need float32
            affinities = measure_affinities(logits.float().sigmoid(), index)
            found = find_losses(affinities, sort_pairs(batch["targets"], index))
        kinds = ("background", "foreground", "different")
        return {"loss": found.total, **{kind: getattr(found, kind) for kind in kinds}}

    return loss_of


def group_heads(network: nn.Module) -> list[ParameterGroup]:
    """Takes what is not the body; the body is not trained."""
    heads = [p for name, p in network.named_parameters() if ".model." not in f".{name}"]
    return [ParameterGroup(parameters=tuple(heads))]
