"""Questions to answer before training: what could it gain?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND
from maskhone.data.files import replace_when_done
from maskhone.data.score_maps import MapItem, choose_items, find_map_items, read_map_pair
from maskhone.data.splits import read_ids
from maskhone.errors import InputError, UsageError
from maskhone.methods.prn.thresholds import (
    CANDIDATES,
    count_above,
    find_image_threshold,
    find_thresholds,
)
from maskhone.metrics.region import count_overlap

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CeilingReport:
    """How much better thresholds chosen with the truth at hand would be.

    Attributes:
        rows: one per way of choosing: IoU as mean over images and pooled over all pixels, in
            [0, 1], its gain over 0.5, and over the best single threshold of the set.
        images: one per image: its IoU in each way.
        best_threshold: the best one of the set.
        problems: one line for each map that could not be used.
    """

    rows: list[dict[str, Any]]
    images: list[dict[str, Any]]
    best_threshold: float
    problems: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Tally:
    """Intersections and unions of one way of choosing."""

    pairs: list[tuple[int, int]] = field(default_factory=list)

    def row(self, name: str) -> dict[str, Any]:
        total = sum(shared for shared, _ in self.pairs), sum(either for _, either in self.pairs)
        mean = sum(map(_iou, self.pairs)) / len(self.pairs)
        return {"threshold": name, "iou": mean, "pooled_iou": _iou(total)}


def diagnose_thresholds(
    scores: Path,
    target: Path,
    *,
    sides: Sequence[int] = (256, 128, 64, 32),
    target_value: int | None = None,
    ids: Path | None = None,
    labels: Path | None = None,
    logits: bool = False,
    on_progress: Progress | None = None,
) -> CeilingReport:
    """Measures what the best threshold per set, per image and per patch would give.

    The row of the patches is the ceiling of PatchRefineNet with that grid: if it is not well above
    the best single threshold, there is nothing for it to learn.

    Args:
        scores: folder of probability maps.
        target: folder of truths of the same names.
        sides: of the square patches, in pixels; smaller patches at the right and lower border.
        target_value: the object is where the target has this number.
        ids: text file, one id a line; only these are used.
        labels: folder to write the pseudo-labels of the first side to, as 0/255 PNG.
        logits: float maps hold logits, and become probabilities by a sigmoid.
        on_progress: called with finished and planned maps.

    Raises:
        UsageError: a side below 1.
        InputError: no maps.

    Source: PatchRefineNet section 13.
    """
    if not sides or min(sides) < 1:
        raise UsageError(f"patch sides are {list(sides)}; expected one or more, each 1 px or more")
    items = _find_items(scores, target, ids)
    ways = ["0.5", "best of the set", "best per image", *(f"best per {s} px patch" for s in sides)]
    tallies = {way: _Tally() for way in ways}
    curves: list[tuple[NDArray[np.int64], NDArray[np.int64], int]] = []
    images, problems = [], []
    for done, item in enumerate(items, start=1):
        try:
            score, found_truth, _ = read_map_pair(item, target_value=target_value, is_logits=logits)
        except InputError as error:
            problems.append(str(error))
            continue
        truth = found_truth > FOREGROUND
        masks = {"0.5": score > FOREGROUND}
        masks["best per image"] = score > find_image_threshold(score, truth)[0]
        for side in sides:
            found = find_thresholds(score, truth, side, covers_rest=True)
            masks[f"best per {side} px patch"] = found.labels
        for way, mask in masks.items():
            tallies[way].pairs.append(count_overlap(mask, truth))
        curves.append((*count_above(score, truth), int(truth.sum())))
        images.append({"image": item.id, **{way: _iou(tallies[way].pairs[-1]) for way in masks}})
        if labels is not None:
            _write_label(labels / f"{item.id}.png", masks[f"best per {sides[0]} px patch"])
        if on_progress is not None:
            on_progress(done, len(items))
    if not images:
        raise InputError(problems[0])
    best, chosen = _choose_for_all(curves)
    tallies["best of the set"].pairs = chosen
    rows = [tally.row(way) for way, tally in tallies.items()]
    rows[1]["threshold"] = f"best of the set ({best:.2f})"
    over = {"gain": rows[0]["iou"], "gain_over_best": rows[1]["iou"]}
    rows = [{**row, **{name: row["iou"] - iou for name, iou in over.items()}} for row in rows]
    return CeilingReport(
        rows=rows, images=images, best_threshold=round(best, 2), problems=tuple(problems)
    )


def _choose_for_all(
    curves: list[tuple[NDArray[np.int64], NDArray[np.int64], int]],
) -> tuple[float, list[tuple[int, int]]]:
    """Finds the candidate with the highest mean IoU over images, and its counts in each."""
    shared = np.stack([inside for inside, _, _ in curves])
    either = np.stack([area + above - inside for inside, above, area in curves])
    with np.errstate(invalid="ignore"):
        means = np.where(either > 0, shared / either, 1.0).mean(axis=0)
    best = int(means.argmax())
    pairs = zip(shared[:, best].tolist(), either[:, best].tolist(), strict=True)
    return float(CANDIDATES[best]), list(pairs)


def _iou(pair: tuple[int, int]) -> float:
    shared, either = pair
    return shared / either if either else 1.0


def _find_items(scores: Path, target: Path, ids: Path | None) -> list[MapItem]:
    """Matches maps and truths by name."""
    wanted = read_ids(ids) if ids else None
    items = find_map_items(scores, target, wanted=None if wanted is None else set(wanted))
    return items if ids is None else choose_items(items, ids)


def _write_label(path: Path, label: NDArray[np.bool_]) -> None:
    with replace_when_done(path) as unfinished:
        encoded = cv2.imencode(".png", label.astype(np.uint8) * 255)[1]
        unfinished.write_bytes(encoded.tobytes())
