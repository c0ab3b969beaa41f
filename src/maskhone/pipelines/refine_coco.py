"""Refining the segmentations of a COCO or LVIS json."""

from contextlib import closing

import numpy as np

from maskhone.contracts import Image, Scores
from maskhone.data.coco import (
    CocoItem,
    CocoResults,
    Entry,
    find_coco_items,
    from_rle,
    load_results,
    refined_entry,
    write_results,
)
from maskhone.data.images import read_image
from maskhone.errors import InputError
from maskhone.ops.groups import split_masks
from maskhone.pipelines.journal import Journal
from maskhone.pipelines.refine_run import (
    RefineReport,
    Run,
    do_all,
    scores_path,
    summarise,
    write_score_pictures,
)

_NAMING = (("id", "id"), ("category", "category_id"))


def refine_coco(run: Run) -> RefineReport:
    """Refines the segmentations of a COCO json; entries keep their order and all other fields."""
    if run.output.is_dir():
        raise InputError(f"{run.output}: is a folder; name the json to write")
    results = load_results(run.masks)
    items, problems = find_coco_items(results, run.images, run.image_list)
    if run.dry_run:
        line = f"would refine {len(results.entries)} masks of {len(items)} pictures to {run.output}"
        return RefineReport(lines=(line,), problems=tuple(problems))
    _ = run.refiner
    with closing(Journal(run)) as journal:
        waiting = [i for i in items if not all(n in journal.refined for n in i.entry_indices)]

        def do(item: CocoItem) -> None:
            problems.extend(_refine_coco_item(run, results, item, journal))

        failed = do_all(run, waiting, do)
        write_results(run.output, results, journal.refined)
    journal.path.unlink()
    n_refined, n_skipped = len(waiting) - len(failed), len(items) - len(waiting)
    return summarise(run, n_refined, n_skipped, [*problems, *failed])


def _refine_coco_item(
    run: Run, results: CocoResults, item: CocoItem, journal: Journal
) -> list[str]:
    """Refines the masks of one image in groups that fit into memory; returns what failed."""
    image = read_image(item.image_path)
    problems, name = [], str(item.image_id)
    size_hw = (image.shape[0], image.shape[1])
    for start, here in enumerate(split_masks(len(item.entry_indices), size_hw)):
        indices, masks, bad = _decode(results, item.entry_indices[here], image)
        problems += bad
        result = run.refine(image, masks)
        refined = result.scores
        names = [_name_entry(index, results.entries[index]) for index in indices]
        picture = item.image_path.relative_to(run.images).as_posix()
        run.report_masks(picture, names, image, masks, result)
        for index, scores in zip(indices, refined, strict=True):
            entry = results.entries[index]
            journal.add(index, refined_entry(entry, scores, recompute_box=run.recompute_boxes))
        if run.settings.scores:
            write_score_pictures(scores_path(run.output), name, indices, refined)
        run.write_figure(f"{name}-{start}" if start else name, image, masks, refined)
    return problems


def _name_entry(index: int, entry: Entry) -> str:
    """Names an entry by its place in the json, and by what else tells it from others."""
    known = [f"{word} {entry[key]}" for word, key in _NAMING if key in entry]
    return ", ".join([f"entry {index}", *known])


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
