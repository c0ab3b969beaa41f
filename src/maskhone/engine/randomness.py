"""Where PyTorch's random numbers stand, so that a stopped training drops out what it would have."""

from collections.abc import Mapping

import torch
from torch import Tensor


def get_random_state(device: torch.device) -> dict[str, Tensor]:
    """Returns the state of the processor's generator, and that of the GPU that is used."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor]) -> None:
    """Sets what `get_random_state` returned; that of a GPU only where there is one."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
