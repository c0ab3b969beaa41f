"""Residual blocks and stages with the parameter names of torchvision.

C channels. Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

import torch
from torch import Tensor, nn


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


def make_stage(
    block: type[BasicBlock], channels_in: int, width: int, *, count: int, stride: int = 1
) -> nn.Sequential:
    """Makes `count` blocks in a row; the first of them changes size and channels."""
    first = block(channels_in, width, stride=stride)
    others = [block(width * block.expansion, width) for _ in range(count - 1)]
    return nn.Sequential(first, *others)


def make_shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """Makes what fits the input to the result: a projection, or nothing where they agree."""
    if stride == 1 and channels_in == channels_out:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )
