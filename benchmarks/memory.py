"""Measures the peak memory of refining 50 objects in a 6000x8000 picture.

python benchmarks/memory.py [--json OUT]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from maskhone.data.coco import to_rle
from maskhone.data.images import write_image

SIZE_HW = (6000, 8000)
OBJECTS = 50


def main() -> None:
    """Makes the picture and its json, refines them in a process of their own, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_inputs(root)
        command = [sys.executable, "-m", "maskhone", "refine", "images", "results.json"]
        began = time.perf_counter()
        subprocess.run([*command, "-o", "refined.json"], cwd=root, check=True)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
    figures = {
        "picture": f"{SIZE_HW[0]}x{SIZE_HW[1]}",
        "objects": OBJECTS,
        "peak GiB": round(peak, 2),
        "seconds": round(seconds, 1),
    }
    print(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def make_inputs(root: Path) -> None:
    """Writes a picture of noise and 50 ragged discs in it, from a seed."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (SIZE_HW[0] // 50, SIZE_HW[1] // 50, 3), dtype=np.uint8)
    write_image(root / "images" / "1.jpg", cv2.resize(small, SIZE_HW[::-1]))
    entries = []
    for number in range(OBJECTS):
        radius = int(random.integers(60, 500))
        mask = np.zeros(SIZE_HW, dtype=np.uint8)
        centre = random.integers(radius, np.array(SIZE_HW[::-1]) - radius).tolist()
        cv2.circle(mask, centre, radius, 1, -1)
        entries.append(
            {
                "image_id": 1,
                "category_id": 1,
                "score": 1.0,
                "id": number,
                "segmentation": to_rle(mask),
            }
        )
    (root / "results.json").write_text(json.dumps(entries))


if __name__ == "__main__":
    main()
