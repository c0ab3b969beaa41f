"""Probability maps in folders: alone, or matched by name with truths and pseudo-labels."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores, describe_size_mismatch
from maskhone.data.images import MASK_SUFFIXES, read_label_map, read_mask
from maskhone.data.splits import read_ids
from maskhone.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MapItem:
    """A probability map and its truth; nothing is read yet.

    Attributes:
        id: path within the folder of maps, without suffix.
        scores_path: the map.
        target_path: the truth.
        label_path: the pseudo-label, where there is one.
    """

    id: str
    scores_path: Path
    target_path: Path
    label_path: Path | None = None


def find_map_items(
    scores_dir: str | Path,
    targets_dir: str | Path,
    labels_dir: str | Path | None = None,
    *,
    wanted: Collection[str] | None = None,
) -> list[MapItem]:
    """Finds the truth of every map, and its pseudo-label where a folder of them is named.

    Args:
        scores_dir: folder of maps.
        targets_dir: folder of truths of the same names.
        labels_dir: folder of pseudo-labels of the same names.
        wanted: ids that are of interest; other maps are passed by.

    Returns:
        Items sorted by id.

    Raises:
        InputError: a folder is missing or holds no maps, or a map has no truth or label.
    """
    scores, targets = index_maps(scores_dir), index_maps(targets_dir)
    if wanted is not None:
        scores = {name: path for name, path in scores.items() if name in wanted}
    labels = {} if labels_dir is None else index_maps(labels_dir)
    for folder, found in ((targets_dir, targets), (labels_dir, labels)):
        lacking = [name for name in scores if name not in found]
        if folder is not None and lacking:
            raise InputError(
                f"{folder}: has no {lacking[0]}, but {scores[lacking[0]]} needs it "
                f"({len(lacking)} such); add it, or name the maps to use in a list"
            )
    return [
        MapItem(id=name, scores_path=path, target_path=targets[name], label_path=labels.get(name))
        for name, path in scores.items()
    ]


def choose_items(items: Sequence[MapItem], list_path: Path) -> list[MapItem]:
    """Takes the items that a list names, one id a line, in its order.

    Raises:
        InputError: the list cannot be read, is empty, or names what is not there.
    """
    by_id = {item.id: item for item in items}
    ids = read_ids(list_path)
    unknown = [name for name in ids if name not in by_id]
    if unknown or not ids:
        said = f"names {unknown[0]}, which is not among the maps" if unknown else "names no map"
        raise InputError(f"{list_path}: {said}; one name without suffix a line")
    return [by_id[name] for name in ids]


def index_maps(folder: str | Path) -> dict[str, Path]:
    """Lists the map files of a folder and its subfolders by name without suffix, sorted.

    Raises:
        InputError: no such folder, no maps in it, or two of one name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in MASK_SUFFIXES or any(p.startswith(".") for p in parts):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{path}: {found[name].name} has the same name; keep one of them")
        found[name] = path
    if not found:
        raise InputError(f"{folder}: holds no probability maps; check the folder")
    return found


def read_score_map(path: Path, *, is_logits: bool = False) -> NDArray[np.float32]:
    """Reads the one map of a file: `(H, W)` in [0, 1].

    Raises:
        InputError: the file cannot be read, or holds several maps, NaN or, unless said, logits.
    """
    maps: Scores = read_mask(path, is_logits=is_logits).scores
    if len(maps) != 1:
        raise InputError(f"{path}: holds {len(maps)} maps, expected one; save a file for each")
    found: NDArray[np.float32] = maps[0]
    return found


def read_truth(path: Path, *, target_value: int | None = None) -> NDArray[np.bool_]:
    """Reads a truth: `(H, W)`; a label map without any label is one of background only.

    Args:
        path: a mask of any kind.
        target_value: the object is where the truth has this number; None reads it as any mask.

    Raises:
        InputError: the file cannot be read, or holds several masks.
    """
    if target_value is not None:
        is_object: NDArray[np.bool_] = read_label_map(path) == target_value
        return is_object
    found = read_mask(path)
    if found.label_map is not None and not len(found.scores):
        return np.zeros(found.label_map.shape, dtype=np.bool_)
    if len(found.scores) != 1:
        raise InputError(
            f"{path}: holds {len(found.scores)} masks, expected one; name the object's number with "
            "target_value, or save a file for each"
        )
    inside: NDArray[np.bool_] = found.scores[0] > FOREGROUND
    return inside


def read_map_pair(
    item: MapItem, *, target_value: int | None = None, is_logits: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    """Reads a map, its truth of 0 and 1, and its pseudo-label: `(H, W)` each, of one size.

    Args:
        item: from `find_map_items`.
        target_value: the object is where the truth has this number; None reads it as any mask.
        is_logits: the scores are logits.

    Raises:
        InputError: a file cannot be used, or the sizes differ.
    """
    scores = read_score_map(item.scores_path, is_logits=is_logits)
    truth = read_truth(item.target_path, target_value=target_value)
    _check_size(item.target_path, truth, scores, "target")
    label = None
    if item.label_path is not None:
        label = (read_score_map(item.label_path) > FOREGROUND).astype(np.float32)
        _check_size(item.label_path, label, scores, "label")
    return scores, truth.astype(np.float32), label


def make_blank_image(size_hw: tuple[int, ...]) -> Image:
    """Makes the picture of a map that comes without one: black, `(H, W, 3)`, in no memory."""
    return np.broadcast_to(np.uint8(0), (size_hw[0], size_hw[1], 3))


def _check_size(path: Path, array: NDArray[Any], scores: NDArray[np.float32], noun: str) -> None:
    if array.shape != scores.shape:
        said = describe_size_mismatch(scores.shape, array.shape)
        raise InputError(f"{path}: {said.replace('image', 'map').replace('mask', noun)}")
