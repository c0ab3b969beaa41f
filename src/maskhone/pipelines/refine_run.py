"""What every form of refining shares: the run, its jobs one after another, and what it did."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image, Refiner, Scores
from maskhone.data.files import replace_when_done
from maskhone.data.images import MaskFile, write_image
from maskhone.errors import MaskhoneError, UsageError
from maskhone.methods.catalogue import load
from maskhone.ops.guard import Guard
from maskhone.ops.masks import choose_classes, to_steps
from maskhone.pipelines.arrays import Refined, refine_scores
from maskhone.pipelines.figure import write_comparison
from maskhone.pipelines.report_html import MaskRecord, ReportWriter

RUN_FILE = ".maskhone-run.json"
"""In an output folder: the settings of the run, so that --resume does not mix two."""

Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


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
class Settings:
    """Everything that decides what the masks become."""

    method: str
    weights: str | None
    logits: bool
    guard: Guard
    band_px: int
    binary: bool
    scores: bool
    classes: bool
    dtype: str
    options: Mapping[str, Any]
    version: str = field(default_factory=lambda: version("maskhone"))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all jobs of a run share."""

    images: Path
    masks: Path
    output: Path
    settings: Settings
    device: str
    batch_size: int
    compare: Path | None
    image_list: Path | None
    format: str
    recompute_boxes: bool
    resume: bool
    dry_run: bool
    on_progress: Progress | None
    report: ReportWriter | None = None

    @cached_property
    def refiner(self) -> Refiner:
        """Loads the method on first use."""
        return load(
            self.settings.method,
            weights=self.settings.weights,
            device=self.device,
            dtype=self.settings.dtype,
            batch_size=self.batch_size,
            **self.settings.options,
        )

    def refine(self, image: Image, masks: Scores) -> Refined:
        """Refines the masks of one picture as the settings ask."""
        settings = self.settings
        return refine_scores(
            self.refiner, image, masks, guard=settings.guard, band_px=settings.band_px
        )

    def write_figure(self, name: str, image: Image, coarse: Scores, refined: Scores) -> None:
        """Writes the comparison of one picture, where a folder of them was asked for."""
        if self.compare is not None:
            write_comparison(self.compare / f"{name}.png", image, coarse, refined)

    def report_masks(
        self,
        picture: str,
        names: Sequence[str],
        image: Image | None,
        coarse: Scores,
        refined: Refined,
    ) -> None:
        """Adds the masks of one picture to the report, where one was asked for; logs the notes."""
        for name, note in zip(names, refined.notes, strict=False):
            if note:
                _log.info("%s: %s: %s", picture, name, note)
        if self.report is None:
            return
        for index, name in enumerate(names):
            self.report.add(
                MaskRecord(
                    picture=picture,
                    mask=name,
                    image=image,
                    before=coarse[index],
                    after=refined.scores[index],
                    note=refined.notes[index] if refined.notes else "",
                    kept=None if refined.kept is None else float(refined.kept[index]),
                )
            )

    def name_masks(self, mask_file: MaskFile) -> list[str]:
        """Names the masks of a file: as the file, with a label or number where it holds several."""
        path = mask_file.path
        is_within = self.masks in path.parents
        name = path.relative_to(self.masks).as_posix() if is_within else path.name
        if mask_file.labels is not None:
            return [f"{name} label {label}" for label in mask_file.labels.tolist()]
        if mask_file.is_stack:
            return [f"{name} mask {index}" for index in range(len(mask_file.scores))]
        return [name] * len(mask_file.scores)


def run_folder_jobs(
    run: Run,
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
    failed = do_all(run, waiting, do)
    n_refined, n_skipped = len(waiting) - len(failed), len(items) - len(waiting)
    return summarise(run, n_refined, n_skipped, [*problems, *failed])


def _claim_folder(run: Run) -> None:
    """Writes the settings into the output folder; with resume, refuses other ones."""
    _ = run.refiner  # fail on a bad method or bad weights before anything is written
    file = run.output / RUN_FILE
    settings = asdict(run.settings)
    if run.resume and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        refuse_other_settings(run.output, before, settings)
    with replace_when_done(file) as unfinished:
        unfinished.write_text(json.dumps(settings, default=str), encoding="utf-8")


def refuse_other_settings(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to go on with a run of other settings."""
    now = json.loads(json.dumps(now, default=str))
    if before != now:
        names = ", ".join(k for k in now if before.get(k) != now[k])
        raise UsageError(
            f"{path}: was begun with another {names}; use the same, or run without --resume"
        )


def do_all(run: Run, items: Sequence[Any], do: Callable[[Any], None]) -> list[str]:
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


def summarise(run: Run, refined: int, skipped: int, problems: list[str]) -> RefineReport:
    """Says what a run over many pictures did."""
    line = f"wrote {run.output}: {refined} pictures refined"
    if skipped:
        line += f", {skipped} done before"
    return RefineReport(lines=(line,), problems=tuple(problems), refined=refined, skipped=skipped)


def scores_path(output: Path) -> Path:
    """Names the folder of probabilities beside an output."""
    return output.with_name(f"{output.stem if output.suffix == '.json' else output.name}-scores")


def write_classes(run: Run, name: Path, output: Path, mask_file: MaskFile, refined: Scores) -> None:
    """Writes the class of the highest score beside the output, where a file holds several."""
    if not (run.settings.classes and mask_file.is_stack):
        return
    classes = choose_classes(refined, mask_file.scores)
    folder = output.with_name(f"{output.name}-classes")
    dtype = np.uint8 if len(refined) <= 256 else np.uint16
    write_image((folder / name).with_suffix(".png"), classes.astype(dtype))


def write_score_pictures(folder: Path, name: str, numbers: Sequence[int], scores: Scores) -> None:
    """Writes probabilities as 16-bit pictures `NAME_NUMBER.png`."""
    for number, score in zip(numbers, scores, strict=True):
        deep: NDArray[np.uint16] = to_steps(score, 65535).astype(np.uint16)
        write_image(folder / f"{name}_{number}.png", deep)
