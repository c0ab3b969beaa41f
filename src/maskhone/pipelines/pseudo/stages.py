"""The stages from image labels to masks, and what each depends on.

What is only a place, such as a folder of pictures, is no part of that; the files in it are, and the
ids by which they go. What only decides speed is none either.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.backbones import find_backbone_weights
from maskhone.engine.weights import find_weights
from maskhone.methods.perimeterfit.config import PerimeterFitConfig
from maskhone.methods.perimeterfit.training_set import find_images
from maskhone.pipelines.pseudo.plan import Job
from maskhone.pipelines.pseudo.report import SCORED, evaluate_stages
from maskhone.pipelines.pseudo.trainings import SET_BY_PIPELINE, TRAININGS
from maskhone.pipelines.pseudo.work import (
    make_affinity_labels,
    make_cams,
    make_combined,
    make_fits,
    make_masks,
    make_perimeters,
    make_pseudo_labels,
    make_segments,
    make_walks,
    train,
)
from maskhone.pipelines.stages import Stage, hash_facts

_ONLY_SPEED = ("workers", "checkpoint_every", "log_every")
_NOTES = ("name", "licence")
_FILES = ("validation_list", "backbone_weights", "start_from")  # whose contents count


def list_stages(job: Job) -> list[Stage]:
    """Lists the stages of a job, without those whose result is given or that no one asked for."""
    stages = [*_cam_stages(job), *_perimeter_stages(job), *_walk_stages(job)]
    if job.plan.trains_segmenter:
        stages += _segmenter_stages(job)
    return [*stages, _evaluate_stage(job, [stage.name for stage in stages])]


def _cam_stages(job: Job) -> list[Stage]:
    plan = job.plan
    cam = Stage(
        name="cam",
        make=lambda folder: make_cams(job, folder),
        parameters={
            "scales": list(plan.cam_scales),
            "dtype": plan.dtype,
            "classes": list(job.class_names),
            "pictures": _describe(job.items, with_classes=True),
        },
        find_inputs=lambda: _read(images=job.items, weights=[plan.classifier]),
        after=() if plan.classifier else ("classify",),
    )
    return [cam] if plan.classifier else [_training_stage(job, "classify"), cam]


def _perimeter_stages(job: Job) -> list[Stage]:
    plan = job.plan
    if not plan.uses_perimeterfit:
        return []
    learning = {
        "iterations": plan.segments_iterations,
        "min_labels": plan.segments_min_labels,
        "side_px": plan.segments_side_px,
        "seed": plan.segments_seed,
    }
    fitting = PerimeterFitConfig(
        form=plan.fit_form,
        slic_support=plan.slic_support,
        quick_support=plan.quick_support,
        seed=plan.segments_seed,
    )
    drawing: dict[str, Any] = {"form": fitting.form}
    if fitting.form == "published":
        drawing["seed"] = fitting.seed  # of the palette
    return [
        Stage(
            name="segments",
            make=lambda folder: make_segments(job, folder, learning),
            parameters={**learning, "pictures": _describe(job.items)},
            find_inputs=lambda: _read(images=job.items),
        ),
        Stage(
            name="perimeters",
            make=lambda folder: make_perimeters(job, folder, fitting),
            parameters=drawing,
            after=("segments",),
        ),
        Stage(
            name="fit",
            make=lambda folder: make_fits(job, folder, fitting),
            parameters={
                **drawing,
                "slic_support": fitting.slic_support,
                "quick_support": fitting.quick_support,
            },
            after=("cam", "segments", "perimeters"),
        ),
        Stage(
            name="combine",
            make=lambda folder: make_combined(job, folder),
            parameters={},
            after=("cam", "fit"),
        ),
    ]


def _walk_stages(job: Job) -> list[Stage]:
    """From class maps to label maps."""
    plan = job.plan
    walking = ("walk_radius", "walk_beta", "walk_exp_times", "walk_canvas_px", "dtype")
    trained = [] if plan.affinity_net else [_training_stage(job, "affinity")]
    return [
        Stage(
            name="affinity-labels",
            make=lambda folder: make_affinity_labels(job, folder),
            parameters={
                "fg_threshold": plan.sure_above,
                "bg_threshold": plan.maybe_above,
                "crf_iterations": plan.labels_crf_iterations,
            },
            find_inputs=lambda: _read(images=job.items),
            after=(plan.taught_cam,),
        ),
        *trained,
        Stage(
            name="walk",
            make=lambda folder: make_walks(job, folder),
            parameters={name: getattr(plan, name) for name in walking},
            find_inputs=lambda: _read(images=job.items, weights=[plan.affinity_net]),
            after=(plan.walking_cam, *(stage.name for stage in trained)),
        ),
        Stage(
            name="pseudo-labels",
            make=lambda folder: make_pseudo_labels(job, folder),
            parameters={
                "threshold": plan.pseudo_threshold,
                "crf_iterations": plan.pseudo_crf_iterations,
            },
            find_inputs=lambda: _read(images=job.items),
            after=("walk",),
        ),
    ]


def _segmenter_stages(job: Job) -> list[Stage]:
    plan = job.plan
    return [
        _training_stage(job, "segmenter"),
        Stage(
            name="masks",
            make=lambda folder: make_masks(job, folder),
            parameters={
                "scales": list(plan.segment_scales),
                "crf_iterations": plan.segment_crf_iterations,
                "dtype": plan.dtype,
                "pictures": _describe([*job.items, *job.test_items]),
            },
            find_inputs=lambda: _read(images=[*job.items, *job.test_items]),
            after=("segmenter",),
        ),
    ]


def _evaluate_stage(job: Job, done: Sequence[str]) -> Stage:
    scored = [name for name in done if name in SCORED]
    train, test = (_with_truth(items) for items in (job.items, job.test_items))
    return Stage(
        name="evaluate",
        make=lambda folder: evaluate_stages(job, folder, scored),
        parameters={"train": _describe(train), "test": _describe(test)},
        find_inputs=lambda: _read(truths=[*train, *test]),
        after=tuple(scored),
    )


def _training_stage(job: Job, name: str) -> Stage:
    """Depends on the lines that matter, the pictures with their labels, and files that are named.

    Truths count only where they choose the best weights.
    """
    kind, recipe = TRAININGS[name], job.recipe_of(name)
    held_list = recipe.get("validation_list", "")
    held = find_images(job.data, held_list) if held_list else []
    left_out = {*_ONLY_SPEED, *_FILES, *SET_BY_PIPELINE} - {"seed"}
    choosing = _with_truth(held or job.items) if recipe.get("select") == "pixels" else []
    is_tagged = name == "classify"
    return Stage(
        name=name,
        make=lambda folder: train(job, name, folder),
        parameters={
            **{key: value for key, value in recipe.items() if key not in left_out},
            "classes": list(job.class_names),
            "pictures": _describe(job.items, with_classes=is_tagged),
            **({"held": _describe(held, with_classes=is_tagged)} if held else {}),
        },
        find_inputs=lambda: _read(
            images=[*job.items, *held],
            truths=choosing,
            backbone=[recipe["backbone_weights"]],
            start_from=[recipe.get("start_from", "")],
        ),
        after=(kind.labels,) if kind.labels else (),
        results=("*.safetensors",),
        notes={key: recipe[key] for key in _NOTES},
    )


def _describe(items: Sequence[TaggedImage], *, with_classes: bool = False) -> dict[str, Any]:
    """Says which pictures, and which classes are in them, briefly: what no file's content tells."""
    facts = [[item.id, *(item.classes if with_classes else ())] for item in items]
    return {"number": len(items), "hash": hash_facts(facts)}


def _read(
    *,
    images: Sequence[TaggedImage] = (),
    truths: Sequence[TaggedImage] = (),
    weights: Sequence[str] = (),
    backbone: Sequence[str] = (),
    start_from: Sequence[str] = (),
) -> dict[str, list[Path]]:
    """Names the files that a stage reads from outside; empty names are passed by."""
    found = {
        "images": [item.image_path for item in images],
        "truths": [item.truth_path for item in truths if item.truth_path is not None],
        "weights": [find_weights(name) for name in weights if name],
        "backbone": [find_backbone_weights(name) for name in backbone if name],
        "start_from": [find_weights(name) for name in start_from if name],
    }
    return {kind: files for kind, files in found.items() if files}


def _with_truth(items: Sequence[TaggedImage]) -> list[TaggedImage]:
    return [item for item in items if item.truth_path is not None]
