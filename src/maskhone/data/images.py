"""Pictures and mask files: one file in, one file out."""

import logging
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores, describe_size_mismatch
from maskhone.data.files import replace_when_done
from maskhone.errors import InputError
from maskhone.ops.masks import MaskKind, from_scores, join_labels, split_labels, to_scores

logger = logging.getLogger(__name__)

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
MASK_SUFFIXES = PICTURE_SUFFIXES | ARRAY_SUFFIXES
NPZ_KEYS = ("masks", "scores", "arr_0")  # where the masks are when an .npz holds several arrays

_DEEP_SUFFIXES = frozenset({".png", ".tif", ".tiff"})  # formats that hold 16 bits
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error)
_DAMAGED_ARRAY = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_size_limit_lock = threading.Lock()


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
    picture = _open(path)
    if picture.mode.startswith(("I", "F")):
        deep = _read_numbers(picture, path)
        if deep.dtype != np.uint16:
            raise InputError(f"{path}: {deep.dtype} picture, expected 8 or 16 bits; convert it")
        grey = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=2)
    return np.array(_to_rgb(picture), dtype=np.uint8)


def write_image(path: str | Path, image: Image) -> Path:
    """Writes `(H, W, 3)` uint8 RGB in the format that the suffix names."""
    return _save(Path(path), PIL.Image.fromarray(image))


def read_mask(path: str | Path) -> MaskFile:
    """Reads the masks of one file: a picture, or an `.npy` or `.npz` array.

    A grey picture is one mask: binary when it holds only 0 and 1, or 0 and 255, otherwise a
    probability v/255, or v/65535 with 16 bits; the noise of a JPEG makes it a probability. RGB
    pictures whose channels are equal are read as grey. A palette picture is a label map: one mask
    for each label but 0 and 255 (ignore). One of pure black and white only is a grey picture,
    unless label 1 is the white, when both readings agree.

    Raises:
        InputError: the file is missing, damaged, in colours, or holds NaN or logits.
    """
    path = Path(path)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _read_array_mask(path)
    picture = _open(path)
    if getattr(picture, "n_frames", 1) > 1:
        raise InputError(f"{path}: mask has several frames; save one file per mask, or an .npy")
    if picture.mode == "P" and not _is_black_and_white(picture):
        label_map = np.array(picture, dtype=np.uint8)
        labels, scores = split_labels(label_map)
        palette = bytes(picture.getpalette("RGB") or b"").ljust(3 * 256, b"\0")
        kind = MaskKind(dtype="uint8", top=255, is_binary=True)
        return MaskFile(
            path=path, scores=scores, kind=kind, labels=labels, label_map=label_map, palette=palette
        )
    grey, kind = to_scores(_read_numbers(picture, path), name=str(path))
    if not kind.is_binary and 0 < grey.max() <= FOREGROUND:
        logger.warning(
            "%s: no value above one half; if these are class numbers, save a palette picture", path
        )
    return MaskFile(path=path, scores=grey[np.newaxis], kind=kind)


def read_label_map(path: str | Path) -> NDArray[Any]:
    """Reads the bare numbers of a grey or palette picture: `(H, W)` bool, uint8 or uint16.

    Raises:
        InputError: the file is missing, damaged, or in colours.
    """
    path = Path(path)
    picture = _open(path)
    return np.array(picture) if picture.mode == "P" else _read_numbers(picture, path)


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
        return _save_arrays(path.with_suffix(".npz"), {"scores": scores, "labels": like.labels})
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
        path = path if suffix in _DEEP_SUFFIXES else path.with_suffix(".png")
        kind = MaskKind(dtype="uint16", top=65535, is_binary=False)
    else:
        kind = _fit_kind(like.kind, suffix)
    return _save(path, PIL.Image.fromarray(from_scores(scores[0], kind, binary=binary)))


def read_pair(image_path: str | Path, mask_path: str | Path) -> tuple[Image, MaskFile]:
    """Reads a picture and its mask, which must have one size.

    Raises:
        InputError: as `read_image`, `read_mask` and `check_mask_fits`.
    """
    image, mask_file = read_image(image_path), read_mask(mask_path)
    check_mask_fits(mask_file, image, image_path=Path(image_path))
    return image, mask_file


def check_mask_fits(mask_file: MaskFile, image: Image, *, image_path: Path) -> None:
    """Refuses a mask of another size than its image, naming both files and the likely cause."""
    image_hw, mask_hw = image.shape[:2], _size_hw(mask_file)
    if mask_hw == image_hw:
        return
    said = describe_size_mismatch(image_hw, mask_hw)
    if mask_hw == _stored_size_hw(image_path):
        said = said.partition(";")[0] + (
            "; the mask fits the image as stored, before its EXIF rotation: rotate the mask the "
            "same way, or remove the EXIF orientation tag"
        )
    raise InputError(f"{mask_file.path} does not fit {image_path}: {said}")


def _size_hw(mask_file: MaskFile) -> tuple[int, ...]:
    return tuple(mask_file.scores.shape[1:])


def _stored_size_hw(image_path: Path) -> tuple[int, int]:
    with _without_size_limit(), PIL.Image.open(image_path) as picture:
        return picture.height, picture.width


@contextmanager
def _without_size_limit() -> Iterator[None]:
    """Opens pictures of any size; Pillow warns above 89 megapixels and refuses above 179."""
    with _size_limit_lock:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _open(path: Path) -> PIL.Image.Image:
    """Decodes the first frame of a picture, upright."""
    try:
        with _without_size_limit():
            picture = PIL.Image.open(path)
        with picture:
            picture.load()
            PIL.ImageOps.exif_transpose(picture, in_place=True)
            return picture
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except PIL.UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture that Pillow can read; give PNG or JPEG") from error
    except _DAMAGED as error:
        raise InputError(f"{path}: cannot read the picture ({error}); save or copy it again") from (
            error
        )


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    if picture.mode in ("P", "PA"):  # Pillow wants palettes with transparency to pass through RGBA
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _read_numbers(picture: PIL.Image.Image, path: Path) -> NDArray[Any]:
    """Gives the `(H, W)` numbers of a grey picture: bool, uint8, uint16, or float32."""
    if picture.mode in ("1", "L", "F"):
        return np.array(picture)
    if picture.mode.startswith("I"):  # Pillow's 16 and 32 bit integers
        deep = np.array(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise InputError(f"{path}: grey values {deep.min()} to {deep.max()}, expected 16 bits")
        return deep.astype(np.uint16)
    return _read_equal_channels(picture, path)


def _read_equal_channels(picture: PIL.Image.Image, path: Path) -> NDArray[np.uint8]:
    rgba = np.array(picture.convert("RGBA"))
    grey, alpha = rgba[..., 0], rgba[..., 3]
    if not ((rgba[..., 1] == grey).all() and (rgba[..., 2] == grey).all()):
        raise InputError(
            f"{path}: mask is in colours, expected grey; save one grey picture per object, "
            "or a palette picture for a label map"
        )
    if not ((alpha == 255).all() or (alpha == grey).all()):
        raise InputError(
            f"{path}: mask has grey values and another transparency; save the one that is the mask"
        )
    return np.ascontiguousarray(grey)


def _is_black_and_white(picture: PIL.Image.Image) -> bool:
    """Says whether a palette only stores black and white, other than as labels 0 and 1."""
    colours = np.frombuffer(bytes(picture.getpalette("RGB") or b""), dtype=np.uint8).reshape(-1, 3)
    used = [number for number, count in enumerate(picture.histogram()) if count]
    painted = {number: tuple(colours[number].tolist()) for number in used if number < len(colours)}
    whites = [number for number, colour in painted.items() if colour == _WHITE]
    is_pure = len(painted) == len(used) and set(painted.values()) <= {_BLACK, _WHITE}
    return is_pure and bool(whites) and whites != [1]


def _read_array_mask(path: Path) -> MaskFile:
    arrays = _load_arrays(path)
    key = next((k for k in NPZ_KEYS if k in arrays), None)
    if len(arrays) == 1:
        key = next(iter(arrays))
    if key is None:
        raise InputError(
            f"{path}: holds the arrays {sorted(arrays)}, expected one, or one named masks or scores"
        )
    array = arrays.pop(key)
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


def _load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"masks": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except _DAMAGED_ARRAY as error:
        raise InputError(f"{path}: cannot read the array ({error}); save it again") from error


def _fit_kind(kind: MaskKind, suffix: str) -> MaskKind:
    """Picks the kind that a picture format can hold and that loses least."""
    if kind.dtype in ("bool", "uint8") or (kind.dtype == "uint16" and suffix in _DEEP_SUFFIXES):
        return kind
    if kind.is_binary:
        return MaskKind(dtype="uint8", top=min(kind.top, 255), is_binary=True)
    if suffix in _DEEP_SUFFIXES:
        return MaskKind(dtype="uint16", top=65535, is_binary=False)
    return MaskKind(dtype="uint8", top=255, is_binary=False)


def _write_label_map(path: Path, label_map: NDArray[Any], like: MaskFile) -> Path:
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _write_array(path, label_map, like)
    picture = PIL.Image.fromarray(label_map)
    picture.putpalette(like.palette or b"")
    return _save(path, picture)


def _write_array(path: Path, array: NDArray[Any], like: MaskFile) -> Path:
    if path.suffix.lower() == ".npz":
        return _save_arrays(path, {like.array_key: array, **like.other_arrays})
    with replace_when_done(path) as unfinished:
        np.save(unfinished, array, allow_pickle=False)
    return path


def _save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    with replace_when_done(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def _save(path: Path, picture: PIL.Image.Image) -> Path:
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(
            f"{path}: cannot write the format {path.suffix or '(no suffix)'}; "
            f"use one of {', '.join(sorted(PICTURE_SUFFIXES))}"
        )
    with replace_when_done(path) as unfinished:
        picture.save(unfinished, quality=95)
    return path
