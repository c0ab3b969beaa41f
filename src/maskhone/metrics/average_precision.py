"""COCO mask AP and boundary AP, through faster-coco-eval."""

import contextlib
import io
from typing import Any

from maskhone.errors import InputError, MissingExtraError

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
"""The first six COCO numbers: over IoU 0.50:0.05:0.95, at 0.50, at 0.75, and by object area."""


def coco_average_precision(
    results: Any, truth: Any, *, kind: str = "segm", name: str = "results"
) -> dict[str, float]:
    """Scores COCO results against COCO ground truth.

    Args:
        results: content of a results json (`image_id`, `category_id`, `score`, `segmentation`).
        truth: content of a ground-truth json with `images`, `annotations` and `categories`.
        kind: `segm` for mask AP; `boundary` for boundary AP, a band of 2 % of the diagonal
            (Cheng et al., "Boundary IoU", CVPR 2021).
        name: what messages call the results.

    Returns:
        `NAMES` to shares in [0, 1]; NaN where no ground truth is of that size.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
        InputError: the two do not belong together.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", extra="eval") from error
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(_complete(truth))
        try:
            found = known.loadRes(_without_boxes(results))
        except (AssertionError, KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{name}: cannot be scored against the target ({error!r}); "
                "do their image ids agree?"
            ) from error
        run = COCOeval_faster(known, found, kind, print_function=_silence, extra_calc=False)
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = [float(v) for v in run.stats[: len(NAMES)]]
    return {k: v if v >= 0 else float("nan") for k, v in zip(NAMES, values, strict=True)}


def _silence(*_: Any) -> None:
    pass


def _complete(data: Any) -> dict[str, Any]:
    """Checks ground truth and fills in what some exports leave out."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or key not in data:
            raise InputError(f"target: no {key}; it must be a COCO ground-truth json")
    numbered = enumerate(data["annotations"], start=1)  # an id of 0 would count as no match
    return {**data, "annotations": [{"iscrowd": 0, **each, "id": n} for n, each in numbered]}


def _without_boxes(data: Any) -> list[dict[str, Any]]:
    """Takes results without their boxes.

    Differs: pycocotools takes the size of a detection from its box when it has one; here it is
    that of the mask, which is what was refined.
    """
    if isinstance(data, dict):
        data = data.get("annotations", [])
    fields = ("image_id", "category_id", "score", "segmentation")
    return [{k: entry[k] for k in fields if k in entry} for entry in data]
