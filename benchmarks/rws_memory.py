"""Measures what RWS keeps of slice features, and the memory it takes, on a finished training.

    python benchmarks/rws_memory.py RUN [--pictures 40] [--json OUT]

RUN is the output folder of `maskhone train` with method "rws". Its mixing maps are made again into
a folder of their own, and then every picture's are brought onto the grids of a training crop, each
half in a process of its own; once for some pictures and once for all. Bytes are held against two
dense forms, both of which the published code keeps in memory as float32: n and f of every layer
and training picture (here at the pictures' own size), and all features of the slices (here of
those alone that win anywhere). Peaks are those of resident memory above that of the loaded
networks.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskhone.engine.infer import choose_device
from maskhone.methods.rws.attention import look
from maskhone.methods.rws.fusion import View
from maskhone.methods.rws.host import build_host, choose_layers, measure_outputs, read_tensors
from maskhone.methods.rws.rounds import Sight, write_mixing
from maskhone.methods.rws.store import MixStore, load_slices
from maskhone.methods.rws.train import parse_recipe
from maskhone.methods.rws.training_set import find_items

ALL = 10**9


def main() -> None:
    """Measures some and all pictures and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=("write", "read"), help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        measure = {"write": measure_writing, "read": measure_reading}[arguments.part]
        print(json.dumps(measure(arguments.run, arguments.store, arguments.pictures)))
        return
    rows = [measure_both(arguments.run, count) for count in (arguments.pictures, ALL)]
    for row in rows:
        print(row, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure_both(run: Path, pictures: int) -> dict[str, Any]:
    """Writes and reads in processes of their own, since a peak never falls."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("write", "read"):
            command = [sys.executable, __file__, str(run), "--pictures", str(pictures)]
            made = [*command, "--part", part, "--store", folder]
            said = subprocess.run(made, capture_output=True, text=True, check=True)
            found |= json.loads(said.stdout.splitlines()[-1])
    return found


def measure_writing(run: Path, folder: Path, pictures: int) -> dict[str, Any]:
    """Makes the mixing maps of the first pictures with slices."""
    sight, items, networks = load_run(run)
    slices = load_slices(run / "cycle-1" / "slices.jsonl")
    chosen = set(list(dict.fromkeys(one.id for one in slices))[:pictures])
    before = read_peak()
    write_mixing(sight, *networks, items, [one for one in slices if one.id in chosen], folder)
    peak = round(read_peak() - before, 1)
    return {"pictures with slices": len(chosen), "peak of writing MiB": peak}


def measure_reading(run: Path, folder: Path, _: int) -> dict[str, Any]:
    """Samples the maps of every picture as training does."""
    sight, _, networks = load_run(run)
    stage = parse_recipe(json.loads((run / "recipe.json").read_text()))[4]
    shapes = measure_outputs(networks[0], sight.layers, stage.crop_px)
    before, store, cells = read_peak(), MixStore(folder), 0
    for id in store.ids:
        size_hw = store.read_maps(id).winners.shape[1:]
        view = View(
            size_hw=size_hw,
            resized_hw=size_hw,
            is_mirrored=False,
            crop_yxhw=(0, 0, stage.crop_px, stage.crop_px),
        )
        for layer, (_, *grid_hw) in enumerate(shapes):
            cells += len(store.sample(id, layer, view, grid_hw).places)
    index = json.loads((folder / "index.json").read_text())
    dense = slices = 0
    for entry in index["pictures"].values():
        grids = measure_grids(networks[0], sight.layers, tuple(entry["shape"][1:]))
        dense += sum((channels + 1) * h * w * 4 for channels, h, w in grids)
        for of_layers in entry["slices"].values():
            pairs = zip(of_layers, index["channels"], strict=True)
            slices += sum(4 * channels * h * w for (_, h, w), channels in pairs)
    features = sum(path.stat().st_size for path in folder.glob("*.f16"))
    maps = sum(path.stat().st_size for path in folder.glob("*") if path.suffix != ".f16")
    return {
        "pictures mixed": len(store),
        "cells mixed": cells,
        "features on disk MiB": to_mib(features),
        "maps on disk MiB": to_mib(maps),
        "n and f dense MiB": to_mib(dense),
        "features of winning slices MiB": to_mib(slices),
        "share of both": round((features + maps) / (dense + slices), 3),
        "peak of reading MiB": round(read_peak() - before, 1),
    }


@lru_cache
def measure_grids(
    network: nn.Module, layers: tuple[str, ...], size_hw: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """Measures channels, height and width of each layer's output for a picture."""
    features, _ = look(network, torch.zeros(1, 3, *size_hw), layers)
    return [(len(one), one.shape[1], one.shape[2]) for one in features]


def load_run(run: Path) -> tuple[Sight, list[Any], list[Any]]:
    """Loads how a training looked at pictures, its pictures, and its first two networks."""
    parts = parse_recipe(json.loads((run / "recipe.json").read_text()))
    identity, config, slicing, data, _, schedule = parts
    networks = []
    for number in (1, 2):
        network = build_host(identity.network, identity.num_classes)
        network.load_state_dict(read_tensors(run / f"stage-{number}" / "network.pt"))
        networks.append(network.eval())
    sight = Sight(
        config=config,
        slicing=slicing,
        data=data,
        layers=choose_layers(identity.network, identity.layers),
        num_classes=identity.num_classes,
        device=choose_device("cpu"),
        seed=schedule.seed,
    )
    return sight, find_items(data, data.train_list), networks


def read_peak() -> float:
    """Reads the highest resident memory so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)  # KiB on Linux


def to_mib(count: int) -> float:
    """Turns bytes to MiB."""
    return round(count / 2**20, 2)


if __name__ == "__main__":
    main()
