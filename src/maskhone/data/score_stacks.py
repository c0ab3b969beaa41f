"""Stacks of score maps in one `.npy`: `(N, H, W, 1)`, as PatchRefineNet exchanges them.

A stack is mapped into memory, never loaded whole: that of DUTS has 4015 maps of 512 x 512. Beside
the published float32 and float64, labels may be stored as uint8 or bool.
Source: PatchRefineNet section 7.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from maskhone.contracts import Scores, check_masks
from maskhone.data.files import replace_when_done
from maskhone.errors import InputError, UsageError

Stack = NDArray[Any]  # (N, H, W), mapped read-only

_SCORES = {"val": "val_pred.npy", "test": "test_input.npy"}
_TRUTHS = {"val": "val_orig_gt.npy", "test": "test_orig_gt.npy"}
_LABELS = {"val": "train_aux_gt_p_{}.npy", "test": "test_aux_gt_p_{}.npy"}


@dataclass(frozen=True, kw_only=True)
class StackPaths:
    """Where the stacks of a split lie; `labels` is of one side of patches."""

    scores: Path
    truths: Path
    labels: Path | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreStacks:
    """Opened stacks of one split, in the order of its list: `(N, H, W)` each."""

    scores: Stack
    truths: Stack
    labels: Stack | None

    def __len__(self) -> int:
        return len(self.scores)


def name_stacks(
    folder: str | Path, split: str = "val", *, label_side_px: int | None = None
) -> StackPaths:
    """Names the files of a split as published.

    Args:
        folder: `data/SET/refine-models/BASE`; that of the test stacks is also `seg-models`.
        split: `val`, which PatchRefineNet trains on, or `test`.
        label_side_px: side of the patches of the pseudo-labels; None names no labels.

    Raises:
        UsageError: the split has another name.

    Example:
        >>> name_stacks("d", label_side_px=64).labels.name
        'train_aux_gt_p_64.npy'
    """
    if split not in _SCORES:
        raise UsageError(f"split is {split!r}; stacks are of val or test")
    folder = Path(folder)
    labels = None if label_side_px is None else folder / _LABELS[split].format(label_side_px)
    return StackPaths(scores=folder / _SCORES[split], truths=folder / _TRUTHS[split], labels=labels)


def open_stacks(paths: StackPaths) -> ScoreStacks:
    """Opens the stacks of a split, which must agree in number and size.

    Raises:
        InputError: a file is missing or no stack, or they disagree.
    """
    opened = {"scores": open_stack(paths.scores), "truths": open_stack(paths.truths)}
    if paths.labels is not None:
        opened["labels"] = open_stack(paths.labels)
    for name, stack in opened.items():
        if stack.shape != opened["scores"].shape:
            raise InputError(
                f"{getattr(paths, name)}: {_say(stack)}, but {paths.scores} holds "
                f"{_say(opened['scores'])}; make both from one list of pictures"
            )
    return ScoreStacks(
        scores=opened["scores"], truths=opened["truths"], labels=opened.get("labels")
    )


def open_stack(path: str | Path) -> Stack:
    """Maps a stack into memory, read-only: `(N, H, W)`.

    Raises:
        InputError: the file is missing, damaged, of another shape, or holds no numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with the base model, or check the folder")
    try:
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot read the stack ({error}); make it again") from error
    if not isinstance(stack, np.ndarray) or stack.dtype.kind not in "fub":
        kind = getattr(stack, "dtype", "an archive")
        raise InputError(f"{path}: holds {kind}, expected one array of float, uint8 or bool")
    if stack.ndim != 4 or stack.shape[3] != 1 or 0 in stack.shape:
        raise InputError(
            f"{path}: an array of {stack.shape}, expected (maps, height, width, 1); "
            "add the last axis with array[..., None]"
        )
    return stack[..., 0]


def read_map(stack: Stack, number: int, *, name: str = "stack") -> Scores:
    """Reads one map of a stack: `(1, H, W)` float32.

    Args:
        stack: from `open_stack`; whole numbers are 0 and 1.
        number: counted from 0.
        name: what an error should name.

    Raises:
        InputError: scores outside [0, 1], or NaN.
    """
    found: Scores = np.asarray(stack[number], dtype=np.float32)[np.newaxis]
    check_masks(found, size_hw=found.shape[1:], name=f"{name}: map {number}")
    return found


def write_stack(
    path: str | Path,
    maps: Iterable[NDArray[Any]],
    *,
    count: int,
    size_hw: tuple[int, int] = (512, 512),
    dtype: DTypeLike = np.float32,
) -> Path:
    """Writes a stack map by map; the file appears whole or not at all.

    Args:
        path: of the `.npy`; a file of this name is replaced.
        maps: `(H, W)` or `(1, H, W)` each, in [0, 1].
        count: how many there will be.
        size_hw: of each.
        dtype: float32 for scores; uint8 is enough for truths and labels and takes a quarter.

    Returns:
        The file written.

    Raises:
        InputError: a map of another size, another number of maps, fractions in a stack of whole
            numbers, or the file cannot be written.
    """
    path = Path(path)
    if count < 1:
        raise InputError(f"{path}: no maps to write; check the list of pictures")
    written = 0
    with replace_when_done(path) as unfinished:
        stack = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=np.dtype(dtype), shape=(count, *size_hw, 1)
        )
        for scores in maps:
            if written == count:
                raise InputError(f"{path}: more than the {count} maps announced; mend `count`")
            if scores.shape not in (size_hw, (1, *size_hw)):
                raise InputError(
                    f"{path}: map {written} has shape {scores.shape}, expected {size_hw}; resize it"
                )
            stack[written, ..., 0] = scores.reshape(size_hw)
            if stack.dtype.kind != "f" and (stack[written, ..., 0] != scores).any():
                raise InputError(
                    f"{path}: map {written} holds fractions that {stack.dtype} cannot; "
                    "cut the scores, or write float32"
                )
            written += 1
        if written < count:
            raise InputError(f"{path}: {written} maps, but {count} announced; mend `count`")
        stack.flush()
        del stack
    return path


def _say(stack: Stack) -> str:
    n, height, width = stack.shape
    return f"{n} maps of {height}x{width}"
