"""The authors' checkpoints: read without running code, and held to the keys they should have."""

import argparse
import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskhone.errors import WeightsError

_WRAPPERS = ("state_dict", "model")  # where trainers put the tensors beside other facts
_SCALARS = (np.float64(0), np.float32(0), np.int64(0), np.bool_(False))
_rebuild_scalar = _SCALARS[0].__reduce__()[0]
_PLAIN_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(scalar.dtype) for scalar in _SCALARS),
    (_rebuild_scalar, "numpy.core.multiarray.scalar"),  # NumPy 1
    (_rebuild_scalar, "numpy._core.multiarray.scalar"),  # NumPy 2
]
"""What the pickle of a NumPy number, and of the options of a command line that trainers save beside
the tensors, consists of; none of it runs code of the file."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a checkpoint's tensors without running code.

    They may be bare, or lie under `state_dict` or `model` beside numbers, NumPy's too, and options
    of a command line; a prefix `module.` is taken away.
    """
    try:
        with torch.serialization.safe_globals(_PLAIN_TYPES):
            file: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: the pickle holds more than plain tensors and was not opened; "
            "save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as a PyTorch checkpoint ({error})") from error
    state = _unwrap(file)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(
            f"{path}: expected a dict of tensors, or one under 'state_dict' or 'model'"
        )
    return {re.sub(r"^module\.", "", key): value for key, value in state.items()}


def _unwrap(file: Any) -> Any:
    if not isinstance(file, dict):
        return None
    wrapped = (file[name] for name in _WRAPPERS if isinstance(file.get(name), dict))
    return next(wrapped, file)


def check_keys(path: Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuses a state dict that does not fit key for key and shape for shape."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    reshaped = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    said = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("extra", extra), ("of other shape", reshaped))
        if keys
    ]
    if said:
        raise WeightsError(f"{path}: keys of another network: {'; '.join(said)}")


def check_released_hash(path: Path) -> None:
    """Compares a released file's name with its content: `name-<first 8 of sha256>.pth`."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    promised = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if promised is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(promised[1]):
        raise WeightsError(
            f"{path}: the name promises sha256 {promised[1]}..., the content has {found[:8]}...; "
            "download it again"
        )
