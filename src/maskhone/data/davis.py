"""DAVIS 2016 and 2017: video sequences with a label map for each frame.

Layout: `JPEGImages/480p/SEQUENCE/00000.jpg`, `Annotations/480p/SEQUENCE/00000.png`, and lists in
`ImageSets`. Label maps hold object numbers; those of 2016 hold 0 and 255. Beside object numbers 255
is void: neither object nor background. Source: RWS section 7; Perazzi et al., CVPR 2016; Pont-Tuset
et al., 2017.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image, describe_size_mismatch
from maskhone.data.images import read_image, read_label_map
from maskhone.data.splits import read_ids
from maskhone.errors import InputError
from maskhone.ops.masks import IGNORE_LABEL

Year = Literal["2016", "2017"]
RESOLUTION = "480p"


@dataclass(frozen=True, kw_only=True)
class DavisFrame:
    """One frame; nothing is read yet.

    Attributes:
        number: as in the file's name.
        image_path: the picture.
        truth_path: its label map.
    """

    number: str
    image_path: Path
    truth_path: Path


@dataclass(frozen=True, kw_only=True)
class DavisSequence:
    """A video, its frames in order."""

    name: str
    frames: tuple[DavisFrame, ...]


@dataclass(frozen=True, kw_only=True)
class DavisObjects:
    """What the label maps of a sequence hold.

    Attributes:
        numbers: of the objects in any frame, ascending; 255 alone is one.
        has_void: 255 is in a frame beside other numbers in that or others.
    """

    numbers: tuple[int, ...]
    has_void: bool


def find_davis_sequences(
    root: str | Path,
    split: str = "val",
    *,
    year: Year = "2017",
    resolution: str = RESOLUTION,
    names: Sequence[str] = (),
) -> list[DavisSequence]:
    """Finds the sequences of a split, in the order of its list.

    Args:
        root: holds `JPEGImages`, `Annotations` and `ImageSets`.
        split: `train`, `val` or `trainval`; empty looks at no list but for `names` alone.
        year: whose list; that of 2016 may name sequences or pairs of files.
        resolution: folder of pictures and annotations.
        names: only these sequences, in this order; empty takes all of the list.

    Raises:
        InputError: a list, folder, picture or annotation is missing.
    """
    root = Path(root)
    if not split:
        return [_find_sequence(root, name, resolution) for name in names]
    listed = _read_list(root, split, year, resolution)
    if names:
        unknown = [name for name in names if name not in listed]
        if unknown:
            raise InputError(f"{root}: {split} of {year} has no sequence {unknown[0]}")
        listed = list(names)
    return [_find_sequence(root, name, resolution) for name in listed]


def load_davis_frame(
    frame: DavisFrame, *, objects: Sequence[int] = ()
) -> tuple[Image, NDArray[np.bool_]]:
    """Reads a picture and where its objects are.

    Args:
        frame: from `find_davis_sequences`.
        objects: numbers of the objects, joined; empty joins all of this frame.

    Raises:
        InputError: a file cannot be read, or sizes differ.
    """
    image, labels = read_image(frame.image_path), read_label_map(frame.truth_path)
    if labels.shape != image.shape[:2]:
        said = describe_size_mismatch(image.shape[:2], labels.shape)
        raise InputError(f"{frame.truth_path} does not fit {frame.image_path}: {said}")
    return image, np.isin(labels, objects or _list_numbers(labels))


def find_davis_void(frame: DavisFrame) -> NDArray[np.bool_]:
    """Reads where a frame of a sequence with `has_void` is void.

    Raises:
        InputError: the label map cannot be read.
    """
    return np.asarray(read_label_map(frame.truth_path) == IGNORE_LABEL)


def list_davis_objects(sequence: DavisSequence) -> DavisObjects:
    """Reads all label maps of a sequence for the numbers in them.

    Those that cannot be read are passed over: `load_davis_frame` says what is wrong.
    """
    found: set[int] = set()
    for frame in sequence.frames:
        with suppress(InputError):
            found.update(np.unique(read_label_map(frame.truth_path)).tolist())
    numbers = _list_numbers(np.array(sorted(found)))
    return DavisObjects(numbers=numbers, has_void=bool(found - {0, *numbers}))


def _list_numbers(labels: NDArray[Any]) -> tuple[int, ...]:
    """Lists object numbers; 255 is one only where there are no others.

    Example:
        >>> _list_numbers(np.array([0, 255])), _list_numbers(np.array([0, 1, 2, 255]))
        ((255,), (1, 2))
    """
    found = [int(number) for number in np.unique(labels) if number]
    return tuple(n for n in found if n != IGNORE_LABEL or len(found) == 1)


def _read_list(root: Path, split: str, year: Year, resolution: str) -> list[str]:
    """Reads the names of sequences, each once."""
    candidates = [root / "ImageSets" / year / f"{split}.txt"]
    if year == "2016":
        candidates.append(root / "ImageSets" / resolution / f"{split}.txt")
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise InputError(f"{candidates[0]}: no such list; unpack DAVIS {year} in {root}")
    names = [_name_sequence(line) for line in read_ids(path)]
    if not names:
        raise InputError(f"{path}: names no sequences")
    return list(dict.fromkeys(names))


def _name_sequence(line: str) -> str:
    """Takes the name out of a line: it alone, or `/JPEGImages/480p/NAME/00000.jpg ...`.

    Example:
        >>> _name_sequence("/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png")
        'bear'
    """
    first = line.split()[0]
    return Path(first).parent.name if "/" in first else first


def _find_sequence(root: Path, name: str, resolution: str) -> DavisSequence:
    images = root / "JPEGImages" / resolution / name
    truths = root / "Annotations" / resolution / name
    for folder in (images, truths):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder, but the sequence {name} is asked for")
    paths = sorted(images.glob("*.jpg"))
    if not paths:
        raise InputError(f"{images}: holds no *.jpg")
    frames = []
    for path in paths:
        truth = truths / f"{path.stem}.png"
        if not truth.is_file():
            raise InputError(f"{truth}: no such file, but there is {path}")
        frames.append(DavisFrame(number=path.stem, image_path=path, truth_path=truth))
    return DavisSequence(name=name, frames=tuple(frames))
