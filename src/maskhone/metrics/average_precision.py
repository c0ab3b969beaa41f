"""COCO mask AP and boundary AP, through faster-coco-eval."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from maskhone.errors import InputError, MissingExtraError

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
"""The first six COCO numbers: over IoU 0.50:0.05:0.95, at 0.50, at 0.75, and by object area."""


def coco_average_precision(
    results_json: Path, truth_json: Path, *, kind: str = "segm"
) -> dict[str, float]:
    """Scores COCO results against COCO ground truth.

    Args:
        results_json: results list (`image_id`, `category_id`, `score`, `segmentation`).
        truth_json: data set with `images`, `annotations` and `categories`.
        kind: `segm` for mask AP; `boundary` for boundary AP, a band of 2 % of the diagonal
            (Cheng et al., "Boundary IoU", CVPR 2021).

    Returns:
        `NAMES` to shares in [0, 1]; NaN where no ground truth is of that size.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
        InputError: the files do not belong together.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", extra="eval") from error
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(_with_areas(truth_json))
        try:
            found = truth.loadRes(_without_boxes(results_json))
        except (AssertionError, KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{results_json}: cannot be scored against {truth_json} ({error!r}); "
                "do their image ids agree?"
            ) from error
        run = COCOeval_faster(truth, found, kind, print_function=_silence, extra_calc=False)
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = [float(v) for v in run.stats[: len(NAMES)]]
    return {k: v if v >= 0 else float("nan") for k, v in zip(NAMES, values, strict=True)}


def _silence(*_: Any) -> None:
    pass


def _with_areas(path: Path) -> dict[str, Any]:
    """Reads ground truth and fills in what some exports leave out."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or key not in data:
            raise InputError(f"{path}: no {key}; the target must be a COCO ground truth json")
    for annotation in data["annotations"]:
        annotation.setdefault("iscrowd", 0)
    return data


def _without_boxes(path: Path) -> list[dict[str, Any]]:
    """Reads results; boxes are left out so that areas are those of the masks."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict):
        data = data.get("annotations", [])
    fields = ("image_id", "category_id", "score", "segmentation")
    return [{k: entry[k] for k in fields if k in entry} for entry in data]
