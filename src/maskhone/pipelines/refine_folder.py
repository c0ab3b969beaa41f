"""Refining folders: pictures and masks, maps without pictures, BIG and Cityscapes."""

from pathlib import Path

from maskhone.contracts import Sample
from maskhone.data.big import find_big_items, load_big_item, name_result
from maskhone.data.cityscapes import (
    CityscapesItem,
    find_cityscapes_items,
    load_cityscapes_item,
    write_cityscapes,
    write_cityscapes_sample,
)
from maskhone.data.folder import (
    FolderItem,
    find_folder_items,
    load_folder_item,
    write_folder_sample,
)
from maskhone.data.images import read_mask, write_mask
from maskhone.data.score_maps import index_maps, make_blank_image
from maskhone.pipelines.refine_run import (
    RefineReport,
    Run,
    run_folder_jobs,
    scores_path,
    write_classes,
    write_score_pictures,
)


def refine_folder(run: Run) -> RefineReport:
    """Refines a folder of mask files, matched to the pictures by name."""
    items, problems = find_folder_items(run.images, run.masks)

    def is_done(item: FolderItem) -> bool:
        return all((run.output / path.relative_to(run.masks)).exists() for path in item.mask_paths)

    def do(item: FolderItem) -> None:
        _refine_folder_sample(run, load_folder_item(item, is_logits=run.settings.logits))

    return run_folder_jobs(run, items, problems, is_done, do)


def refine_maps(run: Run) -> RefineReport:
    """Refines a folder of files of maps that come without pictures."""

    def do(path: Path) -> None:
        mask_file = read_mask(path, is_logits=run.settings.logits)
        image = make_blank_image(mask_file.scores.shape[1:])
        result = run.refine(image, mask_file.scores)
        refined = result.scores
        name = path.relative_to(run.masks)
        if run.settings.scores:
            write_mask(scores_path(run.output) / name, refined, mask_file, as_scores=True)
        write_classes(run, name, run.output, mask_file, refined)
        names = run.name_masks(mask_file)
        run.report_masks(name.as_posix(), names, None, mask_file.scores, result)
        write_mask(run.output / name, refined, mask_file, binary=run.settings.binary)

    def is_done(path: Path) -> bool:
        return (run.output / path.relative_to(run.masks)).exists()

    return run_folder_jobs(run, list(index_maps(run.masks).values()), [], is_done, do)


def _refine_folder_sample(run: Run, sample: Sample) -> None:
    result = run.refine(sample.image, sample.masks)
    refined = result.scores
    if run.settings.scores:
        write_folder_sample(scores_path(run.output), sample, refined, as_scores=True)
    run.write_figure(sample.id, sample.image, sample.masks, refined)
    names = [name for file in sample.meta["mask_files"] for name in run.name_masks(file)]
    run.report_masks(sample.id, names, sample.image, sample.masks, result)
    write_folder_sample(run.output, sample, refined, binary=run.settings.binary)


def refine_big(run: Run) -> RefineReport:
    """Refines a folder of `NAME_im` and `NAME_seg` files."""
    items, problems = find_big_items(run.images, run.masks)

    def do(item: FolderItem) -> None:
        _refine_folder_sample(run, load_big_item(item))

    return run_folder_jobs(
        run, items, problems, lambda item: (run.output / name_result(item)).exists(), do
    )


def refine_cityscapes(run: Run) -> RefineReport:
    """Refines a Cityscapes prediction folder."""
    items, problems = find_cityscapes_items(run.masks, run.images)

    def is_done(item: CityscapesItem) -> bool:
        return (run.output / f"{item.id}_leftImg8bit_pred.txt").exists()

    def do(item: CityscapesItem) -> None:
        if not item.detections:
            write_cityscapes(run.output, item.id, [])
            return
        sample = load_cityscapes_item(item)
        result = run.refine(sample.image, sample.masks)
        refined = result.scores
        if run.settings.scores:
            write_score_pictures(scores_path(run.output), item.id, range(len(refined)), refined)
        run.write_figure(item.id, sample.image, sample.masks, refined)
        names = [detection.mask_name for detection in sample.meta["detections"]]
        run.report_masks(item.id, names, sample.image, sample.masks, result)
        write_cityscapes_sample(run.output, sample, refined)

    return run_folder_jobs(run, items, problems, is_done, do)
