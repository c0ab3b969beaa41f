"""Scores every method on the val lists, through the same functions as the command line.

    python benchmarks/quality.py DATA [--methods bpr,guided] [--sets davis] [--split val]

DATA holds the sets, each with images/, masks/, coarse/ and val.txt. Results go, set by set and
method by method, into benchmarks/results/quality.json; the table is printed as Markdown.
"""

import argparse
import json
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import maskhone
from maskhone.pipelines.evaluate import evaluate_files
from maskhone.pipelines.refine import refine_files

SETS = {  # name -> folder of coarse masks, number that is the object in the truth
    "ccp_person": ("coarse", None),
    "davis": ("coarse", None),
    "camvid": ("coarse_road", 3),
    "cfd": ("coarse", None),
    "vessel": ("coarse", None),
    "cwfid": ("coarse", None),
}
METHODS: dict[str, dict[str, Any]] = {
    "bpr": {"method": "bpr"},
    "bpr --guard": {"method": "bpr", "guard": True},
    "bpr, one pass": {"method": "bpr", "options": {"coarsest_side_px": 0}},
    "bpr, binary input": {"method": "bpr", "options": {"mask_input": "binary"}},
    "segrefiner-lite": {"method": "segrefiner-lite"},
    "segrefiner-lite --guard": {"method": "segrefiner-lite", "guard": True},
    "segrefiner-lite, nearest": {
        "method": "segrefiner-lite",
        "options": {"picks_nearest": True},
    },
    "guided": {"method": "guided"},
    "grabcut": {"method": "grabcut"},
    "crf": {"method": "crf"},
}
RESULTS = Path(__file__).parent / "results" / "quality.json"


def main() -> None:
    """Runs what was asked for and prints the table of everything known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--split", default="val")
    parser.add_argument("--weights", help="a file that is not bundled, for all methods named")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    known = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for method in split_names(arguments.methods):
        for name in arguments.sets.split(","):
            rows = score(arguments, method, name)
            known.setdefault(name, {})["coarse"] = rows[0]
            known[name][method] = rows[1]
            known["about"] = describe(arguments)
            arguments.results.parent.mkdir(exist_ok=True)
            arguments.results.write_text(json.dumps(known, indent=1) + "\n")
            print(name, method, {k: rows[1][k] for k in ("iou", "mba")}, flush=True)
    print(to_markdown(known))


def split_names(text: str) -> list[str]:
    """Finds method names in a comma list; some of them hold a comma themselves."""
    rest, found = f",{text},", set()
    for name in sorted(METHODS, key=len, reverse=True):  # `bpr, one pass` before `bpr`
        if f",{name}," in rest:
            rest = rest.replace(f",{name},", ",")
            found.add(name)
    return [name for name in METHODS if name in found]


def score(arguments: argparse.Namespace, method: str, name: str) -> list[dict[str, Any]]:
    """Refines one set with one method; returns the scores before and after."""
    root = arguments.data / name
    coarse, target_value = SETS[name]
    ids = root / f"{arguments.split}.txt"
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        before.mkdir()
        for line in ids.read_text().split():
            shutil.copy(root / coarse / f"{line}.png", before)
        began = time.perf_counter()
        settings = dict(METHODS[method])
        if arguments.weights is not None:
            settings["weights"] = arguments.weights
        report = refine_files(root / "images", before, after, **settings)
        seconds = time.perf_counter() - began
        assert not report.problems, report.problems
        scores = evaluate_files(
            after, root / "masks", coarse=before, ids=ids, target_value=target_value
        )
        assert not scores.problems, scores.problems
    rows = scores.as_dict()["rows"][:2]
    rows[1]["seconds per picture"] = round(seconds / rows[1]["n"], 3)
    return rows


def describe(arguments: argparse.Namespace) -> dict[str, str]:
    """Says what was run, and where."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "split": arguments.split,
        "weights": arguments.weights or "bundled",
        "maskhone": maskhone.__version__,
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, CPU",
    }


def to_markdown(known: dict[str, Any]) -> str:
    """Makes the table: mean IoU / mBA / boundary IoU in percent."""
    names = [name for name in SETS if name in known]
    lines = ["| method | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method in ("coarse", *METHODS):
        cells = [_cell(known[name].get(method)) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return " / ".join(f"{100 * row[key]:.1f}" for key in ("iou", "mba", "boundary_iou"))


if __name__ == "__main__":
    main()
