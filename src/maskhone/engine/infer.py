"""Batched inference: device, number type, batch size and bounded memory; knows no method."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.errors import UsageError

logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Resolves `auto` to the best device at hand; refuses one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not available here; use cpu or auto") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Resolves `auto` to bf16 where the hardware multiplies it natively, else to fp32."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
        has_bf16 = device.type == "cpu" and _cpu_has_bf16()
        return torch.bfloat16 if has_bf16 else torch.float32
    if name not in DTYPES:
        raise UsageError(f"dtype {name!r} is unknown; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def limit_batch(batch_size: int, device: torch.device, *, side_px: int, most_px: int) -> int:
    """Lowers a batch size on a CPU, where large batches outgrow the caches and gain nothing.

    Args:
        batch_size: asked for.
        device: other devices take it as it is.
        side_px: of the square items.
        most_px: pixels of all items of a batch.

    Example:
        >>> limit_batch(32, torch.device("cpu"), side_px=128, most_px=1 << 16)
        4
    """
    return max(min(batch_size, most_px // side_px**2), 1) if device.type == "cpu" else batch_size


def run_batched(
    network: Callable[..., Tensor],
    inputs: Iterable[tuple[NDArray[Any], ...]],
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[NDArray[np.float32]]:
    """Runs a network over a stream of equal-shaped items and yields one result per item, in order.

    Args:
        network: called with one stacked tensor per element of an item, inside autocast.
        inputs: items, made lazily: only one batch of them exists at a time.
        batch_size: items per call; halved, for good, when the device runs out of memory.
        device: where the network lives.
        dtype: of the matrix products.
    """
    stream = iter(inputs)
    while batch := list(islice(stream, batch_size)):
        while batch:
            try:
                results = _run_one(network, batch[:batch_size], device, dtype)
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                logger.warning("out of device memory; going on with batches of %d", batch_size)
                continue
            yield from results
            batch = batch[batch_size:]


def _run_one(
    network: Callable[..., Tensor],
    batch: list[tuple[NDArray[Any], ...]],
    device: torch.device,
    dtype: torch.dtype,
) -> NDArray[np.float32]:
    tensors = [torch.from_numpy(np.stack(part)).to(device) for part in zip(*batch, strict=True)]
    is_mixed = dtype != torch.float32
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=is_mixed):
        result: NDArray[np.float32] = network(*tensors).float().cpu().numpy()
    return result
