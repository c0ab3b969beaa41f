"""What each stage from image labels to masks does: it fills its folder, picture by picture.

A stage begins where a stopped run left it. Each function returns how many pictures it made now;
trainings return nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.methods.perimeterfit.config import PerimeterFitConfig
from maskhone.methods.perimeterfit.convert import load_affinity_net
from maskhone.pipelines.per_picture import count_processes, do_each, do_here
from maskhone.pipelines.pseudo.pictures import (
    KINDS,
    find_edges,
    segment_picture,
    write_affinity_labels,
    write_class_maps,
    write_combined,
    write_fits,
    write_mask,
    write_perimeters,
    write_pseudo_labels,
    write_segments,
    write_walked,
)
from maskhone.pipelines.pseudo.plan import Job
from maskhone.pipelines.pseudo.trainings import TRAININGS
from maskhone.pipelines.segmenters import load_class_model
from maskhone.segmenters.classifier import Classifier
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus

Do = Callable[[TaggedImage], None]


def train(job: Job, name: str, folder: Path) -> None:
    """Trains, or goes on with a training that was stopped; done ones stay."""
    if not find_made(job, name).exists():
        run = TRAININGS[name].train
        run(job.recipe_of(name), out_dir=folder, resume=True, on_progress=job.on_progress)


def find_made(job: Job, name: str) -> Path:
    """Says where the weights of a training lie."""
    return job.out_dir / name / f"{job.plan.name}.{name}.safetensors"


def make_cams(job: Job, folder: Path) -> int:
    """Fills the stage `cam`."""
    device, dtype = _choose_place(job)
    weights = job.plan.classifier or find_made(job, "classify")
    network = load_class_model(weights, name="classifier", device=job.plan.device)
    assert isinstance(network, Classifier)
    do = partial(
        write_class_maps,
        network=network,
        scales=job.plan.cam_scales,
        folder=folder,
        device=device,
        dtype=dtype,
    )
    is_done = _find_done(folder, ".npz")
    return do_here(job.items, do, is_done=is_done, on_progress=job.on_progress)


def make_segments(job: Job, folder: Path, learning: Mapping[str, Any]) -> int:
    """Fills the stage `segments`."""
    do = partial(
        write_segments, folder=folder, settings=learning, device=choose_device(job.plan.device)
    )
    return _do_each(job, do, folder, *_ENDINGS)


def make_perimeters(job: Job, folder: Path, config: PerimeterFitConfig) -> int:
    """Fills the stage `perimeters`."""
    do = partial(write_perimeters, config=config, source=job.out_dir / "segments", folder=folder)
    return _do_each(job, do, folder, *_ENDINGS)


def make_fits(job: Job, folder: Path, config: PerimeterFitConfig) -> int:
    """Fills the stage `fit`."""
    folders = {name: job.out_dir / name for name in ("cam", "segments", "perimeters")}
    do = partial(write_fits, config=config, folders=folders, folder=folder)
    return _do_each(job, do, folder, ".npz")


def make_combined(job: Job, folder: Path) -> int:
    """Fills the stage `combine`."""
    folders = {name: job.out_dir / name for name in ("cam", "fit")}
    return _do_each(job, partial(write_combined, folders=folders, folder=folder), folder, ".npz")


def make_affinity_labels(job: Job, folder: Path) -> int:
    """Fills the stage `affinity-labels`."""
    plan = job.plan
    do = partial(
        write_affinity_labels,
        source=job.out_dir / plan.taught_cam,
        folder=folder,
        fg_threshold=plan.sure_above,
        bg_threshold=plan.maybe_above,
        crf_iterations=plan.labels_crf_iterations,
    )
    return _do_each(job, do, folder, ".png")


def make_walks(job: Job, folder: Path) -> int:
    """Fills the stage `walk`: the network runs here, the walk itself in processes."""
    plan = job.plan
    device, dtype = _choose_place(job)
    network = load_affinity_net(plan.affinity_net or find_made(job, "affinity"), device=device)
    return do_each(
        job.items,
        partial(
            write_walked,
            source=job.out_dir / plan.walking_cam,
            folder=folder,
            radius=plan.walk_radius,
            beta=plan.walk_beta,
            exp_times=plan.walk_exp_times,
        ),
        is_done=_find_done(folder, ".npz"),
        prepare=partial(
            find_edges, network=network, device=device, dtype=dtype, canvas_px=plan.walk_canvas_px
        ),
        processes=count_processes(plan.processes),
        on_progress=job.on_progress,
    )


def make_pseudo_labels(job: Job, folder: Path) -> int:
    """Fills the stage `pseudo-labels`."""
    do = partial(
        write_pseudo_labels,
        source=job.out_dir / "walk",
        folder=folder,
        threshold=job.plan.pseudo_threshold,
        crf_iterations=job.plan.pseudo_crf_iterations,
    )
    return _do_each(job, do, folder, ".png")


def make_masks(job: Job, folder: Path) -> int:
    """Fills the stage `masks`: the network runs here, the dense CRF in processes."""
    plan = job.plan
    device, dtype = _choose_place(job)
    network = load_class_model(
        find_made(job, "segmenter"), name="deeplabv3plus", device=plan.device
    )
    assert isinstance(network, DeepLabV3Plus)
    return do_each(
        [*job.items, *job.test_items],
        partial(write_mask, crf_iterations=plan.segment_crf_iterations, folder=folder),
        is_done=_find_done(folder, ".png"),
        prepare=partial(
            segment_picture,
            network=network,
            scales=plan.segment_scales,
            device=device,
            dtype=dtype,
        ),
        processes=count_processes(plan.processes) if plan.segment_crf_iterations else 1,
        on_progress=job.on_progress,
    )


_ENDINGS = tuple(f".{kind}.png" for kind in KINDS)


def _do_each(job: Job, do: Do, folder: Path, *endings: str) -> int:
    """Works on all pictures on every core."""
    return do_each(
        job.items,
        do,
        is_done=_find_done(folder, *endings),
        processes=count_processes(job.plan.processes),
        on_progress=job.on_progress,
    )


def _find_done(folder: Path, *endings: str) -> Callable[[TaggedImage], bool]:
    """Returns what says whether all files of a picture are there."""
    return lambda item: all((folder / f"{item.id}{ending}").exists() for ending in endings)


def _choose_place(job: Job) -> tuple[torch.device, torch.dtype]:
    device = choose_device(job.plan.device)
    return device, choose_dtype(job.plan.dtype, device)
