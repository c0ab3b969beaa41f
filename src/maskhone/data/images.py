"""Pictures and mask files: one file in, one file out."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from maskhone.contracts import Image, Scores, describe_size_mismatch
from maskhone.data.array_files import ARRAY_SUFFIXES, load_arrays, save_arrays
from maskhone.data.pictures import (
    DEEP_SUFFIXES,
    PICTURE_SUFFIXES,
    is_black_and_white,
    open_picture,
    read_grey,
    read_stored_size_hw,
    save_picture,
    to_rgb,
)
from maskhone.errors import InputError
from maskhone.ops.masks import MaskKind, from_scores, join_labels, split_labels, to_scores

logger = logging.getLogger(__name__)

_MOST_CLASSES = 40  # probabilities that all lie below this many steps of 1/255 are unlikely

MASK_SUFFIXES = PICTURE_SUFFIXES | ARRAY_SUFFIXES
NPZ_KEYS = ("masks", "scores", "arr_0")  # where the masks are when an .npz holds several arrays


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskFile:
    """The masks of one file, with all that is needed to write the same kind again.

    Attributes:
        path: the file.
        scores: `(N, H, W)` float32 in [0, 1]; a picture holds one mask, a label map one per label.
        kind: what the numbers in the file mean.
        labels: `(N,)` label of each mask of a label map, otherwise None.
        label_map: `(H, W)` uint8 as stored, otherwise None.
        palette: its colours, red green blue for each label, otherwise None.
        is_stack: an array file of `(N, H, W)`, not `(H, W)`.
        array_key: name of the masks inside an `.npz`.
        other_arrays: what else the `.npz` holds; written again untouched.
    """

    path: Path
    scores: Scores
    kind: MaskKind
    labels: NDArray[np.int64] | None = None
    label_map: NDArray[np.uint8] | None = None
    palette: bytes | None = None
    is_stack: bool = False
    array_key: str = "masks"
    other_arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def read_image(path: str | Path) -> Image:
    """Reads a picture as `(H, W, 3)` uint8 RGB, upright.

    Grey, palette and CMYK pictures become RGB, 16 bits become 8, transparency is dropped, an EXIF
    rotation is applied, and of an animation the first frame is taken.

    Raises:
        InputError: the file is missing, damaged, no picture, or has more than 16 bits a channel.
    """
    path = Path(path)
    picture = open_picture(path)
    if picture.mode.startswith(("I", "F")):
        deep = read_grey(picture, path)
        if deep.dtype != np.uint16:
            raise InputError(f"{path}: {deep.dtype} picture, expected 8 or 16 bits; convert it")
        grey = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    return np.array(to_rgb(picture), dtype=np.uint8)


def write_image(path: str | Path, image: NDArray[Any]) -> Path:
    """Writes `(H, W, 3)` uint8 RGB, or `(H, W)` uint8 or uint16, in the suffix's format."""
    return save_picture(Path(path), PIL.Image.fromarray(image))


def read_mask(path: str | Path, *, is_logits: bool = False) -> MaskFile:
    """Reads the masks of one file: a picture, or an `.npy` or `.npz` array.

    A grey picture is one mask: binary when it holds only 0 and 1, or 0 and 255, otherwise a
    probability v/255, or v/65535 with 16 bits; the noise of a JPEG makes it a probability. RGB
    pictures whose channels are equal are read as grey. A palette picture is a label map: one mask
    for each label but 0 and 255 (ignore). One of pure black and white only is a grey picture,
    unless label 1 is the white, when both readings agree.

    Args:
        path: the file.
        is_logits: floats are logits, and become probabilities by a sigmoid.

    Raises:
        InputError: the file is missing, damaged, in colours, or holds NaN or, unless said, logits;
            or logits are said of anything but floats.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _read_array_mask(path, is_logits=is_logits)
    if is_logits:
        raise InputError(f"{path}: a picture holds no logits; save them as float .npy or .npz")
    picture = open_picture(path, single_frame=True)
    if picture.mode == "P" and not is_black_and_white(picture):
        label_map = np.array(picture, dtype=np.uint8)
        labels, scores = split_labels(label_map)
        palette = bytes(picture.getpalette("RGB") or b"").ljust(3 * 256, b"\0")
        kind = MaskKind(dtype="uint8", top=255, is_binary=True)
        return MaskFile(
            path=path, scores=scores, kind=kind, labels=labels, label_map=label_map, palette=palette
        )
    grey, kind = to_scores(read_grey(picture, path), name=str(path))
    if not kind.is_binary and grey.max() * kind.top <= _MOST_CLASSES:
        logger.warning(
            "%s: holds only small numbers; if they are class numbers, save a palette picture", path
        )
    return MaskFile(path=path, scores=grey[np.newaxis], kind=kind)


def read_label_map(path: str | Path) -> NDArray[Any]:
    """Reads the bare numbers of a grey or palette picture: `(H, W)` bool, uint8 or uint16.

    Raises:
        InputError: the file is missing, damaged, or in colours.
    """
    path = Path(path)
    picture = open_picture(path, single_frame=True)
    return np.array(picture) if picture.mode == "P" else read_grey(picture, path)


def write_mask(
    path: str | Path,
    scores: Scores,
    like: MaskFile,
    *,
    binary: bool = False,
    as_scores: bool = False,
) -> Path:
    """Writes masks in the kind they were read in: bit depth, 0/1 or 0/255, palette, array type.

    Args:
        path: the suffix names the format.
        scores: `(N, H, W)`, one for each of `like.scores`.
        like: the file that was read.
        binary: cut probabilities at one half.
        as_scores: write probabilities instead, as float32 arrays or 16-bit pictures. The suffix
            becomes `.png` where the format has only 8 bits, and `.npz` (`scores`, `labels`) for a
            label map.

    Returns:
        The file written.

    Raises:
        InputError: several masks for one grey picture, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if as_scores and like.labels is not None:
        return save_arrays(path.with_suffix(".npz"), {"scores": scores, "labels": like.labels})
    if like.labels is not None and like.label_map is not None:
        return _write_label_map(path, join_labels(scores, like.labels, like.label_map), like)
    if suffix in ARRAY_SUFFIXES:
        values = scores if as_scores else from_scores(scores, like.kind, binary=binary)
        return _write_array(path, values if like.is_stack or len(values) != 1 else values[0], like)
    if len(scores) != 1:
        raise InputError(
            f"{path}: {len(scores)} masks do not fit one picture; write .npy or .npz instead"
        )
    if as_scores:
        path = path if suffix in DEEP_SUFFIXES else path.with_suffix(".png")
        kind = MaskKind(dtype="uint16", top=65535, is_binary=False)
    else:
        kind = _fit_kind(like.kind, suffix)
    return save_picture(path, PIL.Image.fromarray(from_scores(scores[0], kind, binary=binary)))


def read_pair(
    image_path: str | Path, mask_path: str | Path, *, is_logits: bool = False
) -> tuple[Image, MaskFile]:
    """Reads a picture and its mask, which must have one size; see `read_mask`.

    Raises:
        InputError: as `read_image`, `read_mask` and `check_mask_fits`.
    """
    image, mask_file = read_image(image_path), read_mask(mask_path, is_logits=is_logits)
    check_mask_fits(mask_file, image, image_path=Path(image_path))
    return image, mask_file


def check_mask_fits(mask_file: MaskFile, image: Image, *, image_path: Path) -> None:
    """Refuses a mask of another size than its image, naming both files and the likely cause."""
    image_hw, mask_hw = image.shape[:2], _size_hw(mask_file)
    if mask_hw == image_hw:
        return
    said = describe_size_mismatch(image_hw, mask_hw)
    if mask_hw == read_stored_size_hw(image_path):
        said = said.partition(";")[0] + (
            "; the mask fits the image as stored, before its EXIF rotation: rotate the mask the "
            "same way, or remove the EXIF orientation tag"
        )
    raise InputError(f"{mask_file.path} does not fit {image_path}: {said}")


def _size_hw(mask_file: MaskFile) -> tuple[int, ...]:
    return tuple(mask_file.scores.shape[1:])


def _read_array_mask(path: Path, *, is_logits: bool) -> MaskFile:
    arrays = load_arrays(path)
    key = next((k for k in NPZ_KEYS if k in arrays), None)
    if len(arrays) == 1:
        key = next(iter(arrays))
    if key is None:
        raise InputError(
            f"{path}: holds the arrays {sorted(arrays)}, expected one, or one named masks or scores"
        )
    array = arrays.pop(key)
    if is_logits:
        if array.dtype.kind != "f":
            raise InputError(f"{path}: holds {array.dtype}, but logits are floats; leave them out")
        logistic = (np.tanh(array.astype(np.float64) / 2) + 1) / 2  # does not overflow
        array = logistic.astype(array.dtype)
    scores, kind = to_scores(array, name=str(path))
    is_stack = scores.ndim == 3
    return MaskFile(
        path=path,
        scores=scores if is_stack else scores[np.newaxis],
        kind=kind,
        is_stack=is_stack,
        array_key=key,
        other_arrays=arrays,
    )


def _fit_kind(kind: MaskKind, suffix: str) -> MaskKind:
    """Picks the kind that a picture format can hold and that loses least."""
    if kind.dtype in ("bool", "uint8") or (kind.dtype == "uint16" and suffix in DEEP_SUFFIXES):
        return kind
    if kind.is_binary:
        return MaskKind(dtype="uint8", top=min(kind.top, 255), is_binary=True)
    if suffix in DEEP_SUFFIXES:
        return MaskKind(dtype="uint16", top=65535, is_binary=False)
    return MaskKind(dtype="uint8", top=255, is_binary=False)


def _write_label_map(path: Path, label_map: NDArray[Any], like: MaskFile) -> Path:
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _write_array(path, label_map, like)
    picture = PIL.Image.fromarray(label_map)
    picture.putpalette(like.palette or b"")
    return save_picture(path, picture)


def _write_array(path: Path, array: NDArray[Any], like: MaskFile) -> Path:
    return save_arrays(path, {like.array_key: array, **like.other_arrays})
