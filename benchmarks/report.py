"""Measures `refine --report`: time and size a mask, and memory, for as many masks as asked.

    python benchmarks/report.py FOLDER_OF_PICTURES -o report.html --masks 3000

Masks are drawn shapes, of 160 px or as large as the picture, each before and after a blur;
nothing is refined, so that the time is the report's own.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import cv2
import numpy as np

from maskhone.data.images import read_image
from maskhone.ops.collage import draw_shape
from maskhone.pipelines.report_html import MaskRecord, ReportWriter

SMALL_PX = 160
N_PICTURES = 12


def draw_masks(size_hw, index, random):
    """Draws a mask before and after: every third as large as the picture, every fifth unchanged."""
    after = np.zeros(size_hw, dtype=np.float32)
    if index % 3:
        y, x = (int(random.integers(0, side - SMALL_PX)) for side in size_hw)
        after[y : y + SMALL_PX, x : x + SMALL_PX] = draw_shape((SMALL_PX, SMALL_PX), random)
    else:
        after[draw_shape(size_hw, random)] = 1
    width_px = int(random.integers(1, 9))
    blurred = (cv2.blur(after, (width_px, width_px)) > 0.5).astype(np.float32)
    return (blurred if index % 5 else after), after


def peak_mb():
    """Returns the most memory that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Writes a report and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--masks", type=int, default=3000)
    asked = parser.parse_args()
    random = np.random.default_rng(0)
    images = [read_image(path) for path in sorted(asked.images.iterdir())[:N_PICTURES]]
    about = {
        "command": "none",
        "settings": {"method": "drawn shapes"},
        "output": "none",
        "version": "0",
    }
    seconds, first_mb = 0.0, 0.0
    with ReportWriter(asked.output, about=about, same={}, resume=False) as report:
        for index in range(asked.masks):
            image = images[index % len(images)]
            before, after = draw_masks(image.shape[:2], index, random)
            record = MaskRecord(
                picture=f"{index // 4:05d}.jpg",
                mask=f"entry {index}",
                image=image,
                before=before,
                after=after,
            )
            start = time.perf_counter()
            report.add(record)
            seconds += time.perf_counter() - start
            first_mb = peak_mb() if index == min(200, asked.masks - 1) else first_mb
        start = time.perf_counter()
        report.finish()
    print(
        json.dumps(
            {
                "masks": asked.masks,
                "ms_per_mask": round(1000 * seconds / asked.masks, 1),
                "finish_s": round(time.perf_counter() - start, 2),
                "kb_per_mask": round(asked.output.stat().st_size / asked.masks / 1000, 2),
                "peak_mb_after_200_masks": round(first_mb),
                "peak_mb": round(peak_mb()),
            }
        )
    )


if __name__ == "__main__":
    main()
