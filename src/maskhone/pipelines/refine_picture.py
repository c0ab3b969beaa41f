"""Refining one mask file, with its picture or without one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from maskhone.contracts import FOREGROUND, Image
from maskhone.data.images import MaskFile, read_mask, read_pair, write_mask
from maskhone.data.score_maps import make_blank_image
from maskhone.pipelines.arrays import Refined
from maskhone.pipelines.figure import write_comparison
from maskhone.pipelines.refine_run import RefineReport, Run, scores_path, write_classes


def refine_picture(run: Run) -> RefineReport:
    """Refines one mask file of one picture."""
    output = run.output / run.masks.name if run.output.is_dir() else run.output
    if run.dry_run:
        return RefineReport(lines=(f"would refine {run.masks} to {output}",))
    image, mask_file = read_pair(run.images, run.masks, is_logits=run.settings.logits)
    return _refine_mask_file(run, run.images.name, image, mask_file, output)


def refine_map(run: Run) -> RefineReport:
    """Refines one file of maps that comes without picture."""
    output = run.output / run.masks.name if run.output.is_dir() else run.output
    if run.dry_run:
        return RefineReport(lines=(f"would refine {run.masks} to {output}",))
    mask_file = read_mask(run.masks, is_logits=run.settings.logits)
    return _refine_mask_file(run, run.masks.name, None, mask_file, output)


def _refine_mask_file(
    run: Run, name: str, picture: Image | None, mask_file: MaskFile, output: Path
) -> RefineReport:
    image = make_blank_image(mask_file.scores.shape[1:]) if picture is None else picture
    result = run.refine(image, mask_file.scores)
    refined = result.scores
    written = write_mask(output, refined, mask_file, binary=run.settings.binary)
    if run.settings.scores:
        path = scores_path(output.with_suffix("")).with_suffix(output.suffix)
        write_mask(path, refined, mask_file, as_scores=True)
    write_classes(run, Path(output.stem), output.with_suffix(""), mask_file, refined)
    if run.compare is not None:
        write_comparison(run.compare, image, mask_file.scores, refined)
    names = run.name_masks(mask_file)
    run.report_masks(name, names, picture, mask_file.scores, result)
    changed = ((refined > FOREGROUND) != (mask_file.scores > FOREGROUND)).any(axis=0).mean()
    line = f"wrote {written} ({100 * changed:.2f} % of the pixels changed)"
    return RefineReport(lines=(line, *_describe(names, result)), refined=1)


def _describe(names: Sequence[str], result: Refined) -> Iterator[str]:
    """Says in a line for each mask what was made of it and why, where there is something to say."""
    for name, note in zip(names, result.notes, strict=False):
        if note:
            yield f"{name}: {note}"
