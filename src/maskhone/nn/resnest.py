"""The body of ResNeSt-50/101/200/269, with the parameter names of its released weights.

B batch, C channels. Written from the description alone (PerimeterFit section 1.1).
Source: Zhang et al., "ResNeSt: Split-Attention Networks", CVPRW 2022, at radix 2, cardinality 1,
bottleneck width 64, with average pooling for strides.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

from maskhone.nn.norms import MakeNorm
from maskhone.nn.resnet import STAGE_WIDTHS, initialise_convolutions

RESNEST_COUNTS = {
    "resnest50": (3, 4, 6, 3),
    "resnest101": (3, 4, 23, 3),
    "resnest200": (3, 24, 36, 3),
    "resnest269": (3, 30, 48, 8),
}
"""Bottlenecks in each of the four stages."""

STEM_WIDTHS = {"resnest50": 32, "resnest101": 64, "resnest200": 64, "resnest269": 64}
"""Channels of the stem's first two convolutions; twice as many leave it."""

_RADIX = 2
_EXPANSION = 4
_LEAST_ATTENTION_WIDTH = 32


class SplitAttention(nn.Module):
    """Two 3x3 convolutions side by side, mixed channel by channel with weights that sum to one."""

    def __init__(self, channels: int, *, dilation: int = 1, norm: MakeNorm = nn.BatchNorm2d):
        super().__init__()
        split = channels * _RADIX
        inner = max(split // 4, _LEAST_ATTENTION_WIDTH)
        self.conv = nn.Conv2d(
            channels, split, 3, padding=dilation, dilation=dilation, groups=_RADIX, bias=False
        )
        self.bn0 = norm(split)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.bn1 = norm(inner)
        self.fc2 = nn.Conv2d(inner, split, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        halves_BRCHW = _split(torch.relu(self.bn0(self.conv(x))))
        gap_BC11 = halves_BRCHW.sum(dim=1).mean(dim=(2, 3), keepdim=True)
        attention = self.fc2(torch.relu(self.bn1(self.fc1(gap_BC11))))
        attention_BRC11 = _split(attention).softmax(dim=1)
        return (attention_BRC11 * halves_BRCHW).sum(dim=1)


class SplitBottleneck(nn.Module):
    """A bottleneck whose 3x3 convolution is a split attention; strides are average pools."""

    def __init__(
        self,
        channels_in: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        pools: bool = False,
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        """Builds it.

        Args:
            channels_in: of the input.
            width: channels inside; four times as many come out.
            stride: of the pooling.
            dilation: of the 3x3 convolutions.
            pools: whether a 3x3 average pool follows them, at stride 1 too.
            norm: makes the normalisations.
        """
        super().__init__()
        channels_out = width * _EXPANSION
        self.pool_stride = stride if pools else 0
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = SplitAttention(width, dilation=dilation, norm=norm)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = norm(channels_out)
        self.downsample = nn.Sequential()
        if stride > 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(channels_in, channels_out, 1, bias=False),
                norm(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns `4 * width` channels at `1 / stride` of the size, rounded up."""
        y = self.conv2(torch.relu(self.bn1(self.conv1(x))))
        if self.pool_stride:
            y = avg_pool2d(y, 3, self.pool_stride, padding=1, count_include_pad=True)
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNeSt(nn.Module):
    """The body of a ResNeSt, without the classifying layer.

    Attributes:
        widths: channels of the five outputs.
    """

    widths: tuple[int, int, int, int, int]

    def __init__(
        self,
        counts: Sequence[int],
        *,
        stem_width: int,
        strides: Sequence[int] = (1, 2, 2, 1),
        dilations: Sequence[int] = (1, 1, 1, 2),
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        """Builds it with fresh weights.

        Args:
            counts: bottlenecks of the four stages, as in `RESNEST_COUNTS`.
            stem_width: as in `STEM_WIDTHS`.
            strides: of the first bottleneck of each stage; by default output stride 16.
            dilations: of the convolutions of each stage; its first bottleneck keeps the dilation
                of the stage before.
            norm: makes the normalisations.
        """
        super().__init__()
        self.widths = (2 * stem_width, 256, 512, 1024, 2048)
        self.conv1 = _make_stem(stem_width, norm)
        self.bn1 = norm(self.widths[0])
        previous = 1
        for level, width in enumerate(STAGE_WIDTHS):
            first = SplitBottleneck(
                self.widths[level],
                width,
                stride=strides[level],
                dilation=previous,
                pools=level > 0,
                norm=norm,
            )
            others = [
                SplitBottleneck(self.widths[level + 1], width, dilation=dilations[level], norm=norm)
                for _ in range(counts[level] - 1)
            ]
            self.add_module(f"layer{level + 1}", nn.Sequential(first, *others))
            previous = dilations[level]
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the stem's output, at a quarter of the size, and that of the four stages."""
        x = max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        outputs = [x]
        for level in (1, 2, 3, 4):
            outputs.append(self.get_submodule(f"layer{level}")(outputs[-1]))
        return outputs


def _split(x: Tensor) -> Tensor:
    """Views `(B, R * C, H, W)` as `(B, R, C, H, W)`."""
    return x.reshape(len(x), _RADIX, -1, *x.shape[2:])


def _make_stem(width: int, norm: MakeNorm) -> nn.Sequential:
    """Makes three 3x3 convolutions in place of one of 7x7 (He et al., "Bag of Tricks", 2019)."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        norm(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        norm(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
    )
