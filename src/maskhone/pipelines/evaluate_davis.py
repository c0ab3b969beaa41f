"""DAVIS videos: does a mask, or a segmenter of classes, find in each frame what the video shows?

Source: RWS section 7; its authors published pictures of such videos, but no scores.
"""

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Segmenter, describe_size_mismatch
from maskhone.data.davis import (
    DavisFrame,
    DavisObjects,
    DavisSequence,
    Year,
    find_davis_sequences,
    find_davis_void,
    list_davis_objects,
    load_davis_frame,
)
from maskhone.data.files import replace_when_done
from maskhone.data.images import read_label_map, read_mask, write_image
from maskhone.data.splits import read_ids
from maskhone.data.voc import VOC_CLASSES
from maskhone.errors import InputError, UsageError
from maskhone.metrics.video import SequenceScores
from maskhone.ops.masks import IGNORE_LABEL

logger = logging.getLogger(__name__)

BoolMask = NDArray[np.bool_]
Progress = Callable[[int, int], None]
Predict = Callable[[DavisSequence, DavisFrame, Image], BoolMask]

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt")
_DEFAULT_LIST = "2017/val"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a video shows.

    Attributes:
        class_index: label of what is looked for, as VOC's 7 for a car.
        objects: numbers of the video's objects of that class; empty joins all.
    """

    class_index: int
    objects: tuple[int, ...] = ()


@dataclass(kw_only=True)
class DavisReport:
    """Scores of one or more sets of masks.

    Attributes:
        rows: one for each sequence, and `mean`, in which all sequences count alike: `masks`,
            `sequence`, `n` frames, `j`, `f`.
        frames: one for each frame: `masks`, `sequence`, `frame`, `j`, `f`.
        problems: a line for each frame or sequence that could not be scored.
    """

    rows: list[dict[str, Any]]
    frames: list[dict[str, Any]]
    problems: list[str] = field(default_factory=list)


def evaluate_davis(
    segmenter: Segmenter,
    root: Path,
    classes: Mapping[str, int],
    *,
    objects: Mapping[str, tuple[int, ...]] | None = None,
    split: str = "val",
    year: Year = "2017",
    output: Path | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores the pixels labelled with a sequence's class against its objects.

    Args:
        segmenter: gives `(C, H, W)` scores; the highest one labels a pixel.
        root: of DAVIS.
        classes: sequence to class index, as VOC's 6 for a bus; only these sequences are scored.
        objects: sequence to the numbers of its objects of that class; all where left out.
        split: `train`, `val` or `trainval`; empty takes sequences that no list names.
        year: whose list of sequences.
        output: folder to write the masks to, `SEQUENCE/00000.png` with 0 and 255.
        on_progress: called with finished and planned frames.

    Returns:
        `j` and `f`, means over sequences; `sequences`; and `frames`, a row for each.

    Raises:
        UsageError: no sequences, or a class that the segmenter does not have.
        InputError: a sequence or file is missing.
    """
    if not classes:
        raise UsageError("no sequences to score; say which class each of them shows")
    shown = {
        name: Shown(class_index=index, objects=(objects or {}).get(name, ()))
        for name, index in classes.items()
    }
    sequences = find_davis_sequences(root, split, year=year, names=tuple(classes))
    predict = _write_too(make_predictor(segmenter, shown), output)
    scores, problems = _score(sequences, shown, predict, on_progress)
    if problems:
        raise InputError(problems[0])
    return {**scores.compute(), "frames": scores.frames}


def score_videos(
    sets: Mapping[str, Path],
    root: Path,
    ids: Path | None,
    classes: Sequence[str],
    per_frame: Path | None,
    on_progress: Progress | None,
) -> DavisReport:
    """Scores several sets as `score_davis` does; `per_frame` is a CSV to write."""
    found = [
        score_davis(path, root, name=kind, ids=ids, classes=classes, on_progress=on_progress)
        for kind, path in sets.items()
    ]
    report = DavisReport(
        rows=[row for one in found for row in one.rows],
        frames=[row for one in found for row in one.frames],
        problems=list(dict.fromkeys(problem for one in found for problem in one.problems)),
    )
    if per_frame is not None:
        _write_frames(per_frame, report.frames)
    return report


def score_davis(
    prediction: Path,
    root: Path,
    *,
    name: str = "prediction",
    ids: Path | None = None,
    classes: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> DavisReport:
    """Scores masks, or a network, on the videos of DAVIS: region J and outline F of each frame.

    Args:
        prediction: folder of masks or label maps, `SEQUENCE/00000.png`; or a weight file of a
            segmenter, which is then asked about each frame.
        root: of DAVIS, with `JPEGImages/480p` and `Annotations/480p`.
        name: what the rows are called.
        ids: a list of DAVIS: `val`, `train` or `trainval` of 2017, `2016/val` and so on; or a text
            file of sequences. None takes the sequences of `classes`, or else `val` of 2017.
        classes: what videos show: `SEQUENCE=CLASS`, or `SEQUENCE=CLASS:1,3` where only these
            objects are of the class; a number, or a name of VOC. A network needs it for each
            sequence. Label maps (palette pictures, or grey ones with numbers up to 20) are scored
            at that label, or else wherever they are not 0. Grey ones of 0 and 1 are masks
            where all of the folder are masks.
        on_progress: called with finished and planned frames.

    Raises:
        UsageError: a class that is not known, or left out for a network.
        InputError: the data set or the folder is missing.
        WeightsError: the weights cannot be used.
    """
    shown = dict(read_shown(text) for text in classes)
    sequences = _find_sequences(root, ids, shown)
    if prediction.suffix in WEIGHT_SUFFIXES:
        lacking = [one.name for one in sequences if one.name not in shown]
        if lacking:
            raise UsageError(f"say what {lacking[0]} shows: --class {lacking[0]}=CLASS")
        from maskhone.pipelines.host_segmenter import load_host_segmenter

        predict = make_predictor(load_host_segmenter(prediction), shown)
    else:
        predict = make_reader(prediction, shown)
    scores, problems = _score(sequences, shown, predict, on_progress)
    if not scores.frames:
        raise InputError(problems[0])
    found = scores.compute()
    rows = [
        {"masks": name, "sequence": sequence, "n": int(one["frames"]), "j": one["j"], "f": one["f"]}
        for sequence, one in found["sequences"].items()
    ]
    mean = {"masks": name, "sequence": "mean", "n": len(scores.frames)}
    return DavisReport(
        rows=[*rows, {**mean, "j": found["j"], "f": found["f"]}],
        frames=[{"masks": name, **row} for row in scores.frames],
        problems=problems,
    )


def read_shown(text: str) -> tuple[str, Shown]:
    """Reads `SEQUENCE=CLASS` or `SEQUENCE=CLASS:1,3`.

    Raises:
        UsageError: another form, or no class of VOC.

    Example:
        >>> read_shown("dogs-jump=dog:1,2")
        ('dogs-jump', Shown(class_index=12, objects=(1, 2)))
    """
    sequence, _, rest = text.partition("=")
    class_name, _, numbers = rest.partition(":")
    parts = [part for part in numbers.split(",") if part]
    if not sequence or not class_name or not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"class {text!r}; expected SEQUENCE=CLASS or SEQUENCE=CLASS:1,3, as bus=6 or dogs=dog:1"
        )
    if class_name.isdecimal():
        index = int(class_name)
    elif class_name in VOC_CLASSES:
        index = VOC_CLASSES.index(class_name) + 1
    else:
        raise UsageError(
            f"class {text!r}; expected a number or one of VOC's: {', '.join(VOC_CLASSES)}"
        )
    return sequence, Shown(class_index=index, objects=tuple(map(int, parts)))


def make_predictor(segmenter: Segmenter, shown: Mapping[str, Shown]) -> Predict:
    """Returns what labels a frame and says where the sequence's class is."""

    def predict(sequence: DavisSequence, frame: DavisFrame, image: Image) -> BoolMask:
        index, found = shown[sequence.name].class_index, segmenter.segment(image)
        if not 0 <= index < len(found):
            raise UsageError(
                f"{sequence.name}: class {index} asked for, but the segmenter has {len(found)}"
            )
        is_class: BoolMask = found.argmax(axis=0) == index
        return is_class

    return predict


def make_reader(folder: Path, shown: Mapping[str, Shown]) -> Predict:
    """Returns what reads the mask of a frame from a folder of `SEQUENCE/00000.png`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of SEQUENCE/00000.png, or a weight file")

    are_masks: list[bool] = []  # found out once, and where it matters only

    def predict(sequence: DavisSequence, frame: DavisFrame, image: Image) -> BoolMask:
        path = folder / sequence.name / f"{frame.number}.png"
        if not path.is_file():
            raise InputError(f"{path}: no such mask")
        one = shown.get(sequence.name)
        if one is not None and _may_be_either(path):
            if not are_masks:
                are_masks.append(_holds_masks(folder))
            one = None if are_masks[0] else one
        mask = _read_mask(path, one)
        if mask.shape != image.shape[:2]:
            raise InputError(f"{path}: {describe_size_mismatch(image.shape[:2], mask.shape)}")
        return mask

    return predict


def _may_be_either(path: Path) -> bool:
    """Says whether a picture may be a mask of 0 and 1, or a label map with nothing but label 1."""
    numbers = read_label_map(path)
    return bool(numbers.max(initial=0) == 1) and _is_mask(path)


def _holds_masks(folder: Path) -> bool:
    """Says whether all pictures of a folder are masks, and warns that they are taken as such."""
    if not all(map(_is_mask, sorted(folder.glob("*/*.png")))):
        return False
    logger.warning(
        "%s: its grey pictures of 0 and 1 are taken as masks, not as label 1; save label maps with "
        "a palette",
        folder,
    )
    return True


def _is_mask(path: Path) -> bool:
    """Says whether a picture is grey and holds 0 and 1, or 0 and 255, alone."""
    found = read_mask(path)
    return found.label_map is None and found.kind.is_binary


def _read_mask(path: Path, shown: Shown | None) -> BoolMask:
    """Reads a mask, a probability or a label map; grey pictures of small numbers are labels."""
    if shown is not None:
        numbers = read_label_map(path)
        highest = numbers[numbers != IGNORE_LABEL].max(initial=0)
        if numbers.dtype != np.bool_ and 0 < highest <= len(VOC_CLASSES):
            return np.asarray(numbers == shown.class_index)
    found = read_mask(path)
    if found.label_map is None:
        return np.asarray(found.scores[0] > FOREGROUND)
    if shown is not None:
        return np.asarray(found.label_map == shown.class_index)
    return np.asarray((found.label_map != 0) & (found.label_map != IGNORE_LABEL))


def _write_too(predict: Predict, output: Path | None) -> Predict:
    if output is None:
        return predict

    def predict_and_write(sequence: DavisSequence, frame: DavisFrame, image: Image) -> BoolMask:
        mask = predict(sequence, frame, image)
        path = output / sequence.name / f"{frame.number}.png"
        write_image(path, mask.astype(np.uint8) * 255)
        return mask

    return predict_and_write


def _find_sequences(
    root: Path, ids: Path | None, shown: Mapping[str, Shown]
) -> list[DavisSequence]:
    if ids is not None and ids.is_file():
        return find_davis_sequences(root, "", names=tuple(read_ids(ids)))
    if ids is None and shown:
        return find_davis_sequences(root, "", names=tuple(shown))
    year, _, split = ("2017/" + str(ids or _DEFAULT_LIST)).rpartition("/")
    year = year.rpartition("/")[2]
    if year not in get_args(Year):
        raise UsageError(f"{ids}: expected val, 2016/val and so on, or a text file of sequences")
    return find_davis_sequences(root, split, year=year)  # type: ignore[arg-type]


def _score(
    sequences: Sequence[DavisSequence],
    shown: Mapping[str, Shown],
    predict: Predict,
    on_progress: Progress | None,
) -> tuple[SequenceScores, list[str]]:
    """Scores frame by frame; what cannot be read is said and left out."""
    scores, problems = SequenceScores(), []
    total, done = sum(len(sequence.frames) for sequence in sequences), 0
    for sequence in sequences:
        asked = shown[sequence.name].objects if sequence.name in shown else ()
        held = list_davis_objects(sequence)
        lacking = [number for number in asked if number not in held.numbers]
        if lacking:
            problems.append(_describe_lack(sequence, lacking[0], held))
            done += len(sequence.frames)
            continue
        for frame in sequence.frames:
            done += 1
            try:
                image, target = load_davis_frame(frame, objects=asked or held.numbers)
                prediction = predict(sequence, frame, image)
                if held.has_void:
                    prediction = prediction & ~find_davis_void(frame)
                scores.update(sequence.name, frame.number, prediction, target)
            except InputError as error:
                problems.append(str(error))
            if on_progress is not None:
                on_progress(done, total)
    return scores, problems


def _describe_lack(sequence: DavisSequence, number: int, held: DavisObjects) -> str:
    """Says that no frame has an object, which would score 0 whatever is predicted."""
    known = ", ".join(map(str, held.numbers)) or "none"
    void = ", and 255, which is void beside them" if held.has_void else ""
    return (
        f"{sequence.name}: no frame has object {number}; its label maps hold {known}{void}; the "
        "sequence is left out"
    )


def _write_frames(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replace_when_done(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
