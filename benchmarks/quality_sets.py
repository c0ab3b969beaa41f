"""The sets that the table of quality is made on, brought into one form: folders of masks."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.data.coco import from_rle
from maskhone.data.images import write_image
from maskhone.metrics.region import iou

SETS: dict[str, tuple[str, int | None]] = {
    # name -> folder of coarse masks, number that is the object in the truth
    "ccp_person": ("coarse", None),
    "davis": ("coarse", None),
    "camvid": ("coarse_road", 3),
    "cfd": ("coarse", None),
    "vessel": ("coarse", None),
    "cwfid": ("coarse", None),
}
COCO = "coco"
"""Instances in a json. A prediction is scored against the object that it meets before refinement,
so that every method is scored on the same pairs; average precision is kept beside."""

_LEAST_MATCH = 0.5  # IoU at which a prediction has met an object, as in AP50


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a method is given, and what it is scored on.

    Attributes:
        images: folder of pictures.
        coarse: folder of masks, or a COCO results json.
        image_list: json with the names of the pictures, for `coarse` in a json.
        truth: folder of masks.
        ids: file of the masks that are scored, one a line.
        target_value: number that is the object in the truth; None where it is not 0.
        n_masks: that are refined.
        pairs: json only: name of the pair -> index of the prediction.
    """

    images: Path
    coarse: Path
    truth: Path
    ids: Path
    n_masks: int
    image_list: Path | None = None
    target_value: int | None = None
    pairs: dict[str, int] | None = None


def gather(data: Path, name: str, split: str, limit: int, folder: Path) -> Inputs:
    """Lays out a set in an empty folder.

    Args:
        data: folder of the sets.
        name: of the set.
        split: `val` or `train`.
        limit: at most so many pictures, evenly spaced in the list; 0 takes all.
        folder: for the coarse masks that are used, and for whatever else has to be made.
    """
    ids = (data / name / f"{split}.txt").read_text(encoding="utf-8").split()
    ids = spread(ids, limit) if limit else ids
    if name == COCO:
        return _gather_coco(data / name, set(ids), folder)
    (folder / "coarse").mkdir()
    coarse, target_value = SETS[name]
    for each in ids:
        shutil.copy(data / name / coarse / f"{each}.png", folder / "coarse")
    (folder / "ids.txt").write_text("\n".join(ids))
    return Inputs(
        images=data / name / "images",
        coarse=folder / "coarse",
        truth=data / name / "masks",
        ids=folder / "ids.txt",
        n_masks=len(ids),
        target_value=target_value,
    )


def spread(ids: list[str], most: int) -> list[str]:
    """Picks at most so many ids, evenly spaced: the middles of as many parts of the list."""
    n = min(most, len(ids))
    return [ids[(2 * i + 1) * len(ids) // (2 * n)] for i in range(n)]


def _gather_coco(root: Path, stems: set[str], folder: Path) -> Inputs:
    """Keeps the listed pictures and pairs predictions with objects, in order of score."""
    truth = json.loads((root / "annotations" / "instances_train.json").read_text())
    entries = json.loads((root / "annotations" / "coarse_train.json").read_text())
    truth["images"] = [row for row in truth["images"] if Path(row["file_name"]).stem in stems]
    sizes = {row["id"]: (row["height"], row["width"]) for row in truth["images"]}
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in sizes]
    entries = [entry for entry in entries if entry["image_id"] in sizes]
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "coarse.json").write_text(json.dumps(entries))
    (folder / "truth").mkdir()
    pairs, taken = {}, set()
    for index in sorted(range(len(entries)), key=lambda i: -entries[i]["score"]):
        entry = entries[index]
        mask = _decode(entry, sizes)
        overlaps = {
            row["id"]: iou(mask, _decode(row, sizes))
            for row in truth["annotations"]
            if row["id"] not in taken and not row["iscrowd"] and _is_alike(row, entry)
        }
        best = max(overlaps, key=lambda key: overlaps[key], default=None)
        if best is None or overlaps[best] < _LEAST_MATCH:
            continue
        taken.add(best)
        name = f"{entry['image_id']}-{index}"
        pairs[name] = index
        row = next(row for row in truth["annotations"] if row["id"] == best)
        write_image(folder / "truth" / f"{name}.png", _decode(row, sizes).astype(np.uint8) * 255)
    (folder / "ids.txt").write_text("\n".join(pairs))
    return Inputs(
        images=root / "images",
        coarse=folder / "coarse.json",
        truth=folder / "truth",
        ids=folder / "ids.txt",
        n_masks=len(entries),
        image_list=folder / "truth.json",
        pairs=pairs,
    )


def _is_alike(row: dict[str, Any], entry: dict[str, Any]) -> bool:
    return all(row[key] == entry[key] for key in ("image_id", "category_id"))


def _decode(row: dict[str, Any], sizes: dict[int, tuple[int, int]]) -> Any:
    return from_rle(row["segmentation"], size_hw=sizes[row["image_id"]])


def as_folder(inputs: Inputs, masks: Path) -> Path:
    """Returns the folder of masks to score; those of a json are written beside it."""
    if inputs.pairs is None:
        return masks
    assert inputs.image_list is not None
    rows = json.loads(inputs.image_list.read_text())["images"]
    sizes = {row["id"]: (row["height"], row["width"]) for row in rows}
    entries = json.loads(masks.read_text())
    folder = masks.with_suffix("")
    folder = folder.with_name(f"{folder.name}-pairs")
    folder.mkdir(exist_ok=True)
    for name, index in inputs.pairs.items():
        mask = _decode(entries[index], sizes).astype(np.uint8) * 255
        write_image(folder / f"{name}.png", mask)
    return folder
