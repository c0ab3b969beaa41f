"""What PatchRefineNet could gain, and what it gained: ceilings, pseudo-labels, the final table."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND
from maskhone.data.files import write_text
from maskhone.data.score_maps import (
    MapItem,
    find_map_items,
    index_maps,
    read_map_pair,
    read_score_map,
)
from maskhone.data.splits import read_ids
from maskhone.errors import InputError
from maskhone.methods.prn.thresholds import find_image_threshold, find_thresholds
from maskhone.metrics.boundary import BoundaryScores
from maskhone.metrics.region import ForegroundScores
from maskhone.pipelines.diagnose import CeilingReport, diagnose_thresholds
from maskhone.pipelines.prn_plan import Job, join_problems, write_truth

REPORT = "report.json"

_SCORED = ("iou_acc", "iou", "iou_two", "f1", "mae")


def make_labels(job: Job, folder: Path) -> None:
    """Writes the pseudo-labels of all maps, and what they could gain on those to train on."""
    found = _diagnose(job, "fit")
    tile_px = job.config.map_px if job.config.tile else 0
    for use in ("fit", "test"):
        for item, scores, truth in _read_maps(job, use, with_held=use == "fit"):
            path = folder / use / f"{item.id}.png"
            if not path.exists():
                label = label_by_patches(scores, truth, cells=job.label_cells, tile_px=tile_px)
                write_truth(path, label)
    ceiling = {
        "best_threshold": found.best_threshold,
        "rows": found.rows,
        "images": found.images,
    }
    write_text(folder / "ceiling.json", json.dumps(ceiling, indent=2))


def _diagnose(job: Job, use: str) -> CeilingReport:
    """Finds what thresholds could gain on the maps of a part.

    Raises:
        InputError: one of them cannot be used.
    """
    part = job.part(use)
    found = diagnose_thresholds(
        part.scores,
        part.targets,
        sides=job.plan.sides_px,
        target_value=job.target_value,
        ids=part.ids,
        on_progress=job.on_progress,
    )
    if found.problems:
        raise InputError(join_problems(found.problems))
    return found


def label_by_patches(
    scores: NDArray[np.float32], truth: NDArray[np.bool_], *, cells: int, tile_px: int = 0
) -> NDArray[np.bool_]:
    """Cuts a map of any shape at the best threshold of each patch: the pseudo-label.

    Args:
        scores: `(H, W)`.
        truth: `(H, W)`.
        cells: rows and columns of patches in the map, or in a tile.
        tile_px: side of the tiles that the network sees; 0 when it sees whole maps.

    Returns:
        `(H, W)`.

    Example:
        >>> scores = np.array([[0.2, 0.4, 0.7, 0.9]] * 2, dtype=np.float32)
        >>> truth = np.array([[False, True, False, True]] * 2)
        >>> label_by_patches(scores, truth, cells=2)[0].tolist()
        [False, True, False, True]
    """
    if tile_px:
        return find_thresholds(scores, truth, tile_px // cells, covers_rest=True).labels
    label = np.zeros(scores.shape, dtype=np.bool_)
    rows, columns = (np.linspace(0, n, cells + 1).round().astype(int) for n in scores.shape)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            patch = np.s_[top:bottom, left:right]
            if scores[patch].size:
                best, _ = find_image_threshold(scores[patch], truth[patch])
                label[patch] = scores[patch] > best
    return label


def compare_on_test(job: Job, folder: Path) -> None:
    """Scores the base model, what it could be at most, and PatchRefineNet on the test maps."""
    before = json.loads((job.out_dir / "thresholds" / "ceiling.json").read_text(encoding="utf-8"))
    best = float(before["best_threshold"])
    own = _diagnose(job, "test").best_threshold
    labels = index_maps(job.out_dir / "thresholds" / "test")
    refined = index_maps(job.out_dir / "refine")
    tallies = {
        "base at 0.5": _Tally(FOREGROUND),
        f"base at {best:.2f}, best on the maps trained on": _Tally(best),
        f"ceiling: base at {own:.2f}, best on these maps": _Tally(own),
        "ceiling: best threshold per image": _Tally(FOREGROUND, is_cut=True),
        f"ceiling: best per patch, {job.label_cells} x {job.label_cells}": _Tally(
            FOREGROUND, is_cut=True
        ),
        "PatchRefineNet": _Tally(FOREGROUND),
    }
    images = []
    total = len(read_ids(job.part("test").ids))
    for done, (item, scores, truth) in enumerate(_read_maps(job, "test"), start=1):
        per_image = scores > find_image_threshold(scores, truth)[0]
        maps = (
            scores,
            scores,
            scores,
            per_image.astype(np.float32),
            read_score_map(labels[item.id]),
            read_score_map(refined[item.id]),
        )
        ious = {
            name: tally.add(one, truth)
            for (name, tally), one in zip(tallies.items(), maps, strict=True)
        }
        images.append({"image": item.id, **ious})
        job.report(done, total)
    rows = [tally.row(name) for name, tally in tallies.items()]
    text = json.dumps({"n": len(images), "rows": rows, "images": images}, indent=2)
    write_text(folder / REPORT, text)


def _read_maps(
    job: Job, use: str, *, with_held: bool = False
) -> Iterator[tuple[MapItem, NDArray[np.float32], NDArray[np.bool_]]]:
    """Reads maps and truths of a part, and of the maps that only choose the best weights."""
    part = job.part(use)
    items = part.find()
    if with_held and job.plan.validation_list:
        held = set(read_ids(Path(job.plan.validation_list))) - {item.id for item in items}
        items += find_map_items(part.scores, part.targets, wanted=held)
    for item in items:
        scores, truth, _ = read_map_pair(item, target_value=job.target_value)
        yield item, scores, truth > FOREGROUND


class _Tally:
    """Running scores of one way to make masks; `is_cut`: the maps are masks, without error."""

    def __init__(self, threshold: float, *, is_cut: bool = False) -> None:
        self.threshold, self.is_cut = threshold, is_cut
        self.region = ForegroundScores(self.threshold)
        self.boundary = BoundaryScores()

    def add(self, scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
        self.boundary.update(scores > self.threshold, truth)
        return self.region.update(scores, truth)["iou"]

    def row(self, name: str) -> dict[str, Any]:
        region = self.region.compute()
        mba = self.boundary.compute()["mba"]
        scores: dict[str, Any] = {"masks": name, **{k: region[k] for k in _SCORED}}
        scores["mae"] = None if self.is_cut else scores["mae"]
        return {**scores, "mba": None if np.isnan(mba) else mba}
