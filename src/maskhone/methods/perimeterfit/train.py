"""Trains the three networks of the pipeline from recipes, and packs them as weights.

The classifier learns from image labels, plainly or with the puzzle; AffinityNet from affinity
labels; DeepLabv3+ from pseudo labels. C classes without the background.

Source: PerimeterFit sections 1.4 to 1.9, 7.4 and 8.2; OFRIN/PuzzleCAM:train_classification.py,
train_classification_with_puzzle.py, train_affinitynet.py, train_segmentation.py.
Differs: an epoch is as many batches as the pictures fill, but the pictures that are left over come
first in the next one; none are passed by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from maskhone.data.images import read_image
from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.backbones import find_backbone_weights, load_backbone
from maskhone.engine.checkpoints import check_keys
from maskhone.engine.epochs import Epochs
from maskhone.engine.recipe import Identity, split_recipe
from maskhone.engine.train import (
    Batch,
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
from maskhone.methods.perimeterfit.affinity import find_losses, sort_pairs
from maskhone.methods.perimeterfit.augment import (
    Views,
    resize_to,
    shrink_labels,
    view_top_left,
)
from maskhone.methods.perimeterfit.network import AffinityNet
from maskhone.methods.perimeterfit.pairs import PathIndex, index_paths, measure_affinities
from maskhone.methods.perimeterfit.puzzle import (
    Puzzle,
    cut,
    find_alpha,
    puzzle_losses,
    scale_to_one,
)
from maskhone.methods.perimeterfit.training_set import (
    ImageSet,
    LabelSource,
    TagSource,
    check_truths,
    collate,
    make_tag_vector,
    read_classes,
    read_image_and_labels,
    split_images,
    with_labels,
)
from maskhone.metrics.semantic import SemanticScores, ThresholdScores, choose_thresholds
from maskhone.metrics.tags import rank_tags
from maskhone.ops.masks import IGNORE_LABEL
from maskhone.segmenters.class_models import ClassModel
from maskhone.segmenters.classifier import Classifier
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus

Select = Literal["tags", "labels", "pixels", "last"]

PIXEL_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(2, 10))
"""Of the background, by which class maps choose a classifier: 0.10 to 0.45 (section 1.8)."""

_CELL_PX = 4
_STRIDE_PX = 16
_BODY = "model."

_POLY = {"optimizer": "sgd", "nesterov": True, "power": 0.9, "min_learning_rate": 0.0}
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "classifier": {
        **_POLY,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "momentum": 1e-4,
        "batch_size": 32,
        "epochs": 15,
        "select": "tags",
        "fixes_norms": False,
    },
    "affinitynet": {
        **_POLY,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "momentum": 1e-4,
        "batch_size": 32,
        "epochs": 3,
    },
    "deeplabv3plus": {
        **_POLY,
        "learning_rate": 0.007,
        "weight_decay": 4e-5,
        "momentum": 4e-5,
        "batch_size": 32,
        "epochs": 50,
        "select": "last",
        "fixes_norms": True,
        "min_image_px": 256,
        "max_image_px": 1024,
    },
}
"""What a recipe need not say. The momentum is what the published program has: it hands the weight
decay to the optimiser in the momentum's place, and trained so (section 1.5)."""

_SELECTS: Mapping[str, tuple[Select, ...]] = {
    "classifier": ("tags", "pixels", "last"),
    "deeplabv3plus": ("labels", "pixels", "last"),
}


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
class Heads:
    """The new layers of DeepLabv3+.

    Attributes:
        uses_group_norm: they are normalised in groups of channels, as published.
    """

    uses_group_norm: bool = True


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is learnt, pixel by pixel.

    Attributes:
        labels: folder of label maps, `<id>.png`: 0 background, 1 and up the classes, 255 unknown.
    """

    labels: str


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


Train = Callable[..., Path]


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
    parts = parse_classifier_recipe(recipe)
    identity, data, views, body, norms, puzzle, selection, course, schedule = parts
    _check_norms(norms, schedule)
    _check_held(data, selection)
    _check_pieces(puzzle, views)
    chooses = selection.select != "last"
    kept, held = split_images(
        data, holds_back=chooses, keeps_apart=selection.select == "tags", seed=schedule.seed
    )
    class_names = read_classes(data)
    if selection.select == "pixels":
        check_truths(held, "{id} has no ground truth, which select = 'pixels' needs")
    if selection.select == "tags" and not any(item.classes for item in held):
        raise UsageError(
            f"none of the {len(held)} pictures held back has a class; choose others, or say "
            'select = "last"'
        )
    model = ClassModel(
        kind="classifier", architecture=body.architecture, num_classes=len(class_names)
    )
    source = TagSource(kept, views, len(class_names), seed=schedule.seed)
    network = _start(
        lambda: Classifier(body.architecture, len(class_names), fixes_norms=norms.fixes_norms),
        identity,
        body,
        method=model.kind,
        seed=schedule.seed,
    )
    epochs, schedule = _plan_epochs(len(kept), course, schedule)
    path = out_dir / f"{identity.name}.safetensors"
    if dry_run:
        _ = source[0]
        return path
    validations: Mapping[str, Callable[..., Validate]] = {
        "tags": make_tag_validation,
        "pixels": make_pixel_validation,
    }
    _fit(
        Passes(network, puzzle.pieces),
        make_puzzle_loss(puzzle, steps=schedule.iterations, batch_size=schedule.batch_size),
        source,
        schedule=schedule,
        groups=group_for_poly,
        syncs_norms=not norms.fixes_norms,
        epochs=epochs if chooses else None,
        validate=validations[selection.select](held, views, len(class_names)) if chooses else None,
        out_dir=out_dir,
        resume=resume,
        on_progress=on_progress,
    )
    facts = {"classes": list(class_names), "images": _count(kept, held)}
    return _save(path, network, identity, model.kind, model.to_config(), recipe, facts)


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
    parts = parse_affinity_recipe(recipe)
    identity, data, targets, views, body, pairs, course, schedule = parts
    if data.validation_list:
        raise UsageError("AffinityNet keeps its last weights; leave validation_list out")
    kept, _ = split_images(data, holds_back=False, keeps_apart=True, seed=schedule.seed)
    kept = with_labels(kept, targets.labels)
    grid_px = ceil(views.image_px / _CELL_PX)
    if grid_px < 2 * pairs.radius - 1:
        raise UsageError(
            f"image_px is {views.image_px}, {grid_px} cells; expected "
            f"{_CELL_PX * (2 * pairs.radius - 1)} or more for the radius {pairs.radius}"
        )
    n_labels = len(read_classes(data)) + 1
    source = LabelSource(kept, views, n_labels, grid_px=grid_px, seed=schedule.seed)
    network = _start(
        lambda: AffinityNet(body.architecture),
        identity,
        body,
        method="affinitynet",
        seed=schedule.seed,
    )
    _, schedule = _plan_epochs(len(kept), course, schedule)
    path = out_dir / f"{identity.name}.safetensors"
    if dry_run:
        _ = source[0]
        return path
    network.model.requires_grad_(False)
    _fit(
        network,
        make_affinity_loss(pairs.radius, grid_px),
        source,
        schedule=schedule,
        groups=group_heads,
        syncs_norms=False,
        out_dir=out_dir,
        resume=resume,
        on_progress=on_progress,
    )
    config = {"architecture": body.architecture}
    facts = {"images": _count(kept, [])}
    return _save(path, network, identity, "affinitynet", config, recipe, facts)


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
    parts = parse_segmenter_recipe(recipe)
    identity, data, targets, views, body, norms, heads, selection, course, schedule = parts
    _check_norms(norms, schedule)
    _check_held(data, selection)
    chooses = selection.select != "last"
    kept, held = split_images(data, holds_back=chooses, keeps_apart=True, seed=schedule.seed)
    kept = with_labels(kept, targets.labels)
    if selection.select == "labels":
        held = with_labels(held, targets.labels)
    check_truths(held, "{id} has no ground truth, which select = 'pixels' needs")
    class_names = read_classes(data)
    n_labels = len(class_names) + 1
    model = ClassModel(
        kind="deeplabv3plus",
        architecture=body.architecture,
        num_classes=n_labels,
        uses_group_norm=heads.uses_group_norm,
    )
    source = LabelSource(kept, views, n_labels, seed=schedule.seed)
    network = _start(
        lambda: DeepLabV3Plus(
            body.architecture,
            n_labels,
            uses_group_norm=heads.uses_group_norm,
            fixes_norms=norms.fixes_norms,
        ),
        identity,
        body,
        method=model.kind,
        seed=schedule.seed,
    )
    epochs, schedule = _plan_epochs(len(kept), course, schedule)
    path = out_dir / f"{identity.name}.safetensors"
    if dry_run:
        _ = source[0]
        return path
    _fit(
        network,
        make_segmentation_loss(seed=schedule.seed),
        source,
        schedule=schedule,
        groups=group_for_poly,
        syncs_norms=not norms.fixes_norms,
        epochs=epochs if chooses else None,
        validate=make_segmentation_validation(held, views, n_labels) if chooses else None,
        out_dir=out_dir,
        resume=resume,
        on_progress=on_progress,
    )
    facts = {"classes": list(class_names), "images": _count(kept, held)}
    return _save(path, network, identity, model.kind, model.to_config(), recipe, facts)


TRAININGS: Mapping[str, Train] = {
    "classifier": train_classifier,
    "affinitynet": train_affinity,
    "deeplabv3plus": train_segmenter,
}
"""What `method` of a recipe may name."""


def parse_classifier_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, ImageSet, Views, Body, Norms, Puzzle, Selection, Course, Schedule]:
    """Splits a flat table into what it sets; unknown keys are refused by name.

    With `epochs` the number of steps is known only once the pictures are; until then it is 1.
    """
    types = [Identity, ImageSet, Views, Body, Norms, Puzzle, Selection, Course, Schedule]
    identity, data, views, body, norms, puzzle, selection, course, schedule = _parse(
        recipe, "classifier", types
    )
    return identity, data, views, body, norms, puzzle, selection, course, schedule


def parse_affinity_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, ImageSet, Labels, Views, Body, Pairs, Course, Schedule]:
    """Splits a flat table as `parse_classifier_recipe` does."""
    types = [Identity, ImageSet, Labels, Views, Body, Pairs, Course, Schedule]
    identity, data, labels, views, body, pairs, course, schedule = _parse(
        recipe, "affinitynet", types
    )
    return identity, data, labels, views, body, pairs, course, schedule


def parse_segmenter_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, ImageSet, Labels, Views, Body, Norms, Heads, Selection, Course, Schedule]:
    """Splits a flat table as `parse_classifier_recipe` does."""
    types = [
        Identity, ImageSet, Labels, Views, Body, Norms, Heads, Selection, Course, Schedule
    ]  # fmt: skip
    identity, data, labels, views, body, norms, heads, selection, course, schedule = _parse(
        recipe, "deeplabv3plus", types
    )
    return identity, data, labels, views, body, norms, heads, selection, course, schedule


def _parse(recipe: Mapping[str, Any], method: str, types: Sequence[type]) -> list[Any]:
    given = {k: v for k, v in recipe.items() if k != "method"}
    if "iterations" in given:
        if given.get("epochs"):
            raise UsageError("the recipe has epochs and iterations; leave one of them out")
        given["epochs"] = 0
    elif given.get("epochs", 1) == 0:
        raise UsageError("epochs is 0 and iterations is left out; give one of them")
    parts = split_recipe({"iterations": 1, **_PUBLISHED[method], **given}, types)
    for part in parts:
        if isinstance(part, Selection) and part.select not in _SELECTS[method]:
            said = ", ".join(_SELECTS[method])
            raise UsageError(f"select is {part.select!r}; {method} expects {said}")
    return parts


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


def group_heads(network: nn.Module) -> list[ParameterGroup]:
    """Takes what is not the body; the body is not trained."""
    heads = [p for name, p in network.named_parameters() if f".{_BODY}" not in f".{name}"]
    return [ParameterGroup(parameters=tuple(heads))]


Network = TypeVar("Network", bound=nn.Module)


def _start(
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


def _plan_epochs(n_images: int, course: Course, schedule: Schedule) -> tuple[Epochs, Schedule]:
    """Turns epochs into steps; an epoch without a full batch has one step."""
    steps = course.epoch_iterations or max(n_images // schedule.batch_size, 1)
    if course.epochs:
        schedule = replace(schedule, iterations=course.epochs * steps)
    return Epochs(iterations=steps, rule=None, watched="lack"), schedule


def _check_norms(norms: Norms, schedule: Schedule) -> None:
    if not norms.fixes_norms and schedule.batch_size < 2:
        raise UsageError(
            "batch_size is 1, of which batch normalisation can learn nothing; "
            "expected 2 or more, or fixes_norms = true"
        )


def _check_pieces(puzzle: Puzzle, views: Views) -> None:
    """Refuses pieces whose class maps, joined, are not as large as those of the whole."""
    wanted = _STRIDE_PX * isqrt(puzzle.pieces) if puzzle.pieces > 1 else 1
    if views.image_px % wanted:
        raise UsageError(
            f"image_px is {views.image_px}; {puzzle.pieces} pieces want a multiple of {wanted}"
        )


def _check_held(data: ImageSet, selection: Selection) -> None:
    if data.validation_list and selection.select == "last":
        raise UsageError(
            'validation_list chooses the best weights, but select is "last"; leave one out'
        )


def _fit(
    network: nn.Module,
    loss_of: LossFunction,
    source: SampleSource,
    *,
    schedule: Schedule,
    groups: Groups,
    syncs_norms: bool,
    out_dir: Path,
    resume: bool,
    on_progress: Callable[[int, int], None] | None,
    epochs: Epochs | None = None,
    validate: Validate | None = None,
) -> None:
    fit(
        network,
        loss_of,
        source,
        collate,
        schedule=schedule,
        out_dir=out_dir,
        resume=resume,
        validate=validate,
        epochs=epochs,
        groups=groups,
        syncs_norms=syncs_norms,  # which would also replace norms that are fixed
        on_progress=on_progress,
    )


def _count(kept: Sequence[TaggedImage], held: Sequence[TaggedImage]) -> dict[str, int]:
    return {"trained_on": len(kept), "chosen_by": len(held)}


def _save(
    path: Path,
    network: nn.Module,
    identity: Identity,
    method: str,
    config: Mapping[str, Any],
    recipe: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Path:
    header = {
        "name": identity.name,
        "method": method,
        "licence": identity.licence,
        "config": dict(config),
        "recipe": dict(recipe),
        **facts,
    }
    return save_weights(path, network.state_dict(), header, half=False)
