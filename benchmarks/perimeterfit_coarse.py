"""PerimeterFit applied to the label maps of a real network: does it mend them without training?

    python benchmarks/perimeterfit_coarse.py DATA [--json OUT]

`voc_coarse` of `coco`, all its pictures, against `voc_masks`. The maps are hard, so each class is
given a soft rim (`soften_share`) before it is fitted; without one the refiner leaves them as they
are. Mean IoU over the classes that occur, false positives and negatives over the classes.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from maskhone.data.images import read_image
from maskhone.data.voc import VOC_CLASSES, read_voc_labels
from maskhone.methods.catalogue import load
from maskhone.metrics.semantic import SemanticScores
from maskhone.ops.masks import choose_classes

SHARES = (0.05,)


def main() -> None:
    """Scores the given maps and what the refiner makes of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    root = arguments.data / "coco"
    n_labels = 1 + len(VOC_CLASSES)
    refiners = {
        f"soft rim of {share}": load("perimeterfit", soften_share=share, side_px=320)
        for share in SHARES
    }
    scores = {name: SemanticScores(n_labels) for name in ("given", *refiners)}
    for part in ("train", "val"):
        for id in (root / f"{part}.txt").read_text().split():
            truth = read_voc_labels(root / "voc_masks" / f"{id}.png", n_labels=n_labels)
            given = read_voc_labels(root / "voc_coarse" / f"{id}.png", n_labels=n_labels)
            scores["given"].update(given, truth)
            labels = [int(label) for label in np.unique(given) if 0 < label < n_labels]
            maps = np.stack([given == label for label in (0, *labels)]).astype(np.float32)
            image = read_image(root / "images" / f"{id}.jpg")
            for name, refiner in refiners.items():
                refined = maps
                if labels:
                    refined = np.concatenate([maps[:1], refiner.refine(image, maps[1:])])
                    refined[0] = 1 - refined[1:].max(axis=0)
                classes = np.array([0, *labels])[choose_classes(refined, maps)]
                scores[name].update(classes.astype(np.uint8), truth)
    rows = {name: each.compute() for name, each in scores.items()}
    kept = ("miou_present", "fp", "fn")
    figures = {name: {k: round(row[k], 4) for k in kept} for name, row in rows.items()}
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
