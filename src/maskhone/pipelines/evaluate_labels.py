"""Scoring label maps of a whole data set, and soft class maps at many thresholds.

Source: PerimeterFit section 9.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import describe_size_mismatch
from maskhone.data.array_files import ARRAY_SUFFIXES
from maskhone.data.class_maps import load_class_arrays
from maskhone.data.files import replace_when_done
from maskhone.data.images import MASK_SUFFIXES
from maskhone.data.tagged_images import read_class_names
from maskhone.data.voc import VOC_CLASSES, read_voc_labels, read_voc_list
from maskhone.errors import InputError
from maskhone.metrics.semantic import (
    LONG_THRESHOLDS,
    THRESHOLDS,
    Choice,
    SemanticScores,
    ThresholdScores,
    choose_thresholds,
)

MAP_NAMES = ("rw", "hr_cam", "maps")
"""Names of the class maps in an array file; the first that is there counts."""

_TABLE = ("miou", "miou_present", "miou_foreground", "fp", "fn")


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """Scores of one set of predictions.

    Attributes:
        rows: for label maps one row; for class maps one for each threshold, and then the best
            threshold, and those with 1.6 and 0.6 times its false positives.
        classes: a row for each label with its IoU; for class maps at the best threshold.
        problems: a line for each image that could not be scored.
    """

    rows: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    problems: tuple[str, ...] = ()


def score_label_sets(
    sets: Mapping[str, Path],
    target: Path,
    ids: Path | None,
    class_list: Path | None,
    per_class: Path | None,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Scores the folders of `sets` one by one, see `score_label_maps`.

    Args:
        sets: what the rows are called, and the folder.
        target: see there, as `ids` and `on_progress`.
        ids: see there.
        class_list: text file of class names, one a line; None takes VOC's twenty.
        per_class: CSV to write, one line per label of each set.
        on_progress: see there.

    Returns:
        The rows, and a line for each image that could not be scored.

    Raises:
        InputError: as `score_label_maps`; or the names cannot be read or used.
    """
    names = VOC_CLASSES if class_list is None else read_class_names(class_list)
    found = [
        score_label_maps(
            path, target, name=kind, class_names=names, ids=ids, on_progress=on_progress
        )
        for kind, path in sets.items()
    ]
    if per_class is not None:
        write_class_table(per_class, [row for one in found for row in one.classes])
    rows = [row for one in found for row in one.rows]
    return rows, tuple(dict.fromkeys(problem for one in found for problem in one.problems))


def score_label_maps(
    prediction: Path,
    target: Path,
    *,
    name: str = "prediction",
    class_names: Sequence[str] = VOC_CLASSES,
    ids: Path | None = None,
    thresholds: Sequence[float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> LabelReport:
    """Scores every image of a folder against its label map.

    Args:
        prediction: folder of label maps; or of `.npz` files, or `.npy` of the original, with
            `keys`, 0 and then the label of each map, and the class maps `rw`, `hr_cam` or `maps`.
            Where an image has both, the class maps count, as in the original.
        target: folder of label maps of the same names; 255 is not scored.
        name: what the rows are called.
        class_names: the classes, without the background.
        ids: text file of ids, or the name of a VOC list such as `val`; only these are scored.
        thresholds: for class maps; None takes the published ones, `THRESHOLDS`, and where a map
            exceeds 1 the longer row of them.
        on_progress: called with finished and planned images.

    Raises:
        InputError: a folder is missing or empty, some images have class maps and others not, or no
            image can be scored.
    """
    files, truths = index_labels(prediction), index_labels(target)
    names = read_voc_list(str(ids), root=target.parent) if ids else sorted({*files, *truths})
    n_labels = len(class_names) + 1
    plain, soft = SemanticScores(n_labels), ThresholdScores(n_labels, thresholds or LONG_THRESHOLDS)
    is_soft = _are_class_maps([files[one] for one in names if one in files], prediction)
    problems, n_scored, highest = [], 0, 0.0
    for done, one in enumerate(names, start=1):
        try:
            found, truth = _find_pair(one, files, truths)
            labels = read_voc_labels(truth, n_labels=n_labels)
            if is_soft:
                keys, maps = _read_class_maps(found)
                _check_size(found, maps.shape[1:], truth, labels)
                soft.update(maps, keys, labels)
                highest = max(highest, float(maps.max(initial=0)))
            else:
                given = read_voc_labels(found)
                _check_size(found, given.shape, truth, labels)
                plain.update(given, labels)
            n_scored += 1
        except InputError as error:
            problems.append(str(error))
        if on_progress is not None:
            on_progress(done, len(names))
    if not n_scored:
        raise InputError(f"none of {len(names)} images can be scored; the first: {problems[0]}")
    if is_soft:
        swept = soft.compute()
        if thresholds is None and highest <= 1:
            swept = swept[: len(THRESHOLDS)]
        choice = choose_thresholds(swept)
        rows = _rows_of_sweep(name, n_scored, swept, choice)
        plain = soft.get(choice.best["threshold"])
    else:
        rows = [{"masks": name, "n": n_scored, **_pick(plain.compute())}]
    return LabelReport(
        rows=rows, classes=_rows_of_classes(name, plain, class_names), problems=tuple(problems)
    )


def index_labels(folder: Path) -> dict[str, Path]:
    """Lists label and class maps by their path within the folder, without suffix.

    Hidden files, such as half-written ones, are passed by.

    Raises:
        InputError: the folder is missing or holds neither.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one of label maps")
    visible = (p for p in sorted(folder.rglob("*")) if not p.name.startswith("."))
    found = [p for p in visible if p.suffix.lower() in MASK_SUFFIXES]
    if not found:
        raise InputError(f"{folder}: holds no label maps; check the folder")
    found.sort(key=lambda p: p.suffix.lower() in ARRAY_SUFFIXES)  # these replace pictures
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in found}


def write_class_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a CSV with a line for each label of each set."""
    with replace_when_done(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["masks", "class"])
        writer.writeheader()
        writer.writerows(rows)


def _are_class_maps(files: Sequence[Path], folder: Path) -> bool:
    soft = [path for path in files if path.suffix.lower() in ARRAY_SUFFIXES]
    if soft and len(soft) < len(files):
        plain = next(path for path in files if path not in soft)
        raise InputError(
            f"{folder}: {soft[0].name} holds class maps, {plain.name} is a label map; "
            "expected one kind for all images"
        )
    return bool(soft)


def _find_pair(name: str, files: dict[str, Path], truths: dict[str, Path]) -> tuple[Path, Path]:
    for kind, known in (("prediction", files), ("target", truths)):
        if name not in known:
            raise InputError(f"{name}: no {kind} of this name; score a part with --ids")
    return files[name], truths[name]


def _read_class_maps(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    arrays = load_class_arrays(path)
    name = next((name for name in MAP_NAMES if name in arrays), None)
    if "keys" not in arrays or name is None:
        raise InputError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; "
            f"expected keys, and {', '.join(MAP_NAMES[:-1])} or {MAP_NAMES[-1]}"
        )
    return arrays["keys"], arrays[name]


def _check_size(
    path: Path, size_hw: tuple[int, ...], truth: Path, labels: NDArray[np.uint8]
) -> None:
    if size_hw != labels.shape:
        said = describe_size_mismatch(labels.shape, size_hw).replace("image", "target", 1)
        raise InputError(f"{path} does not fit {truth}: {said}")


def _rows_of_sweep(
    name: str, n: int, swept: Sequence[Mapping[str, float]], choice: Choice
) -> list[dict[str, Any]]:
    """Makes a row for each threshold, and one for each choice among them."""
    named: list[tuple[str, Mapping[str, float]]] = [("", row) for row in swept]
    named += [(" best", choice.best), (" over", choice.over), (" under", choice.under)]
    return [
        {"masks": f"{name}{role}", "n": n, "threshold": row["threshold"], **_pick(row)}
        for role, row in named
    ]


def _rows_of_classes(
    name: str, scores: SemanticScores, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    each = scores.compute_each()
    return [
        {"masks": name, "class": label, **{figure: float(each[figure][i]) for figure in each}}
        for i, label in enumerate(("background", *class_names))
    ]


def _pick(scores: Mapping[str, float]) -> dict[str, float]:
    return {figure: scores[figure] for figure in _TABLE}
