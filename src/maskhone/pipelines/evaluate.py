"""Scoring files: folder against folder, COCO json against COCO json, Cityscapes folders."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, describe_size_mismatch
from maskhone.data.big import COARSE_ENDINGS, PREDICTED_ENDINGS, TRUTH_ENDINGS, index_big_masks
from maskhone.data.cityscapes import CITYSCAPES_LABELS, Detection, read_detections
from maskhone.data.coco import from_rle, load_json, load_results, to_rle
from maskhone.data.files import replace_when_done
from maskhone.data.images import MASK_SUFFIXES, MaskFile, read_label_map, read_mask
from maskhone.data.lvis import to_coco
from maskhone.errors import InputError, UsageError
from maskhone.metrics.average_precision import average_precision
from maskhone.metrics.boundary import BoundaryScores
from maskhone.metrics.cityscapes import CityscapesAP
from maskhone.metrics.region import ForegroundScores, RegionScores
from maskhone.metrics.saliency import SaliencyScores
from maskhone.ops.masks import IGNORE_LABEL
from maskhone.pipelines.evaluate_davis import score_videos
from maskhone.pipelines.evaluate_labels import score_label_sets

Progress = Callable[[int, int], None]
BoolMask = NDArray[np.bool_]
Map = NDArray[np.float32]  # (H, W) scores

VOID_IDS = tuple(i for i, label in CITYSCAPES_LABELS.items() if label.is_ignored)
THINGS = {
    i: label.name
    for i, label in CITYSCAPES_LABELS.items()
    if label.has_instances and not label.is_ignored
}


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Scores of one or two sets of masks.

    Attributes:
        rows: one table row each: what was scored, how many masks, and the scores; with a coarse
            set also a row of differences.
        problems: one line for each mask that could not be scored.
        frames: of videos, a row for each frame.
    """

    rows: list[dict[str, Any]]
    problems: tuple[str, ...] = ()
    frames: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON-able values; undefined scores are null."""
        rows = [{k: _plain(v) for k, v in row.items()} for row in self.rows]
        frames = {"frames": self.frames} if self.frames else {}
        return {"rows": rows, "problems": list(self.problems), **frames}


def evaluate_files(
    prediction: Path,
    target: Path,
    *,
    format: str = "auto",
    coarse: Path | None = None,
    ids: Path | None = None,
    target_value: int | None = None,
    coco_images: Path | None = None,
    per_mask: Path | None = None,
    saliency: bool = False,
    classes: list[str] | None = None,
    class_list: Path | None = None,
    on_progress: Progress | None = None,
) -> EvaluationReport:
    """Scores predictions, and coarse masks beside them, against ground truth.

    Args:
        prediction: folder of mask files, COCO results json, or Cityscapes prediction folder.
        target: folder of mask files of the same names, COCO ground-truth json, or folder of
            `*_gtFine_instanceIds.png`. A COCO or LVIS json is told by its content.
        format: `auto`, `folder`, `coco`, `cityscapes`, `big` (`NAME_refine.png` or `NAME_seg.png`
            against `NAME_gt.png`), `voc` (label maps or class maps, see `score_label_maps`) or
            `davis` (videos; masks or a weight file against DAVIS, see `score_davis`); auto goes by
            what `prediction` is.
        coarse: the masks before refinement, of the same form.
        ids: text file, one id (file stem) a line; only these are scored. With `voc` also the name
            of a VOC list, such as `val`; with `davis` a list of sequences, such as `2016/val`.
        target_value: the object is where the target has this number; pixels of 255 are ignored.
        coco_images: COCO ground-truth json; the target is LVIS, the results have COCO's
            categories, and only the images of this json are scored (AP*).
        per_mask: CSV to write, one line per mask (folders), class (`voc`) or frame (`davis`).
        saliency: score soft maps too (folders only): F-, E- and S-measure, and what papers call
            IoU, F1, precision, recall and MAE; see `ForegroundScores` and `SaliencyScores`.
        classes: what videos show, `SEQUENCE=CLASS`; see `score_davis`.
        class_list: text file of class names, one a line, for `voc`; None takes VOC's twenty.
        on_progress: called with finished and planned masks.

    Returns:
        Folders: mean IoU, Dice, mBA, boundary IoU and boundary F at 1, 2, 3 px over masks, and IoU
        pooled over all pixels. A mask with a target without outline has no mBA and is left out of
        its mean. Json: COCO mask AP and boundary AP. Cityscapes: AP and AF. VOC: mIoU over all
        images, false positives and negatives; with class maps, at every threshold. DAVIS: J and F
        of each sequence, and their means.

    Raises:
        UsageError: options that do not go with the form.
        InputError: nothing can be scored at all.
    """
    sets = {"refined" if coarse else "prediction": prediction}
    if coarse is not None:
        sets = {"coarse": coarse, **sets}
    for path in (*sets.values(), target):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the path")
    form = _find_form(prediction, format)
    if classes and form != "davis":
        raise UsageError("--class goes with --format davis only")
    if class_list is not None and form != "voc":
        raise UsageError("--classes goes with --format voc only")
    if form in ("voc", "davis"):
        if saliency or target_value is not None or coco_images is not None:
            raise UsageError(f"--saliency, --target-value and --coco-images do not go with {form}")
        if form == "davis":
            found = score_videos(sets, target, ids, classes or (), per_mask, on_progress)
            return EvaluationReport(
                rows=found.rows, problems=tuple(found.problems), frames=found.frames
            )
        rows, problems = score_label_sets(sets, target, ids, class_list, per_mask, on_progress)
        return _with_difference(rows, problems)
    is_folder = form in ("folder", "big")
    if not is_folder and (ids or per_mask or saliency or target_value is not None):
        raise UsageError(
            "--ids, --per-mask, --saliency and --target-value go with folders of masks only"
        )
    if form != "coco" and coco_images is not None:
        raise UsageError("--coco-images goes with json only")
    if form == "coco":
        truth = load_json(target)
        if coco_images is not None:
            truth = to_coco(truth, load_json(coco_images))
        return _with_difference([_score_coco(k, p, truth) for k, p in sets.items()], ())
    if form == "cityscapes":
        return _with_difference([_score_cityscapes(k, p, target) for k, p in sets.items()], ())
    index = _index_big if form == "big" else _index
    tallies = {kind: _MapTally() if saliency else _Tally() for kind in sets}
    return _score_folders(sets, target, ids, target_value, per_mask, on_progress, index, tallies)


def _index_big(folder: Path, role: str) -> dict[str, Path]:
    """Lists the files of a BIG folder, which may hold all three kinds, that play a role."""
    endings = {"target": TRUTH_ENDINGS, "coarse": COARSE_ENDINGS}.get(role, PREDICTED_ENDINGS)
    found = index_big_masks(folder, endings)
    if not found:
        raise InputError(
            f"{folder}: holds no *{' or *'.join(endings)} masks; is this a BIG folder?"
        )
    return found


def _find_form(prediction: Path, asked: str) -> str:
    if asked not in ("auto", "folder", "coco", "cityscapes", "big", "voc", "davis"):
        raise UsageError(
            f"format is {asked!r}; expected auto, folder, coco, cityscapes, big, voc or davis"
        )
    if asked != "auto":
        return asked
    return "coco" if prediction.suffix.lower() == ".json" else "folder"


@dataclass(kw_only=True)
class _Tally:
    """Running scores of one set of masks."""

    region: RegionScores = field(default_factory=RegionScores)
    boundary: BoundaryScores = field(default_factory=BoundaryScores)
    lines: list[dict[str, Any]] = field(default_factory=list)

    def check(self, name: str, ignore: BoolMask | None) -> None:
        """Refuses what cannot be scored."""

    def add(self, name: str, scores: Map, truth: BoolMask, ignore: BoolMask | None) -> None:
        mask = scores > FOREGROUND
        found = {
            **self.region.update(mask, truth, ignore=ignore),
            **self.boundary.update(mask, truth, ignore=ignore),
        }
        self.lines.append({"mask": name, **found})

    def row(self, name: str) -> dict[str, Any]:
        boundary = self.boundary.compute()
        undefined = int(boundary.pop("mba_undefined"))
        row = {"masks": name, "n": len(self.lines), **self.region.compute(), **boundary}
        return {**row, "without mba": undefined} if undefined else row


@dataclass(kw_only=True)
class _MapTally(_Tally):
    """Running scores that also look at the probabilities of whole pictures."""

    foreground: ForegroundScores = field(default_factory=ForegroundScores)
    saliency: SaliencyScores = field(default_factory=SaliencyScores)

    def check(self, name: str, ignore: BoolMask | None) -> None:
        if ignore is not None and ignore.any():
            raise InputError(
                f"{name}: the target has ignored pixels (255), but --saliency scores whole "
                "pictures; leave the flag out, or label these pixels"
            )

    def add(self, name: str, scores: Map, truth: BoolMask, ignore: BoolMask | None) -> None:
        super().add(name, scores, truth, ignore)
        self.lines[-1].update(self.foreground.update(scores, truth))
        self.lines[-1].update(_name_stretched(self.saliency.update(scores, truth)))

    def row(self, name: str) -> dict[str, Any]:
        maps = {**self.foreground.compute(), **_name_stretched(self.saliency.compute())}
        return {**super().row(name), **maps}


def _name_stretched(scores: dict[str, float]) -> dict[str, float]:
    """Tells the error of stretched maps, as in published saliency tables, from the plain one."""
    return {"mae_stretched" if k == "mae" else k: v for k, v in scores.items()}


def _score_folders(
    sets: dict[str, Path],
    target: Path,
    ids: Path | None,
    target_value: int | None,
    per_mask: Path | None,
    on_progress: Progress | None,
    index: Callable[[Path, str], dict[str, Path]],
    tallies: Mapping[str, _Tally],
) -> EvaluationReport:
    truths = index(target, "target")
    files = {kind: index(folder, kind) for kind, folder in sets.items()}
    names = _read_ids(ids) if ids else sorted(truths.keys() | files[next(reversed(sets))].keys())
    problems = []
    for done, name in enumerate(names, start=1):
        try:
            pairs = {k: list(_pairs(name, files[k], truths, target_value)) for k in sets}
            for kind, found in pairs.items():
                for pair_name, _, _, ignore in found:
                    tallies[kind].check(pair_name, ignore)
            for kind, found in pairs.items():
                for pair in found:
                    tallies[kind].add(*pair)
        except InputError as error:
            problems.append(str(error))
        if on_progress is not None:
            on_progress(done, len(names))
    if per_mask is not None:
        _write_csv(per_mask, tallies)
    rows = [tally.row(kind) for kind, tally in tallies.items()]
    return _with_difference(rows, tuple(problems))


def _index(folder: Path, role: str) -> dict[str, Path]:
    """Lists mask files by their path within the folder, without suffix; all roles are alike."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of masks")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MASK_SUFFIXES)
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in found}


def _read_ids(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a text file with one id a line")
    return path.read_text(encoding="utf-8").split()


def _pairs(
    name: str, files: dict[str, Path], truths: dict[str, Path], target_value: int | None
) -> Iterator[tuple[str, Map, BoolMask, BoolMask | None]]:
    """Yields name, scores, truth and ignored pixels of each mask of a file."""
    for kind, known in (("prediction", files), ("target", truths)):
        if name not in known:
            raise InputError(f"{name}: no {kind} of this name; score a part with --ids")
    found = read_mask(files[name])
    if target_value is not None:
        if found.labels is not None:
            raise InputError(f"{files[name]}: is a label map; --target-value wants one mask a file")
        numbers = read_label_map(truths[name])
        yield _pair(name, found, 0, numbers == target_value, numbers == IGNORE_LABEL)
        return
    truth = read_mask(truths[name])
    if truth.labels is None:
        if len(truth.scores) != len(found.scores):
            raise InputError(
                f"{files[name]}: {len(found.scores)} masks but {len(truth.scores)} in the target"
            )
        for i, scores in enumerate(truth.scores):
            label = name if len(truth.scores) == 1 else f"{name}#{i}"
            yield _pair(label, found, i, scores > FOREGROUND, None)
        return
    yield from _label_pairs(name, found, truth)


def _label_pairs(
    name: str, found: MaskFile, truth: MaskFile
) -> Iterator[tuple[str, Map, BoolMask, BoolMask | None]]:
    """Pairs the classes of two label maps; a class that only one of them has meets nothing."""
    assert truth.labels is not None
    assert truth.label_map is not None
    if found.label_map is None:
        raise InputError(f"{found.path}: the target is a label map; give a palette picture too")
    if found.label_map.shape != truth.label_map.shape:
        said = describe_size_mismatch(truth.label_map.shape, found.label_map.shape)
        raise InputError(f"{found.path} does not fit {truth.path}: {said}")
    assert found.labels is not None
    ignore = truth.label_map == IGNORE_LABEL
    for label in sorted({*truth.labels.tolist(), *found.labels.tolist()}):
        scores = (found.label_map == label).astype(np.float32)
        yield f"{name}#{label}", scores, truth.label_map == label, ignore


def _pair(
    name: str, found: MaskFile, number: int, truth: BoolMask, ignore: BoolMask | None
) -> tuple[str, Map, BoolMask, BoolMask | None]:
    scores = found.scores[number]
    if scores.shape != truth.shape:
        said = describe_size_mismatch(truth.shape, scores.shape).replace("image", "target", 1)
        raise InputError(f"{found.path}: {said}")
    return name, scores, truth, ignore


def _score_coco(name: str, prediction: Path, truth: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"masks": name}
    results = _with_rle(prediction, truth)
    row.update(average_precision(results, truth, name=str(prediction)))
    boundary = average_precision(results, truth, kind="boundary", name=str(prediction))
    row.update({f"boundary {k}": v for k, v in boundary.items()})
    return row


def _with_rle(path: Path, truth: Any) -> list[dict[str, Any]]:
    """Reads results; polygons become run-length codes."""
    sizes = {row["id"]: (row["height"], row["width"]) for row in truth.get("images", [])}
    entries = []
    for index, entry in enumerate(load_results(path).entries):
        segmentation = entry["segmentation"]
        if isinstance(segmentation, list) and entry["image_id"] in sizes:
            name = f"{path}: entry {index}"
            mask = from_rle(segmentation, size_hw=sizes[entry["image_id"]], name=name)
            segmentation = to_rle(mask)
        entries.append({**entry, "segmentation": segmentation})
    return entries


def _score_cityscapes(name: str, prediction: Path, target: Path) -> dict[str, Any]:
    metric = CityscapesAP(THINGS, VOID_IDS)
    detections = read_detections(prediction)
    truths = sorted(target.rglob("*_gtFine_instanceIds.png"))
    if not truths:
        raise InputError(f"{target}: no *_gtFine_instanceIds.png; is this a gtFine folder?")
    for path in truths:
        lines = detections.get(path.name.removesuffix("_gtFine_instanceIds.png"), ())
        metric.update(read_label_map(path), list(_read_scored(lines)))
    return {"masks": name, "n": len(truths), **metric.compute()}


def _read_scored(lines: tuple[Detection, ...]) -> Iterator[tuple[BoolMask, int, float]]:
    for line in lines:
        yield read_label_map(line.mask_path) > 0, line.category_id, line.score


def _with_difference(rows: list[dict[str, Any]], problems: tuple[str, ...]) -> EvaluationReport:
    """Adds refined minus coarse when both are there."""
    if len(rows) == 2:
        before, after = rows
        numbers = [k for k in after if k not in ("masks", "n", "without mba") and k in before]
        difference = {"masks": "difference", **{k: after[k] - before[k] for k in numbers}}
        rows = [*rows, {k: difference.get(k) for k in after}]
    return EvaluationReport(rows=rows, problems=problems)


def _write_csv(path: Path, tallies: Mapping[str, _Tally]) -> None:
    lines = [{"set": kind, **line} for kind, tally in tallies.items() for line in tally.lines]
    with replace_when_done(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]) if lines else ["set", "mask"])
        writer.writeheader()
        writer.writerows(lines)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
