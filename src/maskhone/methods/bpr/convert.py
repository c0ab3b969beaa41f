"""Reads the authors' checkpoints.

Key table. Left the published key (tinyalpha/BPR on mmsegmentation 0.7), right ours:

    module.<key>                          -> <key>                    (multi-GPU prefix)
    backbone.conv1|bn1|conv2|bn2.*        -> the same                 stem
    backbone.conv_mask.weight             -> the same                 mask stem
    backbone.layer1.*                     -> the same
    backbone.transition1|2|3.*            -> the same
    backbone.stage2|3|4.*                 -> the same
    decode_head.convs.0.conv|bn.*         -> the same                 head
    decode_head.conv_seg.weight|bias      -> the same

Our modules carry the published names, so nothing else is renamed and nothing is dropped.
"""

import hashlib
import pickle
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskhone.engine.weights import save_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.bpr.config import PRESETS
from maskhone.methods.bpr.network import HRNETS, BPRNetwork

PUBLISHED = {
    "hrnet48_256-cbf4922c.pth": "bpr_hrnet48_256.cityscapes",
    "hrnet18s_128-24055c80.pth": "bpr_hrnet18s_128.cityscapes",
    "hrnet18s_coco-c172955f.pth": "bpr_hrnet18s_128.coco",
}
"""The authors' released files (BPR section 0)."""


def import_checkpoint(path: Path, out: Path | None = None, *, name: str | None = None) -> Path:
    """Converts a published BPR checkpoint to a maskhone weight file; returns its path.

    Args:
        path: the authors' `.pth`. Released names end with the first 8 digits of their sha256,
            which is checked.
        out: file to write; by default `<name>.safetensors` beside the input.
        name: one of `PRESETS` when the file name does not tell.

    Raises:
        WeightsError: damaged file, not plain tensors, or keys of another network.
    """
    preset = name or _guess_preset(path)
    if preset not in PRESETS:
        raise UsageError(f"{preset!r} is no BPR configuration; known: {', '.join(PRESETS)}")
    check_released_hash(path)
    config = PRESETS[preset]
    state = read_state_dict(path)
    check_keys(path, state, BPRNetwork(HRNETS[config.network]).state_dict())
    header = {
        "name": preset,
        "method": "bpr",
        "licence": "as published by the authors",
        "config": asdict(config),
        "source": f"tinyalpha/BPR, {path.name}",
    }
    return save_weights(out or path.with_name(f"{preset}.safetensors"), state, header, half=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of an mmcv checkpoint, or of a bare state dict, without running code."""
    try:
        file: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: the pickle holds more than plain tensors and was not opened; "
            "save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as a PyTorch checkpoint ({error})") from error
    state = file.get("state_dict", file) if isinstance(file, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise WeightsError(f"{path}: expected a dict of tensors, or one under 'state_dict'")
    return {re.sub(r"^module\.", "", key): value for key, value in state.items()}


def check_keys(path: Path, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuses a state dict that does not fit key for key and shape for shape."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    reshaped = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    said = [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("extra", extra), ("of other shape", reshaped))
        if keys
    ]
    if said:
        raise WeightsError(f"{path}: keys of another network: {'; '.join(said)}")


def check_released_hash(path: Path) -> None:
    """Compares a released file's name with its content: `name-<first 8 of sha256>.pth`."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    promised = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if promised is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(promised[1]):
        raise WeightsError(
            f"{path}: the name promises sha256 {promised[1]}..., the content has {found[:8]}...; "
            "download it again"
        )


def load_imagenet_backbone(network: BPRNetwork, path: Path) -> None:
    """Copies an ImageNet HRNetV2 (OpenMMLab names, no prefix) into the backbone.

    `conv_mask` is absent there and keeps its fresh weights; classifier keys are left out.
    """
    own = network.backbone.state_dict()
    found = {k: v for k, v in read_state_dict(path).items() if k in own}
    check_keys(path, found, {k: v for k, v in own.items() if k != "conv_mask.weight"})
    network.backbone.load_state_dict(found, strict=False)


def _guess_preset(path: Path) -> str:
    if path.name in PUBLISHED:
        return PUBLISHED[path.name]
    raise UsageError(
        f"{path.name}: not one of the released files ({', '.join(PUBLISHED)}); "
        f"say which with --name: {', '.join(PRESETS)}"
    )
