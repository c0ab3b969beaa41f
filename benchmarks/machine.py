"""What the benchmarks need to know of the machine and the network."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def matmul_peak(dtype: torch.dtype) -> float:
    """Measures the fastest of five 2048-cubed matrix products, in FLOP/s."""
    a, b = torch.randn(2, 2048, 2048).to(dtype)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * 2048**3 / best


def count_flops(call: Callable[[], object]) -> float:
    """Counts the floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        call()
    return float(counter.get_total_flops())
