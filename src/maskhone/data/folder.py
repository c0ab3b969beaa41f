"""Folders of pictures: images with their masks, and training sets with their truth."""

import logging
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from maskhone.contracts import Sample, Scores
from maskhone.data.images import (
    MASK_SUFFIXES,
    MaskFile,
    check_mask_fits,
    read_image,
    read_label_map,
    read_mask,
    write_mask,
)
from maskhone.data.pictures import PICTURE_SUFFIXES
from maskhone.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FolderItem:
    """An image and the files of its masks; nothing is read yet.

    Attributes:
        id: path of the image within its folder, without suffix.
        image_path: the image.
        masks_dir: folder against which masks are named.
        mask_paths: one or more files, sorted. For less memory at a time, load
            `dataclasses.replace(item, mask_paths=some)`.
    """

    id: str
    image_path: Path
    masks_dir: Path
    mask_paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingItem:
    """An image, its coarse mask and its ground truth; nothing is read yet.

    Attributes:
        id: the line of the list file.
        image_path: the image.
        coarse_path: the coarse mask.
        truth_path: the ground truth.
        truth_value: the number that is foreground in the truth; None reads it as any mask.
    """

    id: str
    image_path: Path
    coarse_path: Path
    truth_path: Path
    truth_value: int | None = None


def find_folder_items(
    images_dir: str | Path, masks_dir: str | Path
) -> tuple[list[FolderItem], list[str]]:
    """Finds the image of every mask; both folders are searched with their subfolders.

    A mask belongs to the image of the same name (suffix aside) in the same subfolder; otherwise to
    the image whose name is the longest beginning of the mask's that `_`, `-` or `.` follows;
    otherwise to the image that the mask's folder is named after. So `cat_0.png`, `cat.mask.png`
    and `cat/0.png` are all masks of `cat.jpg`. Images without masks are left out.

    Returns:
        Items sorted by id, and a line for each mask whose image is missing or not unique.

    Raises:
        InputError: a folder is missing, both are one, or one of them holds no pictures.
    """
    images_dir, masks_dir = Path(images_dir), Path(masks_dir)
    if images_dir.resolve() == masks_dir.resolve():
        raise InputError(f"{images_dir}: images and masks share one folder; give them one each")
    images = _list_files(images_dir, PICTURE_SUFFIXES, but_not_in=masks_dir)
    masks = _list_files(masks_dir, MASK_SUFFIXES, but_not_in=images_dir)
    for folder, files, noun in ((images_dir, images, "pictures"), (masks_dir, masks, "masks")):
        if not files:
            raise InputError(f"{folder}: holds no {noun}; check the folder")

    images_by_id = defaultdict(list)
    for image_path in images:
        images_by_id[_stem_within(images_dir, image_path)].append(image_path)
    masks_by_id, problems = defaultdict(list), []
    for mask_path in masks:
        image_id = _match(_stem_within(masks_dir, mask_path), images_by_id)
        if image_id is None:
            problems.append(f"{mask_path}: no image in {images_dir} has this name; rename one")
        elif len(images_by_id[image_id]) > 1:
            several = ", ".join(path.name for path in images_by_id[image_id])
            problems.append(f"{mask_path}: may belong to any of {several}; keep one of them")
        else:
            masks_by_id[image_id].append(mask_path)
    items = [
        FolderItem(
            id=image_id,
            image_path=images_by_id[image_id][0],
            masks_dir=masks_dir,
            mask_paths=tuple(masks_by_id[image_id]),
        )
        for image_id in sorted(masks_by_id)
    ]
    return items, problems


def load_folder_item(item: FolderItem, *, is_logits: bool = False) -> Sample:
    """Reads an image and all its masks, one after another in the order of `mask_paths`.

    `meta` holds `image_path`, `mask_files` (tuple of MaskFile) and `mask_names` (their paths
    within the masks' folder), which `write_folder_sample` needs.

    Args:
        item: from `find_folder_items`.
        is_logits: the masks are float arrays of logits.

    Raises:
        InputError: a file cannot be read, or a mask has another size than the image.
    """
    image = read_image(item.image_path)
    mask_files = tuple(read_mask(path, is_logits=is_logits) for path in item.mask_paths)
    for mask_file in mask_files:
        check_mask_fits(mask_file, image, image_path=item.image_path)
    masks = mask_files[0].scores
    if len(mask_files) > 1:  # the files then share the memory of the stack
        ends = np.cumsum([len(mask_file.scores) for mask_file in mask_files])
        masks = np.concatenate([mask_file.scores for mask_file in mask_files])
        parts = np.split(masks, ends[:-1])
        mask_files = tuple(
            replace(mask_file, scores=part)
            for mask_file, part in zip(mask_files, parts, strict=True)
        )
    names = tuple(path.relative_to(item.masks_dir).as_posix() for path in item.mask_paths)
    return Sample(
        id=item.id,
        image=image,
        masks=masks,
        meta={"image_path": item.image_path, "mask_files": mask_files, "mask_names": names},
    )


def read_folder(images_dir: str | Path, masks_dir: str | Path) -> Iterator[Sample]:
    """Reads the Samples of two folders, one at a time; masks without image are logged."""
    items, problems = find_folder_items(images_dir, masks_dir)
    for problem in problems:
        logger.warning(problem)
    for item in items:
        yield load_folder_item(item)


def write_folder_sample(
    out_dir: str | Path,
    sample: Sample,
    scores: Scores,
    *,
    binary: bool = False,
    as_scores: bool = False,
) -> list[Path]:
    """Writes one file for each mask file of a Sample, named as it and of the same kind.

    Args:
        out_dir: made when missing; subfolders are as in the masks' folder.
        sample: from `load_folder_item`.
        scores: `(N, H, W)`, in the order of `sample.masks`.
        binary: cut probabilities at one half.
        as_scores: write probabilities instead; see `write_mask`.

    Returns:
        The files written.
    """
    written, start = [], 0
    mask_files: tuple[MaskFile, ...] = sample.meta["mask_files"]
    for mask_file, name in zip(mask_files, sample.meta["mask_names"], strict=True):
        end = start + len(mask_file.scores)
        path = Path(out_dir) / name
        written.append(
            write_mask(path, scores[start:end], mask_file, binary=binary, as_scores=as_scores)
        )
        start = end
    return written


def find_training_items(
    root: str | Path,
    split: str = "train",
    *,
    coarse: str = "coarse",
    masks: str = "masks",
    truth_value: int | None = None,
) -> list[TrainingItem]:
    """Finds the files of a training set: `images/ID.jpg`, `masks/ID.png`, `coarse/ID.png`.

    Args:
        root: folder of the set.
        split: `<split>.txt` in it lists one ID a line; empty lines are skipped.
        coarse: name of the folder of coarse masks.
        masks: name of the folder of ground truth.
        truth_value: see `TrainingItem`; CamVid's road is 3.

    Returns:
        One item a line, in the order of the list.

    Raises:
        InputError: the list or one of the files is missing.
    """
    root = Path(root)
    list_path = root / f"{split}.txt"
    if not list_path.is_file():
        raise InputError(f"{list_path}: no such file; it should list one image ID a line")
    ids = [line.strip() for line in list_path.read_text(encoding="utf-8-sig").splitlines()]
    images, truths, coarses = (
        _index_by_stem(root / name, suffixes)
        for name, suffixes in (
            ("images", PICTURE_SUFFIXES),
            (masks, MASK_SUFFIXES),
            (coarse, MASK_SUFFIXES),
        )
    )
    return [
        TrainingItem(
            id=image_id,
            image_path=_look_up(images, image_id, root / "images", list_path),
            coarse_path=_look_up(coarses, image_id, root / coarse, list_path),
            truth_path=_look_up(truths, image_id, root / masks, list_path),
            truth_value=truth_value,
        )
        for image_id in ids
        if image_id
    ]


def load_training_item(item: TrainingItem) -> Sample:
    """Reads an image, its coarse mask and, as `target`, its ground truth.

    With a `truth_value` the target is 1 where the truth holds that number and 0 elsewhere, so
    pixels marked 255 (not labelled) count as background.

    Raises:
        InputError: a file cannot be read, or the sizes differ.
    """
    image, coarse = read_image(item.image_path), read_mask(item.coarse_path)
    check_mask_fits(coarse, image, image_path=item.image_path)
    if item.truth_value is None:
        truth = read_mask(item.truth_path)
        check_mask_fits(truth, image, image_path=item.image_path)
        target = truth.scores
    else:
        target = (read_label_map(item.truth_path) == item.truth_value)[np.newaxis]
    return Sample(
        id=item.id,
        image=image,
        masks=coarse.scores,
        target=target.astype(np.float32),
        meta={"image_path": item.image_path},
    )


def _list_files(
    folder: Path, suffixes: frozenset[str], *, but_not_in: Path | None = None
) -> list[Path]:
    """Lists files below a folder by suffix, sorted; hidden ones and one subfolder are skipped."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    skipped = folder.resolve() if but_not_in is None else but_not_in.resolve()
    is_nested = folder.resolve() in skipped.parents
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (is_nested and skipped in path.resolve().parents)
        and path.is_file()
    ]


def _stem_within(folder: Path, path: Path) -> str:
    stem = path.relative_to(folder).with_suffix("").as_posix()
    return unicodedata.normalize("NFC", stem)  # some file systems take accents apart


def _match(mask_stem: str, image_ids: Mapping[str, object]) -> str | None:
    """Finds the image of a mask by the three rules of `find_folder_items`."""
    if mask_stem in image_ids:
        return mask_stem
    folder, _, name = mask_stem.rpartition("/")
    ends = [at for at in range(len(name) - 1, 0, -1) if name[at] in "_-."]
    beginnings = [f"{folder}/{name[:end]}" if folder else name[:end] for end in ends]
    return next((stem for stem in [*beginnings, folder] if stem in image_ids), None)


def _index_by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    return {_stem_within(folder, path): path for path in _list_files(folder, suffixes)}


def _look_up(files: Mapping[str, Path], image_id: str, folder: Path, list_path: Path) -> Path:
    path = files.get(unicodedata.normalize("NFC", image_id))
    if path is None:
        raise InputError(
            f"{list_path}: lists {image_id}, but {folder} has no such picture; "
            "add it, or remove the line"
        )
    return path
