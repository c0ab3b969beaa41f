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

from dataclasses import asdict
from pathlib import Path

from maskhone.engine.checkpoints import check_keys, check_released_hash, read_state_dict
from maskhone.engine.weights import save_weights
from maskhone.errors import UsageError
from maskhone.methods.bpr.config import PRESETS
from maskhone.methods.bpr.network import HRNETS, BPRNetwork


def import_checkpoint(path: Path, out: Path | None = None, *, name: str) -> Path:
    """Converts a published BPR checkpoint to a maskhone weight file; returns its path.

    Args:
        path: the authors' `.pth`. Released names end with the first 8 digits of their sha256,
            which is checked.
        out: file to write; by default `<name>.safetensors` beside the input.
        name: one of `PRESETS`.

    Raises:
        WeightsError: damaged file, not plain tensors, or keys of another network.
    """
    if name not in PRESETS:
        raise UsageError(f"{name!r} is no BPR configuration; known: {', '.join(PRESETS)}")
    check_released_hash(path)
    config = PRESETS[name]
    state = read_state_dict(path)
    check_keys(path, state, BPRNetwork(HRNETS[config.network]).state_dict())
    header = {
        "name": name,
        "method": "bpr",
        "licence": "as published by the authors",
        "config": asdict(config),
        "source": f"tinyalpha/BPR, {path.name}",
    }
    return save_weights(out or path.with_name(f"{name}.safetensors"), state, header, half=False)


def load_imagenet_backbone(network: BPRNetwork, path: Path) -> None:
    """Copies an ImageNet HRNetV2 (OpenMMLab names, no prefix) into the backbone.

    `conv_mask` is absent there and keeps its fresh weights; classifier keys are left out.
    """
    own = network.backbone.state_dict()
    found = {k: v for k, v in read_state_dict(path).items() if k in own}
    check_keys(path, found, {k: v for k, v in own.items() if k != "conv_mask.weight"})
    network.backbone.load_state_dict(found, strict=False)
