"""Pictures with their truth, by split: the sets of PatchRefineNet, or anyone's two folders."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskhone.contracts import Image, describe_size_mismatch
from maskhone.data.deepglobe import find_deepglobe_items
from maskhone.data.duts import find_duts_items
from maskhone.data.folder import FolderItem
from maskhone.data.images import MASK_SUFFIXES, read_image, read_label_map
from maskhone.data.kvasir import find_kvasir_items
from maskhone.data.pictures import PICTURE_SUFFIXES
from maskhone.data.splits import Split, read_ids, split_like_published
from maskhone.data.truth_pairs import load_truth_pair
from maskhone.errors import InputError, UsageError
from maskhone.segmenters.augment import Mask

_LEAST_PICTURES = 6  # that can be split into three parts by the published rule

SETS: dict[str, Callable[[str | Path, Split], list[FolderItem]]] = {
    "deepglobe": find_deepglobe_items,
    "duts": find_duts_items,
    "kvasir": find_kvasir_items,
}


@dataclass(frozen=True, kw_only=True)
class TruthSet:
    """Where pictures and truths come from.

    Attributes:
        dataset: `deepglobe`, `duts` or `kvasir`, laid out as downloaded, or `folders`.
        root: folder of the data set; for those three.
        images: folder of pictures; for `folders`, as all that follow.
        targets: folder of truths, of the same names.
        target_value: the object is where the truth has this number; None reads it as a mask.
        train_list: text file, one id a line, of the pictures to train a base model on.
        validation_list: of those that a base model is validated on, and PatchRefineNet trained.
        test_list: of those that all is scored on. Without any list the pictures are split as
            published for DeepGlobe: 80, 16 and 4 %.
    """

    dataset: str = "folders"
    root: str = ""
    images: str = ""
    targets: str = ""
    target_value: int | None = None
    train_list: str = ""
    validation_list: str = ""
    test_list: str = ""

    def __post_init__(self) -> None:
        if self.dataset not in (*SETS, "folders"):
            known = ", ".join((*SETS, "folders"))
            raise UsageError(f"dataset is {self.dataset!r}; expected {known}")
        own = ("images", "targets", *_LISTS.values())
        needed = ("images", "targets") if self.dataset == "folders" else ("root",)
        foreign = ("root",) if self.dataset == "folders" else own
        missing = [name for name in needed if not getattr(self, name)]
        extra = [name for name in foreign if getattr(self, name)]
        if self.dataset != "folders" and self.target_value is not None:
            extra.append("target_value")
        if missing or extra:
            said = [
                f"{verb} {', '.join(names)}"
                for verb, names in (("needs", missing), ("takes no", extra))
                if names
            ]
            raise UsageError(f"dataset {self.dataset!r} {' and '.join(said)}")


_LISTS: dict[Split, str] = {"train": "train_list", "val": "validation_list", "test": "test_list"}


def find_items(data: TruthSet, split: Split) -> list[FolderItem]:
    """Finds the pairs of a split.

    Raises:
        UsageError: there are lists, but not of this split.
        InputError: a folder, a list or a file is missing.
    """
    if data.dataset != "folders":
        return SETS[data.dataset](data.root, split)
    images_dir, targets_dir = Path(data.images), Path(data.targets)
    images = index_by_stem(images_dir, PICTURE_SUFFIXES)
    targets = index_by_stem(targets_dir, MASK_SUFFIXES)
    source, ids = _choose_ids(data, split, sorted(images))
    items = []
    for name in ids:
        for folder, files in ((images_dir, images), (targets_dir, targets)):
            if name not in files:
                raise InputError(f"{source}: names {name}, but {folder} has no such file")
        items.append(
            FolderItem(
                id=name,
                image_path=images[name],
                masks_dir=targets_dir,
                mask_paths=(targets[name],),
            )
        )
    return items


def load_pair(item: FolderItem, data: TruthSet) -> tuple[Image, Mask]:
    """Reads a picture and its `(H, W)` truth in [0, 1].

    Raises:
        InputError: a file cannot be read, or the sizes differ.
    """
    if data.target_value is None:
        image, truth = load_truth_pair(item)
        return image, truth[0]
    image, path = read_image(item.image_path), item.mask_paths[0]
    mask = read_label_map(path) == data.target_value
    if mask.shape != image.shape[:2]:
        said = describe_size_mismatch(image.shape[:2], mask.shape)
        raise InputError(f"{path} does not fit {item.image_path}: {said}")
    return image, mask.astype(np.float32)


def index_by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Lists the visible files below a folder by their path in it, without suffix; sorted.

    Raises:
        InputError: no folder, no files, or two of one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in inner.parts)
        if path.suffix.lower() not in suffixes or is_hidden or not path.is_file():
            continue
        name = inner.with_suffix("").as_posix()
        if name in found:
            raise InputError(f"{path} and {found[name].name} have one name; rename one of them")
        found[name] = path
    if not found:
        raise InputError(f"{folder}: holds no pictures; check the folder")
    return found


def list_files(items: list[FolderItem]) -> list[Path]:
    """Lists the files of pairs."""
    return [path for item in items for path in (item.image_path, *item.mask_paths)]


def _choose_ids(data: TruthSet, split: Split, names: list[str]) -> tuple[Path, list[str]]:
    """Returns the ids of a split, and what an error about them should name."""
    path = getattr(data, _LISTS[split])
    if path:
        ids = read_ids(Path(path))
        if not ids:
            raise InputError(f"{path}: names no pictures; write one id a line")
        return Path(path), ids
    if any(getattr(data, name) for name in _LISTS.values()):
        raise UsageError(
            f"the recipe has lists of pictures, but no {_LISTS[split]}; give it too, or none"
        )
    if len(names) < _LEAST_PICTURES:
        raise InputError(
            f"{data.images}: holds {len(names)} pictures; {_LEAST_PICTURES} or more can be split, "
            "or name the parts with train_list, validation_list and test_list"
        )
    train, held = split_like_published(len(names))
    val, test = (held[part] for part in split_like_published(len(held)))
    chosen = {"train": train, "val": val, "test": test}[split]
    return Path(data.images), [names[i] for i in chosen.tolist()]
