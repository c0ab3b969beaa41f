"""Score maps of whole folders: what a base model says, in files that PatchRefineNet reads."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image, Scores, Segmenter
from maskhone.data.array_files import save_arrays
from maskhone.data.images import read_image, write_image
from maskhone.data.pictures import PICTURE_SUFFIXES
from maskhone.errors import MaskhoneError, UsageError
from maskhone.ops.masks import to_steps
from maskhone.pipelines.truth_sets import index_by_stem

Form = Literal["png", "npy"]
Progress = Callable[[int, int], None]

_TOP = 65535
_AMBIGUOUS = (1, 255)  # a picture of 0 and nothing but one of these would be read as a mask


def write_scores(
    segmenter: Segmenter | Callable[[Image], Scores],
    images: Path | Mapping[str, Path],
    out_dir: Path,
    *,
    form: Form = "png",
    resume: bool = False,
    on_progress: Progress | None = None,
) -> list[str]:
    """Writes the scores of every picture, one file each, whole or not at all.

    Args:
        segmenter: a base model, or what makes `(1, H, W)` scores of a picture; for the square that
            the network itself sees, give `segmenter.score_square`.
        images: a folder, searched with its subfolders, or ids and files.
        out_dir: receives `ID.png` or `ID.npy`.
        form: `png` with 16 bits, or `npy` with `(H, W)` float32.
        resume: leave files alone that are there.
        on_progress: called with finished and planned pictures.

    Returns:
        One line for each picture that could not be scored.

    Raises:
        UsageError: another form.
        InputError: no pictures, or two of one name.
    """
    if form not in ("png", "npy"):
        raise UsageError(f"form of the scores is {form!r}; expected png or npy")
    files = images if isinstance(images, Mapping) else index_by_stem(images, PICTURE_SUFFIXES)
    score = segmenter.segment if isinstance(segmenter, Segmenter) else segmenter
    problems = []
    for done, (name, path) in enumerate(files.items(), start=1):
        target = out_dir / f"{name}.{form}"
        try:
            if not (resume and target.exists()):
                write_score_map(target, score(read_image(path))[0])
        except (MaskhoneError, MemoryError) as error:
            problems.append(str(error) or f"{path}: out of memory; use a smaller picture")
        if on_progress is not None:
            on_progress(done, len(files))
    return problems


def write_score_map(path: Path, scores: NDArray[np.float32]) -> Path:
    """Writes `(H, W)` scores in [0, 1]: 16-bit PNG, or float32 for `.npy`."""
    if path.suffix == ".npy":
        return save_arrays(path, {"scores": scores.astype(np.float32)})
    return write_image(path, to_deep_picture(scores))


def to_deep_picture(scores: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Turns scores in [0, 1] into steps of 1/65535 that are read as scores again.

    A map that is 0 but for pixels of 1/65535, or of 255/65535, would be read as a mask of 0 and 1,
    or of 0 and 255; these pixels are raised by one step.

    Example:
        >>> to_deep_picture(np.array([[0, 1 / 65535]], dtype=np.float32)).tolist()
        [[0, 2]]
    """
    steps: NDArray[np.uint16] = to_steps(scores, _TOP).astype(np.uint16)
    highest = steps.max(initial=0)
    if highest in _AMBIGUOUS and bool(((steps == 0) | (steps == highest)).all()):
        steps[steps == highest] += 1
    return steps
