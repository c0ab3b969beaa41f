"""D-LinkNet34: roads in aerial pictures; the base model of PatchRefineNet on DeepGlobe.

B batch, C channels; S the side of the square that the network sees. Module names are those of the
published checkpoint, so that its keys are ours. Written from the description alone (PatchRefineNet
section 10.1). Source: Zhou et al., "D-LinkNet", CVPRW 2018.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from maskhone.contracts import Image, Scores, check_image
from maskhone.nn.resnet import BasicBlock, make_stage
from maskhone.segmenters.forward import compute_scores
from maskhone.segmenters.squares import resize_scores, shrink_to_square

SIDE_PX = 512
_COUNTS = (3, 4, 6, 3)  # ResNet-34
_WIDTHS = (64, 128, 256, 512)
_DILATIONS = (1, 2, 4, 8)
_RANGE = 1.6  # colours 0..255 become -1.6..1.6


class DLinkNet34(nn.Module):
    """Returns `(B, 1, H, W)` logits; height and width of its input are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.firstconv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.firstbn = nn.BatchNorm2d(64)
        for level, width in enumerate(_WIDTHS):
            stride, given = (2, _WIDTHS[level - 1]) if level else (1, 64)
            stage = make_stage(BasicBlock, given, width, count=_COUNTS[level], stride=stride)
            self.add_module(f"encoder{level + 1}", stage)
        self.dblock = DilatedCentre(_WIDTHS[-1])
        for level in (4, 3, 2, 1):
            narrower = _WIDTHS[max(level - 2, 0)]
            self.add_module(f"decoder{level}", UpBlock(_WIDTHS[level - 1], narrower))
        self.finaldeconv1 = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)
        self.finalconv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.finalconv3 = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(B, 3, H, W)` blue green red from -1.6 to 1.6."""
        x = torch.relu(self.firstbn(self.firstconv(x)))
        x = max_pool2d(x, 3, stride=2, padding=1)
        skips = []
        for level in (1, 2, 3, 4):
            x = self.get_submodule(f"encoder{level}")(x)
            skips.append(x)
        x = self.dblock(x)
        for level in (4, 3, 2):
            x = self.get_submodule(f"decoder{level}")(x) + skips[level - 2]
        x = self.get_submodule("decoder1")(x)
        x = torch.relu(self.finaldeconv1(x))
        logits: Tensor = self.finalconv3(torch.relu(self.finalconv2(x)))
        return logits


class DilatedCentre(nn.Module):
    """Convolutions of growing reach in a row; the results of all are added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for i, dilation in enumerate(_DILATIONS, start=1):
            conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
            self.add_module(f"dilate{i}", conv)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        total = x
        for conv in self.children():
            x = torch.relu(conv(x))
            total = total + x
        return total


class UpBlock(nn.Module):
    """Doubles the size by a transposed convolution on a quarter of the channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        inner = channels_in // 4
        self.conv1 = nn.Conv2d(channels_in, inner, 1)
        self.norm1 = nn.BatchNorm2d(inner)
        self.deconv2 = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1)
        self.norm3 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `channels_out` channels at twice the size."""
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.deconv2(x)))
        return torch.relu(self.norm3(self.conv3(x)))


@dataclass(frozen=True, kw_only=True)
class DLinkNetSegmenter:
    """Scores roads.

    Attributes:
        network: in eval mode, on `device`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        side_px: of the square that the network sees; a multiple of 32.
    """

    network: DLinkNet34
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    side_px: int = SIDE_PX

    def segment(self, image: Image) -> Scores:
        """Returns `(1, H, W)` scores at the picture's size."""
        return resize_scores(self.score_square(image), image.shape[:2])

    def score_square(self, image: Image) -> Scores:
        """Returns `(1, S, S)` scores as the network makes them, which PatchRefineNet refines."""
        check_image(image)
        inputs = prepare_image(image, self.side_px)
        return compute_scores(self.network, inputs, device=self.device, dtype=self.dtype)


def prepare_image(image: Image, side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Turns a picture into `(3, S, S)`: blue green red from -1.6 to 1.6, its shape not kept."""
    square = shrink_to_square(image[..., ::-1], side_px).astype(np.float32)
    scaled = square / 255.0 * (2 * _RANGE) - _RANGE
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)
