"""Base models and their weight files: the authors' checkpoints in, segmenters out.

Our modules carry the published names, so no key is renamed; a wrapper (`state_dict`, `model`) and
the prefix `module.` are taken away. The classifier's and DeepLabv3+'s tensors stand in their files
under two names; the table of these is in `maskhone.segmenters.aliases`.

Key tables of the ImageNet starts. Left torchvision's key, right ours:

    ResNet-34   conv1|bn1.*         -> firstconv|firstbn.*        dlinknet34
                layer1|2|3|4.*      -> encoder1|2|3|4.*
                fc.*                   dropped
    VGG-16      features.*          -> vgg16.*                    pfanet
                classifier.*           dropped
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from maskhone.contracts import Segmenter
from maskhone.data.files import replace_when_done
from maskhone.engine.checkpoints import check_keys, read_state_dict
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.engine.weights import find_weights, load_weights, save_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.segmenters.aliases import add_aliases, remove_aliases
from maskhone.segmenters.catalogue import (
    CLASS_SEGMENTERS,
    SEGMENTERS,
    build_network,
    make_segmenter,
)
from maskhone.segmenters.class_models import ClassModel, describe_tensors
from maskhone.segmenters.classifier import Classifier
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus

_IMAGENET_KEYS = {
    "dlinknet34": (
        (r"^conv1\.", "firstconv."),
        (r"^bn1\.", "firstbn."),
        (r"^layer([1-4])\.", r"encoder\1."),
    ),
    "pfanet": ((r"^features\.", "vgg16."),),
}
_IMAGENET_DROPPED = {"dlinknet34": "fc.", "pfanet": "classifier."}
_COUNTER = ".num_batches_tracked"  # which torchvision's oldest files lack


def load_segmenter(
    weights: str | Path, *, name: str | None = None, device: str = "auto", dtype: str = "auto"
) -> Segmenter:
    """Loads a base model.

    Args:
        weights: a maskhone weight file; it knows which model it belongs to.
        name: the model it has to be, a key of `SEGMENTERS`; None takes any.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: of the matrix products: `auto`, `fp32`, `bf16`, `fp16`.

    Returns:
        An object with `segment(image) -> scores`.

    Raises:
        UsageError: unknown model, device or dtype.
        WeightsError: the weights are missing, damaged or of another network.
    """
    if name is not None and name not in SEGMENTERS:
        raise UsageError(f"unknown base model {name!r}; known: {', '.join(SEGMENTERS)}")
    path = find_weights(weights)
    state, header = load_weights(path)
    method = header.get("method")
    if method not in SEGMENTERS or name not in (None, method):
        expected = name or f"a base model ({', '.join(SEGMENTERS)})"
        raise WeightsError(f"{path}: these are weights of {method}, not of {expected}")
    chosen = choose_device(device)
    return make_segmenter(
        str(method),
        state,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        source=str(path),
        **header.get("config", {}),
    )


def import_segmenter(path: Path, out: Path | None = None, *, name: str) -> Path:
    """Converts a published checkpoint of a base model to a maskhone weight file; returns its path.

    Args:
        path: the authors' `.th` or `.pth`, bare or under `state_dict` or `model`.
        out: file to write; by default `<name>.safetensors` beside the input.
        name: a key of `SEGMENTERS`.

    Raises:
        UsageError: unknown name.
        WeightsError: damaged file, not plain tensors, or keys of another network.
    """
    with torch.device("meta"):
        expected = build_network(name).state_dict()
    state = read_state_dict(path)
    check_keys(path, state, expected)
    header = {
        "name": name,
        "method": name,
        "licence": "as published by the authors",
        "config": {},
        "source": f"savinay95n/PatchRefineNet, {path.name}",
        "data": SEGMENTERS[name].data,
    }
    return save_weights(out or path.with_name(f"{name}.safetensors"), state, header, half=False)


def import_class_model(path: Path, out: Path | None = None, *, name: str) -> Path:
    """Converts a published classifier or DeepLabv3+ to a maskhone weight file; returns its path.

    Every tensor's second name is held to the first and left out; the body and the number of
    classes are told by the tensors.

    Args:
        path: the authors' `.pth`.
        out: file to write; by default `<name>.safetensors` beside the input.
        name: a key of `CLASS_SEGMENTERS`.

    Raises:
        UsageError: unknown name.
        WeightsError: damaged file, not plain tensors, or keys of another network.
    """
    _check_class_name(name)
    state = remove_aliases(read_state_dict(path), source=str(path))
    model = describe_tensors(state, source=str(path))
    if model.kind != name:
        raise WeightsError(f"{path}: these are weights of {model.kind}, not of {name}")
    with torch.device("meta"):
        expected = model.build().state_dict()
    check_keys(path, state, expected)
    header = {
        "name": name,
        "method": name,
        "licence": "as published by the authors",
        "config": model.to_config(),
        "source": f"OFRIN/PuzzleCAM, {path.name}",
        "data": CLASS_SEGMENTERS[name].data,
    }
    return save_weights(out or path.with_name(f"{name}.safetensors"), state, header, half=False)


def export_class_model(weights: str | Path, out: Path) -> Path:
    """Writes a classifier or DeepLabv3+ as the original scripts read it; returns the path.

    Every tensor of the body stands there under both of its names.

    Args:
        weights: a maskhone weight file.
        out: the `.pth` to write.

    Raises:
        WeightsError: missing, damaged, or weights of another network.
    """
    network = load_class_model(weights)
    with replace_when_done(out) as unfinished:
        torch.save(add_aliases(network.state_dict()), unfinished)
    return out


def load_class_model(
    weights: str | Path, *, name: str | None = None, device: str = "auto"
) -> Classifier | DeepLabV3Plus:
    """Loads a classifier or DeepLabv3+ ready for inference.

    Args:
        weights: a maskhone weight file.
        name: what it has to be, a key of `CLASS_SEGMENTERS`; None takes either.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        The network in eval mode, frozen, on the device.

    Raises:
        UsageError: unknown name or device.
        WeightsError: the weights are missing, damaged or of another network.
    """
    if name is not None:
        _check_class_name(name)
    path = find_weights(weights)
    state, header = load_weights(path)
    method = header.get("method")
    if method not in CLASS_SEGMENTERS or name not in (None, method):
        expected = name or f"one of {', '.join(CLASS_SEGMENTERS)}"
        raise WeightsError(f"{path}: these are weights of {method}, not of {expected}")
    try:
        network = ClassModel(kind=str(method), **header.get("config", {})).build()
        network.load_state_dict(state)
    except (RuntimeError, TypeError, UsageError) as error:
        raise WeightsError(f"{path}: these are not the weights of {method}: {error}") from error
    return network.eval().requires_grad_(False).to(choose_device(device))


def load_class_segmenter(
    weights: str | Path, *, name: str | None = None, device: str = "auto", dtype: str = "auto"
) -> Segmenter:
    """Loads a classifier or DeepLabv3+ as a segmenter of several classes.

    Args:
        weights: a maskhone weight file.
        name: what it has to be, a key of `CLASS_SEGMENTERS`; None takes either.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: of the matrix products: `auto`, `fp32`, `bf16`, `fp16`.

    Returns:
        An object with `segment(image) -> (C, H, W) scores`.

    Raises:
        UsageError: unknown name, device or dtype.
        WeightsError: the weights are missing, damaged or of another network.
    """
    network = load_class_model(weights, name=name, device=device)
    chosen = choose_device(device)
    kind = "classifier" if isinstance(network, Classifier) else "deeplabv3plus"
    return CLASS_SEGMENTERS[kind].wrap(network, device=chosen, dtype=choose_dtype(dtype, chosen))


def load_imagenet_start(network: nn.Module, name: str, path: Path) -> None:
    """Copies torchvision's ResNet-34 or VGG-16 into the encoder of a base model, in place.

    Args:
        network: a base model.
        name: its key in `SEGMENTERS`.
        path: a state dict as torchvision publishes it.

    Raises:
        UsageError: the published model has no such start.
        WeightsError: damaged file, or keys of another network.
    """
    if name not in _IMAGENET_KEYS:
        raise UsageError(
            f"init_from: {name} starts from fresh weights; "
            f"with ImageNet's start {', '.join(_IMAGENET_KEYS)}"
        )
    found: dict[str, Tensor] = {}
    for key, value in read_state_dict(path).items():
        if not key.startswith(_IMAGENET_DROPPED[name]):
            found[_rename(key, _IMAGENET_KEYS[name])] = value
    prefixes = tuple(ours.partition(r"\1")[0] for _, ours in _IMAGENET_KEYS[name])
    expected = {
        key: value
        for key, value in network.state_dict().items()
        if key.startswith(prefixes) and (key in found or not key.endswith(_COUNTER))
    }
    check_keys(path, found, expected)
    network.load_state_dict(found, strict=False)


def _check_class_name(name: str) -> None:
    if name not in CLASS_SEGMENTERS:
        raise UsageError(f"unknown network {name!r}; known: {', '.join(CLASS_SEGMENTERS)}")


def _rename(key: str, table: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in table:
        renamed, count = re.subn(theirs, ours, key)
        if count:
            return renamed
    return key
