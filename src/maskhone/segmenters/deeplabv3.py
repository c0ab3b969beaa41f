"""DeepLabv3 with ResNet-50 or ResNet-101: classes from an atrous pyramid at an eighth of the size.

B batch, C classes, H, W size of the input. Module names are torchvision's, so that its released
files load as they are. Written from the description alone (RWS section 2). Source: Chen et al.,
"Rethinking Atrous Convolution for Semantic Image Segmentation", 2017.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from maskhone.contracts import Image, Scores, check_image
from maskhone.errors import UsageError, WeightsError
from maskhone.nn.resnet import RESNET_COUNTS, ResNet

SIDE_PX = 520
"""Shorter side of the pictures as the released files were scored."""

NUM_CLASSES = 21
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RATES = (12, 24, 36)
_BACKBONES = ("resnet50", "resnet101")


class DeepLabV3(nn.Module):
    """Scores classes; returns `{"out": logits}`, with `"aux"` beside it where there is that head.

    Attributes:
        aux_classifier: a second head on the third stage, for training; None without.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = NUM_CLASSES,
        *,
        has_auxiliary: bool = True,
    ) -> None:
        super().__init__()
        if backbone not in _BACKBONES:
            raise UsageError(f"backbone is {backbone!r}; expected {', '.join(_BACKBONES)}")
        self.backbone = ResNet(
            RESNET_COUNTS[backbone], strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)
        )
        self.classifier = nn.Sequential(
            AtrousPyramid(ResNet.widths[-1], 256),
            *_conv(256, 256, 3),
            nn.Conv2d(256, num_classes, 1),
        )
        self.aux_classifier = _make_head(ResNet.widths[-2], num_classes) if has_auxiliary else None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Takes `(B, 3, H, W)` normalised RGB; returns logits `(B, C, H, W)`."""
        *_, middle, last = self.backbone(x)
        logits = {"out": self.classifier(last)}
        if self.aux_classifier is not None:
            logits["aux"] = self.aux_classifier(middle)
        return {name: _grow(value, x) for name, value in logits.items()}


class AtrousPyramid(nn.Module):
    """Sees the grid through five windows at once: a point, three dilated ones, and the mean."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                _conv(channels_in, channels, 1),
                *(_conv(channels_in, channels, 3, dilation=rate) for rate in _RATES),
                PooledBranch(channels_in, channels),
            ]
        )
        self.project = nn.Sequential(
            *_conv(len(self.convs) * channels, channels, 1), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the size of the grid."""
        projected: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], dim=1))
        return projected


class PooledBranch(nn.Sequential):
    """The mean of each channel, mixed and spread over the grid again.

    Its batch normalisation sees one value a picture: training needs batches of two or more.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv(channels_in, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the size of the grid."""
        y = x
        for module in self:
            y = module(y)
        return _grow(y, x)


def _conv(channels_in: int, channels: int, side: int, *, dilation: int = 1) -> nn.Sequential:
    padding = dilation if side > 1 else 0
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, side, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def _make_head(channels_in: int, num_classes: int) -> nn.Sequential:
    inner = channels_in // 4
    return nn.Sequential(
        *_conv(channels_in, inner, 3), nn.Dropout(0.1), nn.Conv2d(inner, num_classes, 1)
    )


def _grow(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def build_like(backbone: str, state: Mapping[str, Tensor]) -> DeepLabV3:
    """Builds the network that a state dict is of: its classes, with the second head or without."""
    bias = state.get("classifier.4.bias")
    if bias is None:
        raise WeightsError("the tensors lack classifier.4.bias; expected those of a DeepLabv3")
    has_auxiliary = any(key.startswith("aux_classifier.") for key in state)
    return DeepLabV3(backbone, len(bias), has_auxiliary=has_auxiliary)


@dataclass(frozen=True, kw_only=True)
class DeepLabV3Segmenter:
    """Scores classes of pictures.

    Attributes:
        network: in eval mode, on `device`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        side_px: shorter side that the network sees; 0 takes pictures as they are.
    """

    network: nn.Module
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    side_px: int = SIDE_PX

    def segment(self, image: Image) -> Scores:
        """Returns `(C, H, W)` probabilities at the picture's size; class 0 is the background."""
        check_image(image)
        inputs = torch.from_numpy(prepare_image(image, self.side_px))[None].to(self.device)
        is_mixed = self.dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=self.dtype, enabled=is_mixed),
        ):
            logits = self.network(inputs)["out"].float()
            sized = interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)
        scores: Scores = sized[0].softmax(dim=0).cpu().numpy()
        return scores


def prepare_image(image: Image, side_px: int = 0) -> NDArray[np.float32]:
    """Turns a picture into normalised `(3, h, w)`; its shorter side becomes `side_px`, or stays."""
    if side_px:
        scale = side_px / min(image.shape[:2])
        size_wh = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, size_wh, interpolation=how), dtype=np.uint8)
    mean, deviation = (np.array(values, dtype=np.float32) for values in (MEAN, STD))
    scaled = (image.astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)
