"""Reads the authors' checkpoints.

Key table. Left the published key (savinay95n/PatchRefineNet), right ours:

    module.<key>                   -> <key>          (multi-GPU prefix)
    state_dict / model             -> taken out of its wrapper
    <key>                          -> <key>          338 tensors of P64

Our modules carry the published names, so nothing else is renamed and nothing is dropped. The three
released files have one name, `p64_weights.th`; which data set one was trained on is not in it.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from maskhone.engine.checkpoints import check_keys, read_state_dict
from maskhone.engine.weights import save_weights
from maskhone.errors import UsageError
from maskhone.methods.prn.config import PRESETS
from maskhone.methods.prn.network import PRN


def import_checkpoint(path: Path, out: Path | None = None, *, name: str) -> Path:
    """Converts a published PatchRefineNet checkpoint to a maskhone weight file; returns its path.

    Args:
        path: the authors' `.th`, bare or under `state_dict` or `model`.
        out: file to write; by default `<name>.safetensors` beside the input.
        name: one of `PRESETS`.

    Raises:
        UsageError: unknown name.
        WeightsError: damaged file, not plain tensors, or keys of another network.
    """
    if name not in PRESETS:
        raise UsageError(
            f"{name!r} is no PatchRefineNet configuration; known: {', '.join(PRESETS)}"
        )
    config = PRESETS[name]
    state = read_state_dict(path)
    with torch.device("meta"):
        expected = PRN(config.spec).state_dict()
    check_keys(path, state, expected)
    header = {
        "name": name,
        "method": "prn",
        "licence": "as published by the authors",
        "config": asdict(config),
        "source": f"savinay95n/PatchRefineNet, {path.name}",
    }
    return save_weights(out or path.with_name(f"{name}.safetensors"), state, header, half=False)
