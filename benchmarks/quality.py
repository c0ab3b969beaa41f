"""Scores every refiner that needs no foreign weights on every set, in one run and one table.

    OMP_NUM_THREADS=1 python benchmarks/quality.py DATA [--methods bpr,guided] [--sets davis]

DATA holds the sets, each with images/, masks/, coarse/, train.txt and val.txt. Masks are refined
and scored by the functions behind `maskhone refine` and `maskhone evaluate`. Rows are merged into
benchmarks/results/quality.json, each with the commit it was made at; scores of every mask go into
quality_masks.csv beside it, and the tables into docs/quality.md. Runs on a part of the pictures or
on the train lists are kept apart: they are written only where --results says.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from quality_grid import write_grid
from quality_sets import COCO, SETS, Inputs, as_folder, gather
from quality_tables import DOCS, compare, read_masks, to_markdown, write_docs, write_masks

import maskhone
from maskhone.pipelines.arrays import refine
from maskhone.pipelines.evaluate import evaluate_files
from maskhone.pipelines.refine import refine_files

METHODS: dict[str, dict[str, Any]] = {  # rows of the table -> what `refine_files` is told
    "auto": {"method": "auto", "guard": "safe"},
    "bpr": {"method": "bpr", "guard": "off"},
    "bpr --guard safe": {"method": "bpr", "guard": "safe"},
    "bpr --guard strict": {"method": "bpr", "guard": "strict"},
    "segrefiner-lite": {"method": "segrefiner-lite", "guard": "off"},
    "segrefiner-lite --guard safe": {"method": "segrefiner-lite", "guard": "safe"},
    "guided": {"method": "guided", "guard": "off"},
    "guided --guard safe": {"method": "guided", "guard": "safe"},
    "grabcut": {"method": "grabcut", "guard": "off"},
    "grabcut --guard safe": {"method": "grabcut", "guard": "safe"},
    "crf": {"method": "crf", "guard": "off"},
    "crf --guard safe": {"method": "crf", "guard": "safe"},
    "matting": {"method": "matting", "guard": "off"},
    "matting --guard safe": {"method": "matting", "guard": "safe"},
    "perimeterfit": {"method": "perimeterfit", "guard": "off"},
}
VARIANTS: dict[str, dict[str, Any]] = {  # run only when named
    "auto --guard off": {"method": "auto", "guard": "off"},
    "auto --guard strict": {"method": "auto", "guard": "strict"},
    "segrefiner-lite --guard strict": {"method": "segrefiner-lite", "guard": "strict"},
    "bpr, one pass": {"method": "bpr", "guard": "off", "options": {"coarsest_side_px": 0}},
    "bpr, binary input": {"method": "bpr", "guard": "off", "options": {"mask_input": "binary"}},
    "segrefiner-lite, nearest": {
        "method": "segrefiner-lite",
        "guard": "off",
        "options": {"picks_nearest": True},
    },
}
RESULTS = Path(__file__).parent / "results" / "quality.json"


def main() -> None:
    """Runs what was asked for, and prints the tables of everything known."""
    arguments = parse_arguments()
    cv2.setNumThreads(torch.get_num_threads())
    methods = split_names(arguments.methods)
    sets = arguments.sets.split(",")
    if arguments.grid is not None:
        settings = {name: {**METHODS, **VARIANTS}[name] for name in methods}
        print(write_grid(arguments.grid, arguments.data, sets, settings, arguments.rows))
        return
    for method in methods:
        for name in sets:
            rows, masks = score(arguments, method, name)
            if arguments.results is not None:
                merge(arguments, name, method, rows, masks)
            shown = {k: round(rows["after"][k], 3) for k in ("iou", "mba", "worse", "cpu_seconds")}
            print(name, method, shown, flush=True)
    if arguments.results is not None:
        known = json.loads(arguments.results.read_text())
        print(to_markdown(known))
        if arguments.results == RESULTS:
            write_docs(DOCS, known)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line; results of a part of the pictures have no place by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS), help="rows; '' for none")
    parser.add_argument("--sets", default=",".join([*SETS, COCO]))
    parser.add_argument("--split", default="val", choices=("val", "train"))
    parser.add_argument("--limit", type=int, default=0, help="at most so many pictures of a set")
    parser.add_argument("--weights", help="a file that is not bundled, for all methods named")
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name} for whole val lists")
    parser.add_argument("--grid", type=Path, help="only draw a grid of pictures into this file")
    parser.add_argument("--rows", type=int, default=2, help="of the grid, for each set")
    arguments = parser.parse_args()
    is_whole = arguments.split == "val" and not arguments.limit and not arguments.weights
    if arguments.results is None and is_whole:
        arguments.results = RESULTS
    return arguments


def split_names(text: str) -> list[str]:
    """Finds names of rows in a comma list; some of them hold a comma themselves."""
    rest, found = f",{text},", set()
    known = {**METHODS, **VARIANTS}
    for name in sorted(known, key=len, reverse=True):  # `bpr, one pass` before `bpr`
        if f",{name}," in rest:
            rest = rest.replace(f",{name},", ",")
            found.add(name)
    if rest.strip(","):
        raise SystemExit(f"unknown rows: {rest.strip(',')}; known: {', '.join(known)}")
    return [name for name in known if name in found]


def score(
    arguments: argparse.Namespace, method: str, name: str
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Refines one set with one method.

    Returns:
        Rows `before` and `after`, and the scores of each mask.
    """
    settings = dict({**METHODS, **VARIANTS}[method])
    if arguments.weights is not None:
        settings["weights"] = arguments.weights
    warm_up(settings)
    with tempfile.TemporaryDirectory() as folder:
        inputs = gather(arguments.data, name, arguments.split, arguments.limit, Path(folder))
        output = inputs.coarse.with_name(f"refined{inputs.coarse.suffix}")
        wall, cpu = time.perf_counter(), time.process_time()
        report = refine_files(
            inputs.images, inputs.coarse, output, image_list=inputs.image_list, **settings
        )
        seconds = {
            "seconds": round((time.perf_counter() - wall) / inputs.n_masks, 3),
            "cpu_seconds": round((time.process_time() - cpu) / inputs.n_masks, 3),
        }
        assert not report.problems, report.problems
        before, after, masks = score_masks(inputs, output, Path(folder) / "masks.csv")
    after |= {**seconds, **describe(), "settings": settings}
    return {"before": before, "after": after}, masks


def warm_up(settings: dict[str, Any]) -> None:
    """Imports and compiles what a method needs, so that the first set does not pay for it."""
    disc = np.zeros((64, 64), dtype=np.uint8)
    cv2.circle(disc, (32, 32), 16, 255, -1)
    flat = {**settings, **settings.get("options", {})}
    flat.pop("options", None)
    refine(np.stack([disc] * 3, axis=2), disc, **flat)


def score_masks(
    inputs: Inputs, output: Path, csv: Path
) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, str]]]:
    """Scores masks before and after; a json has average precision as well."""
    scores = evaluate_files(
        as_folder(inputs, output),
        inputs.truth,
        coarse=as_folder(inputs, inputs.coarse),
        ids=inputs.ids,
        target_value=inputs.target_value,
        per_mask=csv,
    )
    assert not scores.problems, scores.problems
    before, after = scores.as_dict()["rows"][:2]
    if inputs.pairs is not None:
        assert inputs.image_list is not None
        found = evaluate_files(output, inputs.image_list, coarse=inputs.coarse).as_dict()["rows"]
        for row, precision in zip((before, after), found[:2], strict=True):
            row |= {key: precision[key] for key in ("AP", "boundary AP")}
    masks = read_masks(csv)
    return before, {**after, **compare(masks)}, masks


def describe() -> dict[str, Any]:
    """Says what was run, and where."""
    commit = _git("rev-parse", "--short", "HEAD")
    is_changed = bool(_git("diff", "--name-only", "HEAD", "--", "src/maskhone"))
    return {
        "commit": f"{commit} and changes" if is_changed else commit,
        "maskhone": maskhone.__version__,
        "machine": f"{platform.machine()}, CPU",
        "threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
    }


def _git(*words: str) -> str:
    ran = subprocess.run(
        ["git", "-C", str(Path(__file__).parent.parent), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout.strip()


def merge(
    arguments: argparse.Namespace,
    name: str,
    method: str,
    rows: dict[str, Any],
    masks: list[dict[str, str]],
) -> None:
    """Puts the rows of one method and set into the results, beside all others."""
    path: Path = arguments.results
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault("about", {})["split"] = arguments.split
    known["about"]["limit"] = arguments.limit
    of_set = known.setdefault("sets", {}).setdefault(name, {})
    of_set["coarse"], of_set[method] = rows["before"], rows["after"]
    known["sets"] = {
        each: sort_rows(known["sets"][each]) for each in [*SETS, COCO] if each in known["sets"]
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")
    write_masks(path.with_name(f"{path.stem}_masks.csv"), name, method, masks)


def sort_rows(rows: dict[str, Any]) -> dict[str, Any]:
    """Puts the rows of a set into the order of the table; those of former names go."""
    return {name: rows[name] for name in ("coarse", *METHODS, *VARIANTS) if name in rows}


if __name__ == "__main__":
    main()
