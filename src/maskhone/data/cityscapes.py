"""Cityscapes prediction folders: text files that list a mask, a class and a score a line."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Sample, Scores, describe_size_mismatch
from maskhone.data.coco import Entry, to_rle
from maskhone.data.files import replace_when_done
from maskhone.data.images import read_image, read_label_map
from maskhone.data.pictures import save_picture
from maskhone.errors import InputError
from maskhone.ops.masks import tight_box

logger = logging.getLogger(__name__)


class CityscapesLabel(NamedTuple):
    """One row of the label table."""

    name: str
    has_instances: bool
    is_ignored: bool  # ignoreInEval


CITYSCAPES_LABELS: dict[int, CityscapesLabel] = {
    -1: CityscapesLabel("license plate", False, True),
    0: CityscapesLabel("unlabeled", False, True),
    1: CityscapesLabel("ego vehicle", False, True),
    2: CityscapesLabel("rectification border", False, True),
    3: CityscapesLabel("out of roi", False, True),
    4: CityscapesLabel("static", False, True),
    5: CityscapesLabel("dynamic", False, True),
    6: CityscapesLabel("ground", False, True),
    7: CityscapesLabel("road", False, False),
    8: CityscapesLabel("sidewalk", False, False),
    9: CityscapesLabel("parking", False, True),
    10: CityscapesLabel("rail track", False, True),
    11: CityscapesLabel("building", False, False),
    12: CityscapesLabel("wall", False, False),
    13: CityscapesLabel("fence", False, False),
    14: CityscapesLabel("guard rail", False, True),
    15: CityscapesLabel("bridge", False, True),
    16: CityscapesLabel("tunnel", False, True),
    17: CityscapesLabel("pole", False, False),
    18: CityscapesLabel("polegroup", False, True),
    19: CityscapesLabel("traffic light", False, False),
    20: CityscapesLabel("traffic sign", False, False),
    21: CityscapesLabel("vegetation", False, False),
    22: CityscapesLabel("terrain", False, False),
    23: CityscapesLabel("sky", False, False),
    24: CityscapesLabel("person", True, False),
    25: CityscapesLabel("rider", True, False),
    26: CityscapesLabel("car", True, False),
    27: CityscapesLabel("truck", True, False),
    28: CityscapesLabel("bus", True, False),
    29: CityscapesLabel("caravan", True, True),
    30: CityscapesLabel("trailer", True, True),
    31: CityscapesLabel("train", True, False),
    32: CityscapesLabel("motorcycle", True, False),
    33: CityscapesLabel("bicycle", True, False),
}
"""Source: mcordts/cityscapesScripts:cityscapesscripts/helpers/labels.py."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One line of a prediction file.

    Attributes:
        id: running number over all lines of all files, in the order of their names.
        mask_path: picture of the image's size; non-zero is the object.
        mask_name: the same as the line has it, relative to the prediction file.
        category_id: Cityscapes label id, such as 24 for person.
        score: confidence.
    """

    id: int
    mask_path: Path
    mask_name: str
    category_id: int
    score: float


@dataclass(frozen=True, kw_only=True)
class CityscapesItem:
    """An image and its detections; no picture is read yet.

    Attributes:
        id: such as `aachen_000000_000019`.
        image_path: the image.
        detections: in the order of the lines; may be empty.
    """

    id: str
    image_path: Path
    detections: tuple[Detection, ...]


def read_detections(pred_dir: str | Path) -> dict[str, tuple[Detection, ...]]:
    """Reads the prediction files of a folder and its subfolders, in the order of their names.

    Files are `<name>_leftImg8bit_pred.txt`, or `<name>_index.txt` as SegFix writes them; a line
    is `mask class_id score`.

    Returns:
        Detections by image name (`<city>_<seq>_<frame>`), without detections an empty tuple.

    Raises:
        InputError: no such files, a line of another form, an unknown class, or an image twice.
    """
    pred_dir = Path(pred_dir)
    named = {path: name for path in pred_dir.rglob("*.txt") if (name := _image_name(path))}
    if not named:
        raise InputError(
            f"{pred_dir}: holds no *_leftImg8bit_pred.txt or *_index.txt; check the folder"
        )
    detections: dict[str, tuple[Detection, ...]] = {}
    next_id = 0
    for path in sorted(named, key=lambda path: (path.name, path)):
        if named[path] in detections:
            raise InputError(f"{path}: {named[path]} has another prediction file; keep one")
        text = path.read_text(encoding="utf-8")
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        detections[named[path]] = tuple(
            _parse_line(line, path, number, detection_id)
            for detection_id, (number, line) in enumerate(lines, next_id)
        )
        next_id += len(lines)
    return detections


def find_cityscapes_items(
    pred_dir: str | Path, images_dir: str | Path
) -> tuple[list[CityscapesItem], list[str]]:
    """Finds the image of every prediction file; no ground truth json is needed.

    Args:
        pred_dir: see `read_detections`.
        images_dir: holds `<city>/<name>_leftImg8bit.png`, or the same without city folders.

    Returns:
        Items sorted by prediction file, and a line for each image not found.

    Raises:
        InputError: as `read_detections`.
    """
    images_dir = Path(images_dir)
    items, problems = [], []
    for name, detections in read_detections(pred_dir).items():
        file_name = f"{name}_leftImg8bit.png"
        places = [images_dir / name.partition("_")[0] / file_name, images_dir / file_name]
        image_path = next((place for place in places if place.is_file()), None)
        if image_path is None:
            problems.append(f"{places[0]}: no such image; check the images folder")
        else:
            items.append(CityscapesItem(id=name, image_path=image_path, detections=detections))
    return items, problems


def load_cityscapes_item(
    item: CityscapesItem,
    detections: Sequence[Detection] | None = None,
    *,
    image: Image | None = None,
) -> Sample:
    """Reads an image and the masks of some of its detections; empty masks are left out.

    Args:
        item: from `find_cityscapes_items`.
        detections: a part of `item.detections`, to bound memory; None takes all.
        image: the image when it was read before.

    Returns:
        Labels are Cityscapes ids; `meta` holds `image_path` and the `detections` that are left.

    Raises:
        InputError: a file cannot be read, or a mask has another size than the image.
    """
    image = read_image(item.image_path) if image is None else image
    chosen = item.detections if detections is None else tuple(detections)
    masks: Scores = np.empty((len(chosen), *image.shape[:2]), dtype=np.float32)
    kept: list[Detection] = []
    for detection in chosen:
        mask = read_label_map(detection.mask_path) != 0
        if mask.shape != image.shape[:2]:
            said = describe_size_mismatch(image.shape[:2], mask.shape)
            raise InputError(f"{detection.mask_path} does not fit {item.image_path}: {said}")
        if mask.any():
            masks[len(kept)] = mask
            kept.append(detection)
    return Sample(
        id=item.id,
        image=image,
        masks=masks[: len(kept)],
        labels=np.array([detection.category_id for detection in kept], dtype=np.int64),
        meta={"image_path": item.image_path, "detections": tuple(kept)},
    )


def read_cityscapes(pred_dir: str | Path, images_dir: str | Path) -> Iterator[Sample]:
    """Reads the Samples of a prediction folder, one at a time; images not found are logged."""
    items, problems = find_cityscapes_items(pred_dir, images_dir)
    for problem in problems:
        logger.warning(problem)
    for item in items:
        yield load_cityscapes_item(item)


def write_cityscapes(
    out_dir: str | Path,
    name: str,
    refined: Iterable[tuple[Detection, NDArray[Any]]],
    *,
    published: bool = False,
) -> Path:
    """Writes the masks of one image and, when all are there, the file that lists them.

    Args:
        out_dir: gets `<name>_leftImg8bit_<k>_<class name>.png` and `<name>_leftImg8bit_pred.txt`.
        name: of the image, such as `aachen_000000_000019`.
        refined: detections with their `(H, W)` masks, bool or scores, taken one at a time;
            without any, the text file is empty, as the benchmark wants it.
        published: write 0 and 1 as the original does.
            Differs: the default writes 0 and 255, which people can see.

    Returns:
        The text file.

    Raises:
        InputError: a file cannot be written.
    """
    out_dir = Path(out_dir)
    lines = []
    for k, (detection, mask) in enumerate(refined):
        label = CITYSCAPES_LABELS[detection.category_id].name
        mask_name = f"{name}_leftImg8bit_{k}_{label}.png"
        foreground = (mask > FOREGROUND).astype(np.uint8)
        picture = PIL.Image.fromarray(foreground if published else foreground * np.uint8(255))
        save_picture(out_dir / mask_name, picture)
        lines.append(f"{mask_name} {detection.category_id} {detection.score!r}\n")
    path = out_dir / f"{name}_leftImg8bit_pred.txt"
    with replace_when_done(path) as unfinished:
        unfinished.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path


def write_cityscapes_sample(
    out_dir: str | Path, sample: Sample, scores: Scores, *, published: bool = False
) -> Path:
    """Writes the `(N, H, W)` scores of a Sample that `load_cityscapes_item` made."""
    refined = zip(sample.meta["detections"], scores, strict=True)
    return write_cityscapes(out_dir, sample.id, refined, published=published)


def to_coco_entries(pred_dir: str | Path, image_infos: Iterable[Entry]) -> list[dict[str, Any]]:
    """Converts a prediction folder to a COCO results list.

    Boxes are tight around the pixels; empty masks are dropped, but use up their id.

    Args:
        pred_dir: see `read_detections`.
        image_infos: rows with `id` and a `file_name` like `<city>/<name>_leftImg8bit.png`.

    Raises:
        InputError: a mask cannot be read, or an image is not among the rows.

    Source: tinyalpha/BPR, its conversion of Cityscapes results to json.
    Differs: files are taken in the order of their names, not of the directory listing.
    """
    ids = {
        Path(row["file_name"]).stem.removesuffix("_leftImg8bit"): row["id"] for row in image_infos
    }
    entries = []
    for name, detections in read_detections(pred_dir).items():
        if name not in ids:
            raise InputError(f"{pred_dir}: {name} is not among the images of the json; add it")
        for detection in detections:
            mask = read_label_map(detection.mask_path) != 0
            if (box_xywh := tight_box(mask)) is not None:
                entries.append(_to_entry(detection, mask, box_xywh, image_id=ids[name]))
    return entries


def _to_entry(
    detection: Detection,
    mask: NDArray[np.bool_],
    box_xywh: tuple[int, int, int, int],
    *,
    image_id: int | str,
) -> dict[str, Any]:
    return {
        "anno_file": detection.mask_name,
        "category_id": detection.category_id,
        "score": detection.score,
        "iscrowd": 0,
        "id": detection.id,
        "bbox": list(box_xywh),
        "segmentation": to_rle(mask),
        "image_id": image_id,
    }


def _image_name(path: Path) -> str | None:
    """Reads the image's name off a prediction file, or None for other text files."""
    for ending in ("_leftImg8bit_pred", "_pred", "_leftImg8bit_index", "_index"):
        if path.stem.endswith(ending):
            return path.stem.removesuffix(ending)
    return None


def _parse_line(line: str, path: Path, line_number: int, detection_id: int) -> Detection:
    try:
        mask_name, category, score_text = line.rsplit(maxsplit=2)
        category_id, score = int(category), float(score_text)
    except ValueError as error:
        raise InputError(
            f"{path}: line {line_number} is {line!r}, expected: mask_file class_id score"
        ) from error
    if category_id not in CITYSCAPES_LABELS:
        raise InputError(
            f"{path}: line {line_number} has class {category_id}, expected a Cityscapes label id "
            "such as 24 (person) or 26 (car), not a train id"
        )
    return Detection(
        id=detection_id,
        mask_path=path.parent / mask_name,
        mask_name=mask_name,
        category_id=category_id,
        score=score,
    )
