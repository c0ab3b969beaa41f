"""Reads the authors' checkpoints.

Key table. Left the published key (MengyuWang826/SegRefiner on mmdet 2.28), right ours:

    module.<key>                               -> <key>          (multi-GPU prefix)
    denoise_model.<key>                        -> <key>          453 tensors of the U-Net
    loss_texture.sobel.conv_x|conv_y.weight    -> none           checked: they are Sobel's kernels

Our modules carry the published names, so nothing else is renamed.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from maskhone.engine.checkpoints import check_keys, read_state_dict
from maskhone.engine.weights import save_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.segrefiner.config import PRESETS, UNETS
from maskhone.methods.segrefiner.loss import sobel_kernel
from maskhone.methods.segrefiner.network import DenoisingUNet

_NETWORK = "denoise_model."
_SOBEL = {
    "loss_texture.sobel.conv_x.weight": False,
    "loss_texture.sobel.conv_y.weight": True,
}  # key -> whether it is the transposed kernel


def import_checkpoint(path: Path, out: Path | None = None, *, name: str) -> Path:
    """Converts a published SegRefiner checkpoint to a maskhone weight file; returns its path.

    Args:
        path: the authors' `.pth`, bare or with a `state_dict`.
        out: file to write; by default `<name>.safetensors` beside the input.
        name: one of `PRESETS`.

    Raises:
        WeightsError: damaged file, not plain tensors, or keys of another network.
    """
    if name not in PRESETS:
        raise UsageError(f"{name!r} is no SegRefiner configuration; known: {', '.join(PRESETS)}")
    config = PRESETS[name]
    state = split_state(path, read_state_dict(path))
    table = state.get("time_embed.weight")
    if table is not None and len(table) != config.num_timesteps:
        raise WeightsError(
            f"{path}: trained for {len(table)} steps; the published checkpoints have "
            f"{config.num_timesteps}"
        )
    with torch.device("meta"):
        expected = DenoisingUNet(UNETS[config.network]).state_dict()
    check_keys(path, state, expected)
    header = {
        "name": name,
        "method": "segrefiner",
        "licence": "as published by the authors",
        "config": asdict(config),
        "source": f"MengyuWang826/SegRefiner, {path.name}",
    }
    return save_weights(out or path.with_name(f"{name}.safetensors"), state, header, half=False)


def split_state(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes the network's tensors out of a checkpoint's; what else is in it must be Sobel's."""
    rest = {key: value for key, value in state.items() if not key.startswith(_NETWORK)}
    for key, is_transposed in _SOBEL.items():
        kernel = rest.pop(key, None)
        if kernel is not None:
            expected = sobel_kernel(kernel)
            check_values(path, key, kernel, expected.mT if is_transposed else expected)
    if len(rest) == len(state):
        raise WeightsError(
            f"{path}: no key begins with {_NETWORK}; this is not a SegRefiner checkpoint"
        )
    network = {key.removeprefix(_NETWORK): value for key, value in state.items()}
    return {key: value for key, value in network.items() if key not in _SOBEL}


def check_values(path: Path, key: str, value: Tensor, expected: Tensor) -> None:
    """Refuses a constant that is another than expected."""
    if value.shape != expected.shape or not torch.allclose(value, expected):
        raise WeightsError(f"{path}: {key} does not hold Sobel's kernel; is the file damaged?")
