"""Refining files: one picture, folders, COCO json, Cityscapes folders.

Every form is a list of jobs, one per image. A job that fails is reported and stops no other; files
appear whole or not at all; a stopped run goes on where it was.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskhone.errors import InputError, UsageError
from maskhone.methods.catalogue import METHODS
from maskhone.ops.guard import Guard
from maskhone.pipelines.arrays import check_band, choose_guard
from maskhone.pipelines.refine_coco import refine_coco
from maskhone.pipelines.refine_folder import (
    refine_big,
    refine_cityscapes,
    refine_folder,
    refine_maps,
)
from maskhone.pipelines.refine_picture import refine_map, refine_picture
from maskhone.pipelines.refine_report import check_report_path, run_with_report
from maskhone.pipelines.refine_run import Progress, RefineReport, Run, Settings

__all__ = ["RefineReport", "refine_files"]


def refine_files(
    images: Path,
    masks: Path | None,
    output: Path,
    *,
    method: str = "bpr",
    weights: str | None = None,
    format: str = "auto",
    logits: bool = False,
    image_list: Path | None = None,
    guard: Guard | None = None,
    band_px: int = 0,
    max_patches: int | None = None,
    binary: bool = False,
    scores: bool = False,
    classes: bool = False,
    recompute_boxes: bool = False,
    compare: Path | None = None,
    report: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 32,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> RefineReport:
    """Refines the masks in files and writes the same kind of files.

    Args:
        images: a picture, or a folder of pictures.
        masks: a mask file; a folder of masks; a COCO results json or data set; or a Cityscapes
            prediction folder. None: `images` is the mask file or the folder of masks, for methods
            that look at no picture.
        output: a file, a folder, a json, or a folder, accordingly.
        method: see `maskhone.methods.catalogue`.
        weights: a weight file or a bundled name; None takes the method's own.
        format: `auto`, `folder`, `coco`, `cityscapes` or `big`; auto goes by what `masks` is.
        logits: float arrays hold logits, and become probabilities by a sigmoid.
        image_list: COCO json whose `images` name the files of image ids.
        guard: `off`, `safe` or `strict`: keep the coarse mask where the refined one is not
            trusted. None is `safe`, or `off` for methods that do not mend outlines (prn,
            perimeterfit).
        band_px: when positive, change nothing further than this from the coarse outline.
        max_patches: at most this many full-size patches per object, for methods that have this
            option; bounds the time that large pictures take.
        binary: cut probabilities at one half.
        scores: also keep the probabilities: 16-bit PNG or float arrays, in `<output>-scores`.
        classes: files of `(K, H, W)` scores: also write which of the K classes is highest, as a
            label map in `<output>-classes`.
        recompute_boxes: COCO: make bbox and area follow the refined mask.
        compare: picture (one mask) or folder to write comparisons to.
        report: HTML file to write: before, after and what changed of every mask, those that a
            person should look at first. With `resume` it goes on with the one of the stopped run.
        device: `auto`, `cpu`, `cuda`, `mps`.
        dtype: `auto`, `fp32`, `bf16`, `fp16`.
        batch_size: patches per call of the network.
        options: fields of the method's configuration.
        resume: go on with a stopped folder or json run of the same settings.
        dry_run: find everything, say what would be done, write nothing.
        on_progress: called with finished and planned images.

    Returns:
        What was done, and what failed.

    Raises:
        UsageError: the call contradicts itself.
        InputError: nothing can be done at all, or the one picture failed.
    """
    check_band(band_px)
    run = Run(
        images=images,
        masks=images if masks is None else masks,
        output=output,
        settings=Settings(
            method=method,
            weights=weights,
            logits=logits,
            guard=choose_guard(method, guard),
            band_px=band_px,
            binary=binary,
            scores=scores,
            classes=classes,
            dtype=dtype,
            options={
                **(options or {}),
                **({} if max_patches is None else {"max_patches": max_patches}),
            },
        ),
        device=device,
        batch_size=batch_size,
        compare=compare,
        image_list=image_list,
        format=format,
        recompute_boxes=recompute_boxes,
        resume=resume,
        dry_run=dry_run,
        on_progress=on_progress,
    )
    form = _find_form(run, format) if masks is not None else _find_form_of_maps(run, format)
    if logits and form not in ("picture", "folder", "map", "maps"):
        raise UsageError(f"logits are read from .npy and .npz files, not from {form}")
    if classes and form not in ("picture", "map", "maps"):
        raise UsageError(f"classes are chosen in .npy and .npz files of scores, not in {form}")
    if classes and logits:
        raise UsageError(
            "logits of classes that exclude one another want a softmax over the classes, which "
            "--logits is not; save probabilities"
        )
    if report is None:
        return _FORMS[form](run)
    check_report_path(run, report)
    return run_with_report(run, report, _FORMS[form])


def _find_form_of_maps(run: Run, asked: str) -> str:
    """Tells one map from a folder of them, where there are no pictures."""
    method = METHODS.get(run.settings.method)
    if method is None or method.needs_picture:
        known = ", ".join(name for name, each in METHODS.items() if not each.needs_picture)
        raise UsageError(
            f"{run.settings.method} looks at the picture: give IMAGES and MASKS; "
            f"without pictures works {known}"
        )
    if asked not in ("auto", "folder") or run.masks.suffix.lower() == ".json":
        raise UsageError("without pictures only maps in files and folders can be refined")
    if run.compare is not None:
        raise UsageError("compare shows the picture: give IMAGES and MASKS")
    _check_paths(run)
    return "maps" if run.masks.is_dir() else "map"


def _find_form(run: Run, asked: str) -> str:
    known = ("auto", "folder", "coco", "cityscapes", "big")
    if asked not in known:
        raise UsageError(f"format is {asked!r}; expected one of {', '.join(known)}")
    _check_paths(run)
    if run.images.is_file() and run.masks.is_file() and run.masks.suffix.lower() != ".json":
        return "picture"
    if run.images.is_file():
        raise UsageError(f"{run.images} is a file; with {run.masks} give a folder of pictures")
    if asked != "auto":
        return asked
    if run.masks.is_dir():
        return "folder"
    if run.masks.suffix.lower() == ".json":
        return "coco"
    raise UsageError(f"{run.images} is a folder but {run.masks} a file; give a folder or a .json")


def _check_paths(run: Run) -> None:
    """Refuses inputs that are missing and an output that would touch them."""
    for path in (run.images, run.masks):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
    if run.output.resolve() == run.masks.resolve():
        raise UsageError(f"{run.output}: would overwrite the coarse masks; name another output")
    inputs = [path.resolve() for path in (run.images, run.masks) if path.is_dir()]
    if any(path in run.output.resolve().parents for path in inputs):
        raise UsageError(f"{run.output}: lies inside an input folder; name another output")


_FORMS: dict[str, Callable[[Run], RefineReport]] = {
    "picture": refine_picture,
    "map": refine_map,
    "maps": refine_maps,
    "folder": refine_folder,
    "coco": refine_coco,
    "cityscapes": refine_cityscapes,
    "big": refine_big,
}
