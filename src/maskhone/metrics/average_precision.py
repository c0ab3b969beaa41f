"""Mask AP and boundary AP by the rules of COCO and of LVIS, through faster-coco-eval."""

import contextlib
import io
from collections import defaultdict
from typing import Any

from maskhone.errors import InputError, MissingExtraError

_NAMES = {
    "AP": "AP_all",
    "AP50": "AP_50",
    "AP75": "AP_75",
    "AP_small": "AP_small",
    "AP_medium": "AP_medium",
    "AP_large": "AP_large",
}  # ours -> faster_coco_eval's
_LVIS_NAMES = {
    "AP_rare": "APr",
    "AP_common": "APc",
    "AP_frequent": "APf",
    "AR": "AR_all",
    "AR_small": "AR_small",
    "AR_medium": "AR_medium",
    "AR_large": "AR_large",
}

_NEEDED = ("image_id", "category_id", "score")

LVIS_DETECTIONS = 300
"""Detections per image, the surest ones (lvis-dataset/lvis-api:lvis/results.py)."""


def average_precision(
    results: Any, truth: Any, *, kind: str = "segm", name: str = "results"
) -> dict[str, float]:
    """Scores COCO results against COCO or LVIS ground truth.

    AP is over IoU 0.50:0.05:0.95, at 0.50, at 0.75, and by object area. Ground truth whose images
    list `neg_category_ids` is LVIS: at most 300 detections per image; detections of images or
    categories that it does not list are left out, and so are those of categories that nobody
    looked for in an image. Beside AP there are then AP of rare, common and frequent categories, and
    recall. COCO results against LVIS truth with COCO's category ids (`data.lvis.to_coco`) give the
    AP* of PointRend, BPR and SegRefiner.

    Args:
        results: content of a results json (`image_id`, `category_id`, `score`, `segmentation`).
        truth: content of a ground-truth json with `images`, `annotations` and `categories`.
        kind: `segm` for mask AP; `boundary` for boundary AP, a band of 2 % of the diagonal
            (Cheng et al., "Boundary IoU", CVPR 2021); `bbox`.
        name: what messages call the results.

    Returns:
        Names to shares in [0, 1]; NaN where no ground truth is of that kind.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
        InputError: the two do not belong together.

    Source: cocodataset/cocoapi; lvis-dataset/lvis-api; SegRefiner section 8.2.
    Differs: by COCO rules, the size of a detection is that of its mask, which is what was refined,
    not of its box. By LVIS rules it is that of its box, as published.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", extra="eval") from error
    _check(truth)
    has_lvis_rules = is_lvis(truth)
    names = {**_NAMES, **(_LVIS_NAMES if has_lvis_rules else {})}
    entries = _as_list(results, name)
    if has_lvis_rules:
        entries = _keep_listed(entries, truth)
    elif kind != "bbox":
        entries = _without_boxes(entries)
    if not entries:  # faster-coco-eval takes no empty list; one that is nowhere right counts alike
        entries = _miss(truth)
    if not entries:
        return dict.fromkeys(names, float("nan"))
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(_complete(truth))
        try:
            found = known.loadRes(entries)
        except (AssertionError, KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"{name}: cannot be scored against the target ({error!r}); "
                "do their image ids agree?"
            ) from error
        if has_lvis_rules:
            _measure_by_box(found)
        run = COCOeval_faster(
            known,
            found,
            kind,
            lvis_style=has_lvis_rules,
            print_function=_silence,
            extra_calc=False,
        )
        if has_lvis_rules:
            run.params.maxDets = [LVIS_DETECTIONS]
        run.evaluate()
        run.accumulate()
        run.summarize()
    values = {ours: float(run.stats_as_dict[theirs]) for ours, theirs in names.items()}
    return {k: v if v >= 0 else float("nan") for k, v in values.items()}


def is_lvis(truth: Any) -> bool:
    """Says whether ground truth follows the federated rules of LVIS.

    Example:
        >>> is_lvis({"images": [{"id": 1, "neg_category_ids": []}]})
        True
    """
    images = truth["images"]
    return bool(images) and all("neg_category_ids" in image for image in images)


def _silence(*_: Any) -> None:
    pass


def _check(data: Any) -> None:
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or key not in data:
            raise InputError(f"target: no {key}; it must be a COCO ground-truth json")


def _complete(data: Any) -> dict[str, Any]:
    """Fills in what some exports leave out."""
    numbered = enumerate(data["annotations"], start=1)  # an id of 0 would count as no match
    return {**data, "annotations": [{"iscrowd": 0, **each, "id": n} for n, each in numbered]}


def _as_list(data: Any, name: str) -> list[dict[str, Any]]:
    """Copies the entries, since the scorer writes into them."""
    entries = data.get("annotations", []) if isinstance(data, dict) else data
    for i, entry in enumerate(entries):
        missing = [field for field in _NEEDED if field not in entry]
        if missing:
            raise InputError(f"{name}: entry {i} has no {' and no '.join(missing)}")
    return [dict(entry) for entry in entries]


def _miss(truth: Any) -> list[dict[str, Any]]:
    """Makes one empty detection of the first object, which finds nothing."""
    images = {image["id"]: image for image in truth["images"]}
    for each in truth["annotations"]:
        if image := images.get(each["image_id"]):
            height, width = image["height"], image["width"]
            empty = {"size": [height, width], "counts": [height * width]}
            place = {k: each[k] for k in ("image_id", "category_id")}
            return [{**place, "score": 0.0, "bbox": [0, 0, 0, 0], "segmentation": empty}]
    return []


def _without_boxes(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    fields = ("image_id", "category_id", "score", "segmentation")
    return [{k: entry[k] for k in fields if k in entry} for entry in entries]


def _keep_listed(entries: list[dict[str, Any]], truth: Any) -> list[dict[str, Any]]:
    """Keeps the surest detections of each image, of known images and categories."""
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    by_image = defaultdict(list)
    for entry in entries:
        if entry["image_id"] in images and entry["category_id"] in categories:
            by_image[entry["image_id"]].append(entry)
    return [
        entry
        for found in by_image.values()
        for entry in sorted(found, key=lambda one: -one["score"])[:LVIS_DETECTIONS]
    ]


def _measure_by_box(found: Any) -> None:
    """Sets the area of each detection to that of its box, as lvis-api does."""
    for entry in found.dataset["annotations"]:
        _, _, width, height = entry["bbox"]
        entry["area"] = width * height
