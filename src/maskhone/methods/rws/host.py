"""The network that RWS trains or diagnoses: DeepLabv3, or anybody's own."""

import difflib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskhone.engine.checkpoints import read_state_dict
from maskhone.engine.weights import load_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.rws.attention import look
from maskhone.segmenters.deeplabv3 import DeepLabV3

DEEPLAB_LAYERS = tuple(f"backbone.layer{i}" for i in (1, 2, 3, 4))
"""The published choice: the last output of each of ResNet's clusters."""

_DEEPLABS = {"deeplabv3_resnet50": "resnet50", "deeplabv3_resnet101": "resnet101"}
_AUXILIARY = "aux_classifier."


def choose_layers(network_name: str, layers: Sequence[str]) -> tuple[str, ...]:
    """Returns the stages that are named, or those of a known network.

    Raises:
        UsageError: none are named for a network of one's own.
    """
    if layers:
        return tuple(layers)
    if network_name in _DEEPLABS:
        return DEEPLAB_LAYERS
    raise UsageError(f"network is {network_name!r}; name its stages in layers")


def build_host(name: str, num_classes: int) -> nn.Module:
    """Builds a network with fresh weights.

    Args:
        name: `deeplabv3_resnet50`, `deeplabv3_resnet101`, or `package.module:factory`.
        num_classes: handed to the factory by that name.

    Raises:
        UsageError: an unknown name, a module that cannot be imported, a factory that wants other
            arguments, or what is no `nn.Module`.
    """
    if name in _DEEPLABS:
        return DeepLabV3(_DEEPLABS[name], num_classes)
    factory = import_factory(name)
    try:
        network = factory(num_classes=num_classes)
    except TypeError as error:
        raise UsageError(f"{name}: calling it with num_classes={num_classes}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name} returns {type(network).__name__}; expected a torch nn.Module")
    return network


def import_factory(path: str) -> Any:
    """Imports `package.module:factory`.

    Raises:
        UsageError: no such module or attribute, or another form.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UsageError(
            f"network is {path!r}; expected {', '.join(_DEEPLABS)}, or package.module:factory"
        )
    try:
        with _working_directory_first():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"{path}: cannot import {module_name} ({error}); install it, or add its folder to "
            "PYTHONPATH"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        near = difflib.get_close_matches(attribute, vars(module), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"{path}: {module_name} has no function or class {attribute}{hint}")
    return factory


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """Lets modules below the working directory be imported, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a maskhone weight file, or of a checkpoint of PyTorch.

    Raises:
        WeightsError: missing, damaged, or not plain tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; download it, or leave the key out")
    return load_weights(path)[0] if path.suffix == ".safetensors" else read_state_dict(path)


def load_matching(
    network: nn.Module, state: Mapping[str, Tensor], *, num_classes: int, source: str = "weights"
) -> list[str]:
    """Copies weights into a network of any number of classes, in place.

    Last layers of another number of classes stay as they are, and so does a second head that the
    weights lack. Tensors that the network has no use for are left out.

    Returns:
        The network's own keys that stay as they are.

    Raises:
        WeightsError: another tensor is missing or does not fit.

    Source: RWS section 2.
    """
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    fresh = [key for key in own if key not in fitting]
    lost = [key for key in fresh if not _may_be_fresh(key, own[key], state.get(key), num_classes)]
    if lost:
        said = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise WeightsError(
            f"{source}: lacks {len(lost)} tensors of the network ({said}), or has them of other "
            "shapes; expected weights of the same network"
        )
    network.load_state_dict(fitting, strict=False)
    return fresh


def _may_be_fresh(key: str, own: Tensor, given: Tensor | None, num_classes: int) -> bool:
    if given is None:
        return key.startswith(_AUXILIARY)
    return own.ndim > 0 and len(own) == num_classes and own.shape[1:] == given.shape[1:]


def measure_outputs(
    network: nn.Module, layers: Sequence[str], side_px: int
) -> list[tuple[int, int, int]]:
    """Measures channels, height and width of each layer's output for a square picture.

    Raises:
        UsageError: an unknown layer, one whose output is no map, or no logits.
    """
    device = next(network.parameters()).device
    features, _ = look(network, torch.zeros(1, 3, side_px, side_px, device=device), layers)
    return [(len(one), one.shape[1], one.shape[2]) for one in features]
