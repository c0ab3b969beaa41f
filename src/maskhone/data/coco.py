"""COCO and LVIS json: results lists and full data sets, run-length codes and polygons."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycoco

from maskhone.contracts import FOREGROUND, Image, Sample, Scores, describe_size_mismatch
from maskhone.data.files import replace_when_done
from maskhone.data.images import read_image
from maskhone.data.pictures import PICTURE_SUFFIXES
from maskhone.data.run_lengths import polygons_to_runs, read_runs
from maskhone.errors import InputError
from maskhone.ops.masks import tight_box

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CocoResults:
    """A json of detections or annotations, as it was read.

    Attributes:
        path: the file.
        entries: the results list, or the `annotations` of a data set; untouched.
        images: rows of `images` by image id; empty for a results list.
        document: the whole data set, or None for a results list.
    """

    path: Path
    entries: Sequence[Entry]
    images: Mapping[int | str, Entry]
    document: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class CocoItem:
    """An image and which entries are its objects; nothing is read yet."""

    image_id: int | str
    image_path: Path
    entry_indices: tuple[int, ...]


def to_rle(mask: NDArray[Any]) -> dict[str, Any]:
    """Encodes an `(H, W)` mask, bool or scores, as a COCO compressed run-length code.

    Example:
        >>> to_rle(np.array([[0, 1], [0, 1]], dtype=bool))
        {'size': [2, 2], 'counts': '22'}
    """
    coded = pycoco.encode(np.asfortranarray(mask > FOREGROUND, dtype=np.uint8))
    return {
        "size": [int(side) for side in coded["size"]],
        "counts": coded["counts"].decode("ascii"),
    }


def from_rle(
    segmentation: Any, *, size_hw: tuple[int, int], name: str = "segmentation"
) -> NDArray[np.bool_]:
    """Decodes a COCO segmentation: compressed or plain run-length code, or a list of polygons.

    Args:
        segmentation: a dict of `size` and `counts`, or a list of x1, y1, x2, y2, ... lists.
        size_hw: size of the image, which a run-length code must have.
        name: what messages call it.

    Returns:
        `(H, W)` bool.

    Raises:
        InputError: the code is damaged, or of another size.

    Example:
        >>> from_rle({"size": [2, 2], "counts": [2, 2]}, size_hw=(2, 2)).tolist()
        [[False, True], [False, True]]
    """
    if isinstance(segmentation, list):
        runs = polygons_to_runs(segmentation, size_hw=size_hw, name=name)
    else:
        runs = _read_sized_runs(segmentation, size_hw, name)
    if runs.min(initial=0) < 0 or runs.sum() != size_hw[0] * size_hw[1]:
        raise InputError(
            f"{name}: run-length code covers {runs.sum()} pixels, expected "
            f"{size_hw[0] * size_hw[1]}; the file is damaged, write it again"
        )
    is_foreground = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(is_foreground, runs).reshape(size_hw[::-1]).T)


def load_results(path: str | Path) -> CocoResults:
    """Loads a COCO or LVIS results list, or a whole data set json.

    Raises:
        InputError: the file is missing, not json, or its entries lack an image id or segmentation.
    """
    path = Path(path)
    document = load_json(path)
    entries = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise InputError(
            f"{path}: json holds {type(document).__name__} without annotations, expected a COCO "
            "results list or a data set"
        )
    for index, entry in enumerate(entries):
        is_mask = isinstance(entry, dict) and "segmentation" in entry
        if not is_mask or not isinstance(entry.get("image_id"), int | str):
            raise InputError(
                f"{path}: entry {index} lacks image_id or segmentation; give the file of masks "
                "(such as *.segm.json), not of boxes"
            )
    if not isinstance(document, dict):
        return CocoResults(path=path, entries=entries, images={}, document=None)
    images = _index_images(document, path)
    return CocoResults(path=path, entries=entries, images=images, document=document)


def find_coco_items(
    results: CocoResults, images_dir: str | Path, images_json: str | Path | None = None
) -> tuple[list[CocoItem], list[str]]:
    """Groups the entries by image and finds the image files.

    A file is looked for by the `file_name` (or the end of `coco_url`) in the json itself or in
    `images_json`; then by a stem equal to the image id, `000000000139.jpg` being 139; then by the
    entry's own `file_name`.

    Args:
        results: from `load_results`.
        images_dir: folder of the images, searched with its subfolders.
        images_json: a data set json with `images`, for a results list whose ids are not in names.

    Returns:
        Items in the order in which images first appear, and a line for each image not found.

    Raises:
        InputError: the folder or `images_json` is missing or not json.
    """
    images_dir = Path(images_dir)
    if not images_dir.is_dir():
        raise InputError(f"{images_dir}: no such folder; check the path")
    known = dict(results.images)
    if images_json is not None:
        known |= _index_images(load_json(Path(images_json)), Path(images_json))
    grouped: dict[int | str, list[int]] = {}
    for index, entry in enumerate(results.entries):
        grouped.setdefault(entry["image_id"], []).append(index)

    list_by_stem = cache(lambda: _index_by_stem(images_dir))
    items, problems = [], []
    for image_id, indices in grouped.items():
        image_path = _find_image(
            image_id, known.get(image_id, {}), results.entries[indices[0]], images_dir, list_by_stem
        )
        if image_path is None:
            problems.append(
                f"{results.path}: image {image_id} ({len(indices)} entries) is not in {images_dir};"
                " check the folder, or give a json with its file name (images_json)"
            )
        else:
            items.append(
                CocoItem(image_id=image_id, image_path=image_path, entry_indices=tuple(indices))
            )
    return items, problems


def load_coco_item(
    item: CocoItem,
    results: CocoResults,
    entry_indices: Sequence[int] | None = None,
    *,
    image: Image | None = None,
) -> Sample:
    """Reads an image and decodes the masks of some of its entries.

    Args:
        item: from `find_coco_items`.
        results: the results that it was found in.
        entry_indices: a part of `item.entry_indices`, to bound memory; None takes all.
        image: the image when it was read before.

    Returns:
        Masks in the order of the indices; labels are category ids; `meta` holds `image_id`,
        `image_path` and `entry_indices`.

    Raises:
        InputError: the image cannot be read, or a code is damaged or of another size; the message
            names the entry.
    """
    indices = item.entry_indices if entry_indices is None else tuple(entry_indices)
    image = read_image(item.image_path) if image is None else image
    height, width = image.shape[:2]
    masks: Scores = np.empty((len(indices), height, width), dtype=np.float32)
    for mask, index in zip(masks, indices, strict=True):
        name = f"{results.path}: entry {index} (image {item.image_id}, {item.image_path.name})"
        segmentation = results.entries[index]["segmentation"]
        mask[:] = from_rle(segmentation, size_hw=(height, width), name=name)
    categories = [results.entries[index].get("category_id") for index in indices]
    has_labels = all(isinstance(category, int) for category in categories)
    return Sample(
        id=str(item.image_id),
        image=image,
        masks=masks,
        labels=np.array(categories, dtype=np.int64) if has_labels else None,
        meta={
            "image_id": item.image_id,
            "image_path": item.image_path,
            "entry_indices": indices,
        },
    )


def refined_entry(
    entry: Entry, mask: NDArray[Any], *, recompute_box: bool = False
) -> dict[str, Any]:
    """Copies an entry with another mask; ids, scores and all other fields stay.

    Args:
        entry: of a results list or of annotations; polygons become a run-length code.
        mask: `(H, W)` bool or scores.
        recompute_box: also write `bbox` (tight, x y w h; zeros when empty) and `area` in pixels.
            The published BPR keeps the segmenter's box (tinyalpha/BPR); so does the default.

    Example:
        >>> refined_entry({"id": 7, "segmentation": []}, np.ones((1, 2), dtype=bool))
        {'id': 7, 'segmentation': {'size': [1, 2], 'counts': '02'}}
    """
    changed: dict[str, Any] = {"segmentation": to_rle(mask)}
    if recompute_box:
        foreground = mask > FOREGROUND
        changed["bbox"] = list(tight_box(foreground) or (0, 0, 0, 0))
        changed["area"] = int(np.count_nonzero(foreground))
    return {**entry, **changed}


def write_results(path: str | Path, results: CocoResults, refined: Mapping[int, Entry]) -> Path:
    """Writes a json of the same form and order, with some entries replaced.

    Args:
        path: the json to write; whole or not at all.
        results: what was read.
        refined: entry to put at an index; the others are written as they were.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    entries = (refined.get(index, entry) for index, entry in enumerate(results.entries))
    with replace_when_done(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        if results.document is None:
            file.writelines(_dump_list(entries))
        else:
            opening = "{"
            for key, value in results.document.items():
                file.write(f"{opening}{json.dumps(key)}: ")
                file.writelines(_dump_list(entries) if key == "annotations" else [_dump(value)])
                opening = ",\n"
            file.write("}")
    return path


def _read_sized_runs(segmentation: Any, size_hw: tuple[int, int], name: str) -> NDArray[np.int64]:
    coded_hw = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(coded_hw, list | tuple) or len(coded_hw) != 2 or "counts" not in segmentation:
        raise InputError(
            f"{name}: segmentation is {str(segmentation)[:40]}, expected a dict of size and counts "
            "or a list of polygons"
        )
    if tuple(coded_hw) != tuple(size_hw):
        raise InputError(f"{name}: {describe_size_mismatch(size_hw, tuple(coded_hw))}")
    return read_runs(segmentation["counts"], name=name)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _dump_list(entries: Iterable[Entry]) -> Iterable[str]:
    """Writes one entry a line, without holding the text of all of them."""
    opening = "["
    for entry in entries:
        yield f"{opening}{_dump(entry)}"
        opening = ",\n"
    yield "[]" if opening == "[" else "]"


def load_json(path: Path) -> Any:
    """Reads a json file; a missing or broken one is named in one line."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot read ({error.strerror}); check the path") from error
    except ValueError as error:  # covers bad json and bad text encoding
        raise InputError(f"{path}: not json ({error}); give a COCO json file") from error


def _index_images(document: Any, path: Path) -> dict[int | str, Entry]:
    rows = document.get("images", []) if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and "id" in r for r in rows):
        raise InputError(f"{path}: expected a data set json whose images each have an id")
    return {row["id"]: row for row in rows}


def _index_by_stem(images_dir: Path) -> dict[int | str, Path]:
    """Lists image files under their stem, and under its number when it is one."""
    files = [p for p in sorted(images_dir.rglob("*")) if p.suffix.lower() in PICTURE_SUFFIXES]
    numbered = {int(p.stem): p for p in files if p.stem.isascii() and p.stem.isdecimal()}
    return numbered | {p.stem: p for p in files}


def _find_image(
    image_id: int | str,
    row: Entry,
    entry: Entry,
    images_dir: Path,
    list_by_stem: Callable[[], Mapping[int | str, Path]],
) -> Path | None:
    for name in (row.get("file_name"), row.get("coco_url")):
        if name and (found := _find_named(str(name), images_dir)):
            return found
    by_stem = list_by_stem()
    if found := by_stem.get(str(image_id)) or by_stem.get(image_id):
        return found
    return _find_named(str(entry.get("file_name") or ""), images_dir)


def _find_named(name: str, images_dir: Path) -> Path | None:
    """Looks for the whole name, its last folder and file, and its file alone."""
    parts = Path(name).parts
    candidates = [images_dir.joinpath(*parts[start:]) for start in (0, -2, -1)]
    return next((path for path in candidates if parts and path.is_file()), None)
