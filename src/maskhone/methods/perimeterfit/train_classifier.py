"""Trains the classifier of the pipeline on image labels, plainly or with the puzzle.

C classes without the background. Source: PerimeterFit sections 1.4 to 1.9;
OFRIN/PuzzleCAM:train_classification.py, train_classification_with_puzzle.py.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maskhone.data.images import read_image
from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.recipe import Identity
from maskhone.engine.train import Batch, LossFunction, Schedule, Validate
from maskhone.errors import UsageError
from maskhone.methods.perimeterfit.augment import (
    Views,
    resize_to,
    shrink_labels,
    view_top_left,
)
from maskhone.methods.perimeterfit.puzzle import (
    Puzzle,
    cut,
    find_alpha,
    puzzle_losses,
    scale_to_one,
)
from maskhone.methods.perimeterfit.training import (
    POLY,
    Body,
    Course,
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
    TagSource,
    check_truths,
    make_tag_vector,
    read_classes,
    read_image_and_labels,
    split_images,
)
from maskhone.metrics.semantic import ThresholdScores, choose_thresholds
from maskhone.metrics.tags import rank_tags
from maskhone.segmenters.class_models import ClassModel
from maskhone.segmenters.classifier import Classifier

PIXEL_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(2, 10))
"""Of the background, by which class maps choose a classifier: 0.10 to 0.45 (section 1.8)."""

PUBLISHED: Mapping[str, Any] = {
    **POLY,
    "learning_rate": 0.1,
    "weight_decay": 1e-4,
    "momentum": 1e-4,
    "batch_size": 32,
    "epochs": 15,
    "select": "tags",
    "fixes_norms": False,
}
"""What a recipe need not say."""

PARTS = (Identity, ImageSet, Views, Body, Norms, Puzzle, Selection, Course, Schedule)
"""Whose fields are the lines of a recipe."""

_STRIDE_PX = 16


def train_classifier(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Trains a classifier on image labels; returns the weight file `out_dir/<name>.safetensors`.

    Args:
        recipe: keys are the fields of `Identity`, `ImageSet`, `Views`, `Body`, `Norms`, `Puzzle`,
            `Selection`, `Course` and `Schedule`; what is left out is as published.
        out_dir: receives the checkpoint, the log and the weights.
        resume: go on from the checkpoint in `out_dir`.
        dry_run: find the pictures, read one, and the weights to start from; then stop.
        on_progress: called with finished and planned steps.

    Raises:
        UsageError: an unknown key, or keys that contradict each other.
        InputError: pictures, labels or lists are missing or cannot be used.
    """
    training = prepare_classifier(recipe)
    return training.run(
        recipe, out_dir=out_dir, resume=resume, dry_run=dry_run, on_progress=on_progress
    )


def prepare_classifier(recipe: Mapping[str, Any], *, coming: Collection[str] = ()) -> Training:
    """Checks all that can be checked, and makes the network.

    Args:
        recipe: see `train_classifier`.
        coming: is of no use here; see `prepare_segmenter`.
    """
    parts = parse_classifier_recipe(recipe)
    identity, data, views, body, norms, puzzle, selection, course, schedule = parts
    check_norms(norms, schedule)
    check_held(data, selection)
    _check_pieces(puzzle, views)
    class_names = read_classes(data)
    kept, held = _split(data, selection, seed=schedule.seed)
    model = ClassModel(
        kind="classifier", architecture=body.architecture, num_classes=len(class_names)
    )
    network = start_network(
        lambda: Classifier(body.architecture, len(class_names), fixes_norms=norms.fixes_norms),
        identity,
        body,
        method=model.kind,
        seed=schedule.seed,
    )
    epochs, schedule = plan_epochs(len(kept), course, schedule)
    validate = _make_validation(held, views, len(class_names), selection)
    return Training(
        identity=identity,
        method=model.kind,
        config=model.to_config(),
        facts={"classes": list(class_names), "images": count_images(kept, held)},
        network=network,
        learner=Passes(network, puzzle.pieces),
        loss_of=make_puzzle_loss(puzzle, steps=schedule.iterations, batch_size=schedule.batch_size),
        source=TagSource(kept, views, len(class_names), seed=schedule.seed),
        schedule=schedule,
        groups=group_for_poly,
        syncs_norms=not norms.fixes_norms,
        epochs=epochs if validate else None,
        validate=validate,
        doubts=_find_doubts(kept, held, data, selection),
    )


def parse_classifier_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, ImageSet, Views, Body, Norms, Puzzle, Selection, Course, Schedule]:
    """Splits a flat table into what it sets; see `parse_parts`."""
    identity, data, views, body, norms, puzzle, selection, course, schedule = parse_parts(
        recipe, PARTS, PUBLISHED, selects=("tags", "pixels", "last")
    )
    return identity, data, views, body, norms, puzzle, selection, course, schedule


def _split(
    data: ImageSet, selection: Selection, *, seed: int
) -> tuple[list[TaggedImage], list[TaggedImage]]:
    """Finds the pictures to train on and those to choose by, and checks that these can choose."""
    select = selection.select
    kept, held = split_images(
        data, holds_back=select != "last", keeps_apart=select == "tags", seed=seed
    )
    if select == "pixels":
        check_truths(held, "{id} has no ground truth, which select = 'pixels' needs")
    if select == "tags" and not any(item.classes for item in held):
        raise UsageError(
            f"none of the {len(held)} pictures held back has a class; choose others, or say "
            'select = "last"'
        )
    return kept, held


def _find_doubts(
    kept: Sequence[TaggedImage],
    held: Sequence[TaggedImage],
    data: ImageSet,
    selection: Selection,
) -> list[str]:
    """Says what pictures cannot teach, or cannot choose; `rank_tags` is then 1 whatever is learnt.

    Pictures tell weights apart by a class that some of them show, and others not.
    """
    doubts, class_names = [], read_classes(data)
    seen = {index for item in kept for index in item.classes}
    unseen = [name for index, name in enumerate(class_names) if index not in seen]
    if unseen and data.classes:  # of VOC's twenty a part is no surprise
        count = f" ({len(unseen)} such classes)" if len(unseen) > 1 else ""
        doubts.append(
            f"{data.classes}: no picture to train on has the class {unseen[0]!r}{count}; "
            "is it written as in the labels?"
        )
    shown = {index for item in held for index in item.classes}
    if selection.select == "tags" and all(shown == set(item.classes) for item in held):
        names = ", ".join(class_names[index] for index in sorted(shown))
        doubts.append(
            f"each of the {len(held)} pictures held back has the same labels ({names}), so that "
            'select = "tags" finds all weights equally good; add others to validation_list, or say '
            'select = "last"'
        )
    return doubts


def _make_validation(
    held: Sequence[TaggedImage], views: Views, num_classes: int, selection: Selection
) -> Validate | None:
    if selection.select == "last":
        return None
    make = make_tag_validation if selection.select == "tags" else make_pixel_validation
    return make(held, views, num_classes)


class Passes(nn.Module):
    """A classifier's passes over whole pictures and over their pieces, as one.

    Several processes want one pass per step; so both lie inside of it.
    """

    def __init__(self, network: Classifier, pieces: int) -> None:
        super().__init__()
        self.network, self.pieces = network, pieces

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Returns logits and class maps of the pictures, and of the pieces where there are any."""
        whole = self.network.find_maps(x)
        if self.pieces <= 1:
            return whole, None
        return whole, self.network.find_maps(cut(x, self.pieces))


def make_puzzle_loss(puzzle: Puzzle, *, steps: int, batch_size: int) -> LossFunction:
    """Returns the losses of a batch; the number of its samples says which step it is."""

    def loss_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        whole, parts = network(batch["images"])
        alpha = find_alpha(puzzle, int(batch["number"][0]) // batch_size, steps=steps)
        with torch.autocast(batch["images"].device.type, enabled=False):
            return puzzle_losses(
                (whole[0].float(), whole[1].float()),
                None if parts is None else (parts[0].float(), parts[1].float()),
                batch["targets"],
                puzzle,
                alpha=alpha,
            )

    return loss_of


def make_tag_validation(items: Sequence[TaggedImage], views: Views, num_classes: int) -> Validate:
    """Returns what ranks held pictures by each class: `map`, and `lack`, what it lacks to 1.

    Pictures are seen whole: their longer side is resized to that of the square.
    """

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        scores = []
        for item in items:
            image, _ = resize_to(read_image(item.image_path), None, views.image_px)
            view, _ = view_top_left(image, None, views.image_px)
            logits, _ = _find_maps(network, view.to(device))
            scores.append(logits[0].float().cpu().numpy())
        truth = np.stack([make_tag_vector(item, num_classes) for item in items]) > 0
        found = float(np.nanmean(rank_tags(np.stack(scores), truth)))
        return {"map": found, "lack": 1 - found}

    return validate


def make_pixel_validation(items: Sequence[TaggedImage], views: Views, num_classes: int) -> Validate:
    """Returns what scores the class maps of the present classes with ground truth, as published.

    It says the `miou` at the best `threshold`, and `lack`, what it lacks to 1. Pictures are cut at
    the top left, and truths shrunk to the cells of the maps.

    Source: PerimeterFit section 1.8.
    Differs: the last pictures are scored, too, where they do not fill a batch.
    """
    n_labels = num_classes + 1

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        sweep = ThresholdScores(n_labels, PIXEL_THRESHOLDS)
        for item in items:
            view, labels = view_top_left(*read_image_and_labels(item, n_labels), views.image_px)
            assert labels is not None
            _, maps = _find_maps(network, view.to(device))
            cams = scale_to_one(maps.float())[0].cpu().numpy()[list(item.classes)]
            keys = np.array([0, *(index + 1 for index in item.classes)])
            sweep.update(cams, keys, shrink_labels(labels, (maps.shape[2], maps.shape[3])))
        best = choose_thresholds(sweep.compute()).best
        return {"miou": best["miou"], "threshold": best["threshold"], "lack": 1 - best["miou"]}

    return validate


def _find_maps(network: nn.Module, view: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(network, Passes)
    return network.network.find_maps(view[None])


def _check_pieces(puzzle: Puzzle, views: Views) -> None:
    """Refuses pieces whose class maps, joined, are not as large as those of the whole."""
    wanted = _STRIDE_PX * isqrt(puzzle.pieces) if puzzle.pieces > 1 else 1
    if views.image_px % wanted:
        raise UsageError(
            f"image_px is {views.image_px}; {puzzle.pieces} pieces want a multiple of {wanted}"
        )
