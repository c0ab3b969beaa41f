"""PatchRefineNet from pictures to scores in one recipe: six stages, each in a folder of its own.

    base         trains the base model                           unless weights or scores are given
    scores       what it says of pictures it was not trained on  or lists, where scores are given
    thresholds   pseudo-labels, and what they could gain at most
    prn          trains PatchRefineNet on both                   unless weights are given
    refine       refines the maps of the test pictures
    evaluate     scores base model, ceiling and PatchRefineNet side by side

Source: PatchRefineNet sections 6 to 9 and 13.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.contracts import Image, Scores
from maskhone.data.score_maps import make_blank_image, read_score_map
from maskhone.engine.weights import find_weights
from maskhone.methods.catalogue import load
from maskhone.methods.prn.train import train as train_prn
from maskhone.pipelines.prn_plan import (
    TRUTH_KEYS,
    Job,
    Progress,
    ReadRecipe,
    find_made_weights,
    plan_job,
)
from maskhone.pipelines.prn_report import REPORT, compare_on_test, make_labels
from maskhone.pipelines.prn_scores import find_sources, make_scores
from maskhone.pipelines.scores import write_score_map
from maskhone.pipelines.stages import Inputs, Stage, run_stages
from maskhone.pipelines.tables import format_table
from maskhone.pipelines.train_segmenter import train as train_base
from maskhone.pipelines.truth_sets import find_items, list_files

_ONLY_SPEED = ("workers", "checkpoint_every", "log_every")


def train(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    read_recipe: ReadRecipe,
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> str:
    """Does the stages that are not done yet; returns what became of them, and the final table.

    A stopped run goes on when it is called again, and stages that nothing changed for are skipped.

    Args:
        recipe: keys are the fields of `Pipeline`, and those that begin with `base_`, `prn_` and
            `refine_`.
        out_dir: receives one folder for each stage.
        read_recipe: reads the recipes that this one names.
        dry_run: check recipes and data, then stop.
        on_progress: called with finished and planned steps of the stage at hand.

    Raises:
        UsageError: unknown keys, or keys that contradict each other.
        InputError: pictures, maps or truths are missing or cannot be used.
    """
    job = plan_job(recipe, out_dir, read_recipe, on_progress)
    if dry_run:
        _check_sources(job)
        return ""
    plan = job.plan
    stages = list_stages(job)
    reports = run_stages(stages, out_dir, first=plan.first_stage, last=plan.last_stage)
    lines = [report.describe() for report in reports]
    if reports[-1].name == "evaluate":
        found = json.loads((out_dir / "evaluate" / REPORT).read_text(encoding="utf-8"))
        lines += ["", *format_table(found["rows"])]
    return "\n".join(lines)


def list_stages(job: Job) -> list[Stage]:
    """Lists the stages of a job; those whose result is given are left out."""
    plan = job.plan
    stages = []
    if plan.trains_base:
        stages.append(
            Stage(
                name="base",
                make=lambda folder: _train_base(job, folder),
                parameters=leave_out_speed(job.base, TRUTH_KEYS, ("start_from", "init_from")),
                find_inputs=lambda: _find_base_inputs(job),
                results=("*.safetensors",),
            )
        )
    given = asdict(plan)
    chosen = ("squares", "form", "logits", "test_share", "target_value", "dtype")
    stages += [
        Stage(
            name="scores",
            make=lambda _: make_scores(job),
            parameters={name: given[name] for name in chosen},
            find_inputs=lambda: find_sources(job),
            after=("base",) if plan.trains_base else (),
        ),
        Stage(
            name="thresholds",
            make=lambda folder: make_labels(job, folder),
            parameters={
                "sides_px": list(plan.sides_px),
                "label_cells": job.label_cells,
                "tile_px": job.config.map_px if job.config.tile else 0,
            },
            after=("scores",),
        ),
    ]
    if plan.trains_prn:
        own = ("scores", "targets", "validation_list", "start_from")
        stages.append(
            Stage(
                name="prn",
                make=lambda folder: _train_prn(job, folder),
                parameters=leave_out_speed(job.prn, own),
                find_inputs=lambda: {
                    "start_from": [find_weights(p) for p in [job.prn.get("start_from")] if p],
                    "validation_list": [Path(p) for p in [_find_held_list(job)] if p],
                },
                after=("scores", "thresholds"),
                results=("*.safetensors",),
            )
        )
    stages += [
        Stage(
            name="refine",
            make=lambda folder: _refine(job, folder),
            parameters={"options": dict(job.options), "form": plan.form, "dtype": plan.dtype},
            find_inputs=lambda: {} if plan.trains_prn else {"weights": [find_weights(plan.prn)]},
            after=("scores", "prn") if plan.trains_prn else ("scores",),
        ),
        Stage(
            name="evaluate",
            make=lambda folder: compare_on_test(job, folder),
            parameters={"sides_px": list(plan.sides_px)},
            after=("scores", "thresholds", "refine"),
        ),
    ]
    return stages


def leave_out_speed(table: Mapping[str, Any], *others: Sequence[str]) -> dict[str, Any]:
    """Leaves out what decides nothing but speed, and what other keys of the stage stand for."""
    left_out = {*_ONLY_SPEED, *(name for names in others for name in names)} - {"target_value"}
    return {k: v for k, v in table.items() if k not in left_out}


def _check_sources(job: Job) -> None:
    if job.plan.trains_base:
        train_base(job.base, out_dir=job.out_dir / "base", dry_run=True)
    find_sources(job)


def _find_base_inputs(job: Job) -> Inputs:
    assert job.data is not None
    files = {split: list_files(find_items(job.data, split)) for split in ("train", "val")}
    starts = [find_weights(p) for p in [job.base.get("start_from")] if p]
    return {**files, "start": [*starts, *(Path(p) for p in [job.base.get("init_from")] if p)]}


def _train_base(job: Job, folder: Path) -> None:
    train_base(job.base, out_dir=folder, resume=True, on_progress=job.on_progress)


def _find_held_list(job: Job) -> str:
    """Names the list of maps that only choose PatchRefineNet's best weights; empty for none."""
    given = job.plan.validation_list if job.plan.scores else ""
    return given or str(job.prn.get("validation_list", ""))


def _train_prn(job: Job, folder: Path) -> None:
    part = job.part("fit")
    table = {
        **job.prn,
        "scores": str(part.scores),
        "targets": str(part.targets),
        "pseudo_labels": str(job.out_dir / "thresholds" / "fit"),
        "train_list": str(part.ids),
        "validation_list": _find_held_list(job),
        "target_value": job.target_value,
    }
    train_prn(table, out_dir=folder, resume=True, on_progress=job.on_progress)


def _refine(job: Job, folder: Path) -> None:
    plan = job.plan
    refiner = load(
        "prn",
        weights=find_made_weights(job.out_dir / "prn") if plan.trains_prn else plan.prn,
        device=plan.device,
        dtype=plan.dtype,
        **job.options,
    )
    items = job.part("test").find()
    for done, item in enumerate(items, start=1):
        path = folder / f"{item.id}.{plan.form}"
        if not path.exists():
            scores: Scores = read_score_map(item.scores_path)[np.newaxis]
            image: Image = make_blank_image(scores.shape[1:])
            write_score_map(path, refiner.refine(image, scores)[0])
        job.report(done, len(items))
