"""Times the parts of `maskhone pseudo-labels` against the published way, side by side in one run.

    python benchmarks/pseudo_labels.py IMAGE [--run runs/mine] [--json OUT]

PerimeterFit: components of a label map against the published flood, pixel by pixel, which also
floods the useless channel of the background. Walk: 2 to the power 8 sparse steps against squaring
the dense matrix eight times. Dense CRF: ours against pydensecrf2, where that is installed
(`pip install pydensecrf2`, needs a compiler); each works in one thread, and both build their
lattices anew in every round. With `--run`, images a minute of each stage of a pipeline that is
done. Ratios are those of seconds, and of processor seconds, which other jobs disturb less.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from maskhone.data.images import read_image
from maskhone.methods.perimeterfit.perimeter import SETTINGS, find_perimeter, fit_segments, flood
from maskhone.methods.perimeterfit.segments import make_palette, paint
from maskhone.methods.perimeterfit.walk import make_step, walk
from maskhone.ops.dense_crf import (
    SOFTMAX_PARAMETERS,
    infer,
    unary_from_probabilities,
)
from maskhone.pipelines.stage_folders import MANIFEST

SIZE_HW = (375, 500)  # of most VOC pictures
CLASSES = 2
WALK_HW = (47, 63)  # a quarter of 188 x 250; at VOC's size the dense matrix has 0.55 GB
EXP_TIMES = 8


def main() -> None:
    """Prints one table of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--run", type=Path, help="output folder of a pipeline")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    image = cv2.resize(read_image(arguments.image), SIZE_HW[::-1], interpolation=cv2.INTER_AREA)
    figures = {
        "threads": torch.get_num_threads(),
        "perimeterfit": time_fit(arguments.rounds),
        "walk": time_walk(arguments.rounds),
        "dense crf": time_crf(image, arguments.rounds),
    }
    if arguments.run:
        figures["images a minute"] = count_images(arguments.run)
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def time_fit(rounds: int) -> dict[str, Any]:
    """Fits two classes to twenty segments; both ways must mark the same pixels."""
    segments = draw_segments(20)
    maps = np.stack([draw_smooth(seed).clip(0, 1) for seed in range(CLASSES)])
    setting = SETTINGS["slic"]
    lines = find_perimeter(segments)

    def flood_all() -> np.ndarray:
        colours = paint(segments, make_palette()).astype(np.int64)
        supports = [np.zeros(SIZE_HW, dtype=bool), *(maps > setting.support_above)]
        alive = [flood(colours, ~support) for support in supports]  # the background's is not used
        return np.stack(
            [(a | lines) & support for a, support in zip(alive, supports, strict=True)][1:]
        )

    return compare(
        {
            "flood, pixel by pixel": flood_all,
            "components": lambda: fit_segments(segments, lines, maps, setting),
        },
        rounds,
        lambda a, b: f"{int((a != b).sum())} pixels differ",
    )


def time_walk(rounds: int) -> dict[str, Any]:
    """Walks three maps; the dense way multiplies the whole matrix with itself."""
    edges = draw_smooth(5, WALK_HW).clip(0, 1)
    maps = np.stack([draw_smooth(seed, WALK_HW).clip(0, 1) for seed in range(3)])

    def square() -> np.ndarray:
        step = torch.from_numpy(make_step(edges).toarray().astype(np.float32)).T
        for _ in range(EXP_TIMES):
            step = step @ step
        flat = torch.from_numpy((maps * (1 - edges)).reshape(3, -1)).float()
        return (flat @ step).numpy().reshape(maps.shape)

    return compare(
        {"dense power": square, "sparse steps": lambda: walk(maps, edges, exp_times=EXP_TIMES)},
        rounds,
        lambda a, b: f"largest difference {np.abs(a - b).max() / a.max():.1e} of the highest",
    )


def time_crf(image: np.ndarray, rounds: int) -> dict[str, Any]:
    """Smooths the probabilities of 3 and of 21 labels."""
    try:
        from pydensecrf import densecrf
    except ImportError:
        densecrf = None
    found = {}
    for n_labels in (3, 21):
        scores = np.stack([draw_smooth(seed) for seed in range(n_labels)])
        soft = torch.from_numpy(6 * scores).softmax(dim=0).numpy()
        ways = {"ours": lambda p=soft: infer(unary_from_probabilities(p), image)}
        if densecrf is not None:
            ways = {
                "pydensecrf2": lambda p=soft: infer_in_cpp(densecrf, p, image),
                **ways,
            }
        found[f"{n_labels} labels"] = compare(
            ways,
            rounds,
            lambda a, b: f"{100 * (a.argmax(0) != b.argmax(0)).mean():.4f} % of labels differ",
        )
    return found


def infer_in_cpp(densecrf: Any, soft: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Runs the library that the published pipeline uses, with our parameters."""
    parameters = SOFTMAX_PARAMETERS
    n_labels, height, width = soft.shape
    crf = densecrf.DenseCRF2D(width, height, n_labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_probabilities(soft).reshape(n_labels, -1)))
    crf.addPairwiseGaussian(sxy=parameters.position_px, compat=parameters.position_weight)
    crf.addPairwiseBilateral(
        sxy=parameters.colour_position_px,
        srgb=parameters.colour_range,
        rgbim=np.ascontiguousarray(image),
        compat=parameters.colour_weight,
    )
    return np.array(crf.inference(10)).reshape(soft.shape)


def compare(
    calls: dict[str, Callable[[], np.ndarray]],
    rounds: int,
    tell_apart: Callable[[np.ndarray, np.ndarray], str],
) -> dict[str, Any]:
    """Alternates all ways and returns the median of their seconds, and the ratios of two."""
    clocks = {"ratio": time.perf_counter, "ratio of processor time": time.process_time}
    took: dict[str, list[tuple[float, ...]]] = {name: [] for name in calls}
    found = {}
    for _ in range(rounds):
        for name, call in calls.items():
            began = [clock() for clock in clocks.values()]
            found[name] = call()
            ended = [clock() for clock in clocks.values()]
            took[name].append(tuple(b - a for a, b in zip(began, ended, strict=True)))
    seconds = {
        name: [statistics.median(times) for times in zip(*rows, strict=True)]
        for name, rows in took.items()
    }
    figures: dict[str, Any] = {name: round(wall, 4) for name, (wall, _) in seconds.items()}
    if len(calls) == 2:
        for name, theirs, ours in zip(clocks, *seconds.values(), strict=True):
            figures[name] = round(theirs / ours, 2)
        figures["result"] = tell_apart(*found.values())
    return figures


def count_images(run: Path) -> dict[str, float]:
    """Reads how many pictures a minute each stage did, from its manifest."""
    found = {}
    for path in sorted(run.glob(f"*/{MANIFEST}")):
        facts = json.loads(path.read_text())
        if facts["seconds"] and facts.get("made"):
            found[facts["stage"]] = round(60 * facts["made"] / facts["seconds"], 1)
    return found


def draw_segments(count: int) -> np.ndarray:
    """Parts a picture by the highest of several smooth maps."""
    return np.stack([draw_smooth(100 + seed) for seed in range(count)]).argmax(0).astype(np.uint8)


def draw_smooth(seed: int, size_hw: tuple[int, int] = SIZE_HW) -> np.ndarray:
    """Draws smooth noise about 0 to 1."""
    coarse = np.random.default_rng(seed).random((size_hw[0] // 15, size_hw[1] // 15))
    return cv2.resize(coarse.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_CUBIC)


if __name__ == "__main__":
    main()
