"""Does RWS help? Arms with the same start, order and changes of pictures; several seeds, paired.

    python benchmarks/rws_proof.py DATA [--sets camvid-car,camvid] [--seeds 3] [--arms ...]
        [--option K=V ...]

Arms: `plain`, one stage, the first of `rws`; `rws`; `budget`, one stage with the epochs of all
three; `steps`, one stage with as many steps as all of `rws`, of which slices take more; `crops`,
one stage that sees the slices of `rws` as pictures of their own; and the placebos `shuffled`, RWS
with the maps of other pictures, and `random`, RWS with as many windows drawn among those that hold
label. All start from the same weights, trained on several classes of the train list. Scores are
those of the last epoch, on the val list: the IoU of the one class, or the mean over the classes;
and the boundary F of the one class at 1 px, over the pictures that hold it. A stopped run goes on,
and arms can be added to one that is done. Results go to benchmarks/results/rws_proof.json. Source:
RWS section 13.
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

from maskhone.methods.rws.host import build_host, read_tensors
from maskhone.methods.rws.rounds import predict
from maskhone.methods.rws.train import parse_recipe, train
from maskhone.methods.rws.training_set import find_items, load_item
from maskhone.metrics.boundary import boundary_f
from maskhone.ops.masks import IGNORE_LABEL
from maskhone.pipelines.train import read_recipe

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "rws_proof.json"
RECIPE = ROOT / "recipes" / "rws_small_unet.camvid.toml"
STAGES = 3
SETS: dict[str, dict[str, Any]] = {  # name -> lines of the recipe
    "camvid-car": {"folder": "camvid", "labels": "masks"},
    "camvid": {
        "folder": "camvid",
        "labels": "masks",
        "classes": [],
        "pretrain_classes": [],
        "void_as": "background",
    },
    "coco": {
        "folder": "coco",
        "labels": "voc_masks",
        "classes": [],
        "pretrain_classes": [],
        "void_as": "background",
        "label_shift": 0,
        "num_classes": 21,
        "pretrain_epochs": 40,
    },
}
ARMS: dict[str, dict[str, Any]] = {  # name -> lines of the recipe, see `run_seed`
    "rws": {},
    "budget": {"cycles": 0},
    "steps": {"cycles": 0},
    "shuffled": {"assignment": "shuffled"},
    "random": {"slice_choice": "random"},
    "crops": {"cycles": 0},
}
DEFAULT_ARMS = ("rws", "budget", "steps", "shuffled")
OUTLINE_PX = 1  # boundary F; at 120 px a wider band is the object


def main() -> None:
    """Trains all arms with every seed; writes results after each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default=",".join(DEFAULT_ARMS), help=", ".join(ARMS))
    parser.add_argument("--work", type=Path, default=Path("runs/rws_proof"))
    parser.add_argument("--option", action="append", default=[], help="line of the recipe, K=V")
    arguments = parser.parse_args()
    options = tomllib.loads("\n".join(arguments.option))
    unknown = set(arguments.arms.split(",")) - ARMS.keys()
    if unknown:
        parser.error(f"no arm {min(unknown)}; known: {', '.join(ARMS)}")
    for name in arguments.sets.split(","):
        found = [run_seed(arguments, name, seed, options) for seed in range(arguments.seeds)]
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[name] = {"options": options, "seeds": found, "paired": compare(found)}
        if found[0]["outlines"]["rws"] is not None:
            known[name]["paired outlines"] = compare(found, "outlines")
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
    first = folder / "rws"
    start = {"pretrain_epochs": 0, "init_from": str(first / "stage-0" / "network.pt")}
    own = {
        "budget": {"epochs": STAGES * recipe["epochs"]},
        "steps": {"epochs": count_epochs(report, recipe["epochs"])},
        "crops": {"extra_slices": str(first / "cycle-1" / "slices.jsonl")},
    }
    scores = {"plain": score(report, recipe["classes"], stage="1")}
    outlines = {"plain": score_outlines(recipe, first / "stage-1" / "network.pt")}
    facts = {}
    for arm in dict.fromkeys(["rws", *arguments.arms.split(",")]):
        lines = {**start, **ARMS[arm], **own.get(arm, {})} if arm != "rws" else {}
        found = train_arm({**recipe, **lines}, folder / arm)
        scores[arm] = score(found, recipe["classes"])
        outlines[arm] = score_outlines(recipe, folder / arm / f"{recipe['name']}.safetensors")
        facts[arm] = pick_facts(found)
    print(name, seed, {arm: round(100 * value, 2) for arm, value in scores.items()}, flush=True)
    return {"seed": seed, "scores": scores, "outlines": outlines, "facts": facts}


def count_epochs(report: dict[str, Any], epochs: int) -> int:
    """Counts the epochs of one stage that have as many steps as all stages together."""
    steps = {number: stage["steps"] for number, stage in report["stages"].items() if number != "0"}
    return max(round(epochs * sum(steps.values()) / steps["1"]), 1)


def pick_facts(report: dict[str, Any]) -> dict[str, Any]:
    """Picks what a report says of slices and of mixing, and the scores after each whole stage."""
    kept = {k: v for k, v in report.items() if k.startswith(("slices-", "mixing-", "ended"))}
    stages = {n: one for n, one in report["stages"].items() if int(n) % 2}
    steps = sum(one["steps"] for n, one in report["stages"].items() if n != "0")
    return {**kept, "stages": stages, "steps": steps}


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


def score_outlines(recipe: dict[str, Any], weights: Path) -> float | None:
    """Returns the boundary F of the one class on the val list, over the pictures that hold it."""
    if len(recipe["classes"]) != 1:
        return None
    index, num_classes = recipe["classes"][0], recipe["num_classes"]
    _, _, _, data, stage, _ = parse_recipe(recipe)
    network = build_host(recipe["network"], num_classes)
    network.load_state_dict(read_tensors(weights))
    found = []
    for item in find_items(data, data.validation_list):
        image, label = load_item(item, data, num_classes)
        if (label == index).any():
            mask = predict(network.eval(), image, side_px=stage.base_px) == index
            void = label == IGNORE_LABEL
            f = boundary_f(mask, label == index, tolerance=OUTLINE_PX, ignore=void)
            found.append(f)
    return float(np.mean(found))


def compare(seeds: list[dict[str, Any]], figure: str = "scores") -> dict[str, Any]:
    """Computes what RWS gains on each arm: mean, a 95 % t interval, and how often it is ahead."""
    rows: dict[str, Any] = {}
    for arm in [arm for arm in seeds[0][figure] if arm != "rws"]:
        gains = [one[figure]["rws"] - one[figure][arm] for one in seeds]
        mean, n = statistics.mean(gains), len(gains)
        reach = math.nan
        if n > 1:
            reach = float(stats.t.ppf(0.975, n - 1)) * float(np.std(gains, ddof=1)) / math.sqrt(n)
        rows[arm] = {"mean": mean, "reach": reach, "ahead": sum(g > 0 for g in gains), "of": n}
    return rows


def to_markdown(name: str, found: dict[str, Any]) -> str:
    """Makes the tables: IoU of each arm and seed, and the gains, in percent."""
    arms = list(found["seeds"][0]["scores"])
    lines = [
        f"**{name}**",
        "",
        "| seed | " + " | ".join(arms) + " |",
        "|---" * (len(arms) + 1) + "|",
    ]
    for one in found["seeds"]:
        cells = [f"{100 * one['scores'][arm]:.2f}" for arm in arms]
        lines.append(f"| {one['seed']} | " + " | ".join(cells) + " |")
    steps = [found["seeds"][0]["facts"].get(arm, {}).get("steps", "") for arm in arms]
    lines.append("| steps | " + " | ".join(str(n) for n in steps) + " |")
    lines += ["", "| RWS against | gain | 95 % interval | ahead | gain of boundary F |"]
    lines.append("|---" * 5 + "|")
    outlines = found.get("paired outlines", {})
    for arm, row in found["paired"].items():
        low, high = (100 * (row["mean"] + sign * row["reach"]) for sign in (-1, 1))
        outline = f"{100 * outlines[arm]['mean']:+.2f}" if outlines else "-"
        lines.append(
            f"| {arm} | {100 * row['mean']:+.2f} | {low:+.2f} to {high:+.2f} | "
            f"{row['ahead']} of {row['of']} | {outline} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
