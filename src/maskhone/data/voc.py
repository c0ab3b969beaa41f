"""PASCAL VOC 2012: id lists, image tags from the annotations, and label maps with its palette."""

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from maskhone.data.images import read_label_map
from maskhone.data.pictures import save_picture
from maskhone.data.splits import read_ids
from maskhone.data.tagged_images import (
    TaggedImage,
    check_ids,
    find_picture,
    find_truth,
    get_class_index,
)
from maskhone.errors import InputError

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The foreground classes in the order of their indices; in label maps they are 1 to 20."""

VOC_LISTS = {
    "train": "aa623bd2c8ce4443a8aaae51c524c0eb165e8e44caf6aa9e3ad33d7b75a3ef20",
    "train_aug": "d1326bd532648d73bc4b1bd275434eba81930982dc7401a65a8cecb26c028e24",
    "val": "cdc1326d12f69ce5153aa5da04a4d8783e146868d42d19f82f44e74b97ac907d",
    "test": "5e8fe0c14b2e6633fb2e3a0f5db65fb6b8f5217b574478bb21127a48fd33010f",
}
"""The lists that come with the package, and the `hash_ids` of each; train_aug is train and SBD
without val. Source: PerimeterFit section 1.4."""

OWN_LISTS = ("train", "trainval")
"""Lists that a folder may hold of what to train on; the first that is there counts."""

_LISTS = "ImageSets/Segmentation"

LabelMap = NDArray[np.uint8]  # (H, W)


def find_voc_images(
    root: str | Path,
    list_name: str = "",
    *,
    class_names: Sequence[str] = VOC_CLASSES,
    ignores_others: bool = False,
    truths: str | Path = "SegmentationClass",
    needs_tags: bool = True,
) -> list[TaggedImage]:
    """Finds the pictures of a list in a folder of VOC's layout.

    Args:
        root: holds `JPEGImages`, of `.jpg` or other pictures, `Annotations` and, where there are
            truths, `SegmentationClass`.
        list_name: see `read_voc_list`; empty takes the folder's own, see `read_own_list`.
        class_names: the classes in the order of their indices.
        ignores_others: objects of other classes do not count; otherwise they are an error.
        truths: folder of label maps, within `root` or anywhere.
        needs_tags: otherwise pictures without annotation have no classes.

    Returns:
        One item per id, in the order of the list.

    Raises:
        InputError: a list, picture or annotation is missing or cannot be used; or there are
            objects, but none is of these classes.
    """
    root = Path(root)
    items, others = [], set[str]()
    ids = read_voc_list(list_name, root=root) if list_name else read_own_list(root)
    for id in ids:
        image_path, tags_path = _find_image(root, id, list_name), root / f"Annotations/{id}.xml"
        known = others if ignores_others else None
        has_tags = needs_tags or tags_path.is_file()
        items.append(
            TaggedImage(
                id=id,
                image_path=image_path,
                classes=read_voc_tags(tags_path, class_names, others=known) if has_tags else (),
                truth_path=find_truth(root / truths, id),
            )
        )
    if others and not any(item.classes for item in items):
        raise InputError(
            f"{root}: no annotation names {' or '.join(class_names)}; "
            f"they name {', '.join(sorted(others))}; write the classes as there"
        )
    return items


def read_own_list(root: str | Path) -> list[str]:
    """Reads the ids that a folder of VOC's layout has to train on.

    They are those of its list `train`, or else `trainval`, or else all pictures with an annotation.

    Raises:
        InputError: there is none.
    """
    root = Path(root)
    for name in OWN_LISTS:
        if (root / _LISTS / f"{name}.txt").is_file():
            return read_voc_list(name, root=root)
    ids = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    if not ids:
        raise InputError(
            f"{root}: has no {_LISTS}/{OWN_LISTS[0]}.txt and no Annotations/*.xml; "
            "is this a folder of VOC's layout? Otherwise name a CSV of tags"
        )
    return ids


def read_voc_list(name: str, *, root: str | Path | None = None) -> list[str]:
    """Reads the ids of a list.

    Args:
        name: a text file; or the name of a list in `root/ImageSets/Segmentation`, without suffix;
            or, where that is not there, a key of `VOC_LISTS`.
        root: folder of VOC's layout.

    Raises:
        InputError: there is no such list, it is empty, or has an id twice.

    Example:
        >>> len(read_voc_list("train_aug")), read_voc_list("val")[0]
        (10582, '2007_000033')
    """
    inside = None if root is None else Path(root) / _LISTS / f"{name}.txt"
    path = next((p for p in (Path(name), inside) if p is not None and p.is_file()), None)
    if path is not None:
        ids = read_ids(path)
    elif name in VOC_LISTS:
        packed = resources.files("maskhone.data") / "voc_lists" / f"{name}.txt"
        ids = packed.read_text(encoding="utf-8").split()
    else:
        raise InputError(
            f"{name}: no such list; name a text file of ids, or one of {', '.join(VOC_LISTS)}"
        )
    check_ids(ids, source=name)
    return ids


def hash_ids(ids: Iterable[str]) -> str:
    """Computes the sha256 of the sorted ids, one a line; the order of a list does not matter.

    Example:
        >>> hash_ids(read_voc_list("train")) == VOC_LISTS["train"]
        True
    """
    return hashlib.sha256("".join(f"{id}\n" for id in sorted(ids)).encode()).hexdigest()


def read_voc_tags(
    path: str | Path,
    class_names: Sequence[str] = VOC_CLASSES,
    *,
    others: set[str] | None = None,
) -> tuple[int, ...]:
    """Reads which classes an annotation names, as ascending indices.

    An object counts when its box, clipped to the picture, has a width and a height; difficult ones
    count, too.

    Args:
        path: an XML file.
        class_names: the classes in the order of their indices.
        others: when given, it receives the names of other classes, and their objects do not count.

    Raises:
        InputError: the file is missing or no annotation, or names an unknown class; with `others`,
            one that is known but for small and capital letters.

    Source: PerimeterFit section 1.4.
    """
    path = Path(path)
    try:
        tree = ET.parse(path).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such annotation; it says which classes are there") from error
    except (OSError, ET.ParseError) as error:
        raise InputError(f"{path}: cannot read the annotation ({error}); copy it again") from error
    size = {side: _read_whole(tree, f"size/{side}", path) for side in ("width", "height")}
    found, lowered = set(), {name.lower() for name in class_names}
    for entry in tree.findall("object"):
        name = (entry.findtext("name") or "").strip()
        if others is not None and name.lower() not in lowered:
            others.add(name)
            continue
        index = get_class_index(name, class_names, where=str(path))
        x0, x1 = (_clip(entry, f"x{end}", size["width"], path) for end in ("min", "max"))
        y0, y1 = (_clip(entry, f"y{end}", size["height"], path) for end in ("min", "max"))
        if x0 != x1 and y0 != y1:
            found.add(index)
    return tuple(sorted(found))


def read_voc_labels(path: str | Path, *, n_labels: int | None = None) -> LabelMap:
    """Reads a label map: 0 background, 1 and up the classes, 255 not labelled.

    Args:
        path: a palette or grey picture of 8 bits.
        n_labels: when given, other labels than 0 to `n_labels - 1` and 255 are refused.

    Raises:
        InputError: the file is missing, damaged, in colours, has more bits or an unknown label.
    """
    labels: NDArray[Any] = read_label_map(path)
    if labels.dtype == np.bool_:
        labels = labels.astype(np.uint8)
    if labels.dtype != np.uint8:
        raise InputError(f"{path}: {labels.dtype} label map, expected 8 bits; save it as uint8")
    if n_labels is not None:
        wrong = labels[(labels >= n_labels) & (labels != 255)]
        if len(wrong):
            raise InputError(
                f"{path}: has label {wrong.min()}, expected 0 to {n_labels - 1} and 255; "
                "is the list of classes the right one?"
            )
    return labels


def write_voc_labels(path: str | Path, labels: LabelMap) -> Path:
    """Writes an 8-bit palette PNG in VOC's colours, as the benchmark server takes it.

    Args:
        path: ends in `.png`.
        labels: `(H, W)` uint8; 255 is kept.

    Differs: the original writes grey or, for the test set, coloured pictures.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: label maps are written as .png; name such a file")
    picture = PIL.Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    picture.putpalette(make_voc_palette().tobytes())
    return save_picture(path, picture)


def make_voc_palette() -> NDArray[np.uint8]:
    """Makes VOC's colours: `(256, 3)` red, green, blue of each label.

    Bits 0, 3, 6, ... of a label are the highest bits of red, 1, 4, ... of green, 2, 5, ... of blue.

    Example:
        >>> make_voc_palette()[[1, 15, 255]].tolist()
        [[128, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        bits = labels >> (3 * place)
        for channel in range(3):
            palette[:, channel] |= ((bits >> channel & 1) << (7 - place)).astype(np.uint8)
    return palette


def _find_image(root: Path, id: str, list_name: str) -> Path:
    path = root / "JPEGImages" / f"{id}.jpg"
    if path.is_file():
        return path
    if list_name not in VOC_LISTS or (root / _LISTS / f"{list_name}.txt").is_file():
        return find_picture(path.parent, id, list_name or str(root))
    raise InputError(
        f"{path}: no such file, but VOC 2012's list {list_name} names it, and {root} has no list "
        f"of that name in {_LISTS}"
    )


def _clip(entry: ET.Element, side: str, length: int, path: Path) -> int:
    return min(max(_read_whole(entry, f"bndbox/{side}", path), 0), length - 1)


def _read_whole(element: ET.Element, name: str, path: Path) -> int:
    """Reads the integer part of a number."""
    text = element.findtext(name)
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: {name} is {text!r}, expected a number") from error
