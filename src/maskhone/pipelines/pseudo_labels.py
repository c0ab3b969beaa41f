"""From image labels to masks in one recipe: stages that each have a folder of their own.

    classify         trains a classifier on the labels         unless weights are given
    cam              where it sees each class
    segments         regions of each picture, learnt on it alone, twice
    perimeters       their outlines
    fit              the regions that lie where a class is seen
    combine          class maps, doubled where both fits agree
    affinity-labels  what is surely of a class, surely not, unknown
    affinity         trains AffinityNet on these               unless weights are given
    walk             class maps spread, but not across edges
    pseudo-labels    label maps of them
    segmenter        trains DeepLabv3+ on the label maps
    masks            what it makes of all pictures, the test pictures too
    evaluate         scores every stage on the pictures that have a truth

Source: PerimeterFit sections 1 to 10; OFRIN/PuzzleCAM; Ostrowski et al., "SILOP", IJCNN 2023.
Differs: the masks of the segmenter are a stage of their own, so that other scales or another CRF
do not train it anew.
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskhone.pipelines.pseudo.checks import check_job, check_pictures
from maskhone.pipelines.pseudo.plan import Progress, parse_recipe
from maskhone.pipelines.pseudo.report import REPORT, format_report
from maskhone.pipelines.pseudo.stages import list_stages
from maskhone.pipelines.stages import choose_stages, run_stages

logger = logging.getLogger(__name__)


def run(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    first: str = "",
    last: str = "",
    dry_run: bool = False,
    on_progress: Progress | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> str:
    """Does the stages that are not done yet; returns what became of them, and the final table.

    A stopped run goes on when it is called again, and stages that nothing changed for are skipped.

    Args:
        recipe: keys are the fields of `PseudoLabels` and `ImageSet`, and lines of the trainings.
        out_dir: receives one folder for each stage.
        first: stages before it are taken as they are; replaces `first_stage` of the recipe.
        last: stop after it; replaces `last_stage`.
        dry_run: check recipe, pictures, truths and weights, then stop.
        on_progress: called with finished and planned steps of the stage at hand.
        on_stage: called with the name of each stage that is begun or gone on with.

    Raises:
        UsageError: unknown keys, or keys that contradict each other.
        InputError: pictures, labels or truths are missing or cannot be used, or the disk is full.
        WeightsError: given weights are missing, or those of another network.
        MissingExtraError: a package is not installed that a stage needs.
    """
    job = parse_recipe(recipe, out_dir, on_progress)
    plan, stages = job.plan, list_stages(job)
    first, last = first or plan.first_stage, last or plan.last_stage
    doubts = check_job(job, [stage.name for stage in choose_stages(stages, first=first, last=last)])
    if dry_run:
        check_pictures(job)
        for doubt in doubts:
            logger.warning(doubt)
        return ""
    others = [Path(folder) for folder in plan.take_from]
    reports = run_stages(stages, out_dir, first=first, last=last, others=others, on_stage=on_stage)
    lines = [report.describe() for report in reports]
    if reports[-1].name == "evaluate":
        found = json.loads((out_dir / "evaluate" / REPORT).read_text(encoding="utf-8"))
        lines += ["", *format_report(found["rows"])]
    return "\n".join(lines)
