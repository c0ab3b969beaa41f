"""Times the planning of boundary patches against the straightforward greedy loop.

    python benchmarks/boundary_planning.py [--json OUT]

The mask has 12 megapixels and a winding outline, from a seed. The loop is the textbook one: sort,
keep the first, drop every later box that overlaps it, each round one vectorised IoU over the rest.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from maskhone.methods.bpr.boundary import boundary_score, plan_boundary_patches
from maskhone.ops.boxes import fit_boxes, nms

PATCH_PX = 64


def main() -> None:
    """Times both at two thresholds; the boxes must be the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mask = ragged_mask((3000, 4000), seed=0)
    n_boundary = int((boundary_score(mask) > 0).sum())
    rows = []
    for nms_iou in (0.25, 0.55):
        ours, seconds = measure(lambda t=nms_iou: plan(mask, t), repeats=5)
        loop, loop_seconds = measure(lambda t=nms_iou: greedy_loop(mask, t), repeats=1)
        assert np.array_equal(ours, loop), "the boxes differ"
        rows.append(
            {
                "boundary pixels": n_boundary,
                "nms_iou": nms_iou,
                "boxes": len(ours),
                "loop_s": round(loop_seconds, 3),
                "ours_s": round(seconds, 4),
                "ratio": round(loop_seconds / seconds, 1),
            }
        )
        print(rows[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def ragged_mask(size_hw: tuple[int, int], *, seed: int) -> np.ndarray:
    """Cuts smooth noise at its median: large parts with long, winding outlines."""
    random = np.random.default_rng(seed)
    small = random.standard_normal((size_hw[0] // 100, size_hw[1] // 100)).astype(np.float32)
    noise = cv2.resize(small, size_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return noise > np.median(noise)


def plan(mask: np.ndarray, nms_iou: float) -> np.ndarray:
    """Plans as the refiner does."""
    return plan_boundary_patches(mask, patch_px=PATCH_PX, nms_iou=nms_iou)[0]


def greedy_loop(mask: np.ndarray, nms_iou: float) -> np.ndarray:
    """Plans by the definition."""
    score = boundary_score(mask)
    y, x = np.nonzero(score)
    start = np.stack([x, y], axis=1) - PATCH_PX // 2
    boxes = np.concatenate([start, start + PATCH_PX], axis=1)
    kept = nms(boxes.astype(np.float32), score[y, x], nms_iou)
    return fit_boxes(boxes[kept], mask.shape)


def measure(call: Callable[[], np.ndarray], *, repeats: int) -> tuple[np.ndarray, float]:
    """Returns the result and the median seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, statistics.median(seconds)


if __name__ == "__main__":
    main()
