"""COCO and LVIS json: results lists and whole data sets; RLE and polygons."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_codec

from maskhone.contracts import Sample
from maskhone.data.files import replace_when_done
from maskhone.data.images import PICTURE_SUFFIXES, read_image
from maskhone.errors import InputError
from maskhone.ops.masks import tight_box

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CocoResults:
    """A COCO json as it was read.

    Attributes:
        path: the file.
        entries: detections or annotations, untouched, in their order.
        images: the `images` of a whole data set, else None.
        rest: the other keys of a whole data set, else None for a bare results list.
    """

    path: Path
    entries: list[dict[str, Any]]
    images: list[dict[str, Any]] | None = None
    rest: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class CocoItem:
    """The entries of one image; nothing is read yet."""

    id: str
    image: Path
    indices: tuple[int, ...]


def load_results(path: Path) -> CocoResults:
    """Reads a results list, or a data set with `annotations`.

    Raises:
        InputError: missing, not json, or of another form.
    """
    data = read_json(path)
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):
        rest = {k: v for k, v in data.items() if k != "annotations"}
        images = data.get("images")
        return CocoResults(path=path, entries=data["annotations"], images=images, rest=rest)
    if not isinstance(data, list):
        raise InputError(f"{path}: expected a COCO results list, or a data set with annotations")
    for index, entry in enumerate(data):
        if not isinstance(entry, dict) or "image_id" not in entry or "segmentation" not in entry:
            raise InputError(
                f"{path}: entry {index} lacks image_id or segmentation; "
                "give segmentation results, not boxes"
            )
    return CocoResults(path=path, entries=data)


def read_json(path: Path) -> Any:
    """Reads a json file; a missing or broken one is named in one line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid json ({error}); write it again") from error


def find_coco_items(
    results: CocoResults, images_dir: Path, images_json: Path | None = None
) -> tuple[list[CocoItem], list[str]]:
    """Groups entries by image and finds the image files.

    An image is found by the `file_name` of its id in the json itself or in `images_json`; failing
    that by the entry's own `file_name`; failing that in the folder, by a file whose stem is the id,
    zeros in front ignored.

    Returns:
        Items in order of first appearance, and a line for each image that was not found.
    """
    groups: dict[Any, list[int]] = {}
    for index, entry in enumerate(results.entries):
        groups.setdefault(entry["image_id"], []).append(index)
    names = _file_names(results, images_json)
    stems = _folder_stems(images_dir) if any(i not in names for i in groups) else {}
    items, problems = [], []
    for image_id, indices in groups.items():
        name = names.get(image_id, results.entries[indices[0]].get("file_name"))
        file = images_dir / name if name is not None else stems.get(_bare_stem(str(image_id)))
        if file is None:
            problems.append(
                f"image_id {image_id}: no file for it in {images_dir} ({len(indices)} masks kept "
                "as they are); name the files with --image-list JSON"
            )
        else:
            items.append(CocoItem(id=str(image_id), image=file, indices=tuple(indices)))
    return items, problems


def _file_names(results: CocoResults, images_json: Path | None) -> dict[Any, str]:
    listed = list(results.images or [])
    if images_json is not None:
        data = read_json(images_json)
        if not isinstance(data, dict) or not isinstance(data.get("images"), list):
            raise InputError(f"{images_json}: expected a COCO json with a list under images")
        listed += data["images"]
    return {image["id"]: _file_name(image) for image in listed}


def _file_name(image: Mapping[str, Any]) -> str:
    if "file_name" in image:
        return str(image["file_name"])
    return str(image.get("coco_url", "")).rsplit("/", 1)[-1]  # LVIS names only the address


def _folder_stems(folder: Path) -> dict[str, Path]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    return {_bare_stem(p.stem): p for p in reversed(files)}


def _bare_stem(stem: str) -> str:
    return stem.lstrip("0") or "0" if stem.isdigit() else stem


def load_coco_item(
    item: CocoItem, results: CocoResults, indices: Sequence[int] | None = None
) -> Sample:
    """Reads one image with the masks of its entries, or of some of them.

    `meta["indices"]` holds the place of each mask in `results.entries`.
    """
    chosen = item.indices if indices is None else tuple(indices)
    image = read_image(item.image)
    size_hw = (image.shape[0], image.shape[1])
    masks = np.zeros((len(chosen), *size_hw), dtype=np.float32)
    for mask, index in zip(masks, chosen, strict=True):
        name = f"{results.path}: entry {index}"
        mask[:] = from_rle(results.entries[index]["segmentation"], size_hw, name=name)
    labels = np.array([results.entries[i].get("category_id", 0) for i in chosen], dtype=np.int64)
    return Sample(id=item.id, image=image, masks=masks, labels=labels, meta={"indices": chosen})


def read_coco(
    results_path: Path, images_dir: Path, images_json: Path | None = None
) -> Iterator[Sample]:
    """Yields one Sample per image of a COCO json, in order of first appearance.

    Raises:
        InputError: at the first image or mask that cannot be read.
    """
    results = load_results(results_path)
    items, problems = find_coco_items(results, images_dir, images_json)
    if problems:
        raise InputError(f"{results_path}: {problems[0]}")
    for item in items:
        yield load_coco_item(item, results)


def to_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encodes an `(H, W)` mask as COCO's compressed RLE, `counts` as text.

    Example:
        >>> to_rle(np.array([[0, 1], [0, 1]], dtype=bool))
        {'size': [2, 2], 'counts': '22'}
    """
    rle = rle_codec.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def from_rle(
    segmentation: Any, size_hw: tuple[int, int], *, name: str = "segmentation"
) -> NDArray[np.bool_]:
    """Decodes compressed RLE, uncompressed RLE, or polygons to an `(H, W)` mask.

    Raises:
        InputError: another size than the image's, or not a segmentation.

    Example:
        >>> from_rle({"size": [2, 2], "counts": "22"}, (2, 2)).tolist()
        [[False, True], [False, True]]
    """
    rle = to_plain_rle(segmentation, size_hw, name=name)
    return np.asarray(rle_codec.decode(rle), dtype=np.bool_)


def to_plain_rle(segmentation: Any, size_hw: tuple[int, int], *, name: str) -> dict[str, Any]:
    """Brings any COCO segmentation to pycocotools' compressed RLE; checks its size."""
    height, width = size_hw
    if isinstance(segmentation, dict) and "counts" in segmentation:
        size = tuple(segmentation.get("size", ()))
        if size != (height, width):
            raise InputError(
                f"{name}: RLE is of size {list(size)} but the image is {height}x{width} "
                "(height x width); use the image that was segmented"
            )
        if not isinstance(segmentation["counts"], list):
            _check_counts(segmentation, name)
            return dict(segmentation)
    elif not (isinstance(segmentation, list) and _are_polygons(segmentation)):
        raise InputError(f"{name}: neither RLE nor polygons; give COCO segmentations")
    if not segmentation:  # an object without polygons is empty
        return dict(rle_codec.encode(np.zeros((height, width), dtype=np.uint8, order="F")))
    found = rle_codec.frPyObjects(segmentation, height, width)
    return dict(rle_codec.merge(found) if isinstance(found, list) else found)


def _are_polygons(segmentation: list[Any]) -> bool:
    return all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation)


def _check_counts(segmentation: Mapping[str, Any], name: str) -> None:
    """Refuses RLE text whose runs do not fill its size; pycocotools would read past its end."""
    counts = segmentation["counts"]
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else bytes(counts)
    runs = _decode_counts(text)
    if runs is None or sum(runs) != segmentation["size"][0] * segmentation["size"][1]:
        raise InputError(f"{name}: the RLE is damaged, its runs do not fill {segmentation['size']}")


def _decode_counts(text: bytes) -> list[int] | None:
    """Reads COCO's variable-length run lengths (cocodataset/cocoapi:common/maskApi.c)."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, has_more = 0, 0, True
        while has_more:
            if position >= len(text):
                return None
            digit = text[position] - 48
            value |= (digit & 0x1F) << shift
            has_more = bool(digit & 0x20)
            position, shift = position + 1, shift + 5
            if not has_more and digit & 0x10:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs if all(run >= 0 for run in runs) else None


def refined_entry(
    entry: Entry, segmentation: Mapping[str, Any], *, recompute_box: bool = False
) -> dict[str, Any]:
    """Copies an entry with another segmentation (RLE); scores, ids and extra fields stay.

    With `recompute_box`, `bbox` (x, y, width, height; zeros when empty) and `area` follow it.
    """
    new = {**entry, "segmentation": dict(segmentation)}
    if recompute_box:
        size_hw = (int(segmentation["size"][0]), int(segmentation["size"][1]))
        mask = from_rle(segmentation, size_hw)
        new["bbox"] = list(tight_box(mask) or (0, 0, 0, 0))
        new["area"] = int(mask.sum())
    return new


def write_results(
    path: Path,
    results: CocoResults,
    segmentations: Mapping[int, Mapping[str, Any]],
    *,
    recompute_boxes: bool = False,
) -> Path:
    """Writes the json again with some segmentations replaced: same form, same order.

    Args:
        path: file to write.
        results: what was read.
        segmentations: RLE by place in `results.entries`; other entries are written untouched.
        recompute_boxes: make `bbox` and `area` follow the new masks.
    """
    entries = [
        refined_entry(entry, segmentations[i], recompute_box=recompute_boxes)
        if i in segmentations
        else entry
        for i, entry in enumerate(results.entries)
    ]
    data: Any = entries if results.rest is None else {**results.rest, "annotations": entries}
    with replace_when_done(path) as unfinished:
        unfinished.write_text(json.dumps(data), encoding="utf-8")
    return path
