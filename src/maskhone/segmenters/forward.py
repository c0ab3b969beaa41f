"""One picture through a network."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import Scores


def compute_scores(
    network: Callable[[Tensor], Tensor],
    inputs: NDArray[np.float32],
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Scores:
    """Returns `(1, S, S)` scores of one prepared picture.

    Args:
        network: gives `(1, 1, S, S)` logits.
        inputs: `(3, S, S)`.
        device: where the network lives.
        dtype: of the matrix products; float32 or an autocast type.
    """
    is_mixed = dtype != torch.float32
    tensor = torch.from_numpy(inputs)[None].to(device)
    with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=is_mixed):
        logits = network(tensor)
    scores: Scores = logits[0].float().sigmoid().cpu().numpy()
    return scores
