"""Does RWS help? Arms with the same start, order and changes of pictures; several seeds, paired.

    python benchmarks/rws_proof.py DATA [--sets camvid-car,camvid] [--seeds 3] [--option K=V ...]

Arms: `plain`, one stage; `budget`, one stage with the epochs of all three; `shuffled`, RWS with the
maps of other pictures; `rws`. `plain` is the first stage of `rws`. All start from the same weights,
trained on all classes of the train list. Scores are those of the last epoch, on the val list; a
stopped run goes on. Results go to benchmarks/results/rws_proof.json. Source: RWS section 13.
"""

import argparse
import json
import math
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from maskhone.methods.rws.train import train
from maskhone.pipelines.train import read_recipe

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "rws_proof.json"
RECIPE = ROOT / "recipes" / "rws_small_unet.camvid.toml"
STAGES = 3
SETS: dict[str, dict[str, Any]] = {  # name -> lines of the recipe
    "camvid-car": {"folder": "camvid", "labels": "masks", "classes": [9]},
    "camvid": {"folder": "camvid", "labels": "masks", "classes": []},
    "coco": {
        "folder": "coco",
        "labels": "voc_masks",
        "classes": [],
        "label_shift": 0,
        "num_classes": 21,
        "pretrain_epochs": 40,
    },
}
AGAINST = ("plain", "budget", "shuffled")


def main() -> None:
    """Trains all arms with every seed; writes results after each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/rws_proof"))
    parser.add_argument("--option", action="append", default=[], help="line of the recipe, K=V")
    arguments = parser.parse_args()
    options = tomllib.loads("\n".join(arguments.option))
    for name in arguments.sets.split(","):
        found = [run_seed(arguments, name, seed, options) for seed in range(arguments.seeds)]
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[name] = {"options": options, "seeds": found, "paired": compare(found)}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print(to_markdown(name, known[name]), flush=True)


def run_seed(
    arguments: argparse.Namespace, name: str, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Trains the arms of one seed; returns the score of each, and what was mixed."""
    lines = dict(SETS[name])
    root = arguments.data / lines.pop("folder")
    recipe = {
        **read_recipe(RECIPE),
        "images": str(root / "images"),
        "train_list": str(root / "train.txt"),
        "validation_list": str(root / "val.txt"),
        "seed": seed,
        **lines,
        "labels": str(root / lines["labels"]),
        **options,
    }
    folder = arguments.work / name / f"seed-{seed}"
    report = train_arm(recipe, folder / "rws")
    start = {"pretrain_epochs": 0, "init_from": str(folder / "rws" / "stage-0" / "network.pt")}
    longer = {"cycles": 0, "epochs": STAGES * recipe["epochs"]}
    reports = {
        "rws": report,
        "shuffled": train_arm({**recipe, **start, "assignment": "shuffled"}, folder / "shuffled"),
        "budget": train_arm({**recipe, **start, **longer}, folder / "budget"),
    }
    scores = {arm: score(found, recipe["classes"]) for arm, found in reports.items()}
    scores["plain"] = score(report, recipe["classes"], stage="1")
    facts = {k: v for k, v in report.items() if k.startswith(("slices-", "mixing-", "ended"))}
    print(name, seed, {arm: round(100 * value, 2) for arm, value in scores.items()}, flush=True)
    return {"seed": seed, "scores": scores, **facts}


def train_arm(recipe: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Trains, or takes up what is there; returns the report."""
    if not (folder / f"{recipe['name']}.safetensors").exists():
        train(recipe, out_dir=folder, resume=True)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def score(report: dict[str, Any], classes: list[int], *, stage: str = "") -> float:
    """Returns the IoU of the one class, or the mean over classes, of the last whole stage."""
    last = stage or str(max(int(n) for n in report["stages"] if int(n) % 2))
    found = report["stages"][last]
    return float(found["iou"][classes[0]] if len(classes) == 1 else found["miou"])


def compare(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Computes what RWS gains on each arm: mean, a 95 % t interval, and how often it is ahead."""
    rows = {}
    for arm in AGAINST:
        gains = [one["scores"]["rws"] - one["scores"][arm] for one in seeds]
        mean, n = statistics.mean(gains), len(gains)
        reach = math.nan
        if n > 1:
            reach = float(stats.t.ppf(0.975, n - 1)) * float(np.std(gains, ddof=1)) / math.sqrt(n)
        rows[arm] = {"mean": mean, "reach": reach, "ahead": sum(g > 0 for g in gains), "of": n}
    return rows


def to_markdown(name: str, found: dict[str, Any]) -> str:
    """Makes the tables: IoU of each arm and seed, and the gains, in percent."""
    arms = ("plain", "budget", "shuffled", "rws")
    lines = [f"**{name}**", "", "| seed | " + " | ".join(arms) + " |", "|---" * 5 + "|"]
    for one in found["seeds"]:
        cells = [f"{100 * one['scores'][arm]:.2f}" for arm in arms]
        lines.append(f"| {one['seed']} | " + " | ".join(cells) + " |")
    lines += ["", "| RWS against | gain | 95 % interval | ahead |", "|---" * 4 + "|"]
    for arm, row in found["paired"].items():
        low, high = (100 * (row["mean"] + sign * row["reach"]) for sign in (-1, 1))
        lines.append(
            f"| {arm} | {100 * row['mean']:+.2f} | {low:+.2f} to {high:+.2f} | "
            f"{row['ahead']} of {row['of']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
