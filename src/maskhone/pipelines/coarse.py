"""Coarse masks made beforehand, for the training of high-resolution refiners."""

import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND
from maskhone.data.images import MASK_SUFFIXES, read_mask, write_mask
from maskhone.errors import InputError, UsageError
from maskhone.methods.segrefiner.coarse import Draws, make_coarse


def make_coarse_files(
    masks: Path,
    output: Path,
    *,
    fill_holes: bool = False,
    seed: int = 0,
    resume: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes a coarse version of every clean mask of a folder; returns lines about failures.

    Args:
        masks: folder of mask files.
        output: folder for files of the same names. SegRefiner's HR training wants `coarse/`, and
            `coarse_expand/` made with `fill_holes`, beside the masks.
        fill_holes: close the holes of each mask first.
        seed: of the run; what a file becomes depends on this, `fill_holes` and its name alone.
        resume: leave files alone that are there already.
        on_progress: called with finished and planned files.

    Source: SegRefiner section 6.6; MengyuWang826/SegRefiner:gen_coarse_masks_hr.py.
    Differs: masks are cut at one half beforehand, and every file has a seed of its own; the
    original's workers repeat one another, and small masks come out empty.
    """
    if masks.resolve() == output.resolve() or masks.resolve() in output.resolve().parents:
        raise UsageError(f"{output}: lies in the folder of clean masks; name one beside it")
    files = sorted(p for p in masks.rglob("*") if p.suffix.lower() in MASK_SUFFIXES)
    if not files:
        raise InputError(f"{masks}: holds no masks; check the folder")
    problems = []
    for done, path in enumerate(files, start=1):
        name = path.relative_to(masks)
        try:
            if not (resume and (output / name).exists()):
                _make_one(path, output / name, fill_holes, (seed, int(fill_holes), _hash(name)))
        except InputError as error:
            problems.append(str(error))
        if on_progress is not None:
            on_progress(done, len(files))
    return problems


def _make_one(path: Path, output: Path, fill_holes: bool, seed: tuple[int, int, int]) -> None:
    mask_file = read_mask(path)
    draws = Draws(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    made = []
    for scores in mask_file.scores:
        mask = scores > FOREGROUND
        made.append(make_coarse(close_holes(mask) if fill_holes else mask, draws))
    write_mask(output, np.stack(made).astype(np.float32), mask_file, binary=True)


def close_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fills what the outer outlines of an `(H, W)` mask enclose.

    Example:
        >>> ring = np.ones((3, 3), dtype=bool)
        >>> ring[1, 1] = False
        >>> bool(close_holes(ring)[1, 1])
        True
    """
    outer, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros(mask.shape, dtype=np.uint8)
    cv2.drawContours(filled, outer, -1, 1, -1)
    return filled > 0


def _hash(name: Path) -> int:
    return zlib.crc32(name.as_posix().encode())
