"""Class maps of one picture in a file: our `.npz`, and the pickled `.npy` of the original scripts.

A file holds `keys`, `(K + 1,)` int64: 0 for the background, then class number + 1; and maps of the
K classes. Written from the description alone (PerimeterFit sections 2 and 7.5).
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from maskhone.data.array_files import load_arrays, save_arrays
from maskhone.errors import InputError

GRID_STRIDE_PX = 4
"""Pixels between the points of the coarse maps (OFRIN/PuzzleCAM:inference_classification.py)."""


@dataclass(frozen=True, kw_only=True)
class Cams:
    """Where the classes of one picture are; checked when made, trusted afterwards.

    Attributes:
        keys: `(K + 1,)` int64: 0, then the class numbers + 1, ascending. K may be 0.
        cam: `(K, h, w)` float32 at a quarter of the size, rounded up; each map's maximum is 1, or
            0 where nothing was seen, and up to 2 after PerimeterFit.
        hr_cam: `(K, H, W)` float32, the same at the picture's size.
    """

    keys: NDArray[np.int64]
    cam: NDArray[np.float32]
    hr_cam: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.keys.ndim != 1 or self.keys[:1].tolist() != [0] or (np.diff(self.keys) <= 0).any():
            raise InputError(
                f"keys of class maps are {self.keys.tolist()}; expected 0, then class numbers + 1 "
                "in ascending order"
            )
        count = len(self.keys) - 1
        for name, maps in (("cam", self.cam), ("hr_cam", self.hr_cam)):
            if maps.ndim != 3 or len(maps) != count:
                raise InputError(
                    f"{name} has shape {maps.shape}, expected {count} maps for the keys "
                    f"{self.keys.tolist()}"
                )
            if maps.dtype != np.float32 or not np.isfinite(maps).all():
                raise InputError(f"{name} is {maps.dtype}; expected finite float32 numbers")
        if self.cam.shape[1:] != find_grid_hw(self.size_hw):
            raise InputError(
                f"cam is {self.cam.shape[1]}x{self.cam.shape[2]} but hr_cam is "
                f"{self.size_hw[0]}x{self.size_hw[1]} (height x width); expected a quarter of it, "
                "rounded up"
            )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.hr_cam.shape[1], self.hr_cam.shape[2]

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class numbers of the maps, `(K,)`, from 0."""
        return self.keys[1:] - 1


def find_grid_hw(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Finds the size of the coarse maps of a picture.

    Example:
        >>> find_grid_hw((41, 60))
        (11, 15)
    """
    return -(-size_hw[0] // GRID_STRIDE_PX), -(-size_hw[1] // GRID_STRIDE_PX)


def write_cams(path: Path, cams: Cams) -> Path:
    """Writes class maps to an `.npz`, whole or not at all; returns its path.

    Raises:
        InputError: the file cannot be written.
    """
    assert path.suffix == ".npz"
    return save_arrays(path, {"keys": cams.keys, "cam": cams.cam, "hr_cam": cams.hr_cam})


def read_cams(path: Path, *, size_hw: tuple[int, ...] | None = None) -> Cams:
    """Reads class maps: an `.npz` of ours, or an `.npy` of the original scripts.

    Args:
        path: the file.
        size_hw: height and width of the picture, when they are to be compared.

    Raises:
        InputError: missing, damaged, without the three arrays, of other shapes, or of a picture of
            another size.
    """
    arrays = load_class_arrays(path)
    lacking = [name for name in ("keys", "cam", "hr_cam") if name not in arrays]
    if lacking:
        raise InputError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}, but no {lacking[0]}; "
            "expected keys, cam and hr_cam"
        )
    try:
        cams = Cams(
            keys=arrays["keys"].astype(np.int64),
            cam=arrays["cam"].astype(np.float32),
            hr_cam=arrays["hr_cam"].astype(np.float32),
        )
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
    if size_hw is not None and cams.size_hw != tuple(size_hw):
        raise InputError(
            f"{path}: class maps of a picture of {cams.size_hw[0]}x{cams.size_hw[1]}, but the "
            f"picture is {size_hw[0]}x{size_hw[1]} (height x width); make them again"
        )
    return cams


def load_class_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Loads all arrays of an `.npz`, or of a dict that was pickled into an `.npy`.

    The pickle may hold NumPy arrays and torch tensors, such as `{keys, cam, hr_cam}` and
    `{keys, rw}`; nothing else in it is looked up or run.

    Raises:
        InputError: missing, damaged, or a pickle of other things.
    """
    if path.suffix.lower() != ".npy":
        return load_arrays(path)
    try:
        with path.open("rb") as file:
            content = _read_pickled(file)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except (pickle.UnpicklingError, *_DAMAGED) as error:
        raise InputError(f"{path}: cannot be read as class maps ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dict of arrays, found {type(content).__name__}")
    return {str(name): _to_array(path, value) for name, value in content.items()}


_DAMAGED = (OSError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError)


def _read_pickled(file: BinaryIO) -> Any:
    """Reads the one object of an `.npy` of objects."""
    version = npy_format.read_magic(file)
    read_header = (
        npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    if not dtype.hasobject or shape != ():
        raise ValueError(f"an array of {dtype} and shape {shape}, expected one pickled dict")
    return _ArrayUnpickler(file).load().item()


class _ArrayUnpickler(pickle.Unpickler):
    """Opens pickles of dicts, numbers, NumPy arrays and torch tensors, and of nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {**_numpy_parts(), **_torch_parts()} if module[:5] == "torch" else _numpy_parts()
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")
        return known[module, name]


def _numpy_parts() -> dict[tuple[str, str], Any]:
    """Lists what pickled arrays consist of, under NumPy 1 and 2."""
    rebuild = np.empty(0).__reduce__()[0]
    rebuild_scalar = np.float64(0).__reduce__()[0]
    parts: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        parts[f"{core}.multiarray", "_reconstruct"] = rebuild
        parts[f"{core}.multiarray", "scalar"] = rebuild_scalar
    return parts


def _torch_parts() -> dict[tuple[str, str], Callable[..., Any]]:
    """Lists what pickled tensors consist of; the values inside are read as plain tensors are."""
    import torch

    def load_storage(content: bytes) -> Any:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    return {
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): load_storage,
    }


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Turns text of an old pickle back into the bytes that it stands for."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in {encoding}, expected latin1")
    return text.encode("latin1")


def _to_array(path: Path, value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.kind not in "biuf":
        raise InputError(f"{path}: holds a {type(value).__name__}, expected arrays of numbers")
    return array
