"""Refining files: one picture, folders, COCO json, Cityscapes folders.

Every form is a list of jobs, one per image. A job that fails is reported and stops no other; files
appear whole or not at all; a stopped run goes on where it was.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Refiner, Sample, Scores
from maskhone.data.big import find_big_items, load_big_item, name_result
from maskhone.data.cityscapes import (
    CityscapesItem,
    find_cityscapes_items,
    load_cityscapes_item,
    write_cityscapes,
    write_cityscapes_sample,
)
from maskhone.data.coco import (
    CocoItem,
    CocoResults,
    find_coco_items,
    from_rle,
    load_results,
    refined_entry,
    write_results,
)
from maskhone.data.files import replace_when_done
from maskhone.data.folder import (
    FolderItem,
    find_folder_items,
    load_folder_item,
    write_folder_sample,
)
from maskhone.data.images import MaskFile, read_image, read_mask, read_pair, write_image, write_mask
from maskhone.data.score_maps import index_maps, make_blank_image
from maskhone.errors import InputError, MaskhoneError, UsageError
from maskhone.methods.catalogue import METHODS, load
from maskhone.ops.masks import choose_classes, to_steps
from maskhone.pipelines.arrays import check_band, refine_scores
from maskhone.pipelines.figure import write_comparison

PIXELS_AT_ONCE = 64_000_000
"""Masks of one image are refined in groups of at most this many pixels (256 MB of scores)."""

RUN_FILE = ".maskhone-run.json"
"""In an output folder: the settings of the run, so that --resume does not mix two."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class RefineReport:
    """What a run did.

    Attributes:
        lines: for people.
        problems: one line for each image, mask or entry that failed.
        refined: images that were refined.
        skipped: images that an earlier run had done.
    """

    lines: tuple[str, ...]
    problems: tuple[str, ...] = ()
    refined: int = 0
    skipped: int = 0


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Everything that decides what the masks become."""

    method: str
    weights: str | None
    logits: bool
    guard: bool
    band_px: int
    binary: bool
    scores: bool
    classes: bool
    dtype: str
    options: Mapping[str, Any]
    version: str = field(default_factory=lambda: version("maskhone"))


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What all jobs of a run share."""

    images: Path
    masks: Path
    output: Path
    settings: _Settings
    device: str
    batch_size: int
    compare: Path | None
    image_list: Path | None
    recompute_boxes: bool
    resume: bool
    dry_run: bool
    on_progress: Progress | None

    @cached_property
    def refiner(self) -> Refiner:
        return load(
            self.settings.method,
            weights=self.settings.weights,
            device=self.device,
            dtype=self.settings.dtype,
            batch_size=self.batch_size,
            **self.settings.options,
        )

    def refine(self, image: Image, masks: Scores) -> Scores:
        settings = self.settings
        return refine_scores(
            self.refiner, image, masks, guard=settings.guard, band_px=settings.band_px
        )

    def write_figure(self, name: str, image: Image, coarse: Scores, refined: Scores) -> None:
        if self.compare is not None:
            write_comparison(self.compare / f"{name}.png", image, coarse, refined)


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
    guard: bool = False,
    band_px: int = 0,
    max_patches: int | None = None,
    binary: bool = False,
    scores: bool = False,
    classes: bool = False,
    recompute_boxes: bool = False,
    compare: Path | None = None,
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
        guard: keep the coarse mask where the refined one strays.
        band_px: when positive, change nothing further than this from the coarse outline.
        max_patches: at most this many full-size patches per object, for methods that have this
            option; bounds the time that large pictures take.
        binary: cut probabilities at one half.
        scores: also keep the probabilities: 16-bit PNG or float arrays, in `<output>-scores`.
        classes: files of `(K, H, W)` scores: also write which of the K classes is highest, as a
            label map in `<output>-classes`.
        recompute_boxes: COCO: make bbox and area follow the refined mask.
        compare: picture (one mask) or folder to write comparisons to.
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
    run = _Run(
        images=images,
        masks=images if masks is None else masks,
        output=output,
        settings=_Settings(
            method=method,
            weights=weights,
            logits=logits,
            guard=guard,
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
    return _FORMS[form](run)


def _find_form_of_maps(run: _Run, asked: str) -> str:
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


def _find_form(run: _Run, asked: str) -> str:
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


def _check_paths(run: _Run) -> None:
    """Refuses inputs that are missing and an output that would touch them."""
    for path in (run.images, run.masks):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
    if run.output.resolve() == run.masks.resolve():
        raise UsageError(f"{run.output}: would overwrite the coarse masks; name another output")
    inputs = [path.resolve() for path in (run.images, run.masks) if path.is_dir()]
    if any(path in run.output.resolve().parents for path in inputs):
        raise UsageError(f"{run.output}: lies inside an input folder; name another output")


def _refine_picture(run: _Run) -> RefineReport:
    """Refines one mask file of one picture."""
    output = run.output / run.masks.name if run.output.is_dir() else run.output
    if run.dry_run:
        return RefineReport(lines=(f"would refine {run.masks} to {output}",))
    image, mask_file = read_pair(run.images, run.masks, is_logits=run.settings.logits)
    return _refine_mask_file(run, image, mask_file, output)


def _refine_map(run: _Run) -> RefineReport:
    """Refines one file of maps that comes without picture."""
    output = run.output / run.masks.name if run.output.is_dir() else run.output
    if run.dry_run:
        return RefineReport(lines=(f"would refine {run.masks} to {output}",))
    mask_file = read_mask(run.masks, is_logits=run.settings.logits)
    return _refine_mask_file(run, make_blank_image(mask_file.scores.shape[1:]), mask_file, output)


def _refine_mask_file(run: _Run, image: Image, mask_file: MaskFile, output: Path) -> RefineReport:
    refined = run.refine(image, mask_file.scores)
    written = write_mask(output, refined, mask_file, binary=run.settings.binary)
    if run.settings.scores:
        path = _scores_path(output.with_suffix("")).with_suffix(output.suffix)
        write_mask(path, refined, mask_file, as_scores=True)
    _write_classes(run, Path(output.stem), output.with_suffix(""), mask_file, refined)
    if run.compare is not None:
        write_comparison(run.compare, image, mask_file.scores, refined)
    changed = ((refined > FOREGROUND) != (mask_file.scores > FOREGROUND)).any(axis=0).mean()
    line = f"wrote {written} ({100 * changed:.2f} % of the pixels changed)"
    return RefineReport(lines=(line,), refined=1)


def _refine_folder(run: _Run) -> RefineReport:
    """Refines a folder of mask files, matched to the pictures by name."""
    items, problems = find_folder_items(run.images, run.masks)

    def is_done(item: FolderItem) -> bool:
        return all((run.output / path.relative_to(run.masks)).exists() for path in item.mask_paths)

    def do(item: FolderItem) -> None:
        _refine_folder_sample(run, load_folder_item(item, is_logits=run.settings.logits))

    return _run_folder_jobs(run, items, problems, is_done, do)


def _refine_maps(run: _Run) -> RefineReport:
    """Refines a folder of files of maps that come without pictures."""

    def do(path: Path) -> None:
        mask_file = read_mask(path, is_logits=run.settings.logits)
        image = make_blank_image(mask_file.scores.shape[1:])
        refined = run.refine(image, mask_file.scores)
        name = path.relative_to(run.masks)
        if run.settings.scores:
            write_mask(_scores_path(run.output) / name, refined, mask_file, as_scores=True)
        _write_classes(run, name, run.output, mask_file, refined)
        write_mask(run.output / name, refined, mask_file, binary=run.settings.binary)

    def is_done(path: Path) -> bool:
        return (run.output / path.relative_to(run.masks)).exists()

    return _run_folder_jobs(run, list(index_maps(run.masks).values()), [], is_done, do)


def _refine_folder_sample(run: _Run, sample: Sample) -> None:
    refined = run.refine(sample.image, sample.masks)
    if run.settings.scores:
        write_folder_sample(_scores_path(run.output), sample, refined, as_scores=True)
    run.write_figure(sample.id, sample.image, sample.masks, refined)
    write_folder_sample(run.output, sample, refined, binary=run.settings.binary)


def _refine_big(run: _Run) -> RefineReport:
    """Refines a folder of `NAME_im` and `NAME_seg` files."""
    items, problems = find_big_items(run.images, run.masks)

    def do(item: FolderItem) -> None:
        _refine_folder_sample(run, load_big_item(item))

    return _run_folder_jobs(
        run, items, problems, lambda item: (run.output / name_result(item)).exists(), do
    )


def _refine_cityscapes(run: _Run) -> RefineReport:
    """Refines a Cityscapes prediction folder."""
    items, problems = find_cityscapes_items(run.masks, run.images)

    def is_done(item: CityscapesItem) -> bool:
        return (run.output / f"{item.id}_leftImg8bit_pred.txt").exists()

    def do(item: CityscapesItem) -> None:
        if not item.detections:
            write_cityscapes(run.output, item.id, [])
            return
        sample = load_cityscapes_item(item)
        refined = run.refine(sample.image, sample.masks)
        if run.settings.scores:
            _write_score_pictures(_scores_path(run.output), item.id, range(len(refined)), refined)
        run.write_figure(item.id, sample.image, sample.masks, refined)
        write_cityscapes_sample(run.output, sample, refined)

    return _run_folder_jobs(run, items, problems, is_done, do)


def _run_folder_jobs(
    run: _Run,
    items: Sequence[Any],
    problems: list[str],
    is_done: Callable[[Any], bool],
    do: Callable[[Any], None],
) -> RefineReport:
    """Does the jobs of a folder run that are not done yet."""
    if run.dry_run:
        return RefineReport(
            lines=(f"would refine the masks of {len(items)} pictures into {run.output}",),
            problems=tuple(problems),
        )
    _claim_folder(run)
    waiting = [item for item in items if not (run.resume and is_done(item))]
    failed = _do_all(run, waiting, do)
    n_refined, n_skipped = len(waiting) - len(failed), len(items) - len(waiting)
    return _summarise(run, n_refined, n_skipped, [*problems, *failed])


def _claim_folder(run: _Run) -> None:
    """Writes the settings into the output folder; with resume, refuses other ones."""
    _ = run.refiner  # fail on a bad method or bad weights before anything is written
    file = run.output / RUN_FILE
    settings = asdict(run.settings)
    if run.resume and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        _refuse_other_settings(run.output, before, settings)
    with replace_when_done(file) as unfinished:
        unfinished.write_text(json.dumps(settings, default=str), encoding="utf-8")


def _refuse_other_settings(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    now = json.loads(json.dumps(now, default=str))
    if before != now:
        names = ", ".join(k for k in now if before.get(k) != now[k])
        raise UsageError(
            f"{path}: was begun with another {names}; use the same, or run without --resume"
        )


def _do_all(run: _Run, items: Sequence[Any], do: Callable[[Any], None]) -> list[str]:
    """Does every job; returns a line for each that failed."""
    failed = []
    for done, item in enumerate(items, start=1):
        try:
            do(item)
        except (MaskhoneError, MemoryError) as error:
            failed.append(str(error) or f"{item}: out of memory; use a smaller picture")
        if run.on_progress is not None:
            run.on_progress(done, len(items))
    return failed


def _summarise(run: _Run, refined: int, skipped: int, problems: list[str]) -> RefineReport:
    line = f"wrote {run.output}: {refined} pictures refined"
    if skipped:
        line += f", {skipped} done before"
    return RefineReport(lines=(line,), problems=tuple(problems), refined=refined, skipped=skipped)


def _refine_coco(run: _Run) -> RefineReport:
    """Refines the segmentations of a COCO json; entries keep their order and all other fields."""
    if run.output.is_dir():
        raise InputError(f"{run.output}: is a folder; name the json to write")
    results = load_results(run.masks)
    items, problems = find_coco_items(results, run.images, run.image_list)
    if run.dry_run:
        line = f"would refine {len(results.entries)} masks of {len(items)} pictures to {run.output}"
        return RefineReport(lines=(line,), problems=tuple(problems))
    _ = run.refiner
    with closing(_Journal(run)) as journal:
        waiting = [i for i in items if not all(n in journal.refined for n in i.entry_indices)]

        def do(item: CocoItem) -> None:
            problems.extend(_refine_coco_item(run, results, item, journal))

        failed = _do_all(run, waiting, do)
        write_results(run.output, results, journal.refined)
    journal.path.unlink()
    n_refined, n_skipped = len(waiting) - len(failed), len(items) - len(waiting)
    return _summarise(run, n_refined, n_skipped, [*problems, *failed])


def _refine_coco_item(
    run: _Run, results: CocoResults, item: CocoItem, journal: "_Journal"
) -> list[str]:
    """Refines the masks of one image in groups that fit into memory; returns what failed."""
    image = read_image(item.image_path)
    problems, name = [], str(item.image_id)
    for start, group in enumerate(_groups(item.entry_indices, image)):
        indices, masks, bad = _decode(results, group, image)
        problems += bad
        refined = run.refine(image, masks)
        for index, scores in zip(indices, refined, strict=True):
            entry = results.entries[index]
            journal.add(index, refined_entry(entry, scores, recompute_box=run.recompute_boxes))
        if run.settings.scores:
            _write_score_pictures(_scores_path(run.output), name, indices, refined)
        run.write_figure(f"{name}-{start}" if start else name, image, masks, refined)
    return problems


def _groups(indices: tuple[int, ...], image: Image) -> Iterator[tuple[int, ...]]:
    size = max(PIXELS_AT_ONCE // (image.shape[0] * image.shape[1]), 1)
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _decode(
    results: CocoResults, group: tuple[int, ...], image: Image
) -> tuple[list[int], Scores, list[str]]:
    """Decodes some entries; one that cannot be decoded is left out and named."""
    size_hw = (image.shape[0], image.shape[1])
    masks = np.zeros((len(group), *size_hw), dtype=np.float32)
    indices: list[int] = []
    problems = []
    for index in group:
        try:
            segmentation = results.entries[index]["segmentation"]
            name = f"{results.path}: entry {index}"
            masks[len(indices)] = from_rle(segmentation, size_hw=size_hw, name=name)
            indices.append(index)
        except InputError as error:
            problems.append(f"{error} (kept as it is)")
    return indices, masks[: len(indices)], problems


class _Journal:
    """Refined entries as they come, beside the output, so that a stopped run can go on."""

    def __init__(self, run: _Run) -> None:
        self.path = run.output.with_name(f".{run.output.name}.unfinished.jsonl")
        self.refined: dict[int, dict[str, Any]] = {}
        settings = {
            **asdict(run.settings),
            "masks": str(run.masks.resolve()),
            "recompute_boxes": run.recompute_boxes,
        }
        if run.resume and self.path.exists():
            self._read(run.output, settings)
        else:
            self._write_new(settings)
        self.file = self.path.open("a", encoding="utf-8")

    def _write_new(self, settings: dict[str, Any]) -> None:
        with replace_when_done(self.path) as unfinished:
            unfinished.write_text(json.dumps(settings, default=str) + "\n", encoding="utf-8")

    def _read(self, output: Path, settings: dict[str, Any]) -> None:
        lines = self.path.read_text(encoding="utf-8").split("\n")
        _refuse_other_settings(output, json.loads(lines[0]), settings)
        whole = lines[1:-1]  # after a stop the last line may be torn
        for line in whole:
            index, entry = json.loads(line)
            self.refined[index] = entry
        with replace_when_done(self.path) as unfinished:
            unfinished.write_text("\n".join([lines[0], *whole, ""]), encoding="utf-8")

    def add(self, index: int, entry: dict[str, Any]) -> None:
        self.refined[index] = entry
        self.file.write(json.dumps([index, entry]) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def _scores_path(output: Path) -> Path:
    return output.with_name(f"{output.stem if output.suffix == '.json' else output.name}-scores")


def _write_classes(
    run: _Run, name: Path, output: Path, mask_file: MaskFile, refined: Scores
) -> None:
    """Writes the class of the highest score beside the output, where a file holds several."""
    if not (run.settings.classes and mask_file.is_stack):
        return
    classes = choose_classes(refined, mask_file.scores)
    folder = output.with_name(f"{output.name}-classes")
    dtype = np.uint8 if len(refined) <= 256 else np.uint16
    write_image((folder / name).with_suffix(".png"), classes.astype(dtype))


def _write_score_pictures(folder: Path, name: str, numbers: Sequence[int], scores: Scores) -> None:
    for number, score in zip(numbers, scores, strict=True):
        deep: NDArray[np.uint16] = to_steps(score, 65535).astype(np.uint16)
        write_image(folder / f"{name}_{number}.png", deep)


_FORMS: dict[str, Callable[[_Run], RefineReport]] = {
    "picture": _refine_picture,
    "map": _refine_map,
    "maps": _refine_maps,
    "folder": _refine_folder,
    "coco": _refine_coco,
    "cityscapes": _refine_cityscapes,
    "big": _refine_big,
}
