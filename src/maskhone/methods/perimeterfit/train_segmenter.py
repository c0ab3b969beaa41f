"""Trains DeepLabv3+ on pseudo labels.

Source: PerimeterFit section 8.2; OFRIN/PuzzleCAM:train_segmentation.py.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.recipe import Identity
from maskhone.engine.train import Batch, LossFunction, Schedule, Validate
from maskhone.methods.perimeterfit.augment import Views, view_top_left
from maskhone.methods.perimeterfit.training import (
    POLY,
    Body,
    Course,
    Labels,
    Norms,
    Selection,
    Training,
    check_held,
    check_norms,
    count_images,
    group_for_poly,
    parse_parts,
    plan_epochs,
    start_network,
)
from maskhone.methods.perimeterfit.training_set import (
    ImageSet,
    LabelSource,
    check_truths,
    read_classes,
    read_image_and_labels,
    split_images,
    with_labels,
)
from maskhone.metrics.semantic import SemanticScores
from maskhone.ops.masks import IGNORE_LABEL
from maskhone.segmenters.class_models import ClassModel
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus

PUBLISHED: Mapping[str, Any] = {
    **POLY,
    "learning_rate": 0.007,
    "weight_decay": 4e-5,
    "momentum": 4e-5,
    "batch_size": 32,
    "epochs": 50,
    "select": "last",
    "fixes_norms": True,
    "min_image_px": 256,
    "max_image_px": 1024,
}
"""What a recipe need not say."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The new layers of DeepLabv3+.

    Attributes:
        uses_group_norm: they are normalised in groups of channels, as published.
    """

    uses_group_norm: bool = True


PARTS = (Identity, ImageSet, Labels, Views, Body, Norms, Heads, Selection, Course, Schedule)
"""Whose fields are the lines of a recipe."""


def train_segmenter(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Trains DeepLabv3+ on pseudo labels; returns `out_dir/<name>.safetensors`.

    Args:
        recipe: keys are the fields of `Identity`, `ImageSet`, `Labels`, `Views`, `Body`, `Norms`,
            `Heads`, `Selection`, `Course` and `Schedule`; what is left out is as published, but the
            last weights are kept. The published ones were the best on VOC's val.
        out_dir: as for `train_classifier`, like the rest.
        resume: see there.
        dry_run: see there.
        on_progress: see there.
    """
    training = prepare_segmenter(recipe)
    return training.run(
        recipe, out_dir=out_dir, resume=resume, dry_run=dry_run, on_progress=on_progress
    )


def prepare_segmenter(recipe: Mapping[str, Any], *, coming: Collection[str] = ()) -> Training:
    """Checks all that can be checked, and makes the network.

    Args:
        recipe: see `train_segmenter`.
        coming: see `with_labels`.
    """
    parts = parse_segmenter_recipe(recipe)
    identity, data, targets, views, body, norms, heads, selection, course, schedule = parts
    check_norms(norms, schedule)
    check_held(data, selection)
    chooses = selection.select != "last"
    kept, held = split_images(data, holds_back=chooses, keeps_apart=True, seed=schedule.seed)
    kept = with_labels(kept, targets.labels, coming=coming)
    if selection.select == "labels":
        held = with_labels(held, targets.labels, coming=coming)
    else:
        check_truths(held, "{id} has no ground truth, which select = 'pixels' needs")
    class_names = read_classes(data)
    model = ClassModel(
        kind="deeplabv3plus",
        architecture=body.architecture,
        num_classes=len(class_names) + 1,
        uses_group_norm=heads.uses_group_norm,
    )
    network = start_network(
        lambda: DeepLabV3Plus(
            body.architecture,
            model.num_classes,
            uses_group_norm=heads.uses_group_norm,
            fixes_norms=norms.fixes_norms,
        ),
        identity,
        body,
        method=model.kind,
        seed=schedule.seed,
    )
    epochs, schedule = plan_epochs(len(kept), course, schedule)
    return Training(
        identity=identity,
        method=model.kind,
        config=model.to_config(),
        facts={"classes": list(class_names), "images": count_images(kept, held)},
        network=network,
        learner=network,
        loss_of=make_segmentation_loss(seed=schedule.seed),
        source=LabelSource(kept, views, model.num_classes, seed=schedule.seed),
        schedule=schedule,
        groups=group_for_poly,
        syncs_norms=not norms.fixes_norms,
        epochs=epochs if chooses else None,
        validate=make_segmentation_validation(held, views, model.num_classes) if chooses else None,
    )


def parse_segmenter_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, ImageSet, Labels, Views, Body, Norms, Heads, Selection, Course, Schedule]:
    """Splits a flat table into what it sets; see `parse_parts`."""
    identity, data, labels, views, body, norms, heads, selection, course, schedule = parse_parts(
        recipe, PARTS, PUBLISHED, selects=("labels", "pixels", "last")
    )
    return identity, data, labels, views, body, norms, heads, selection, course, schedule


def make_segmentation_loss(*, seed: int) -> LossFunction:
    """Returns the cross entropy of a batch over its known pixels; 0 where none is known.

    What drop-out leaves out is a function of the sample's number, so that a stopped run goes on as
    it would have.
    """

    def loss_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images, targets = batch["images"], batch["targets"]
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            draw = np.random.default_rng([seed, 2, int(batch["number"][0])])
            torch.manual_seed(int(draw.integers(2**62)))
            logits = network(images)
        with torch.autocast(images.device.type, enabled=False):
            lost = cross_entropy(
                logits.float(), targets, ignore_index=IGNORE_LABEL, reduction="sum"
            )
            return {"loss": lost / (targets != IGNORE_LABEL).sum().clamp(min=1)}

    return loss_of


def make_segmentation_validation(
    items: Sequence[TaggedImage], views: Views, n_labels: int
) -> Validate:
    """Returns what scores the segmentation of held pictures: `miou`, and what it lacks to 1.

    Pictures are cut at the top left and seen at one scale, as published.
    """

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        scores = SemanticScores(n_labels)
        for item in items:
            view, labels = view_top_left(*read_image_and_labels(item, n_labels), views.image_px)
            assert labels is not None
            scores.update(network(view[None].to(device))[0].argmax(dim=0).cpu().numpy(), labels)
        found = scores.compute()["miou"]
        return {"miou": found, "lack": 1 - found}

    return validate
