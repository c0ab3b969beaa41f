"""Image labels to masks on real pictures, stage by stage, with and without PerimeterFit.

    python benchmarks/pseudo_labels_proof.py DATA [--sets coco,person,tree] [--seeds 3]
                                             [--option K=V ...]

`coco`: the VOC classes of its pictures, `train.txt` to make masks for, `val.txt` to test the
segmenter on. `person`: 16 pictures of ccp_person, and 16 of camvid without people as pictures that
have none. `tree`: 16 pictures of camvid with trees and 16 without. Both are tested on 8 val
pictures. Labels are what is in the truth; the truth is used for nothing else but the table. What a
stage of one arm or seed shares with another is made once. A stopped run goes on. Results go to
benchmarks/results/pseudo_labels_proof.json; the table is printed as Markdown.
"""

import argparse
import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.data.images import read_label_map, write_image
from maskhone.data.voc import VOC_CLASSES
from maskhone.pipelines.pseudo_labels import run
from maskhone.pipelines.train import read_recipe

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "pseudo_labels_lite0.own-images.toml"
RESULTS = Path(__file__).parent / "results" / "pseudo_labels_proof.json"
ONE_CLASS = {  # name -> (set that has it, label in its truth), (set that has not, its labels)
    "person": (("ccp_person", 255), ("camvid", (9, 10))),
    "tree": (("camvid", 5), ("camvid", (5,))),
}
PICTURES, TESTS = 16, 8  # pictures with the class, and as many without; pictures to test on
LEAST_SHARE = 0.01  # of a picture that shows a class
ARMS = ("PerimeterFit", "without")
SCORES = ("miou", "fp", "fn", "boundary_iou")


def main() -> None:
    """Runs every set with every seed in both arms; writes results after each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="coco,person,tree")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/pseudo_labels_proof"))
    parser.add_argument("--option", action="append", default=[], help="line of the recipe, K=V")
    arguments = parser.parse_args()
    options = tomllib.loads("\n".join(arguments.option))
    for name in arguments.sets.split(","):
        folder = (arguments.work / name).absolute()
        lines = {**read_recipe(RECIPE), **prepare(arguments.data.absolute(), name, folder)}
        found: dict[str, list[Any]] = {arm: [] for arm in ARMS}
        for seed in range(arguments.seeds):
            for arm in ARMS:
                found[arm].append(run_arm({**lines, **options, "seed": seed}, folder, seed, arm))
            known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            rows = {arm: summarise(reports) for arm, reports in found.items()}
            known[name] = {"seeds": seed + 1, "options": options, "rows": rows}
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
            print(to_markdown({name: known[name]}), flush=True)


def prepare(data: Path, name: str, folder: Path) -> dict[str, Any]:
    """Writes labels, lists, and truths of a one-class set; returns lines of a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(VOC_CLASSES if name == "coco" else [name]) + "\n")
    if name == "coco":
        images, truths = data / "coco" / "images", data / "coco" / "voc_masks"
        parts = {
            part: (data / "coco" / f"{part}.txt").read_text().split() for part in ("train", "val")
        }
        names = [f"{id}.jpg" for part in parts.values() for id in part]
    else:
        images, truths = folder / "images", folder / "truths"
        parts = link_one_class(data, name, images, truths)
        names = [f"{id}.jpg" for part in parts.values() for id in part]
    lines = ["image,labels"]
    for image in names:
        labels = np.unique(read_label_map(truths / f"{Path(image).stem}.png"))
        classes = VOC_CLASSES if name == "coco" else (name,)
        lines.append(f"{image},{';'.join(classes[i - 1] for i in labels if 0 < i < 255)}")
    write_once(folder / "tags.csv", "\n".join(lines) + "\n")
    for part, ids in parts.items():
        write_once(folder / f"{part}.txt", "\n".join(ids) + "\n")
    return {
        "name": f"proof.{name}",
        "images": str(images),
        "truths": str(truths),
        "tags": str(folder / "tags.csv"),
        "classes": str(folder / "classes.txt"),
        "train_list": str(folder / "train.txt"),
        "test_list": str(folder / "val.txt"),
    }


def link_one_class(data: Path, name: str, images: Path, truths: Path) -> dict[str, list[str]]:
    """Links pictures with and without a class into one folder, and writes their truths."""
    (source, label), (other, absent) = ONE_CLASS[name]
    images.mkdir(exist_ok=True)
    parts: dict[str, list[str]] = {"train": [], "val": []}
    for part, (which, labels, has), count in (
        ("train", (source, (label,), True), PICTURES),
        ("train", (other, absent, False), PICTURES),
        ("val", (source, (label,), True), TESTS),
    ):
        for id in spread(find_pictures(data / which, part, labels, has=has), count):
            new = f"{which}-{id}"
            parts[part].append(new)
            if not (images / f"{new}.jpg").exists():
                truth = read_label_map(data / which / "masks" / f"{id}.png")
                write_image(truths / f"{new}.png", mark(truth, label if has else None))
                (images / f"{new}.jpg").symlink_to(data / which / "images" / f"{id}.jpg")
    return parts


def find_pictures(root: Path, part: str, labels: tuple[int, ...], *, has: bool) -> list[str]:
    """Lists pictures whose truth has some of the labels on 1 % of it, or none of them at all."""
    found = []
    for id in (root / f"{part}.txt").read_text().split():
        share = np.isin(read_label_map(root / "masks" / f"{id}.png"), labels).mean()
        if (share >= LEAST_SHARE) if has else (share == 0):
            found.append(id)
    return found


def spread(ids: list[str], count: int) -> list[str]:
    """Takes some of a list, evenly spread over it."""
    return [ids[i] for i in np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)]


def mark(truth: np.ndarray, label: int | None) -> np.ndarray:
    """Marks a label with 1, what is not labelled with 255, and all else with 0."""
    if label is None:
        return np.zeros(truth.shape, dtype=np.uint8)
    return np.where(truth == label, 1, np.where(truth == 255, 255, 0)).astype(np.uint8)


def write_once(path: Path, text: str) -> None:
    """Writes a text, but leaves the file alone that has it already."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def run_arm(recipe: dict[str, Any], folder: Path, seed: int, arm: str) -> list[dict[str, Any]]:
    """Runs the pipeline and returns the rows of its report.

    Stages that depend on nothing else are taken from the other arm, and from the first seed.
    """
    out = folder / f"seed-{seed}-{arm}"
    others = [folder / f"seed-{n}-{ARMS[0]}" for n in (seed, 0)]
    settings: dict[str, Any] = {"take_from": [str(other) for other in others if other != out]}
    if arm != ARMS[0]:
        settings["uses_perimeterfit"] = False
    run({**recipe, **settings}, out_dir=out)
    rows: list[dict[str, Any]] = json.loads((out / "evaluate" / "report.json").read_text())["rows"]
    print(arm, seed, {row["masks"]: round(100 * row["miou"], 1) for row in rows}, flush=True)
    return rows


def summarise(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Joins the rows of several seeds: mean, and lowest to highest."""
    joined = []
    for rows in zip(*runs, strict=True):
        values = {key: [row[key] for row in rows] for key in SCORES}
        joined.append(
            {
                "masks": rows[0]["masks"],
                **{key: statistics.mean(v) for key, v in values.items()},
                "range": {key: [min(v), max(v)] for key, v in values.items()},
            }
        )
    return joined


def to_markdown(known: dict[str, Any]) -> str:
    """Makes the table, in percent."""
    lines = ["| set | arm | after | mIoU | FP | FN | boundary IoU |", "|---" * 7 + "|"]
    for name, found in known.items():
        for arm, rows in found["rows"].items():
            for row in rows:
                cells = " | ".join(_say(row, key) for key in SCORES)
                lines.append(f"| {name} | {arm} | {row['masks']} | {cells} |")
    return "\n".join(lines)


def _say(row: dict[str, Any], key: str) -> str:
    low, high = row["range"][key]
    mean = f"{100 * row[key]:.1f}"
    return mean if high - low < 5e-4 else f"{mean} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    main()
