"""What the benchmarks need to know of the machine and the network."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def matmul_peak(dtype: torch.dtype, device: torch.device | None = None) -> float:
    """Measures the fastest of five matrix products, 2048 cubed (8192 on a GPU), in FLOP/s."""
    device = device or torch.device("cpu")
    side = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(5):
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def wait(device: torch.device) -> None:
    """Waits for a GPU to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def count_flops(call: Callable[[], object]) -> float:
    """Counts the floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        call()
    return float(counter.get_total_flops())
