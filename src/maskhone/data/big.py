"""BIG and its kin: one folder of `NAME_im.jpg`, `NAME_seg.png` and `NAME_gt.png`.

`_im` is the picture, `_seg` the coarse mask, `_gt` the truth, `_refine` what is written.
Source: CascadePSP's released data; SegRefiner section 7.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from maskhone.contracts import Sample
from maskhone.data.folder import FolderItem, load_folder_item
from maskhone.data.images import MASK_SUFFIXES
from maskhone.data.pictures import PICTURE_SUFFIXES
from maskhone.errors import InputError

_COARSE, _REFINED = "_seg", "_refine"
TRUTH_ENDINGS = ("_gt",)
"""What the names of true masks end with."""
COARSE_ENDINGS = (_COARSE,)
"""What the names of coarse masks end with."""
PREDICTED_ENDINGS = (_REFINED, _COARSE)
"""What the names of masks to be scored end with, the refined one first."""


def find_big_items(
    images_dir: str | Path, masks_dir: str | Path
) -> tuple[list[FolderItem], list[str]]:
    """Finds the picture of every coarse mask; both folders may be one.

    Returns:
        Items sorted by name, and a line for each mask whose picture is missing.

    Raises:
        InputError: there are no coarse masks.
    """
    images_dir, masks_dir = Path(images_dir), Path(masks_dir)
    images = {
        path.stem.removesuffix("_im"): path
        for path in sorted(images_dir.iterdir())
        if path.stem.endswith("_im") and path.suffix.lower() in PICTURE_SUFFIXES
    }
    masks = index_big_masks(masks_dir, COARSE_ENDINGS)
    if not masks:
        raise InputError(f"{masks_dir}: holds no *{_COARSE}.png; is this a BIG folder?")
    problems = [
        f"{path}: no {name}_im.jpg in {images_dir}"
        for name, path in masks.items()
        if name not in images
    ]
    items = [
        FolderItem(id=name, image_path=images[name], masks_dir=masks_dir, mask_paths=(path,))
        for name, path in masks.items()
        if name in images
    ]
    return items, problems


def index_big_masks(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Lists mask files by NAME; of several kinds, the first of `endings` counts."""
    found: dict[str, Path] = {}
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in MASK_SUFFIXES)
    for ending in endings:
        for path in files:
            if path.stem.endswith(ending):
                found.setdefault(path.stem.removesuffix(ending), path)
    return dict(sorted(found.items()))


def name_result(item: FolderItem) -> str:
    """Names the file that is written for an item: `NAME_refine.png`."""
    return f"{item.id}{_REFINED}{item.mask_paths[0].suffix}"


def load_big_item(item: FolderItem) -> Sample:
    """Reads a picture and its coarse mask; `write_folder_sample` then writes `NAME_refine.png`."""
    sample = load_folder_item(item)
    meta: Mapping[str, object] = {**sample.meta, "mask_names": (name_result(item),)}
    return replace(sample, meta=meta)
