"""Times SegRefiner the published way against ours, side by side: same objects, same weights.

    python benchmarks/segrefiner_throughput.py IMAGES MASKS [--count 2] [--scope objects|picture]
                                               [--network published|lite] [--device cuda --compile]

The published way: fp32, one object or patch at a time, planes one after another. Ours: shared
batches, channels last, bf16 where the processor multiplies it natively (or --dtype). Weights follow
the rule of the parity fixtures; noise is the same in both.
"""

import argparse
import json
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import count_flops, matmul_peak
from torch import Tensor

from maskhone.contracts import FOREGROUND
from maskhone.data.folder import find_folder_items, load_folder_item
from maskhone.engine.infer import choose_device, choose_dtype, limit_batch
from maskhone.engine.weights import find_weights, load_weights
from maskhone.methods.segrefiner.config import CPU_BATCH_PX, SegRefinerConfig
from maskhone.methods.segrefiner.refine import SegRefiner, build_network, make_network


class PublishedWay(SegRefiner):
    """The same refiner, with the layout in memory that the original has."""

    def _denoise(self, input_B4SS: Tensor, step_B: Tensor) -> Tensor:
        logits: Tensor = self.network(input_B4SS.contiguous(), step_B)
        return logits.float()


def main() -> None:
    """Alternates both ways and prints one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--count", type=int, default=2, help="pictures")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--network", default="published")
    parser.add_argument("--scope", default="objects")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--weights", help="trained ones, which say how to refine, too")
    parser.add_argument("--max-patches", type=int, default=0, help="with --scope picture")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = SegRefinerConfig(
        network=arguments.network,
        scope=arguments.scope,
        model_px=256 if arguments.network == "published" else 128,
        steps=arguments.steps,
        max_patches=arguments.max_patches,
    )
    items, _ = find_folder_items(arguments.images, arguments.masks)
    samples = [load_folder_item(item) for item in items[: arguments.count]]

    if arguments.weights:
        state, header = load_weights(find_weights(arguments.weights))
        config = SegRefinerConfig(**header["config"])
    else:
        state = draw_weights(config)
    device = choose_device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    plain = make_network(config)
    plain.load_state_dict(state)
    published = PublishedWay(
        network=plain.eval().to(device), config=config, device=device, batch_size=1
    )
    network = build_network(state, config, source="benchmark").to(device)
    if arguments.compile:
        network.compile()
    batch_size = limit_batch(32, device, side_px=config.model_px, most_px=CPU_BATCH_PX)
    ours = SegRefiner(
        network=network, config=config, device=device, dtype=dtype, batch_size=batch_size
    )
    ways = {"published": published, "ours": ours}
    if arguments.profile:
        for name, refiner in ways.items():
            print(name)
            profile(lambda refiner=refiner: refiner.refine(samples[0].image, samples[0].masks))
    side = config.model_px
    inputs = torch.zeros(1, 4, side, side, device=device), torch.zeros(1, dtype=torch.int64)
    flops = count_flops(lambda: plain(inputs[0], inputs[1].to(device)))
    if device.type != "cpu":  # the first calls choose kernels
        for refiner in ways.values():
            refiner.refine(samples[0].image, samples[0].masks)

    rows: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    masks: dict[str, list[Any]] = {}
    for _ in range(arguments.rounds):
        for name, refiner in ways.items():
            with count_rows(refiner) as counted:
                began = time.perf_counter()
                masks[name] = [refiner.refine(s.image, s.masks) > FOREGROUND for s in samples]
                seconds[name].append(time.perf_counter() - began)
            rows[name] = sum(counted)
    pairs = list(zip(masks["published"], masks["ours"], strict=True))
    differing = sum(int((a != b).sum()) for a, b in pairs)
    took = {name: statistics.median(times) for name, times in seconds.items()}
    speed = rows["ours"] * flops / took["ours"]
    peak = matmul_peak(dtype, device)
    figures = {
        "network": config.network,
        "weights": arguments.weights or "by the rule of the parity fixtures",
        "scope": config.scope,
        "steps": config.steps,
        "device": str(device),
        "dtype": str(dtype),
        "compiled": arguments.compile,
        "pictures": len(samples),
        "views through the network": rows,
        "seconds": {k: [round(t, 2) for t in v] for k, v in seconds.items()},
        "ratio": round(took["published"] / took["ours"], 2),
        "pixels that differ": f"{100 * differing / sum(a.size for a, _ in pairs):.4f} %",
        "GFLOP per view": round(flops / 1e9, 1),
        "published GFLOP/s": round(rows["published"] * flops / took["published"] / 1e9, 1),
        "ours GFLOP/s": round(speed / 1e9, 1),
        "matmul peak GFLOP/s": round(peak / 1e9, 1),
        "share of peak": round(speed / peak, 3),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


@contextmanager
def count_rows(refiner: SegRefiner) -> Iterator[list[int]]:
    """Lists how many views go through the network in each call."""
    counted: list[int] = []
    handle = refiner.network.register_forward_pre_hook(
        lambda _, inputs: counted.append(len(inputs[0]))
    )
    yield counted
    handle.remove()


def draw_weights(config: SegRefinerConfig) -> dict[str, torch.Tensor]:
    """Draws each tensor from a generator seeded with its published key, as the parity tests do."""
    with torch.device("meta"):
        shapes = {key: tuple(v.shape) for key, v in make_network(config).state_dict().items()}
    return {key: torch.from_numpy(draw_tensor(key, shape)) for key, shape in shapes.items()}


def draw_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Kaiming normal for kernels, about one for norms, about zero for biases."""
    seed = zlib.crc32(f"denoise_model.{key}".encode())
    z = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if len(shape) > 1:
        return (z * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    return (0.1 * z + key.endswith("weight")).astype(np.float32)


def profile(call: Callable[[], Any]) -> None:
    """Prints the operators that take most of the time."""
    from torch.profiler import profile as record

    with record() as found:
        call()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


if __name__ == "__main__":
    main()
