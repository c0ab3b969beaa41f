"""Finds the stored outputs of the original implementations and makes their weights and inputs.

The folder is `tests/parity/fixtures`, or `MASKHONE_PARITY_DIR` when that is set; both hold
`<method>/<fixture>/{manifest.json, outputs.npz}`. Nothing here knows a size, a seed or a tolerance:
all of that is read from the manifests.
"""

import json
import os
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(os.environ.get("MASKHONE_PARITY_DIR", Path(__file__).parent / "fixtures"))


@dataclass(frozen=True)
class Fixture:
    """One folder of stored inputs and outputs."""

    path: Path

    def __str__(self) -> str:
        return self.path.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / "manifest.json").read_text())

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        with np.load(self.path / "outputs.npz") as stored:
            return {key: stored[key] for key in stored.files}


def find_fixtures(method: str, pattern: str) -> list[Any]:
    """Lists the fixtures of a method as pytest parameters; an absent family is one skip."""
    folders = sorted(p.parent for p in (ROOT / method).glob(f"{pattern}/manifest.json"))
    if not folders:
        reason = f"{method}/{pattern} is not in this fixture set"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")]
    return [pytest.param(Fixture(folder), id=folder.name) for folder in folders]


def tolerance_number(text: str | float) -> float:
    """Reads the first number of a tolerance, such as `<= 0.05% of the pixels`, as a fraction."""
    if not isinstance(text, str):
        return float(text)
    found = re.search(r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(%?)", text)
    if found is None:
        assert "exact" in text, f"no number in the tolerance {text!r}"
        return 0.0
    return float(found[1]) / (100.0 if found[2] else 1.0)


def weight_by_rule(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws one state-dict entry by the crc32 rule of the parity README."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, dtype=np.int64)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    z = generator.standard_normal(shape)
    if key.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif key.endswith("running_mean"):
        z = 0.1 * z
    elif len(shape) >= 2:
        z = z * np.sqrt(2 / np.prod(shape[1:]))
    elif key.endswith("weight"):
        z = 1 + 0.1 * z
    else:
        z = 0.1 * z
    return z.astype(np.float32)


def state_dict_by_rule(
    entries: list[tuple[str, tuple[int, ...]]], rule: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Draws a whole state dict and applies the manifest's multipliers and addends."""
    state = {}
    for key, shape in entries:
        value = weight_by_rule(key, tuple(shape))
        for pattern, factor, which in rule.get("then_multiply", []):
            if re.search(pattern, key) and (which == "any" or value.ndim == 1):
                value = (value * np.float32(factor)).astype(value.dtype)
        for pattern, addend in rule.get("then_add", []):
            if re.search(pattern, key):
                value = value + np.asarray(addend, dtype=value.dtype)
        state[key] = value
    return state
