"""The maps that PatchRefineNet starts from: made by a base model, or given in folders or stacks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskhone.contracts import FOREGROUND
from maskhone.data.files import write_text
from maskhone.data.folder import FolderItem
from maskhone.data.score_maps import find_map_items, index_maps, read_map_pair
from maskhone.data.score_stacks import StackPaths, open_stacks, read_map
from maskhone.data.splits import read_ids, split_like_published
from maskhone.engine.weights import find_weights, read_header
from maskhone.errors import InputError, UsageError
from maskhone.pipelines.prn_plan import (
    Job,
    find_made_weights,
    join_problems,
    write_truth,
)
from maskhone.pipelines.scores import write_score_map, write_scores
from maskhone.pipelines.segmenters import load_segmenter
from maskhone.pipelines.stages import Inputs
from maskhone.pipelines.truth_sets import find_items, list_files, load_pair
from maskhone.segmenters.augment import Mask
from maskhone.segmenters.catalogue import SEGMENTERS
from maskhone.segmenters.pfanet import double_pixels, prepare_mask
from maskhone.segmenters.squares import make_square_truth


def make_scores(job: Job) -> None:
    """Writes maps and truths where the job wants them, and the lists of both parts."""
    if job.plan.base:
        ids = _score_pictures(job)
    elif job.plan.is_stack:
        ids = _unpack_stacks(job)
    else:
        ids = choose_ids(job)
        if job.is_converted:
            held = read_ids(Path(job.plan.validation_list)) if job.plan.validation_list else []
            _convert_logits(job, {**ids, "fit": list(dict.fromkeys([*ids["fit"], *held]))})
    for use, names in ids.items():
        write_text(job.part(use).ids, "".join(f"{name}\n" for name in names))


def find_sources(job: Job) -> Inputs:
    """Names the files that the stage of scores reads."""
    plan = job.plan
    if job.data is not None:
        found = {use: list_files(items) for use, items in find_pictures(job).items()}
        weights = [] if plan.trains_base else [find_weights(plan.base)]
        return {**found, "weights": weights}
    names = ("scores", "targets", "test_scores", "test_targets")
    given = {name: Path(getattr(plan, name)) for name in names if getattr(plan, name)}
    lists = [Path(p) for p in (plan.train_list, plan.validation_list, plan.test_list) if p]
    if plan.is_stack:
        _ = open_given_stacks(job)
        return {**{name: [path] for name, path in given.items()}, "lists": lists}
    _ = choose_ids(job)
    files = {name: list(index_maps(path).values()) for name, path in given.items()}
    return {**files, "lists": lists}


def find_pictures(job: Job) -> dict[str, list[FolderItem]]:
    """Finds the pictures that PatchRefineNet is trained on, and those to score on."""
    assert job.data is not None
    return {"fit": find_items(job.data, "val"), "test": find_items(job.data, "test")}


def _score_pictures(job: Job) -> dict[str, list[str]]:
    """Writes the base model's maps and the truths of the pictures it was not trained on."""
    plan, data = job.plan, job.data
    assert data is not None
    weights: str | Path = plan.base
    if plan.trains_base:
        weights = find_made_weights(job.out_dir / "base")
    segmenter: Any = load_segmenter(weights, device=plan.device, dtype=plan.dtype)
    method = str(read_header(find_weights(weights))["method"])
    pictures = find_pictures(job)
    total = sum(map(len, pictures.values()))
    done = 0
    for use, items in pictures.items():
        part = job.part(use)
        for item in items:
            target = part.targets / f"{item.id}.png"
            if not target.exists():
                truth = load_pair(item, data)[1]
                side_px = segmenter.side_px
                square = _make_square(method, truth, side_px) if plan.squares else truth
                write_truth(target, square > FOREGROUND)
        before = done
        problems = write_scores(
            segmenter.score_square if plan.squares else segmenter,
            {item.id: item.image_path for item in items},
            part.scores,
            form="png" if plan.form == "png" else "npy",
            resume=True,
            on_progress=lambda n, _, before=before: job.report(before + n, total),  # type: ignore[misc]
        )
        if problems:
            raise InputError(join_problems(problems))
        done += len(items)
    return {use: [item.id for item in items] for use, items in pictures.items()}


def _make_square(method: str, mask: Mask, side_px: int) -> Mask:
    """Makes the `(S, S)` truth that belongs to the squares of a base model."""
    assert method in SEGMENTERS
    if method == "pfanet":
        doubled: Mask = double_pixels(prepare_mask(mask, side_px))[0]
        return doubled
    square: Mask = make_square_truth(mask, side_px)[0]
    return square


def open_given_stacks(job: Job) -> dict[str, tuple[Any, list[int]]]:
    """Opens given stacks; returns for each use the stacks and the numbers of its maps."""
    plan = job.plan
    stacks = open_stacks(
        StackPaths(scores=Path(plan.scores), truths=Path(plan.targets), labels=None)
    )
    if plan.train_list or plan.validation_list or plan.test_list or plan.logits:
        raise UsageError("stacks take no lists of ids, and hold no logits; leave these keys out")
    if plan.test_scores:
        paths = StackPaths(
            scores=Path(plan.test_scores), truths=Path(plan.test_targets), labels=None
        )
        test = open_stacks(paths)
        return {"fit": (stacks, list(range(len(stacks)))), "test": (test, list(range(len(test))))}
    stay, held = split_like_published(len(stacks), share=plan.test_share)
    return {"fit": (stacks, sorted(stay.tolist())), "test": (stacks, sorted(held.tolist()))}


def _unpack_stacks(job: Job) -> dict[str, list[str]]:
    """Writes the maps and truths of given stacks as files."""
    ids: dict[str, list[str]] = {}
    opened = open_given_stacks(job)
    total, done = sum(len(numbers) for _, numbers in opened.values()), 0
    for use, (stacks, numbers) in opened.items():
        part = job.part(use)
        ids[use] = [f"{number:06d}" for number in numbers]
        for name, number in zip(ids[use], numbers, strict=True):
            path = part.scores / f"{name}.{job.plan.form}"
            if not path.exists():
                truth = read_map(stacks.truths, number, name=job.plan.targets)[0]
                write_truth(part.targets / f"{name}.png", truth > FOREGROUND)
                write_score_map(path, read_map(stacks.scores, number, name=job.plan.scores)[0])
            done += 1
            job.report(done, total)
    return ids


def choose_ids(job: Job) -> dict[str, list[str]]:
    """Chooses which of given maps are for training and which to score on."""
    plan = job.plan
    known = list(index_maps(plan.scores))
    test = list(index_maps(plan.test_scores)) if plan.test_scores else []
    lists = {
        key: read_ids(Path(path)) if path else []
        for key, path in (
            ("train", plan.train_list), ("held", plan.validation_list), ("test", plan.test_list)
        )
    }  # fmt: skip
    taken = {*lists["train"], *lists["held"], *([] if test else lists["test"])}
    rest = [name for name in known if name not in taken]
    if lists["test"]:
        test = lists["test"]
    elif not test and lists["train"]:
        test, rest = rest, []
    elif not test:
        stay, held = split_like_published(len(rest), share=plan.test_share)
        test, rest = ([rest[i] for i in sorted(part)] for part in (held, stay))
    fit = lists["train"] or rest
    both = set(fit) & set(test) if not plan.test_scores else set()
    chosen_by = set(lists["held"]) & set(test) if not plan.test_scores else set()
    if chosen_by:
        raise UsageError(
            f"{min(chosen_by)} is to choose the best weights and to be scored on; keep it in one "
            "list"
        )
    if both:
        raise UsageError(f"{min(both)} is to be trained on and scored on; keep it in one list")
    if not fit or not test:
        raise UsageError(f"{plan.scores}: no maps are left to {'score on' if fit else 'train on'}")
    ids = {"fit": fit, "test": test}
    if not job.is_converted:
        _check_ids(job, ids)
    return ids


def _check_ids(job: Job, ids: Mapping[str, Sequence[str]]) -> None:
    """Refuses ids without map or truth before anything is done."""
    for use, names in ids.items():
        part = job.part(use)
        for folder in (part.scores, part.targets):
            found = index_maps(folder)
            lacking = [name for name in names if name not in found]
            if lacking:
                raise InputError(
                    f"{folder}: has no {lacking[0]} ({len(lacking)} such); add it, or name the "
                    "maps to use with train_list and test_list"
                )


def _convert_logits(job: Job, ids: Mapping[str, Sequence[str]]) -> None:
    """Writes given logits as scores, and their truths as masks."""
    plan = job.plan
    total, done = sum(map(len, ids.values())), 0
    for use, names in ids.items():
        is_apart = use == "test" and plan.test_scores
        folders = (plan.test_scores, plan.test_targets) if is_apart else (plan.scores, plan.targets)
        by_id = {item.id: item for item in find_map_items(*folders)}
        for name in names:
            if name not in by_id:
                raise InputError(f"{folders[0]}: has no {name}; add it, or mend the list")
            path = job.part(use).scores / f"{name}.{plan.form}"
            if not path.exists():
                scores, truth, _ = read_map_pair(
                    by_id[name], target_value=plan.target_value, is_logits=True
                )
                write_truth(job.part(use).targets / f"{name}.png", truth > FOREGROUND)
                write_score_map(path, scores)
            done += 1
            job.report(done, total)
