"""Reads published checkpoints of AffinityNet.

Key table. Left the published key (OFRIN/PuzzleCAM:core/networks.py), right ours:

    model.*, fc_edge1..6.*                     -> the same
    stage1..5.*, backbone.*, edge_layers.*     -> the same tensors under second and third names, see
                                                  `segmenters.aliases`
    path_indices_0|1|2|...                     dropped: they are computed anew, and most of the file
    module.<key>                               -> <key>      (multi-GPU prefix)

What stands under several names must be the same in all of them.
"""

from pathlib import Path

import torch
from torch import Tensor

from maskhone.engine.checkpoints import check_keys, read_state_dict
from maskhone.engine.weights import open_weights, save_weights
from maskhone.errors import WeightsError
from maskhone.methods.perimeterfit.network import AffinityNet
from maskhone.nn.backbones import ARCHITECTURES, find_architecture
from maskhone.segmenters.aliases import AFFINITY_ALIASES, remove_aliases

METHOD = "affinitynet"
"""What weight files of AffinityNet say they are of."""

_DROPPED = "path_indices_"


def import_checkpoint(path: Path, out: Path | None = None) -> Path:
    """Converts a published AffinityNet checkpoint to a maskhone weight file; returns its path.

    Args:
        path: the authors' `.pth`; its tensors tell the backbone.
        out: file to write; by default `affinitynet.safetensors` beside the input.

    Raises:
        WeightsError: damaged file, not plain tensors, keys of another network, or names of one
            tensor that disagree.
    """
    state = read_published(path)
    architecture = find_architecture(state, prefix="model.")
    if architecture is None:
        raise WeightsError(
            f"{path}: not an AffinityNet; expected one on any of {', '.join(ARCHITECTURES)}"
        )
    with torch.device("meta"):
        expected = AffinityNet(architecture).state_dict()
    check_keys(path, state, expected)
    header = {
        "name": METHOD,
        "method": METHOD,
        "licence": "as published by the authors",
        "config": {"architecture": architecture},
        "source": f"OFRIN/PuzzleCAM, {path.name}",
    }
    return save_weights(out or path.with_name(f"{METHOD}.safetensors"), state, header, half=False)


def read_published(path: Path) -> dict[str, Tensor]:
    """Reads each tensor of a published checkpoint once, under our name.

    Raises:
        WeightsError: damaged file, not plain tensors, or names of one tensor that disagree.
    """
    state = {k: v for k, v in read_state_dict(path).items() if not k.startswith(_DROPPED)}
    return remove_aliases(state, AFFINITY_ALIASES, source=str(path))


def load_affinity_net(weights: str | Path, *, device: torch.device | None = None) -> AffinityNet:
    """Loads an AffinityNet from a maskhone weight file, in eval mode.

    Raises:
        WeightsError: missing, damaged, or weights of another network.
    """
    path, state, header = open_weights(weights, METHOD)
    network = AffinityNet(header["config"]["architecture"])
    check_keys(path, state, network.state_dict())
    network.load_state_dict(state)
    return network.eval().to(device or torch.device("cpu"))
