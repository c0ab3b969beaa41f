"""Pillow behind one door: opening, decoding and saving pictures, with errors that help."""

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from maskhone.data.files import replace_when_done
from maskhone.errors import InputError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
DEEP_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
"""Formats that hold 16 bits."""

MAX_PIXELS = 1 << 30
"""Above this a picture is taken for damaged; OpenCV has the same limit."""

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_DAMAGED = (  # what Pillow's decoders raise on damaged files
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    struct.error,
    zlib.error,
)
_size_limit_lock = threading.Lock()


def open_picture(path: Path, *, single_frame: bool = False) -> PIL.Image.Image:
    """Decodes the first frame of a picture of up to `MAX_PIXELS`, upright.

    Args:
        path: the file.
        single_frame: refuse animations and pages instead.

    Raises:
        InputError: the file is missing, damaged, or no picture.
    """
    try:
        with _without_size_limit(), PIL.Image.open(path) as picture:
            _check_size(picture)
            frames = getattr(picture, "n_frames", 1)
            picture.load()
            PIL.ImageOps.exif_transpose(picture, in_place=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except PIL.UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture that Pillow can read; give PNG or JPEG") from error
    except _DAMAGED as error:
        said = f"{path}: cannot read the picture ({error}); save or copy it again"
        raise InputError(said) from error
    if single_frame and frames > 1 and picture.format != "MPO":  # MPO: a JPEG with a thumbnail
        raise InputError(f"{path}: {frames} frames, expected one; save one file per mask")
    return picture


def read_stored_size_hw(path: Path) -> tuple[int, int]:
    """Reads the height and width of a picture before its EXIF rotation."""
    with _without_size_limit(), PIL.Image.open(path) as picture:
        return picture.height, picture.width


def to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Converts any 8-bit picture to RGB; transparency is dropped."""
    if picture.mode in ("P", "PA"):  # Pillow wants palettes with transparency to pass through RGBA
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def read_grey(picture: PIL.Image.Image, path: Path) -> NDArray[Any]:
    """Gives the `(H, W)` numbers of a grey picture: bool, uint8, uint16, or float32.

    Raises:
        InputError: the picture is in colours, or has more than 16 bits.
    """
    if picture.mode in ("1", "L", "F"):
        return np.array(picture)
    if picture.mode.startswith("I"):  # Pillow's 16 and 32 bit integers
        deep = np.array(picture)
        if deep.min() < 0 or deep.max() > 65535:
            raise InputError(f"{path}: grey values {deep.min()} to {deep.max()}, expected 16 bits")
        return deep.astype(np.uint16)
    return _read_equal_channels(picture, path)


def is_black_and_white(picture: PIL.Image.Image) -> bool:
    """Says whether a palette only stores black and white, other than as labels 0 and 1."""
    colours = np.frombuffer(bytes(picture.getpalette("RGB") or b""), dtype=np.uint8).reshape(-1, 3)
    used = [number for number, count in enumerate(picture.histogram()) if count]
    painted = {number: tuple(colours[number].tolist()) for number in used if number < len(colours)}
    whites = [number for number, colour in painted.items() if colour == _WHITE]
    is_pure = len(painted) == len(used) and set(painted.values()) <= {_BLACK, _WHITE}
    return is_pure and bool(whites) and whites != [1]


def save_picture(path: Path, picture: PIL.Image.Image) -> Path:
    """Saves a picture whole or not at all, in the format that the suffix names; JPEG at 95.

    Raises:
        InputError: the suffix names no format we write, or the file cannot be written.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(
            f"{path}: cannot write the format {path.suffix or '(no suffix)'}; "
            f"use one of {', '.join(sorted(PICTURE_SUFFIXES))}"
        )
    with replace_when_done(path) as unfinished:
        picture.save(unfinished, quality=95)
    return path


def _check_size(picture: PIL.Image.Image) -> None:
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width}x{picture.height} is above {MAX_PIXELS} pixels")


@contextmanager
def _without_size_limit() -> Iterator[None]:
    """Lets Pillow, which refuses above 179 megapixels, read pictures of any size.

    The limit is a setting of the whole process, so one picture is decoded at a time.
    """
    with _size_limit_lock:
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _read_equal_channels(picture: PIL.Image.Image, path: Path) -> NDArray[np.uint8]:
    has_alpha = picture.mode in ("P", "PA", "LA", "RGBA")
    rgba = np.array((picture if has_alpha else picture.convert("RGB")).convert("RGBA"))
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
