"""DIS5K and ThinObject-5K: large pictures of one thing with fine outlines.

    DIS-TR/im/NAME.jpg  DIS-TR/gt/NAME.png                                (also DIS-VD, DIS-TE1..4)
    thin_object/images/NAME.jpg  thin_object/masks/NAME.png  thin_object/list/train.txt

Coarse masks made beforehand (`maskhone coarse`) lie in `coarse/` and `coarse_expand/` beside the
truth. Source: Qin et al., "Highly Accurate Dichotomous Image Segmentation", ECCV 2022; Liew et al.,
"Deep Interactive Thin Object Selection", WACV 2021; SegRefiner section 7.
"""

from collections.abc import Mapping
from pathlib import Path

from maskhone.data.folder import FolderItem
from maskhone.data.images import MASK_SUFFIXES
from maskhone.data.pictures import PICTURE_SUFFIXES
from maskhone.errors import InputError

COARSE_FOLDERS = ("coarse", "coarse_expand")
"""Folders of made coarse masks; those of the second had their holes closed first."""


def find_thing_items(root: str | Path, split: str = "train") -> list[FolderItem]:
    """Finds the pictures of a DIS5K part or of ThinObject-5K, each with its truth.

    Args:
        root: folder with `im` and `gt`, or with `images` and `masks`.
        split: of ThinObject-5K, the list that names its masks; without `list/` all are taken.

    Raises:
        InputError: another layout, no pictures, or one of a pair is missing.
    """
    root = Path(root)
    images_dir, masks_dir = (root / "im", root / "gt")
    if not images_dir.is_dir():
        images_dir, masks_dir = root / "images", root / "masks"
    images = _index(images_dir, PICTURE_SUFFIXES)
    masks = _index(masks_dir, MASK_SUFFIXES)
    if not images or not masks:
        raise InputError(f"{root}: expected im/ and gt/, or images/ and masks/, with pictures")
    names = _read_list(root / "list", split) or sorted(masks)
    for known, folder, kind in ((masks, masks_dir, "mask"), (images, images_dir, "picture")):
        lost = [name for name in names if name not in known]
        if lost:
            raise InputError(f"{folder}: no {kind} {lost[0]} ({len(lost)} missing); unpack it all")
    return [
        FolderItem(id=name, image_path=images[name], masks_dir=masks_dir, mask_paths=(masks[name],))
        for name in names
    ]


def find_coarse_masks(item: FolderItem) -> tuple[Path, ...]:
    """Finds the coarse masks of a picture: one in each of `COARSE_FOLDERS`.

    Raises:
        InputError: one is missing.
    """
    name = item.mask_paths[0].with_suffix(".png").name
    paths = tuple(item.masks_dir.parent / folder / name for folder in COARSE_FOLDERS)
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; make it with: maskhone coarse")
    return paths


def _index(folder: Path, suffixes: frozenset[str]) -> Mapping[str, Path]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.stem: path for path in files if path.suffix.lower() in suffixes}


def _read_list(folder: Path, split: str) -> list[str]:
    """Reads the names of the masks of a split; an empty list when there are no lists."""
    path = folder / f"{split}.txt"
    if not folder.is_dir():
        return []
    if not path.is_file():
        raise InputError(f"{path}: no such list; name another split")
    return [Path(line).stem for line in path.read_text(encoding="utf-8").splitlines() if line]
