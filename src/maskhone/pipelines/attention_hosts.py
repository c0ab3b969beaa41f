"""Which network a diagnosis looks at: by name, by import path, by recipe, or by its weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from maskhone.engine.weights import read_header
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.rws.host import (
    build_host,
    choose_layers,
    load_matching,
    measure_outputs,
    read_tensors,
)
from maskhone.pipelines.segmenters import load_class_model
from maskhone.pipelines.train import read_recipe
from maskhone.segmenters.catalogue import DEEPLABV3, SEGMENTERS, build_network
from maskhone.segmenters.deeplabv3 import MEAN, STD

NAMES = (*DEEPLABV3, "deeplabv3plus", *SEGMENTERS)
"""Networks that need no import path."""

_NUM_CLASSES = 21
_CHECK_PX = 64  # a picture to try the layers on
_STEP_PX = 32  # sides of what base models of one class see are multiples of it
_RANGE = 1.6  # D-LinkNet's colours, see `segmenters.dlinknet`

_INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dlinknet34": lambda rgb: rgb.flip(1) * (2 * _RANGE) - _RANGE,
    "pfanet": lambda rgb: (rgb - _spread(MEAN, rgb)) / _spread(STD, rgb),
    "resunetpp": lambda rgb: rgb.flip(1),
}
"""What each base model of one class makes of RGB in [0, 1]."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Host:
    """A network to look at.

    Attributes:
        network: takes normalised RGB of any size.
        layers: names of its stages.
        num_classes: of its labels.
    """

    network: nn.Module
    layers: tuple[str, ...]
    num_classes: int


def load_host(
    network: str, weights: Path | None, layers: Sequence[str], num_classes: int = 0
) -> Host:
    """Builds the network and tries its layers, before any picture is read.

    Args:
        network: `package.module:factory`; a name: `deeplabv3_resnet50`, `deeplabv3_resnet101`,
            `deeplabv3plus`, `dlinknet34`, `pfanet` or `resunetpp`; a recipe of `maskhone train`,
            whose network, layers and number of classes count, with weights; or empty: what the
            weights are of.
        weights: maskhone file, or `.pth` of the network's tensors. None takes a network of one's
            own as its factory makes it.
        layers: names of its stages in their order; DeepLabv3's, and those of weights that RWS
            trained, are known.
        num_classes: outputs of the network; 0 takes what weights or recipe say, else 21.

    Raises:
        UsageError: an unknown network or layer, or weights left out that are needed.
        WeightsError: weights are missing or of another network.
        InputError: the recipe cannot be read.
    """
    header: dict[str, Any] = {}
    if weights is not None and weights.suffix == ".safetensors":
        header = read_header(weights)
    told = {**header.get("config", {}), **_read_recipe(network)}
    name = str(told.get("network") or network or header.get("method", ""))
    if not name:
        raise UsageError("name the network, or give weights that maskhone wrote")
    if ":" not in name and name not in NAMES:
        raise UsageError(
            f"network is {name!r}; expected {', '.join(NAMES)}, package.module:factory, or a "
            "recipe.toml"
        )
    if weights is None and network.endswith(".toml"):
        raise UsageError(
            f"{network}: a recipe names a network, not what it learnt; give its weights, too "
            "(--weights), or where the factory reads them, its import path in place of the recipe"
        )
    if weights is None and ":" not in name:
        raise UsageError(f"network is {name!r}; give its weights, too: fresh ones attend to noise")
    outputs = 2 if name in SEGMENTERS else num_classes or int(told.get("num_classes", _NUM_CLASSES))
    host = _build(name, weights, outputs)
    try:
        names = choose_layers(name, layers or told.get("layers", ()))
    except UsageError as error:
        known = ", ".join(child for child, _ in host.named_children())
        raise UsageError(f"{error} (--layer); the network's own parts are {known}") from error
    measure_outputs(host.eval(), names, _CHECK_PX)
    return Host(network=host, layers=names, num_classes=outputs)


def _read_recipe(network: str) -> dict[str, Any]:
    """Reads what a recipe says of its network; nothing where none is named."""
    if not network.endswith(".toml"):
        return {}
    recipe = read_recipe(Path(network))
    name = recipe.get("network") if recipe.get("method") == "rws" else recipe.get("method")
    if ":" not in str(name) and name not in NAMES:
        raise UsageError(f"{network}: is of {name}; expected rws, or one of {', '.join(NAMES)}")
    kept = [key for key in ("layers", "num_classes") if key in recipe]
    return {"network": name, **{key: recipe[key] for key in kept}}


def _build(name: str, weights: Path | None, num_classes: int) -> nn.Module:
    if name in SEGMENTERS:
        assert weights is not None
        return _build_base_model(name, weights)
    if name == "deeplabv3plus":
        return load_class_model(str(weights), name=name, device="cpu").requires_grad_()
    host = build_host(name, num_classes)
    if weights is not None:
        load_matching(host, read_tensors(weights), num_classes=num_classes, source=str(weights))
    return host


def _build_base_model(name: str, weights: Path) -> nn.Module:
    """Builds a base model of one class; it takes what other networks take, by a hook before it."""
    network = build_network(name)
    try:
        network.load_state_dict(read_tensors(weights))
    except RuntimeError as error:
        raise WeightsError(f"{weights}: these are not the weights of {name}: {error}") from error

    def convert(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        x = inputs[0]
        size_hw = [max(round(side / _STEP_PX), 1) * _STEP_PX for side in x.shape[-2:]]
        rgb = x * _spread(STD, x) + _spread(MEAN, x)
        sized = interpolate(rgb, size=size_hw, mode="bilinear", align_corners=False)
        return _INPUTS[name](sized)

    network.register_forward_pre_hook(convert)
    return network


def _spread(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
