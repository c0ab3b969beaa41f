"""Which pictures train, validate and test: published lists, and the rule where there are none."""

import csv
import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from maskhone.errors import InputError, UsageError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

HELD_SHARE = 0.2
SEED = 29
COLUMNS = ("img", "target")
"""Header of the authors' lists."""


def split_like_published(
    n: int, *, share: float = HELD_SHARE, seed: int = SEED
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits 0 to n - 1 into the ones that stay and the ones held back, shuffled.

    Args:
        n: number of items, 2 or more.
        share: that is held back, rounded up.
        seed: of the shuffle.

    Returns:
        Indices that stay and indices held back. As published, the second part of DeepGlobe is
        split again into val and test; of DUTS-TE and Kvasir's test list the first is val, the
        second test.

    Raises:
        UsageError: too few items for two parts.

    Source: savinay95n/PatchRefineNet, where it is scikit-learn's `train_test_split` (section 7).

    Example:
        >>> stay, held = split_like_published(6)
        >>> stay.tolist(), held.tolist()
        ([1, 0, 3, 5], [2, 4])
    """
    n_held = math.ceil(share * n)
    if not 1 <= n_held < n:
        raise UsageError(
            f"{n} items cannot be split with {share:g} held back; give 2 or more, and 0 < share < 1"
        )
    # The published permutation exists in NumPy's old generator only.
    order = np.random.RandomState(seed).permutation(n).astype(np.int64)
    return order[n_held:], order[:n_held]


def read_split_csv(path: Path) -> list[tuple[str, str]]:
    """Reads the names of pictures and masks from a list with the header `img,target`.

    Empty lines are skipped; the order is the file's.

    Raises:
        InputError: the file cannot be read, has another header, or a line without both names.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise InputError(
                    f"{path}: the first line is {','.join(reader.fieldnames or ())!r}; "
                    f"expected {','.join(COLUMNS)}"
                )
            rows = [tuple((row[name] or "").strip() for name in COLUMNS) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read the list ({error}); save it as UTF-8") from error
    rows = [row for row in rows if any(row)]
    for picture, mask in rows:
        if not (picture and mask):
            raise InputError(f"{path}: the line of {picture or mask} lacks a name; write both")
    return [(picture, mask) for picture, mask in rows]


def read_ids(path: Path) -> list[str]:
    """Reads one id a line; empty lines, as at the end of the file, make no id.

    Raises:
        InputError: the file is missing or no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it should list one id a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the list ({error}); save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def check_split(split: str) -> None:
    """Refuses a split that is not train, val or test."""
    if split not in SPLITS:
        raise UsageError(f"split is {split!r}; expected {', '.join(SPLITS)}")
