"""Pictures with their truth and nothing else, as base models train on them."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image, Scores, describe_size_mismatch
from maskhone.data.folder import FolderItem
from maskhone.data.images import read_image
from maskhone.data.pictures import open_picture, read_grey, to_rgb
from maskhone.data.splits import SPLITS, Split, check_split, read_split_csv
from maskhone.errors import InputError
from maskhone.ops.masks import to_scores

Pairs = list[tuple[str, str]]
"""File names of pictures and of their truths."""


def choose_pairs(root: Path, split: Split, by_rule: Callable[[], Pairs]) -> tuple[Pairs, Path]:
    """Takes the pairs of `<split>.csv` where the set has such lists, otherwise those of a rule.

    Returns:
        The pairs in order, and the file or folder that an error about them should name.

    Raises:
        UsageError: the split has another name.
        InputError: there are lists, but not of this split; pairs of the rule could then be ones
            that the lists use elsewhere.
    """
    check_split(split)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check the path")
    path = root / f"{split}.csv"
    if path.exists():
        return read_split_csv(path), path
    others = [name for name in (f"{other}.csv" for other in SPLITS) if (root / name).exists()]
    if others:
        raise InputError(
            f"{path}: no such file, but {' and '.join(others)} are there; "
            "add it, or remove them to split by the published rule"
        )
    return by_rule(), root


def make_items(
    pairs: Pairs, images_dir: Path, masks_dir: Path, *, source: Path, ending: str
) -> list[FolderItem]:
    """Makes an item of each pair.

    Args:
        pairs: file names.
        images_dir: folder of the pictures.
        masks_dir: folder of the truths.
        source: what named the pairs.
        ending: what the name of a picture has after its id, such as `_sat.jpg`.

    Raises:
        InputError: no pairs, a file is missing, or a picture's name ends otherwise.
    """
    if not pairs:
        raise InputError(f"{source}: names no pictures; check the data set")
    images, masks = _index(images_dir), _index(masks_dir)
    items = []
    for picture, mask in pairs:
        if not picture.endswith(ending):
            raise InputError(f"{source}: {picture} does not end in {ending}; rename the picture")
        items.append(
            FolderItem(
                id=picture.removesuffix(ending),
                image_path=_look_up(images, picture, images_dir, source),
                masks_dir=masks_dir,
                mask_paths=(_look_up(masks, mask, masks_dir, source),),
            )
        )
    return items


def list_names(folder: Path, ending: str) -> list[str]:
    """Lists the visible files with this ending, sorted; `desktop.ini` and its kin are no pictures.

    Raises:
        InputError: there are none.
    """
    names = sorted(name for name in _index(folder) if name.endswith(ending) and name[0] != ".")
    if not names:
        raise InputError(f"{folder}: holds no *{ending}; check the data set")
    return names


def find_folder(candidates: Iterable[Path]) -> Path:
    """Finds the first folder that exists.

    Raises:
        InputError: none does.
    """
    candidates = list(candidates)
    for folder in candidates:
        if folder.is_dir():
            return folder
    others = "".join(f", nor {folder}" for folder in candidates[1:])
    raise InputError(f"{candidates[0]}: no such folder{others}; unpack the data set there")


def load_truth_pair(item: FolderItem) -> tuple[Image, Scores]:
    """Reads a picture and its truth.

    Returns:
        Image `(H, W, 3)` uint8 RGB and truth `(1, H, W)` float32 in [0, 1], not cut: the base
        models first resize it. A truth in colours, as JPEG makes of grey, becomes grey.

    Raises:
        InputError: a file cannot be read, or the sizes differ.
    """
    image, path = read_image(item.image_path), item.mask_paths[0]
    truth = _read_truth(path)
    if truth.shape != image.shape[:2]:
        said = describe_size_mismatch(image.shape[:2], truth.shape)
        raise InputError(f"{path} does not fit {item.image_path}: {said}")
    return image, truth[np.newaxis]


def _read_truth(path: Path) -> NDArray[np.float32]:
    picture = open_picture(path, single_frame=True)
    if picture.mode in ("1", "L", "F") or picture.mode.startswith("I"):
        grey = read_grey(picture, path)
    else:
        grey = np.array(to_rgb(picture).convert("L"))
    if path.suffix.lower() in (".jpg", ".jpeg"):  # 0 and 1 alone would be noise, not a mask
        return grey.astype(np.float32) / np.float32(255)
    return to_scores(grey, name=str(path))[0]


def _look_up(files: Mapping[str, Path], name: str, folder: Path, source: Path) -> Path:
    path = files.get(unicodedata.normalize("NFC", name))
    if path is None:
        raise InputError(
            f"{source}: names {name}, but {folder} has no such file; add it, or take the pair out"
        )
    return path


def _index(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; unpack the data set there")
    return {unicodedata.normalize("NFC", p.name): p for p in folder.iterdir() if p.is_file()}
