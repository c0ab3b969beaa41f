"""How good the masks are after each stage, on the pictures that have a truth."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.data.class_maps import load_class_arrays
from maskhone.data.files import write_text
from maskhone.data.tagged_images import TaggedImage
from maskhone.data.voc import LabelMap, read_voc_labels
from maskhone.errors import InputError
from maskhone.metrics.boundary import boundary_iou
from maskhone.metrics.semantic import (
    LONG_THRESHOLDS,
    SemanticScores,
    ThresholdScores,
    choose_thresholds,
    label_by_threshold,
)
from maskhone.ops.masks import IGNORE_LABEL
from maskhone.pipelines.pseudo.plan import Job
from maskhone.pipelines.tables import format_table

REPORT = "report.json"

COLUMNS = ("miou", "miou_present", "fp", "fn", "boundary_iou")

_ARRAYS = {"cam": "hr_cam", "combine": "hr_cam", "walk": "rw"}
SCORED = (*_ARRAYS, "pseudo-labels", "masks")
"""Stages that are scored."""

Predict = Callable[[TaggedImage], LabelMap]


def evaluate_stages(job: Job, folder: Path, stages: Sequence[str]) -> None:
    """Scores class maps at their best threshold, label maps as they are; writes `report.json`.

    The best threshold is found with the truth: it says what a stage's maps are worth, not what a
    user without truth would get. Without any truth the table is empty.

    Args:
        job: the pictures and where results lie.
        folder: receives the report.
        stages: those that were done, of `SCORED`.
    """
    train = [item for item in job.items if item.truth_path is not None]
    test = [item for item in job.test_items if item.truth_path is not None]
    rows: list[dict[str, Any]] = []
    for stage, name in _ARRAYS.items():
        if stage in stages and train:
            rows.append(_score_maps(job, stage, name, train))
    label_maps = {"pseudo labels": (job.out_dir / "pseudo-labels", train)}
    if "masks" in stages:
        segmented = job.out_dir / "masks"
        label_maps["segmenter, the pictures trained on"] = (segmented, train)
        label_maps["segmenter, test"] = (segmented, test)
    for label, (source, items) in label_maps.items():
        if items:
            rows.append({"masks": label, "threshold": None, **_score(job, items, _reader(source))})
    facts = {"train": len(train), "test": len(test), "rows": rows}
    write_text(folder / REPORT, json.dumps(facts, indent=2))


def format_report(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats the table; without truths it says so."""
    return format_table(rows) if rows else ["no picture has a truth: nothing was scored"]


def _score_maps(job: Job, stage: str, name: str, items: Sequence[TaggedImage]) -> dict[str, Any]:
    sweep = ThresholdScores(job.n_labels, LONG_THRESHOLDS)
    for item in items:
        found = load_class_arrays(job.path(stage, item, ".npz"))
        truth = _read_truth(job, item, found[name].shape[1:])
        sweep.update(found[name], found["keys"], truth)
    best = choose_thresholds(sweep.compute()).best["threshold"]

    def predict(item: TaggedImage) -> LabelMap:
        found = load_class_arrays(job.path(stage, item, ".npz"))
        return label_by_threshold(found[name], found["keys"], best).astype(np.uint8)

    return {"masks": stage, "threshold": best, **_score(job, items, predict)}


def _reader(source: Path) -> Predict:
    return lambda item: read_voc_labels(source / f"{item.id}.png")


def _score(job: Job, items: Sequence[TaggedImage], predict: Predict) -> dict[str, float]:
    """Returns mean IoU and the like, and the mean boundary IoU of the classes of each picture."""
    scores = SemanticScores(job.n_labels)
    outlines = []
    for done, item in enumerate(items, start=1):
        predicted = predict(item)
        truth = _read_truth(job, item, predicted.shape)
        scores.update(predicted, truth)
        ignored = truth == IGNORE_LABEL
        for label in np.unique(truth[~ignored]):
            if label:
                outlines.append(boundary_iou(predicted == label, truth == label, ignore=ignored))
        if job.on_progress is not None:
            job.on_progress(done, len(items))
    found = scores.compute()
    found["boundary_iou"] = float(np.mean(outlines)) if outlines else 0.0
    return {name: found[name] for name in COLUMNS}


def _read_truth(job: Job, item: TaggedImage, size_hw: tuple[int, ...]) -> LabelMap:
    assert item.truth_path is not None
    truth = read_voc_labels(item.truth_path, n_labels=job.n_labels)
    if truth.shape != size_hw:
        raise InputError(
            f"{item.truth_path} is {truth.shape}, but {item.image_path} is {size_hw}; "
            "both must be of one size"
        )
    return truth
