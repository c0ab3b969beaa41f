"""Residual blocks, stages and the body of ResNet-50/101/152, with torchvision's parameter names.

B batch, C channels. Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016;
version 1.5, whose stride lies on the 3x3 convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from maskhone.nn.norms import MakeNorm

RESNET_COUNTS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
"""Bottlenecks in each of the four stages (He et al., table 1)."""

STAGE_WIDTHS = (64, 128, 256, 512)
"""Channels inside the bottlenecks of the four stages; four times as many come out."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; their result is added to the input, or to a projection of it.

    Attributes:
        expansion: channels that come out, by `width`.
    """

    expansion = 1

    def __init__(self, channels_in: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = make_shortcut(channels_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `width` channels at `1 / stride` of the size."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the result is added to the input, or to a projection of it.

    Attributes:
        expansion: channels that come out, by `width`.
    """

    expansion = 4

    def __init__(
        self,
        channels_in: int,
        width: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = norm(channels_out)
        self.downsample = make_shortcut(channels_in, channels_out, stride, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `4 * width` channels at `1 / stride` of the size, rounded up."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """The body of a ResNet of bottlenecks, without the classifying layer.

    Attributes:
        widths: channels of the five outputs.
    """

    widths = (64, 256, 512, 1024, 2048)

    def __init__(
        self,
        counts: Sequence[int],
        *,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        """Builds it with fresh weights.

        Args:
            counts: bottlenecks of the four stages, as in `RESNET_COUNTS`.
            strides: of the first bottleneck of each stage.
            dilations: of the 3x3 convolutions of each stage; its first bottleneck keeps the
                dilation of the stage before. Strides (1, 2, 1, 1) with dilations (1, 1, 2, 4) are
                torchvision's `replace_stride_with_dilation=[False, True, True]`, output stride 8.
            norm: makes the normalisations.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        previous = 1
        for level, width in enumerate(STAGE_WIDTHS):
            first = Bottleneck(
                self.widths[level], width, stride=strides[level], dilation=previous, norm=norm
            )
            others = [
                Bottleneck(self.widths[level + 1], width, dilation=dilations[level], norm=norm)
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


def initialise_convolutions(network: nn.Module) -> None:
    """Draws every convolution anew by Kaiming's rule on its outputs in a group, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            channels, _, height, width = module.weight.shape
            fan_out = channels // module.groups * height * width
            nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)


def make_stage(
    block: type[BasicBlock], channels_in: int, width: int, *, count: int, stride: int = 1
) -> nn.Sequential:
    """Makes `count` blocks in a row; the first of them changes size and channels."""
    first = block(channels_in, width, stride=stride)
    others = [block(width * block.expansion, width) for _ in range(count - 1)]
    return nn.Sequential(first, *others)


def make_shortcut(
    channels_in: int, channels_out: int, stride: int, *, norm: MakeNorm = nn.BatchNorm2d
) -> nn.Sequential:
    """Makes what fits the input to the result: a projection, or nothing where they agree."""
    if stride == 1 and channels_in == channels_out:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
        norm(channels_out),
    )
