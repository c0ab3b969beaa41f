"""DeepLabv3's weight files: torchvision's released ones, converted once or read as they are."""

from pathlib import Path

import torch

from maskhone.engine.checkpoints import check_keys, check_released_hash, read_state_dict
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.engine.weights import find_weights, load_weights, save_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.segmenters.catalogue import DEEPLABV3
from maskhone.segmenters.deeplabv3 import DeepLabV3, DeepLabV3Segmenter, build_like


def import_deeplabv3(path: Path, out: Path | None = None, *, name: str | None = None) -> Path:
    """Converts a checkpoint of torchvision to a maskhone weight file; returns its path.

    No key is renamed.

    Args:
        path: the `.pth`, bare or under `model`.
        out: file to write; by default `<name>.safetensors` beside the input.
        name: a key of `DEEPLABV3`; None tells it from the tensors.

    Raises:
        UsageError: unknown name.
        WeightsError: damaged file, not plain tensors, keys of another network, or content that is
            not what the file's name promises.
    """
    check_released_hash(path)
    network, found = _load_as_released(path, name)
    header = {
        "name": found,
        "method": found,
        "licence": "BSD-3-Clause (torchvision)",
        "config": {"num_classes": _count_classes(network)},
        "source": f"pytorch/vision, {path.name}",
        "data": "COCO pictures with the classes of PASCAL VOC",
    }
    out = out or path.with_name(f"{found}.safetensors")
    return save_weights(out, network.state_dict(), header, half=False)


def load_deeplabv3(
    weights: str | Path, *, device: str = "auto", dtype: str = "auto"
) -> DeepLabV3Segmenter:
    """Loads a DeepLabv3 as a segmenter.

    Args:
        weights: a maskhone weight file, also one that RWS trained, or torchvision's `.pth`.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: of the matrix products: `auto`, `fp32`, `bf16`, `fp16`.

    Returns:
        An object with `segment(image) -> (C, H, W) scores`.

    Raises:
        UsageError: unknown device or dtype.
        WeightsError: the weights are missing, damaged or of another network.
    """
    path, options = find_weights(weights), {}
    if path.suffix == ".safetensors":
        state, header = load_weights(path)
        method = str(header.get("method"))
        if method not in DEEPLABV3:
            raise WeightsError(f"{path}: weights of {method}, not of {', '.join(DEEPLABV3)}")
        network = build_like(DEEPLABV3[method], state)
        network.load_state_dict(state)
        if "side_px" in header.get("config", {}):
            options["side_px"] = int(header["config"]["side_px"])
    else:
        network, _ = _load_as_released(path, None)
    chosen = choose_device(device)
    ready = network.eval().requires_grad_(False).to(chosen)
    return DeepLabV3Segmenter(
        network=ready, device=chosen, dtype=choose_dtype(dtype, chosen), **options
    )


def _load_as_released(path: Path, name: str | None) -> tuple[DeepLabV3, str]:
    if name is not None and name not in DEEPLABV3:
        raise UsageError(f"unknown network {name!r}; known: {', '.join(DEEPLABV3)}")
    state = read_state_dict(path)
    is_deep = any(key.startswith("backbone.layer3.6.") for key in state)
    found = name or ("deeplabv3_resnet101" if is_deep else "deeplabv3_resnet50")
    try:
        with torch.device("meta"):
            expected = build_like(DEEPLABV3[found], state)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    check_keys(path, state, expected.state_dict())
    expected.load_state_dict(state, assign=True)
    return expected, found


def _count_classes(network: DeepLabV3) -> int:
    last = network.classifier[4]
    assert isinstance(last, torch.nn.Conv2d)
    return last.out_channels
