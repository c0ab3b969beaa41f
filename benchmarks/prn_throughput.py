"""Times PatchRefineNet the published way against ours, side by side: same maps, same weights.

    python benchmarks/prn_throughput.py [--network p64] [--map-px 512] [--maps 2] [--json OUT]

The published way decodes one cell after another in fp32, and searches each patch's threshold by
trying all twenty on it. Ours decodes all cells of all maps in one batch, in bf16 where the
processor multiplies it natively, and finds all thresholds from counts. Maps are smooth noise from a
seed; weights are those a fresh network has.
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
from torch import Tensor

from maskhone.contracts import FOREGROUND
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.methods.prn.config import PRNConfig
from maskhone.methods.prn.network import PRN
from maskhone.methods.prn.refine import PRNRefiner
from maskhone.methods.prn.thresholds import CANDIDATES, find_thresholds


class CellByCell(PRN):
    """The same network, decoding one cell after another."""

    def _decode_cells(self, features: list[Tensor], *, has_row_quirk: bool) -> Tensor:
        return self._join(self._decode_in_turn([self._cut(x) for x in features]))


def main() -> None:
    """Times networks and thresholds, and prints one table of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="p64")
    parser.add_argument("--map-px", type=int, default=512)
    parser.add_argument("--maps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    maps = np.stack([draw_map(arguments.map_px, seed) for seed in range(arguments.maps)])
    figures = {
        "network": arguments.network,
        "map_px": arguments.map_px,
        "maps": len(maps),
        "threads": torch.get_num_threads(),
        **time_networks(arguments, maps),
        "thresholds": {
            f"patches of {arguments.map_px // cells} px": time_thresholds(
                maps, arguments.map_px // cells, arguments.rounds
            )
            for cells in (8, 16, 32)
        },
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def draw_map(side: int, seed: int) -> np.ndarray:
    """Draws a smooth probability map."""
    small = np.random.default_rng(seed).random((side // 32, side // 32), dtype=np.float32)
    return np.clip(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)


def time_networks(arguments: argparse.Namespace, maps: np.ndarray) -> dict[str, Any]:
    """Alternates all ways; masks are compared at one half, scores by their largest difference."""
    config = PRNConfig(network=arguments.network, map_px=arguments.map_px)
    device = choose_device(arguments.device)
    torch.manual_seed(0)
    ours = PRN(config.spec).eval().to(device)
    in_turn = CellByCell(config.spec).eval().to(device)
    in_turn.load_state_dict(ours.state_dict())
    half = choose_dtype("auto", device)
    ways = {
        "cell by cell, fp32": (in_turn, torch.float32),
        "all cells, fp32": (ours, torch.float32),
        f"all cells, {str(half).removeprefix('torch.')}": (ours, half),
    }
    refiners = {
        name: PRNRefiner(network=network, config=config, device=device, dtype=dtype)
        for name, (network, dtype) in ways.items()
    }
    picture = np.zeros((*maps.shape[1:], 3), dtype=np.uint8)
    found, seconds = alternate(
        {name: lambda r=refiner: r.refine(picture, maps) for name, refiner in refiners.items()},
        arguments.rounds,
    )
    first, *_ = found.values()
    return {
        name: {
            "seconds": round(seconds[name], 2),
            "ratio": round(next(iter(seconds.values())) / seconds[name], 2),
            "pixels that differ": count_differing(s, first),
            "largest difference": round(float(np.abs(s - first).max()), 6),
        }
        for name, s in found.items()
    }


def count_differing(scores: np.ndarray, others: np.ndarray) -> str:
    """Says how many pixels are on different sides of one half."""
    return f"{100 * ((scores > FOREGROUND) != (others > FOREGROUND)).mean():.4f} %"


def time_thresholds(maps: np.ndarray, side_px: int, rounds: int) -> dict[str, Any]:
    """Finds the best threshold of every patch both ways; they must be the same."""
    truths = [draw_map(maps.shape[1], 100 + i) > FOREGROUND for i in range(len(maps))]
    pairs = list(zip(maps, truths, strict=True))
    found, seconds = alternate(
        {
            "double loop": lambda: [search_in_loops(s, t, side_px) for s, t in pairs],
            "counts": lambda: [find_thresholds(s, t, side_px).thresholds for s, t in pairs],
        },
        rounds,
    )
    loop, counted = found.values()
    assert np.array_equal(loop, counted), "the thresholds differ"
    ratio = seconds["double loop"] / seconds["counts"]
    return {
        "patches": int(np.size(loop)),
        **{name: round(took, 4) for name, took in seconds.items()},
        "ratio": round(ratio, 1),
    }


def search_in_loops(scores: np.ndarray, truth: np.ndarray, side_px: int) -> np.ndarray:
    """Tries every candidate on every patch: I the sum of the product, U the sums without it."""
    rows, columns = (length // side_px for length in scores.shape)
    best = np.zeros((rows, columns), dtype=np.float32)
    for i in range(rows):
        for j in range(columns):
            cut = np.s_[i * side_px : (i + 1) * side_px, j * side_px : (j + 1) * side_px]
            target = truth[cut].astype(np.float32)
            highest = -1.0
            for candidate in CANDIDATES:
                inside = (scores[cut] > candidate).astype(np.float32)
                shared = float((target * inside).sum())
                either = float(target.sum() + inside.sum()) - shared
                if (shared + 1) / (either + 1) > highest:
                    highest, best[i, j] = (shared + 1) / (either + 1), candidate
    return best


def alternate(
    calls: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Runs all calls in turn; returns their results and the median of their seconds."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    found = {}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            found[name] = call()
            took[name].append(time.perf_counter() - began)
    return found, {name: statistics.median(times) for name, times in took.items()}


if __name__ == "__main__":
    main()
