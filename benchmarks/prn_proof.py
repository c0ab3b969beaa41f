"""Where PatchRefineNet helps: real coarse probabilities as base scores, several seeds.

    python benchmarks/prn_proof.py DATA [--sets vessel,cfd] [--seeds 3] [--option K=V ...]

Half of each train list is trained on, the other half chooses the best weights, the val list is
scored. Everything goes through the pipeline of `maskhone train`; a stopped run goes on. Results go
to benchmarks/results/prn_proof.json; the table is printed as Markdown.
"""

import argparse
import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.pipelines.prn import train
from maskhone.pipelines.train import read_recipe

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "prn_proof.json"
SETS = {  # name -> folder of scores, number that is the object in the truth
    "camvid": ("coarse_road", 3),
    "ccp_person": ("coarse", None),
    "vessel": ("coarse", None),
    "cfd": ("coarse", None),
}
SCORES = ("iou_acc", "iou", "mba")
_THRESHOLDS = {  # how rows end whose threshold is another one in each run
    "best on the maps trained on": "base at the best single threshold of the maps trained on",
    "best on these maps": "ceiling: base at the best single threshold of these maps",
}


def main() -> None:
    """Trains and scores every set with every seed; writes results after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/prn_proof"))
    parser.add_argument("--option", action="append", default=[], help="line of PRN's recipe, K=V")
    arguments = parser.parse_args()
    options = tomllib.loads("\n".join(arguments.option))
    for name in arguments.sets.split(","):
        found = [run(arguments, name, seed, options) for seed in range(arguments.seeds)]
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # others may add, too
        known[name] = {"seeds": arguments.seeds, "options": options, "rows": summarise(found)}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print(to_markdown({name: known[name]}), flush=True)


def run(
    arguments: argparse.Namespace, name: str, seed: int, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Trains on half of a train list and returns the rows of scores on the val list."""
    root, (scores, target_value) = arguments.data / name, SETS[name]
    out = arguments.work / name / f"seed-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    ids = np.array((root / "train.txt").read_text().split())
    halves = np.array_split(np.random.default_rng(seed).permutation(ids), 2)
    lists = [out.with_name(f"seed-{seed}-{part}.txt") for part in ("train", "choose")]
    for path, half in zip(lists, halves, strict=True):
        text = "\n".join(half) + "\n"
        if not path.exists() or path.read_text() != text:  # a new time of change begins anew
            path.write_text(text)
    recipe = {
        "name": f"prn.{name}",
        "prn": str(ROOT / "recipes" / "prn_lite.own-maps.toml"),
        "scores": str(root / scores),
        "targets": str(root / "masks"),
        **({} if target_value is None else {"target_value": target_value}),
        "train_list": str(lists[0]),
        "validation_list": str(lists[1]),
        "test_list": str(root / "val.txt"),
        "sides_px": [64],
        "prn_seed": seed,
        **{f"prn_{key}": value for key, value in options.items()},
    }
    train(recipe, out_dir=out, read_recipe=lambda path: read_recipe(Path(path)))
    rows: list[dict[str, Any]] = json.loads((out / "evaluate" / "report.json").read_text())["rows"]
    print(name, seed, {k: round(rows[-1][k], 4) for k in SCORES}, flush=True)
    return rows


def summarise(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Joins the rows of several seeds: mean, and lowest to highest."""
    joined = []
    for rows in zip(*runs, strict=True):
        label = rows[0]["masks"].split(",")[0]
        for ending, said in _THRESHOLDS.items():
            label = said if rows[0]["masks"].endswith(ending) else label
        values = {key: [row[key] for row in rows] for key in SCORES}
        joined.append(
            {
                "masks": label,
                **{k: statistics.mean(v) for k, v in values.items()},
                "range": {k: [min(v), max(v)] for k, v in values.items()},
            }
        )
    return joined


def to_markdown(known: dict[str, Any]) -> str:
    """Makes the table: IoU over all pixels / mean over pictures / mBA, in percent."""
    lines = ["| set | masks | IoU, all pixels | IoU, mean of pictures | mBA |", "|---" * 5 + "|"]
    for name, found in known.items():
        for row in found["rows"]:
            cells = [_say(row, key) for key in SCORES]
            lines.append(f"| {name} | {row['masks']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _say(row: dict[str, Any], key: str) -> str:
    low, high = row["range"][key]
    mean = f"{100 * row[key]:.1f}"
    return mean if high - low < 5e-4 else f"{mean} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
