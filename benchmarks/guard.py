"""Chooses the threshold of --guard on train lists: what each one would keep and give.

python benchmarks/guard.py DATA [--count 16] [--json OUT]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from quality import SETS

from maskhone.contracts import FOREGROUND
from maskhone.data.folder import find_training_items, load_training_item
from maskhone.methods.catalogue import load
from maskhone.metrics.region import iou
from maskhone.ops.guard import keep_coarse_where_strayed

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)


def main() -> None:
    """Refines some training pictures of every set and scores them under every threshold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=16, help="pictures of each set")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    refiner = load("bpr")
    table = {}
    for name, (coarse, value) in SETS.items():
        items = find_training_items(
            arguments.data / name, "train", coarse=coarse, truth_value=value
        )
        step = max(len(items) // arguments.count, 1)
        gains: dict[float, list[float]] = {t: [] for t in THRESHOLDS}
        for item in items[::step][: arguments.count]:
            sample = load_training_item(item)
            assert sample.target is not None
            truth = sample.target[0] > FOREGROUND
            refined = refiner.refine(sample.image, sample.masks)
            before = iou(sample.masks[0] > FOREGROUND, truth)
            for threshold, found in gains.items():
                kept = keep_coarse_where_strayed(sample.masks, refined, least_agreement=threshold)
                found.append(iou(kept[0] > FOREGROUND, truth) - before)
        table[name] = {str(t): round(100 * float(np.mean(v)), 2) for t, v in gains.items()}
        print(name, table[name], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
