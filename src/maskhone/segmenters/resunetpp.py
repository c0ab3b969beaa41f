"""ResUNet++: polyps in endoscopy; the base model of PatchRefineNet on Kvasir-SEG.

B batch, C channels; S the side of the square that the network sees. Module names are those of the
published checkpoint, so that its keys are ours. Written from the description alone (PatchRefineNet
section 10.3). Source: Jha et al., "ResUNet++", ISM 2019.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from maskhone.contracts import Image, Scores, check_image
from maskhone.segmenters.forward import compute_scores
from maskhone.segmenters.squares import resize_scores, shrink_to_square

SIDE_PX = 512
_WIDTHS = (32, 64, 128, 256, 512)
_DILATIONS = (6, 12, 18)
_SQUEEZE = 16


class ResUNetPlusPlus(nn.Module):
    """Returns `(B, 1, H, W)` logits; height and width of its input are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        w0, w1, w2, w3, w4 = _WIDTHS
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, w0, 3, padding=1),
            nn.BatchNorm2d(w0),
            nn.ReLU(),
            nn.Conv2d(w0, w0, 3, padding=1),
        )
        self.input_skip = nn.Sequential(nn.Conv2d(3, w0, 3, padding=1))
        for level in (1, 2, 3):
            given, made = _WIDTHS[level - 1 : level + 1]
            self.add_module(f"squeeze_excite{level}", SqueezeExcite(given))
            self.add_module(f"residual_conv{level}", ResidualConv(given, made, stride=2))
        self.aspp_bridge = DilatedPyramid(w3, w4)
        self.attn1 = Attention(w2, w4)
        self.up_residual_conv1 = ResidualConv(w4 + w2, w3)
        self.attn2 = Attention(w1, w3)
        self.up_residual_conv2 = ResidualConv(w3 + w1, w2)
        self.attn3 = Attention(w0, w2)
        self.up_residual_conv3 = ResidualConv(w2 + w0, w1)
        self.aspp_out = DilatedPyramid(w1, w0)
        self.output_layer = nn.Sequential(nn.Conv2d(w0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(B, 3, H, W)` blue green red from 0 to 1."""
        x = self.input_layer(x) + self.input_skip(x)
        skips: list[Tensor] = []
        for level in (1, 2, 3):
            skips.insert(0, x)
            x = self.get_submodule(f"squeeze_excite{level}")(x)
            x = self.get_submodule(f"residual_conv{level}")(x)
        x = self.aspp_bridge(x)
        for level, skip in enumerate(skips, start=1):
            weighed = self.get_submodule(f"attn{level}")(skip, x)
            size_hw = skip.shape[2:]
            larger = interpolate(weighed, size=size_hw, mode="bilinear", align_corners=False)
            joined = torch.cat([larger, skip], dim=1)
            x = self.get_submodule(f"up_residual_conv{level}")(joined)
        logits: Tensor = self.output_layer(self.aspp_out(x))
        return logits


class SqueezeExcite(nn.Module):
    """Scales each channel by what the averages of all channels say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // _SQUEEZE, bias=False),
            nn.ReLU(),
            nn.Linear(channels // _SQUEEZE, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        scaled: Tensor = x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]
        return scaled


class ResidualConv(nn.Module):
    """Two convolutions, each behind its norm, beside one convolution of the raw input."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        self.conv_skip = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns `channels_out` channels at `1 / stride` of the size."""
        summed: Tensor = self.conv_block(x) + self.conv_skip(x)
        return summed


class DilatedPyramid(nn.Module):
    """Three convolutions of different reach side by side, then one over their results."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        for i, dilation in enumerate(_DILATIONS, start=1):
            conv = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)
            # The norm comes last, against the habit; so in the published network.
            block = nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(channels_out))
            self.add_module(f"aspp_block{i}", block)
        self.output = nn.Conv2d(len(_DILATIONS) * channels_out, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `channels_out` channels of the same size."""
        blocks = (self.get_submodule(f"aspp_block{i}") for i in (1, 2, 3))
        joined: Tensor = self.output(torch.cat([block(x) for block in blocks], dim=1))
        return joined


class Attention(nn.Module):
    """Weighs each position of the decoder's features; the weight is not squashed."""

    def __init__(self, channels_encoder: int, channels_decoder: int) -> None:
        super().__init__()
        inner = channels_decoder
        self.conv_encoder = _norm_conv(channels_encoder, inner, kernel=3)
        self.conv_encoder.append(nn.MaxPool2d(2))
        self.conv_decoder = _norm_conv(channels_decoder, inner, kernel=3)
        self.conv_attn = _norm_conv(inner, 1, kernel=1)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Keeps the shape of `decoded`, which is half as large as `encoded`."""
        weight = self.conv_attn(self.conv_encoder(encoded) + self.conv_decoder(decoded))
        weighed: Tensor = weight * decoded
        return weighed


def _norm_conv(channels_in: int, channels_out: int, *, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels_in),
        nn.ReLU(),
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2),
    )


@dataclass(frozen=True, kw_only=True)
class ResUNetPlusPlusSegmenter:
    """Scores polyps.

    Attributes:
        network: in eval mode, on `device`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        side_px: of the square that the network sees; a multiple of 8.
    """

    network: ResUNetPlusPlus
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
    """Turns a picture into `(3, S, S)`: blue green red from 0 to 1, its shape not kept."""
    square = shrink_to_square(image[..., ::-1], side_px).astype(np.float32) / 255.0
    return np.ascontiguousarray(square.transpose(2, 0, 1), dtype=np.float32)
