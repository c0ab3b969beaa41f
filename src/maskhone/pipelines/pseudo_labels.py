"""From image labels to masks in one recipe: twelve stages, each in a folder of its own.

    classify         trains a classifier on the labels         unless weights are given
    cam              where it sees each class
    segments         regions of each picture, learnt on it alone, twice
    perimeters       their outlines
    fit              the regions that lie where a class is seen
    combine          class maps, doubled where both fits agree
    affinity-labels  what is surely of a class, surely not, unknown
    affinity         trains AffinityNet on these               unless weights are given
    walk             class maps spread, but not across edges
    pseudo-labels    label maps of them
    segmenter        trains DeepLabv3+ on the label maps, and segments the test pictures
    evaluate         scores every stage on the pictures that have a truth

Source: PerimeterFit sections 1 to 10; OFRIN/PuzzleCAM; Ostrowski et al., "SILOP", IJCNN 2023.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.backbones import find_backbone_weights
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.engine.weights import find_weights, read_header
from maskhone.errors import InputError, UsageError
from maskhone.methods.perimeterfit.config import PerimeterFitConfig
from maskhone.methods.perimeterfit.convert import load_affinity_net
from maskhone.methods.perimeterfit.train import TRAININGS
from maskhone.methods.perimeterfit.train_affinity import parse_affinity_recipe
from maskhone.methods.perimeterfit.train_classifier import parse_classifier_recipe
from maskhone.methods.perimeterfit.train_segmenter import parse_segmenter_recipe
from maskhone.ops.superpixels import check_installed
from maskhone.pipelines.per_picture import count_processes, do_each
from maskhone.pipelines.pseudo_plan import KINDS, Job, Progress, parse_recipe
from maskhone.pipelines.pseudo_report import REPORT, evaluate_stages, format_report
from maskhone.pipelines.pseudo_stages import (
    write_affinity_labels,
    write_class_maps,
    write_combined,
    write_fits,
    write_perimeter,
    write_pseudo_labels,
    write_segmented,
    write_segments,
    write_walked,
)
from maskhone.pipelines.segmenters import load_class_model
from maskhone.pipelines.stages import Inputs, Stage, run_stages
from maskhone.segmenters.classifier import Classifier
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus

_ONLY_SPEED = ("workers", "checkpoint_every", "log_every")
_SEGMENTED = "masks"  # folder of the segmenter's label maps, beside its weights


def run(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    first: str = "",
    last: str = "",
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> str:
    """Does the stages that are not done yet; returns what became of them, and the final table.

    A stopped run goes on when it is called again, and stages that nothing changed for are skipped.

    Args:
        recipe: keys are the fields of `PseudoLabels` and `ImageSet`, and lines of the trainings.
        out_dir: receives one folder for each stage.
        first: stages before it are taken as they are; replaces `first_stage` of the recipe.
        last: stop after it; replaces `last_stage`.
        dry_run: check recipe, pictures and weights, then stop.
        on_progress: called with finished and planned steps of the stage at hand.

    Raises:
        UsageError: unknown keys, or keys that contradict each other.
        InputError: pictures, labels or truths are missing or cannot be used.
        MissingExtraError: scikit-image is not installed.
    """
    job = parse_recipe(recipe, out_dir, on_progress)
    check_job(job)
    if dry_run:
        return ""
    plan = job.plan
    reports = run_stages(
        list_stages(job), out_dir, first=first or plan.first_stage, last=last or plan.last_stage
    )
    lines = [report.describe() for report in reports]
    if reports[-1].name == "evaluate":
        found = json.loads((out_dir / "evaluate" / REPORT).read_text(encoding="utf-8"))
        lines += ["", *format_report(found["rows"])]
    return "\n".join(lines)


def check_job(job: Job) -> None:
    """Looks at pictures, given weights and the lines of the trainings before anything is done.

    Raises:
        UsageError: an unknown line of a training, or one that the pipeline itself sets.
        InputError: pictures or weights are missing.
    """
    if job.plan.uses_perimeterfit:
        check_installed()
    if not job.items:
        raise InputError(f"{job.data.images}: no pictures; check images and train_list")
    both = {item.id for item in job.items} & {item.id for item in job.test_items}
    if both:
        raise UsageError(
            f"{min(both)} is in train_list and in test_list ({len(both)} such); keep it in one"
        )
    _list_start(job)
    for given in (job.plan.classifier, job.plan.affinity_net):
        if given:
            find_weights(given)
    for name, lines in job.trainings.items():
        foreign = sorted(set(lines) & set(_fixed_lines(job, name)) - {"architecture"})
        if foreign:
            raise UsageError(f"{name}_{foreign[0]}: the pipeline itself sets this; leave it out")
        _PARSERS[name](_complete_recipe(job, name))


def list_stages(job: Job) -> list[Stage]:
    """Lists the stages of a job, without those whose result is given or that no one asked for."""
    plan = job.plan
    stages: list[Stage] = []
    if not plan.classifier:
        stages.append(_training(job, "classify"))
    stages.append(
        Stage(
            name="cam",
            make=lambda folder: _make_cams(job, folder),
            parameters={
                "scales": list(plan.cam_scales),
                "dtype": plan.dtype,
                "labels": _list_labels(job),
            },
            find_inputs=lambda: _inputs(job, given=plan.classifier),
            after=() if plan.classifier else ("classify",),
        )
    )
    if plan.uses_perimeterfit:
        stages += _perimeter_stages(job)
    stages += [
        Stage(
            name="affinity-labels",
            make=lambda folder: _make_affinity_labels(job, folder),
            parameters={
                "fg_threshold": plan.sure_above,
                "bg_threshold": plan.maybe_above,
                "crf_iterations": plan.labels_crf_iterations,
            },
            find_inputs=lambda: _inputs(job),
            after=(plan.taught_cam,),
        )
    ]
    if not plan.affinity_net:
        stages.append(_training(job, "affinity", after=("affinity-labels",)))
    stages += [
        Stage(
            name="walk",
            make=lambda folder: _make_walks(job, folder),
            parameters={
                name: getattr(plan, name)
                for name in (
                    "walk_radius",
                    "walk_beta",
                    "walk_exp_times",
                    "walk_canvas_px",
                    "dtype",
                )
            },
            find_inputs=lambda: _inputs(job, given=plan.affinity_net),
            after=(plan.walking_cam, *(() if plan.affinity_net else ("affinity",))),
        ),
        Stage(
            name="pseudo-labels",
            make=lambda folder: _make_pseudo_labels(job, folder),
            parameters={
                "threshold": plan.pseudo_threshold,
                "crf_iterations": plan.pseudo_crf_iterations,
            },
            find_inputs=lambda: _inputs(job),
            after=("walk",),
        ),
    ]
    if plan.trains_segmenter:
        stages.append(_segmenter_stage(job))
    done = [stage.name for stage in stages]
    stages.append(
        Stage(
            name="evaluate",
            make=lambda folder: evaluate_stages(job, folder, done, masks=_SEGMENTED),
            parameters={"threshold": plan.pseudo_threshold, "classes": list(job.class_names)},
            find_inputs=lambda: _inputs(job, truths=True),
            after=tuple(done),
        )
    )
    return stages


def _perimeter_stages(job: Job) -> list[Stage]:
    plan = job.plan
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
    return [
        Stage(
            name="segments",
            make=lambda folder: _make_segments(job, folder, learning),
            parameters=learning,
            find_inputs=lambda: _inputs(job),
        ),
        Stage(
            name="perimeters",
            make=lambda folder: _make_perimeters(job, folder, fitting),
            parameters={"form": plan.fit_form},
            find_inputs=lambda: _inputs(job),
            after=("segments",),
        ),
        Stage(
            name="fit",
            make=lambda folder: _make_fits(job, folder, fitting),
            parameters={
                name: getattr(fitting, name)
                for name in ("form", "slic_support", "quick_support", "seed")
            },
            find_inputs=lambda: _inputs(job),
            after=("cam", "segments", "perimeters"),
        ),
        Stage(
            name="combine",
            make=lambda folder: _make_combined(job, folder),
            parameters={},
            find_inputs=lambda: _inputs(job),
            after=("cam", "fit"),
        ),
    ]


_METHODS = {"classify": "classifier", "affinity": "affinitynet", "segmenter": "deeplabv3plus"}
_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "classify": parse_classifier_recipe,
    "affinity": parse_affinity_recipe,
    "segmenter": parse_segmenter_recipe,
}


def _training(job: Job, name: str, *, after: tuple[str, ...] = ()) -> Stage:
    recipe = _complete_recipe(job, name)
    return Stage(
        name=name,
        make=lambda folder: _train(job, name, folder),
        parameters={
            **{k: v for k, v in recipe.items() if k not in (*_ONLY_SPEED, "labels")},
            **({"labels": _list_labels(job)} if name == "classify" else {}),
        },
        find_inputs=lambda: {**_inputs(job), **_list_start(job), **_list_named(recipe)},
        after=after,
        results=("*.safetensors",),
    )


def _segmenter_stage(job: Job) -> Stage:
    plan = job.plan
    training = _training(job, "segmenter", after=("pseudo-labels",))

    def make(folder: Path) -> None:
        _train(job, "segmenter", folder)
        _segment(job, folder)

    return Stage(
        name="segmenter",
        make=make,
        parameters={
            **training.parameters,
            "scales": list(plan.segment_scales),
            "crf_iterations": plan.segment_crf_iterations,
        },
        find_inputs=lambda: {
            **_inputs(job),
            **_list_start(job),
            **_list_named(_complete_recipe(job, "segmenter")),
            "test": [item.image_path for item in job.test_items],
        },
        after=("pseudo-labels",),
        results=("*.safetensors", f"{_SEGMENTED}/**/*.png"),
    )


def _fixed_lines(job: Job, name: str) -> dict[str, Any]:
    """Returns the lines of a training's recipe that the pipeline sets."""
    plan = job.plan
    fixed = {
        **{k: v for k, v in asdict(job.data).items() if k not in ("held_share", "validation_list")},
        "train_list": plan.train_list,
        "name": f"{plan.name}.{name}",
        "licence": plan.licence,
        "seed": plan.seed,
        "architecture": plan.architecture,
        "backbone_weights": plan.backbone_weights,
    }
    labels = {"affinity": "affinity-labels", "segmenter": "pseudo-labels"}.get(name)
    return fixed if labels is None else {**fixed, "labels": str(job.out_dir / labels)}


def _complete_recipe(job: Job, name: str) -> dict[str, Any]:
    return {**_fixed_lines(job, name), **job.trainings[name]}


def _train(job: Job, name: str, folder: Path) -> None:
    """Trains, or goes on with a training that was stopped; done ones stay."""
    recipe = _complete_recipe(job, name)
    if not (folder / f"{recipe['name']}.safetensors").exists():
        train = TRAININGS[_METHODS[name]]
        train(recipe, out_dir=folder, resume=True, on_progress=job.on_progress)


def _inputs(job: Job, *, given: str = "", truths: bool = False) -> Inputs:
    """Names the pictures, and what else a stage reads from outside."""
    found: dict[str, Sequence[Path]] = {"images": [item.image_path for item in job.items]}
    if given:
        found["weights"] = [find_weights(given)]
    if truths:
        items = [*job.items, *job.test_items]
        found["truths"] = [item.truth_path for item in items if item.truth_path is not None]
    return found


def _list_labels(job: Job) -> dict[str, Any]:
    """Names the classes, and those of each picture: what cannot be told from files alone."""
    return {
        "classes": list(job.class_names),
        "images": {item.id: list(item.classes) for item in job.items},
    }


def _list_start(job: Job) -> Inputs:
    """Names the file of ImageNet's weights, when there is one."""
    name = job.plan.backbone_weights
    return {"backbone": [find_backbone_weights(name)]} if name else {}


def _list_named(recipe: Mapping[str, Any]) -> Inputs:
    """Names the files that lines of a training name."""
    named = [recipe.get(key, "") for key in ("validation_list", "start_from")]
    return {"named": [Path(name) for name in named if name and Path(name).is_file()]}


def _find_made(job: Job, name: str) -> Path:
    return job.out_dir / name / f"{job.plan.name}.{name}.safetensors"


def _do_each(
    job: Job,
    do: Callable[[TaggedImage], None],
    find_path: Callable[[TaggedImage], Path],
    *,
    items: Sequence[TaggedImage] | None = None,
    in_processes: bool = True,
) -> None:
    """Works on all pictures: on every core, or here where a network takes all of them anyway."""
    do_each(
        job.items if items is None else items,
        do,
        is_done=lambda item: find_path(item).exists(),
        processes=count_processes(job.plan.processes) if in_processes else 1,
        on_progress=job.on_progress,
    )


def _choose_place(job: Job) -> tuple[torch.device, torch.dtype]:
    device = choose_device(job.plan.device)
    return device, choose_dtype(job.plan.dtype, device)


def _make_cams(job: Job, folder: Path) -> None:
    device, dtype = _choose_place(job)
    weights = job.plan.classifier or _find_made(job, "classify")
    network = load_class_model(weights, name="classifier", device=job.plan.device)
    assert isinstance(network, Classifier)
    known = read_header(find_weights(weights)).get("classes")
    if known is not None and list(known) != list(job.class_names):
        raise InputError(
            f"{weights}: was trained on the classes {', '.join(known)}; the list of classes has "
            "others, or another order"
        )
    if network.num_classes != len(job.class_names):
        raise InputError(
            f"{weights}: knows {network.num_classes} classes, but the list of classes has "
            f"{len(job.class_names)}; name the list it was trained with"
        )
    do = partial(
        write_class_maps,
        network=network,
        scales=job.plan.cam_scales,
        folder=folder,
        device=device,
        dtype=dtype,
    )
    _do_each(job, do, lambda item: folder / f"{item.id}.npz", in_processes=False)


def _make_segments(job: Job, folder: Path, learning: Mapping[str, Any]) -> None:
    for kind in KINDS:
        do = partial(write_segments, kind=kind, folder=folder, settings=learning)
        _do_each(job, do, lambda item, kind=kind: folder / f"{item.id}.{kind}.png")  # type: ignore[misc]


def _make_perimeters(job: Job, folder: Path, config: PerimeterFitConfig) -> None:
    for kind in KINDS:
        do = partial(
            write_perimeter,
            kind=kind,
            config=config,
            source=job.out_dir / "segments",
            folder=folder,
        )
        _do_each(job, do, lambda item, kind=kind: folder / f"{item.id}.{kind}.png")  # type: ignore[misc]


def _make_fits(job: Job, folder: Path, config: PerimeterFitConfig) -> None:
    folders = {name: job.out_dir / name for name in ("cam", "segments", "perimeters")}
    do = partial(write_fits, config=config, folders=folders, folder=folder)
    _do_each(job, do, lambda item: folder / f"{item.id}.npz")


def _make_combined(job: Job, folder: Path) -> None:
    folders = {name: job.out_dir / name for name in ("cam", "fit")}
    do = partial(write_combined, folders=folders, folder=folder)
    _do_each(job, do, lambda item: folder / f"{item.id}.npz")


def _make_affinity_labels(job: Job, folder: Path) -> None:
    plan = job.plan
    do = partial(
        write_affinity_labels,
        source=job.out_dir / plan.taught_cam,
        folder=folder,
        fg_threshold=plan.sure_above,
        bg_threshold=plan.maybe_above,
        crf_iterations=plan.labels_crf_iterations,
    )
    _do_each(job, do, lambda item: folder / f"{item.id}.png")


def _make_walks(job: Job, folder: Path) -> None:
    plan = job.plan
    device, dtype = _choose_place(job)
    network = load_affinity_net(plan.affinity_net or _find_made(job, "affinity"), device=device)
    do = partial(
        write_walked,
        network=network,
        source=job.out_dir / plan.walking_cam,
        folder=folder,
        device=device,
        dtype=dtype,
        canvas_px=plan.walk_canvas_px,
        radius=plan.walk_radius,
        beta=plan.walk_beta,
        exp_times=plan.walk_exp_times,
    )
    _do_each(job, do, lambda item: folder / f"{item.id}.npz", in_processes=False)


def _make_pseudo_labels(job: Job, folder: Path) -> None:
    do = partial(
        write_pseudo_labels,
        source=job.out_dir / "walk",
        folder=folder,
        threshold=job.plan.pseudo_threshold,
        crf_iterations=job.plan.pseudo_crf_iterations,
    )
    _do_each(job, do, lambda item: folder / f"{item.id}.png")


def _segment(job: Job, folder: Path) -> None:
    plan = job.plan
    device, dtype = _choose_place(job)
    network = load_class_model(
        _find_made(job, "segmenter"), name="deeplabv3plus", device=plan.device
    )
    assert isinstance(network, DeepLabV3Plus)
    do = partial(
        write_segmented,
        network=network,
        scales=plan.segment_scales,
        crf_iterations=plan.segment_crf_iterations,
        folder=folder / _SEGMENTED,
        device=device,
        dtype=dtype,
    )
    items = [*job.items, *job.test_items]
    _do_each(
        job,
        do,
        lambda item: folder / _SEGMENTED / f"{item.id}.png",
        items=items,
        in_processes=False,
    )
