"""NumPy files: `.npy` with one array, `.npz` with named ones."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.data.files import replace_when_done
from maskhone.errors import InputError

ARRAY_SUFFIXES = frozenset({".npy", ".npz"})

_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Loads all arrays of a file by name; the one of an `.npy` is called `masks`.

    Raises:
        InputError: the file is missing, damaged, or holds pickled objects.
    """
    try:
        with path.open("rb") as file:  # np.load itself leaves a damaged file open
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"masks": loaded}
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except _DAMAGED as error:
        raise InputError(f"{path}: cannot read the array ({error}); save it again") from error


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Saves arrays whole or not at all: all of them in an `.npz`, the first in an `.npy`.

    Raises:
        InputError: the file cannot be written.
    """
    with replace_when_done(path) as unfinished, unfinished.open("wb") as file:
        if path.suffix.lower() == ".npz":
            np.savez_compressed(file, allow_pickle=False, **arrays)
        else:
            np.save(file, next(iter(arrays.values())), allow_pickle=False)
    return path
