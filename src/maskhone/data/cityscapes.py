"""Cityscapes instance predictions: one text file per image that lists a PNG per object."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.contracts import FOREGROUND, Sample, Scores, describe_size_mismatch
from maskhone.data.coco import to_rle
from maskhone.data.files import replace_when_done
from maskhone.data.images import read_image, read_label_map, write_image
from maskhone.errors import InputError
from maskhone.ops.masks import tight_box

THINGS = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""Label id to name of the classes that have instances (mcordts/cityscapesScripts, labels.py)."""

VOID_IDS = (*range(7), 9, 10, 14, 15, 16, 18, 29, 30, -1)
"""Label ids that the evaluation ignores (the same file, ignoreInEval)."""

_PREDICTION_ENDINGS = ("_leftImg8bit_pred.txt", "_pred.txt", "_index.txt")
_IMAGE_ENDING = "_leftImg8bit.png"


@dataclass(frozen=True, kw_only=True)
class CityscapesLine:
    """One line of a prediction file: a PNG, its label id and its score, as they are written."""

    mask: Path
    label_id: int
    score: str


@dataclass(frozen=True, kw_only=True)
class CityscapesItem:
    """The prediction of one image; no picture is read yet.

    Attributes:
        id: `<city>_<sequence>_<frame>`.
        image: its picture, or None where only the masks are wanted.
        lines: the objects in their order.
    """

    id: str
    image: Path | None
    lines: tuple[CityscapesLine, ...]


def find_predictions(pred_dir: Path) -> list[CityscapesItem]:
    """Reads the prediction files of a folder, flat or nested, sorted by name; without pictures.

    Raises:
        InputError: no prediction file, or a line that is not `png label_id score`.
    """
    files = sorted(
        (p for p in pred_dir.rglob("*.txt") if p.name.endswith(_PREDICTION_ENDINGS)),
        key=lambda path: path.name,
    )
    if not files:
        raise InputError(f"{pred_dir}: no *_pred.txt; is this a Cityscapes prediction folder?")
    return [CityscapesItem(id=_bare_name(p), image=None, lines=_read_lines(p)) for p in files]


def find_cityscapes_items(
    pred_dir: Path, images_dir: Path
) -> tuple[list[CityscapesItem], list[str]]:
    """Finds predictions and their pictures `<id>_leftImg8bit.png` anywhere under a folder.

    Pictures without a prediction file become items without objects, as the original writes an
    empty file for them.

    Returns:
        Items sorted by id, and a line for each prediction without a picture.
    """
    pictures = {p.name.removesuffix(_IMAGE_ENDING): p for p in images_dir.rglob("*_leftImg8bit.*")}
    found = {item.id: item for item in find_predictions(pred_dir)}
    problems = [
        f"{name}: no picture {name}{_IMAGE_ENDING} under {images_dir}"
        for name in found
        if name not in pictures
    ]
    items = [
        CityscapesItem(
            id=name, image=pictures[name], lines=found[name].lines if name in found else ()
        )
        for name in sorted(pictures)
    ]
    return items, problems


def _bare_name(path: Path) -> str:
    for ending in _PREDICTION_ENDINGS:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    raise AssertionError(path)


def _read_lines(path: Path) -> tuple[CityscapesLine, ...]:
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = text.split()
        if not words:
            continue
        try:
            name, label_id, score = words
            float(score)
            lines.append(
                CityscapesLine(mask=path.parent / name, label_id=int(label_id), score=score)
            )
        except ValueError as error:
            raise InputError(
                f"{path}: line {number} is {text!r}, expected: png label_id score"
            ) from error
    return tuple(lines)


def load_cityscapes_item(item: CityscapesItem) -> Sample:
    """Reads one picture with all its masks; non-zero is foreground, whatever the number."""
    assert item.image is not None, "find_cityscapes_items finds the picture"
    image = read_image(item.image)
    masks = np.zeros((len(item.lines), *image.shape[:2]), dtype=np.float32)
    for mask, line in zip(masks, item.lines, strict=True):
        stored = read_label_map(line.mask)
        if stored.shape != mask.shape:
            said = describe_size_mismatch(mask.shape, stored.shape)
            raise InputError(f"{line.mask} does not fit {item.image}: {said}")
        mask[:] = stored > 0
    labels = np.array([line.label_id for line in item.lines], dtype=np.int64)
    return Sample(id=item.id, image=image, masks=masks, labels=labels, meta={"lines": item.lines})


def read_cityscapes(pred_dir: Path, images_dir: Path) -> Iterator[Sample]:
    """Yields one Sample per picture, sorted by id.

    Raises:
        InputError: at the first picture or mask that is missing or cannot be read.
    """
    items, problems = find_cityscapes_items(pred_dir, images_dir)
    if problems:
        raise InputError(problems[0])
    for item in items:
        yield load_cityscapes_item(item)


def write_cityscapes_item(
    out_dir: Path, item: CityscapesItem, scores: Scores, *, published: bool = False
) -> Path:
    """Writes the PNGs of one image and, last, its prediction file; returns that.

    PNGs are named `<id>_leftImg8bit_<k>_<class>.png`; label ids and scores stay as they were.

    Args:
        out_dir: folder to write to, flat.
        item: what was refined.
        scores: `(N, H, W)`, one per line of the item.
        published: write 0/1 as the original does, which looks black in a viewer.
            Differs: 0/255 otherwise. Both are read as non-zero by the evaluation.
    """
    text = ""
    for k, (line, score) in enumerate(zip(item.lines, scores, strict=True)):
        kind = THINGS.get(line.label_id, str(line.label_id))
        name = f"{item.id}_leftImg8bit_{k}_{kind}.png"
        mask = (score > FOREGROUND).astype(np.uint8) * np.uint8(1 if published else 255)
        write_image(out_dir / name, mask)
        text += f"{name} {line.label_id} {line.score}\n"
    path = out_dir / f"{item.id}_leftImg8bit_pred.txt"
    with replace_when_done(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def to_coco_entries(
    items: Sequence[CityscapesItem], images: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Converts predictions to COCO results, as the original's conversion script does.

    Ids run over all lines; empty masks are dropped, their id is used up.

    Args:
        items: from `find_predictions`.
        images: COCO `images` whose `file_name` ends with `<id>_leftImg8bit.png`.

    Source: BPR section 4.3; tinyalpha/BPR:tools/cityscapes2json.py.
    """
    ids = {Path(i["file_name"]).name.removesuffix(_IMAGE_ENDING): i["id"] for i in images}
    numbered = [(item, line) for item in items for line in item.lines]
    entries = []
    for number, (item, line) in enumerate(numbered):
        if item.id not in ids:
            raise InputError(f"{line.mask}: the json lists no image {item.id}{_IMAGE_ENDING}")
        mask = read_label_map(line.mask) > 0
        box = tight_box(mask)
        if box is None:
            continue
        entries.append(
            {
                "anno_file": line.mask.name,
                "category_id": line.label_id,
                "score": float(line.score),
                "iscrowd": 0,
                "id": number,
                "bbox": list(box),
                "segmentation": to_rle(mask),
                "image_id": ids[item.id],
            }
        )
    return entries
