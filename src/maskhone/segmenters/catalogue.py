"""The list of base models, and the one door through which they are made.

A model's module is imported when the model is made, so that listing them needs no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskhone.contracts import Segmenter
from maskhone.errors import UsageError, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """One entry of the catalogue.

    Attributes:
        summary: what it scores, in a line.
        data: what the published weights were trained on.
        published: name of the authors' file.
        build: makes the untrained network.
        wrap: makes the segmenter from a network and keywords `device`, `dtype` and `side_px`.
    """

    summary: str
    data: str
    published: str
    build: "Callable[[], nn.Module]"
    wrap: Callable[..., Segmenter]


@dataclass(frozen=True, kw_only=True)
class ClassSegmenter:
    """A network for several classes, whose body and number of classes its weights tell.

    Attributes:
        summary: what it scores, in a line.
        data: what the published weights were trained on.
        published: name of the authors' file; empty where they go by names of all kinds.
        wrap: makes the segmenter from a network and keywords `device` and `dtype`.
    """

    summary: str
    data: str
    published: str
    wrap: Callable[..., Segmenter]


DEEPLABV3 = {"deeplabv3_resnet50": "resnet50", "deeplabv3_resnet101": "resnet101"}
"""Our names, and the backbone of each."""

RELEASED_DEEPLABV3 = {
    "deeplabv3_resnet50_coco-cd0a2569.pth": "deeplabv3_resnet50",
    "deeplabv3_resnet101_coco-586e9e4e.pth": "deeplabv3_resnet101",
}
"""torchvision's files: COCO pictures, the 20 classes of VOC and the background."""


def make_segmenter(
    name: str,
    state: "Mapping[str, Tensor]",
    *,
    device: "torch.device",
    source: str = "weights",
    **options: Any,
) -> Segmenter:
    """Makes a segmenter of a network's tensors.

    Args:
        name: a key of `SEGMENTERS`.
        state: a state dict with the published keys.
        device: where to compute.
        source: what to call the tensors in a message.
        options: `dtype` of the matrix products, and `side_px` of what the network sees.

    Raises:
        UsageError: unknown name.
        WeightsError: tensors of another network.
    """
    network = build_network(name)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{source}: these are not the weights of {name}: {error}") from error
    ready = network.eval().requires_grad_(False).to(device)
    return SEGMENTERS[name].wrap(ready, device=device, **options)


def build_network(name: str) -> "nn.Module":
    """Builds an untrained network.

    Raises:
        UsageError: unknown name.

    Example:
        >>> list(SEGMENTERS)
        ['dlinknet34', 'pfanet', 'resunetpp']
    """
    if name not in SEGMENTERS:
        raise UsageError(f"unknown base model {name!r}; known: {', '.join(SEGMENTERS)}")
    return SEGMENTERS[name].build()


def _build_dlinknet() -> "nn.Module":
    from maskhone.segmenters.dlinknet import DLinkNet34

    return DLinkNet34()


def _wrap_dlinknet(network: Any, **options: Any) -> Segmenter:
    from maskhone.segmenters.dlinknet import DLinkNetSegmenter

    return DLinkNetSegmenter(network=network, **options)


def _build_pfanet() -> "nn.Module":
    from maskhone.segmenters.pfanet import PFANet

    return PFANet()


def _wrap_pfanet(network: Any, **options: Any) -> Segmenter:
    from maskhone.segmenters.pfanet import PFANetSegmenter

    return PFANetSegmenter(network=network, **options)


def _build_resunetpp() -> "nn.Module":
    from maskhone.segmenters.resunetpp import ResUNetPlusPlus

    return ResUNetPlusPlus()


def _wrap_resunetpp(network: Any, **options: Any) -> Segmenter:
    from maskhone.segmenters.resunetpp import ResUNetPlusPlusSegmenter

    return ResUNetPlusPlusSegmenter(network=network, **options)


def _wrap_classifier(network: Any, **options: Any) -> Segmenter:
    from maskhone.segmenters.classifier import ClassifierSegmenter

    return ClassifierSegmenter(network=network, **options)


def _wrap_deeplab(network: Any, **options: Any) -> Segmenter:
    from maskhone.segmenters.deeplabv3plus import DeepLabSegmenter

    return DeepLabSegmenter(network=network, **options)


SEGMENTERS: dict[str, BaseModel] = {
    "dlinknet34": BaseModel(
        summary="D-LinkNet34: roads in aerial pictures",
        data="DeepGlobe roads",
        published="dlinknet_weights.th",
        build=_build_dlinknet,
        wrap=_wrap_dlinknet,
    ),
    "pfanet": BaseModel(
        summary="PFANet: salient objects",
        data="DUTS",
        published="best-model_epoch-204_mae-0.0505_loss-0.1370.pth",
        build=_build_pfanet,
        wrap=_wrap_pfanet,
    ),
    "resunetpp": BaseModel(
        summary="ResUNet++: polyps in endoscopy",
        data="Kvasir-SEG",
        published="resunetplusplus_weights.th",
        build=_build_resunetpp,
        wrap=_wrap_resunetpp,
    ),
}

CLASS_SEGMENTERS: dict[str, ClassSegmenter] = {
    "classifier": ClassSegmenter(
        summary="Puzzle-CAM's classifier: class maps learned from image labels",
        data="PASCAL VOC 2012, image labels",
        published="ResNeSt101@Puzzle@optimal.pth",
        wrap=_wrap_classifier,
    ),
    "deeplabv3plus": ClassSegmenter(
        summary="DeepLabv3+ trained on pseudo labels",
        data="PASCAL VOC 2012, image labels",
        published="",
        wrap=_wrap_deeplab,
    ),
}
