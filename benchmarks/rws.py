"""Times what RWS does between its stages, against the plain way of doing it.

    python benchmarks/rws.py [--json OUT]

Heat maps of four stages of DeepLabv3-ResNet50 from one backward pass, against one call per stage,
as published; and the search for weak slices, against the published loop over windows and pixels,
and against one NumPy expression per window. Untrained weights, seeded noise; the results must be
the same.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskhone.methods.rws.attention import find_heat_maps
from maskhone.methods.rws.host import DEEPLAB_LAYERS, build_host
from maskhone.methods.rws.slices import measure_coverage, plan_windows

SIZE = (375, 500)


def main() -> None:
    """Times both and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = [time_heat_maps(arguments.repeats), *time_slices(arguments.repeats)]
    for row in rows:
        print(row, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def time_heat_maps(repeats: int) -> dict[str, Any]:
    """Times one backward pass for four layers against four calls."""
    torch.manual_seed(0)
    network = build_host("deeplabv3_resnet50", 21).eval()
    inputs = torch.randn(1, 3, *SIZE)
    mask = np.zeros(SIZE, dtype=bool)
    mask[100:250, 150:380] = True
    together, seconds = measure(
        lambda: find_heat_maps(network, inputs, DEEPLAB_LAYERS, 7, mask=mask), repeats
    )
    alone, plain = measure(
        lambda: np.concatenate(
            [find_heat_maps(network, inputs, [name], 7, mask=mask) for name in DEEPLAB_LAYERS]
        ),
        repeats,
    )
    np.testing.assert_allclose(together, alone, atol=1e-4)
    return say("heat maps of four layers", "one call per layer", plain, seconds)


def time_slices(repeats: int) -> list[dict[str, Any]]:
    """Times the coverage of all windows."""
    random = np.random.default_rng(0)
    label = np.zeros(SIZE, dtype=bool)
    label[60:300, 80:420] = True
    is_hot = label & (random.random(SIZE) < 0.5)
    boxes = plan_windows(SIZE)
    ours, seconds = measure(lambda: measure_coverage(is_hot, label, boxes), 30)
    pixels, by_pixel = measure(lambda: loop_over_pixels(is_hot, label, boxes), 1)
    windows, by_window = measure(lambda: loop_over_windows(is_hot, label, boxes), 30)
    np.testing.assert_allclose(ours, pixels)
    np.testing.assert_allclose(ours, windows)
    return [
        say("coverage of 25 windows", "loop over pixels, as published", by_pixel, seconds),
        say("coverage of 25 windows", "NumPy, window by window", by_window, seconds),
    ]


def loop_over_pixels(is_hot: np.ndarray, is_class: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Counts one pixel after another."""
    found = []
    for x1, y1, x2, y2 in boxes.tolist():
        shared = either = 0
        for y in range(y1, y2):
            for x in range(x1, x2):
                shared += bool(is_hot[y, x] and is_class[y, x])
                either += bool(is_hot[y, x] or is_class[y, x])
        found.append(shared / either if either else np.nan)
    return np.array(found)


def loop_over_windows(is_hot: np.ndarray, is_class: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Counts one window after another."""
    found = []
    for x1, y1, x2, y2 in boxes.tolist():
        hot, label = is_hot[y1:y2, x1:x2], is_class[y1:y2, x1:x2]
        either = (hot | label).sum()
        found.append((hot & label).sum() / either if either else np.nan)
    return np.array(found)


def say(what: str, against: str, plain: float, ours: float) -> dict[str, Any]:
    """Makes a row."""
    return {
        "what": what,
        "against": against,
        "plain_s": round(plain, 5),
        "ours_s": round(ours, 5),
        "ratio": round(plain / ours, 1),
    }


def measure(call: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, float]:
    """Returns the result and the median seconds, after one call to warm up."""
    seconds = []
    for i in range(repeats + (repeats > 1)):
        began = time.perf_counter()
        result = call()
        if i or repeats == 1:
            seconds.append(time.perf_counter() - began)
    return result, statistics.median(seconds)


if __name__ == "__main__":
    main()
