"""COCO and LVIS average precision of instance masks, by mask IoU and by boundary IoU.

The counting is done by the package faster_coco_eval (extra `eval`), a fast twin of pycocotools and
lvis-api. This file brings results and ground truth into its form and names the numbers.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as rle_codec

from maskhone.errors import InputError, MissingExtraError
from maskhone.metrics.boundary import BAND_RATIO

Kind = Literal["segm", "boundary"]
Record = Mapping[str, Any]

COCO_DETECTIONS = 100
"""Detections per image and class (cocodataset/cocoapi:PythonAPI/pycocotools/cocoeval.py)."""

LVIS_DETECTIONS = 300
"""Detections per image (lvis-dataset/lvis-api:lvis/results.py)."""

_NAMES = {
    "AP": "AP_all",
    "AP50": "AP_50",
    "AP75": "AP_75",
    "APs": "AP_small",
    "APm": "AP_medium",
    "APl": "AP_large",
    "ARs": "AR_small",
    "ARm": "AR_medium",
    "ARl": "AR_large",
}  # ours -> faster_coco_eval's
_LVIS_NAMES = ("APr", "APc", "APf")


def average_precision(
    detections: Iterable[Record],
    target: Record,
    *,
    kind: Kind = "segm",
    dilation_ratio: float = BAND_RATIO,
    image_ids: Sequence[int] | None = None,
) -> dict[str, float]:
    """Scores a COCO results list against COCO or LVIS ground truth.

    AP is the mean over IoU 0.50:0.05:0.95, 101 recall points and the classes with ground truth.
    Ground truth whose images list `neg_category_ids` is LVIS: 300 detections per image, its
    federated rules, and AP of rare, common and frequent classes. Detections of images or classes
    that LVIS does not list are left out (this is the AP* of PointRend, SegRefiner and BPR).
    The size of a detection is the area of its `bbox` where it has one, as in pycocotools.

    Args:
        detections: results with `image_id`, `category_id`, `score` and `segmentation` (RLE or
            polygons).
        target: COCO ground truth, a dict with `images`, `annotations` and `categories`.
        kind: `segm` compares by mask IoU; `boundary` by the lesser of mask IoU and boundary IoU
            (Cheng et al., CVPR 2021).
        dilation_ratio: width of the boundary band as a share of the image diagonal.
        image_ids: scores these images alone.

    Returns:
        `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR`, `ARs`, `ARm`, `ARl`, for LVIS also `APr`,
        `APc`, `APf`; each in [0, 1], or NaN where there is no ground truth to score.

    Raises:
        InputError: a record lacks a field, or a mask does not have the size of its image.
        MissingExtraError: faster_coco_eval is not installed.

    Example:
        >>> square = [[2, 2, 12, 2, 12, 12, 2, 12]]
        >>> truth = {"images": [{"id": 1, "height": 20, "width": 20}], "categories": [{"id": 1}],
        ...          "annotations": [{"image_id": 1, "category_id": 1, "segmentation": square}]}
        >>> found = {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": square}
        >>> average_precision([found], truth)["AP"]
        1.0
    """
    coco, evaluation = _import_faster_coco_eval()
    lvis = is_lvis(target)
    sizes = _sizes_by_image(target)
    truth = _index(coco, target, _prepare_annotations(target["annotations"], sizes))
    results = _index(coco, target, _prepare_detections(detections, target, sizes, lvis=lvis))
    run = evaluation(
        truth,
        results,
        iouType=kind,
        lvis_style=lvis,
        boundary_dilation_ratio=dilation_ratio,
        print_function=_say_nothing,
    )
    run.params.maxDets = [LVIS_DETECTIONS] if lvis else [1, 10, COCO_DETECTIONS]
    if image_ids is not None:
        run.params.imgIds = sorted(image_ids)
    run.run()
    return _name_scores(run.stats_as_dict, lvis=lvis)


class AveragePrecision:
    """Gathers detections and scores them together, by mask IoU and by boundary IoU.

    Args:
        target: COCO or LVIS ground truth; see `average_precision`.
        kinds: which comparisons to make.
        image_ids: scores these images alone.

    Example:
        >>> metric = AveragePrecision({"images": [], "annotations": [], "categories": []})
        >>> metric.update([])
        >>> metric.compute()["segm"]["AP"]
        nan
    """

    def __init__(
        self,
        target: Record,
        *,
        kinds: Sequence[Kind] = ("segm", "boundary"),
        image_ids: Sequence[int] | None = None,
    ) -> None:
        self.target = target
        self.kinds = tuple(kinds)
        self.image_ids = image_ids
        self.reset()

    def reset(self) -> None:
        """Forgets all detections."""
        self._detections: list[Record] = []

    def update(self, prediction: Iterable[Record]) -> None:
        """Adds COCO results, of any images."""
        self._detections.extend(prediction)

    def compute(self) -> dict[str, dict[str, float]]:
        """Returns the scores of `average_precision` for each kind."""
        return {
            kind: average_precision(
                self._detections, self.target, kind=kind, image_ids=self.image_ids
            )
            for kind in self.kinds
        }


def is_lvis(target: Record) -> bool:
    """Says whether ground truth follows the federated rules of LVIS.

    Example:
        >>> is_lvis({"images": [{"id": 1, "neg_category_ids": []}], "categories": []})
        True
    """
    images, categories = target["images"], target["categories"]
    return (
        bool(images)
        and all("neg_category_ids" in image for image in images)
        and all("frequency" in category for category in categories)
    )


def _import_faster_coco_eval() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", extra="eval") from error
    return COCO, COCOeval_faster


def _sizes_by_image(target: Record) -> dict[int, tuple[int, int]]:
    for key in ("images", "annotations", "categories"):
        if key not in target:
            raise InputError(f"ground truth has no {key!r}; give a COCO annotation file")
    for image in target["images"]:
        _require(image, ("id", "height", "width"), name="an image of the ground truth")
    return {image["id"]: (image["height"], image["width"]) for image in target["images"]}


def _index(coco: Any, target: Record, annotations: list[dict[str, Any]]) -> Any:
    images = [dict(image) for image in target["images"]]
    categories = [{"name": str(each["id"]), **each} for each in target["categories"]]
    return coco({"images": images, "categories": categories, "annotations": annotations})


def _prepare_annotations(
    annotations: Iterable[Record], sizes: Mapping[int, tuple[int, int]]
) -> list[dict[str, Any]]:
    prepared = []
    for number, annotation in enumerate(annotations, start=1):  # number 0 would mean "unmatched"
        said = f"annotation {annotation.get('id', number)} of the ground truth"
        _require(annotation, ("image_id", "category_id", "segmentation"), name=said)
        if annotation["image_id"] not in sizes:
            raise InputError(f"{said}: image {annotation['image_id']} is not listed in 'images'")
        rle = _to_rle(annotation["segmentation"], sizes[annotation["image_id"]], name=said)
        completed = {"iscrowd": 0, "area": float(rle_codec.area(rle)), **annotation}
        prepared.append({**completed, "segmentation": rle, "bbox": _bbox(rle), "id": number})
    return prepared


def _prepare_detections(
    detections: Iterable[Record],
    target: Record,
    sizes: Mapping[int, tuple[int, int]],
    *,
    lvis: bool,
) -> list[dict[str, Any]]:
    kept = []
    category_ids = {category["id"] for category in target["categories"]}
    for position, detection in enumerate(detections):
        said = f"result {position}"
        _require(detection, ("image_id", "category_id", "score", "segmentation"), name=said)
        is_known = detection["image_id"] in sizes
        if lvis and not (is_known and detection["category_id"] in category_ids):
            continue
        if not is_known:
            raise InputError(
                f"{said}: the ground truth lists no image {detection['image_id']}; "
                "give the results and the ground truth of the same images"
            )
        kept.append((said, detection))
    if lvis:
        kept = _keep_surest(kept, LVIS_DETECTIONS)
    return [_complete(each, sizes, said, number) for number, (said, each) in enumerate(kept, 1)]


def _complete(
    detection: Record, sizes: Mapping[int, tuple[int, int]], said: str, number: int
) -> dict[str, Any]:
    rle = _to_rle(detection["segmentation"], sizes[detection["image_id"]], name=said)
    bbox = detection.get("bbox")
    area = bbox[2] * bbox[3] if bbox else float(rle_codec.area(rle))
    return {
        "id": number,
        "image_id": detection["image_id"],
        "category_id": detection["category_id"],
        "score": float(detection["score"]),
        "segmentation": rle,
        "bbox": list(bbox) if bbox else _bbox(rle),
        "area": area,
        "iscrowd": 0,
    }


def _keep_surest(
    detections: Sequence[tuple[str, Record]], per_image: int
) -> list[tuple[str, Record]]:
    by_image = defaultdict(list)
    for item in detections:
        by_image[item[1]["image_id"]].append(item)
    return [
        item
        for items in by_image.values()
        for item in sorted(items, key=lambda item: -item[1]["score"])[:per_image]
    ]


def _to_rle(segmentation: Any, size_hw: tuple[int, int], *, name: str) -> dict[str, Any]:
    if isinstance(segmentation, list):
        return dict(rle_codec.merge(rle_codec.frPyObjects(segmentation, *size_hw)))
    if tuple(segmentation["size"]) != tuple(size_hw):
        raise InputError(
            f"{name}: the mask is {segmentation['size'][0]}x{segmentation['size'][1]} but its "
            f"image is {size_hw[0]}x{size_hw[1]} (height x width); make the mask at image size"
        )
    if isinstance(segmentation["counts"], list):
        return dict(rle_codec.frPyObjects(segmentation, *size_hw))
    return dict(segmentation)


def _bbox(rle: dict[str, Any]) -> list[float]:
    return [float(side) for side in rle_codec.toBbox(rle)]


def _require(record: Record, keys: Sequence[str], *, name: str) -> None:
    absent = [key for key in keys if key not in record]
    if absent:
        raise InputError(f"{name} has no {', '.join(map(repr, absent))}; expected {list(keys)}")


def _name_scores(stats: Mapping[str, float], *, lvis: bool) -> dict[str, float]:
    names = {**_NAMES, "AR": "AR_all" if lvis else "AR_third"}
    if lvis:
        names |= {name: name for name in _LVIS_NAMES}
    return {ours: _nan_if_absent(stats[theirs]) for ours, theirs in names.items()}


def _nan_if_absent(score: float) -> float:
    return np.nan if score < 0 else float(score)


def _say_nothing(*_: object) -> None:
    """Takes the evaluator's progress lines; a library does not print."""
