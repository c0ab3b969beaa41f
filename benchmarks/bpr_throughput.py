"""Times BPR the published way against ours, side by side: same pictures, same weights, same boxes.

    python benchmarks/bpr_throughput.py IMAGES MASKS [--count 4] [--json OUT]

The published way: per object every patch is written to PNG, read back, enlarged, and run alone
through the network in fp32; probabilities are pickled and merged (tinyalpha/BPR, inference.sh).
Ours: in memory, norms folded, 32 patches a batch, bf16 where the processor multiplies it natively.
Both make one pass with binary masks.
"""

import argparse
import json
import pickle
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import count_flops, matmul_peak

from maskhone.contracts import FOREGROUND
from maskhone.data.folder import find_folder_items, load_folder_item
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.engine.weights import find_weights, load_weights
from maskhone.methods.bpr.boundary import plan_boundary_patches
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.network import HRNETS, BPRNetwork, resize
from maskhone.methods.bpr.refine import BPRRefiner, build_network

ROUNDS = 3


def main() -> None:
    """Alternates both ways and prints one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("--count", type=int, default=4, help="pictures")
    parser.add_argument("--weights", default="bpr_hrnet18s_128.ccp-davis")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    state, header = load_weights(find_weights(arguments.weights))
    config = replace(BPRConfig(**header["config"]), mask_input="binary", coarsest_side_px=0)
    samples = load_samples(arguments)
    boxes = [plan(sample.masks[0], config) for sample in samples]
    n_patches = sum(len(b) for b in boxes)
    plain = BPRNetwork(HRNETS[config.network])
    plain.load_state_dict(state)
    plain.eval()
    device = choose_device("cpu")
    dtype = choose_dtype("auto", device)
    network = build_network(state, config, source="benchmark")
    ours = BPRRefiner(network=network, config=config, dtype=dtype)

    def run_ours() -> list[np.ndarray]:
        return [ours.refine(s.image, s.masks)[0] > FOREGROUND for s in samples]

    def run_published() -> list[np.ndarray]:
        return [
            refine_through_files(plain, s, b, config) for s, b in zip(samples, boxes, strict=True)
        ]

    run_ours()  # warm up
    seconds: dict[str, list[float]] = {"published": [], "ours": []}
    for _ in range(ROUNDS):
        for name, run in (("published", run_published), ("ours", run_ours)):
            began = time.perf_counter()
            masks = run()
            seconds[name].append(time.perf_counter() - began)
            if name == "published":
                reference = masks
    differing = sum(int((a != b).sum()) for a, b in zip(reference, masks, strict=True))
    pixels = sum(a.size for a in masks)
    rates = {name: n_patches / statistics.median(times) for name, times in seconds.items()}
    inputs = torch.zeros(1, 4, config.input_px, config.input_px)
    flops = rates["ours"] * count_flops(lambda: plain(inputs))
    peak = matmul_peak(dtype)
    figures: dict[str, Any] = {
        "patches": n_patches,
        "published patches/s": round(rates["published"], 1),
        "ours patches/s": round(rates["ours"], 1),
        "ratio": round(rates["ours"] / rates["published"], 2),
        "pixels that differ": f"{100 * differing / pixels:.4f} %",
        "ours GFLOP/s": round(flops / 1e9, 1),
        "matmul peak GFLOP/s": round(peak / 1e9, 1),
        "share of peak": round(flops / peak, 3),
        "dtype": str(dtype),
        "threads": torch.get_num_threads(),
        "seconds": {k: [round(t, 2) for t in v] for k, v in seconds.items()},
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def load_samples(arguments: argparse.Namespace) -> list[Any]:
    """Reads the first pictures of the folders."""
    items, _ = find_folder_items(arguments.images, arguments.masks)
    return [load_folder_item(item) for item in items[: arguments.count]]


def plan(scores: np.ndarray, config: BPRConfig) -> np.ndarray:
    """Plans the patches of one object."""
    mask = scores > FOREGROUND
    return plan_boundary_patches(mask, patch_px=config.patch_px, nms_iou=config.nms_iou)[0]


def refine_through_files(
    network: BPRNetwork, sample: Any, boxes: np.ndarray, config: BPRConfig
) -> np.ndarray:
    """Refines one object the published way: patch files, one patch at a time, a pickle, a merge."""
    coarse = sample.masks[0] > FOREGROUND
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            cv2.imwrite(str(root / f"img_{k}.png"), sample.image[y1:y2, x1:x2, ::-1])
            cv2.imwrite(str(root / f"mask_{k}.png"), coarse[y1:y2, x1:x2] * np.uint8(255))
        (root / "detail.txt").write_text(str({"patches": list(range(len(boxes)))}))
        outputs = [predict_from_files(network, root, k, config) for k in range(len(boxes))]
        (root / "refined.pkl").write_bytes(pickle.dumps(outputs))
        outputs = pickle.loads((root / "refined.pkl").read_bytes())
    total, count = np.zeros(coarse.shape, np.float32), np.zeros(coarse.shape, np.float32)
    for (x1, y1, x2, y2), output in zip(boxes.tolist(), outputs, strict=True):
        total[y1:y2, x1:x2] += output
        count[y1:y2, x1:x2] += 1
    return np.where(count > 0, total / np.maximum(count, 1) > FOREGROUND, coarse)


def predict_from_files(network: BPRNetwork, root: Path, k: int, config: BPRConfig) -> np.ndarray:
    """Runs one patch."""
    side = (config.input_px, config.input_px)
    image = cv2.imread(str(root / f"img_{k}.png"))[..., ::-1]
    mask = (cv2.imread(str(root / f"mask_{k}.png"), cv2.IMREAD_GRAYSCALE) > 0).astype(np.float32)
    image = cv2.resize(np.ascontiguousarray(image), side, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask, side, interpolation=cv2.INTER_NEAREST)
    rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        logits = network(network.prepare(rgb, torch.from_numpy(mask)[None, None]))
        logits = resize(resize(logits, side), (config.patch_px, config.patch_px))
    return logits.softmax(dim=1)[0, 1].numpy()


if __name__ == "__main__":
    main()
