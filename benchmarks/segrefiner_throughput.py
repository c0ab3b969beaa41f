"""Times SegRefiner the published way against ours, side by side: same objects, same weights.

    python benchmarks/segrefiner_throughput.py IMAGES MASKS [--count 2] [--network published]

The published way: fp32, one object at a time. Ours: objects in shared batches, channels last, bf16
where the processor multiplies it natively. Weights follow the rule of the parity fixtures; noise is
the same in both.
"""

import argparse
import json
import statistics
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import count_flops, matmul_peak

from maskhone.contracts import FOREGROUND
from maskhone.data.folder import find_folder_items, load_folder_item
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.methods.segrefiner.config import UNETS, SegRefinerConfig
from maskhone.methods.segrefiner.network import DenoisingUNet
from maskhone.methods.segrefiner.objects import plan_crops
from maskhone.methods.segrefiner.refine import SegRefiner, build_network


def main() -> None:
    """Alternates both ways and prints one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--count", type=int, default=2, help="pictures")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--network", default="published")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--profile", action="store_true", help="print where our time goes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    side = 256 if arguments.network == "published" else 128
    config = SegRefinerConfig(network=arguments.network, model_px=side, steps=arguments.steps)
    items, _ = find_folder_items(arguments.images, arguments.masks)
    samples = [load_folder_item(item) for item in items[: arguments.count]]
    n_objects = sum(len(plan_crops(s.masks > FOREGROUND, config)[0]) for s in samples)

    state = draw_weights(config)
    device = choose_device("cpu")
    dtype = choose_dtype("auto", device)
    plain = DenoisingUNet(UNETS[config.network])
    plain.load_state_dict(state)
    published = SegRefiner(network=plain.eval(), config=config, batch_size=1)
    network = build_network(state, config, source="benchmark")
    ours = SegRefiner(network=network, config=config, dtype=dtype)

    if arguments.profile:
        profile(lambda: ours.refine(samples[0].image, samples[0].masks))
    seconds: dict[str, list[float]] = {"published": [], "ours": []}
    masks: dict[str, list[Any]] = {}
    for _ in range(arguments.rounds):
        for name, refiner in (("published", published), ("ours", ours)):
            began = time.perf_counter()
            masks[name] = [refiner.refine(s.image, s.masks)[0] > FOREGROUND for s in samples]
            seconds[name].append(time.perf_counter() - began)
    pairs = list(zip(masks["published"], masks["ours"], strict=True))
    differing = sum(int((a != b).sum()) for a, b in pairs)
    rates = {name: n_objects / statistics.median(times) for name, times in seconds.items()}
    inputs = torch.zeros(1, 4, side, side), torch.zeros(1, dtype=torch.int64)
    flops_per_object = arguments.steps * count_flops(lambda: plain(*inputs))
    peak = matmul_peak(dtype)
    figures = {
        "network": arguments.network,
        "objects": n_objects,
        "published objects/s": round(rates["published"], 4),
        "ours objects/s": round(rates["ours"], 4),
        "ratio": round(rates["ours"] / rates["published"], 2),
        "pixels that differ": f"{100 * differing / sum(a.size for a, _ in pairs):.4f} %",
        "GFLOP per object": round(flops_per_object / 1e9, 1),
        "ours GFLOP/s": round(rates["ours"] * flops_per_object / 1e9, 1),
        "matmul peak GFLOP/s": round(peak / 1e9, 1),
        "share of peak": round(rates["ours"] * flops_per_object / peak, 3),
        "dtype": str(dtype),
        "threads": torch.get_num_threads(),
        "seconds": {k: [round(t, 2) for t in v] for k, v in seconds.items()},
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def draw_weights(config: SegRefinerConfig) -> dict[str, torch.Tensor]:
    """Draws each tensor from a generator seeded with its published key, as the parity tests do."""
    spec = replace(UNETS[config.network], num_timesteps=config.num_timesteps)
    with torch.device("meta"):
        shapes = {key: tuple(v.shape) for key, v in DenoisingUNet(spec).state_dict().items()}
    return {key: torch.from_numpy(draw_tensor(key, shape)) for key, shape in shapes.items()}


def draw_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Kaiming normal for kernels, about one for norms, about zero for biases."""
    seed = zlib.crc32(f"denoise_model.{key}".encode())
    z = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if len(shape) > 1:
        return (z * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    return (0.1 * z + key.endswith("weight")).astype(np.float32)


def profile(call: Any) -> None:
    """Prints the operators that take most of the time."""
    from torch.profiler import profile as record

    with record() as found:
        call()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


if __name__ == "__main__":
    main()
