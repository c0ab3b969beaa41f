"""The refinement network: HRNetV2 with a second stem for the mask, and a small convolutional head.

B batch, S side of the input, w width of the finest branch (branches have w, 2w, 4w, 8w channels).
Module names are those of the published checkpoints (tinyalpha/BPR on mmsegmentation 0.7), so that
their keys are ours. Source: Sun et al., "High-Resolution Representations for Labeling Pixels and
Regions", 2019; BPR section 3.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.utils.fusion import fuse_conv_bn_eval

RGB_MEAN = (123.675, 116.28, 103.53)  # ImageNet, 0..255 scale; tinyalpha/BPR configs
RGB_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class HRNetSpec:
    """How wide and deep: branch width, layer1 bottlenecks, blocks per branch, modules per stage."""

    width: int
    bottlenecks: int
    blocks: int
    modules: tuple[int, int, int]


HRNETS = {
    "hrnet18s": HRNetSpec(width=18, bottlenecks=2, blocks=2, modules=(1, 3, 2)),
    "hrnet48": HRNetSpec(width=48, bottlenecks=4, blocks=4, modules=(1, 4, 3)),
}
"""HRNetV2-W18-small and HRNetV2-W48 (open-mmlab/mmsegmentation:configs/_base_/models)."""


class BPRNetwork(nn.Module):
    """Reads an RGB patch and its coarse mask, returns logits of background and foreground."""

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(self, spec: HRNetSpec) -> None:
        super().__init__()
        self.backbone = MaskedHRNet(spec)
        self.decode_head = Head(15 * spec.width)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (RGB_MEAN, RGB_STD))
        self.register_buffer("rgb_mean", mean, persistent=False)
        self.register_buffer("rgb_std", std, persistent=False)

    def prepare(self, rgb_B3SS: Tensor, score_B1SS: Tensor) -> Tensor:
        """Joins RGB in 0..255 and scores in [0, 1] to the normalised `(B, 4, S, S)` input."""
        rgb = (rgb_B3SS - self.rgb_mean) * (1 / self.rgb_std)
        return torch.cat([rgb, 2 * score_B1SS - 1], dim=1)

    def forward(self, input_B4SS: Tensor) -> Tensor:
        """Returns `(B, 2, S/4, S/4)` logits; the fourth input channel is the mask in [-1, 1]."""
        logits: Tensor = self.decode_head(self.backbone(input_B4SS))
        return logits


class MaskedHRNet(nn.Module):
    """HRNetV2 whose first convolution is joined by one that reads the mask."""

    def __init__(self, spec: HRNetSpec) -> None:
        super().__init__()
        widths = [spec.width * 2**i for i in range(4)]
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(
            Bottleneck(64, shrinks=True), *(Bottleneck(256) for _ in range(spec.bottlenecks - 1))
        )
        self.transition1 = nn.ModuleList(
            [_conv_bn_relu(256, widths[0]), nn.Sequential(_conv_bn_relu(256, widths[1], stride=2))]
        )
        self.stage2 = _stage(widths[:2], spec.blocks, spec.modules[0])
        self.transition2 = _new_branch(widths[1], widths[2], n_passed=2)
        self.stage3 = _stage(widths[:3], spec.blocks, spec.modules[1])
        self.transition3 = _new_branch(widths[2], widths[3], n_passed=3)
        self.stage4 = _stage(widths, spec.blocks, spec.modules[2])
        self.conv_mask = nn.Conv2d(1, 64, 3, stride=2, padding=1, bias=False)

    def stem(self, input_B4SS: Tensor) -> Tensor:
        """Adds the image's and the mask's first convolutions, before normalisation."""
        stem: Tensor = self.conv1(input_B4SS[:, :3]) + self.conv_mask(input_B4SS[:, 3:])
        return stem

    def forward(self, input_B4SS: Tensor) -> list[Tensor]:
        """Returns the four branches, finest (stride 4) first."""
        x = torch.relu(self.bn1(self.stem(input_B4SS)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        branches: list[Tensor] = self.stage2([grow(x) for grow in self.transition1])
        branches = self.stage3([*branches, self.transition2[-1](branches[-1])])
        branches = self.stage4([*branches, self.transition3[-1](branches[-1])])
        return branches


class Head(nn.Module):
    """Brings all branches to the finest size and classifies every pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(channels, 2, 1)
        self.convs = nn.ModuleList([ConvBN(channels)])

    def forward(self, branches: list[Tensor]) -> Tensor:
        """Returns `(B, 2, S/4, S/4)` logits."""
        joined = torch.cat([resize(x, branches[0].shape[2:]) for x in branches], dim=1)
        logits: Tensor = self.conv_seg(torch.relu(self.convs[0](joined)))
        return logits


class ConvBN(nn.Module):
    """A 1x1 convolution and its norm under the names `conv` and `bn`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        x = self.bn(self.conv(x))
        return x


class HRModule(nn.Module):
    """Parallel branches of different stride that end in exchanging what they found."""

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_exchange(widths, source=j, goal=i) for j in range(len(widths)))
            for i in range(len(widths))
        )

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Takes and returns one tensor per branch, finest first."""
        found = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        return [self._fuse(found, i) for i in range(len(found))]

    def _fuse(self, found: list[Tensor], goal: int) -> Tensor:
        size_hw = found[goal].shape[2:]
        layers = self.fuse_layers[goal]
        assert isinstance(layers, nn.ModuleList)
        total = resize(layers[0](found[0]), size_hw)
        for layer, x in zip(list(layers)[1:], found[1:], strict=True):
            total = total + resize(layer(x), size_hw)
        return torch.relu(total)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Bottleneck(nn.Module):
    """The 64-64-256 block of layer1."""

    def __init__(self, channels: int, *, shrinks: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = nn.Conv2d(64, 256, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(256)
        self.downsample: nn.Module | None = None
        if shrinks:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Returns 256 channels of the same size."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(
            self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        )


def resize(x: Tensor, size_hw: torch.Size | tuple[int, int]) -> Tensor:
    """Resizes `(B, C, H, W)` bilinearly, half-pixel centres, no antialiasing."""
    if x.shape[2:] == torch.Size(size_hw):
        return x
    return interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=False)


def initialise(network: BPRNetwork, generator: torch.Generator) -> None:
    """Draws fresh weights as the original does without a pretrained backbone.

    Convolutions Kaiming normal (fan out), norms 1 and 0, the classifier N(0, 0.01).
    Source: open-mmlab/mmsegmentation 0.7, `HRNet.init_weights` and `BaseDecodeHead.init_weights`.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
    nn.init.normal_(network.decode_head.conv_seg.weight, std=0.01, generator=generator)
    assert network.decode_head.conv_seg.bias is not None
    nn.init.zeros_(network.decode_head.conv_seg.bias)


def _conv_bn_relu(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def _stage(widths: list[int], blocks: int, modules: int) -> nn.Sequential:
    return nn.Sequential(*(HRModule(widths, blocks) for _ in range(modules)))


def _new_branch(channels_in: int, channels_out: int, *, n_passed: int) -> nn.ModuleList:
    """Passes the present branches on and grows one more from the last (keys `n_passed.0.*`)."""
    passed = [nn.Identity() for _ in range(n_passed)]
    return nn.ModuleList(
        [*passed, nn.Sequential(_conv_bn_relu(channels_in, channels_out, stride=2))]
    )


def _exchange(widths: list[int], *, source: int, goal: int) -> nn.Module:
    """Leads one branch to another: nothing, a 1x1 to a finer one, strided 3x3 to a coarser one."""
    if source == goal:
        return nn.Identity()
    if source > goal:
        return nn.Sequential(
            nn.Conv2d(widths[source], widths[goal], 1, bias=False), nn.BatchNorm2d(widths[goal])
        )
    steps: list[nn.Module] = [
        _conv_bn_relu(widths[source], widths[source], stride=2) for _ in range(goal - source - 1)
    ]
    last = _conv_bn_relu(widths[source], widths[goal], stride=2)
    return nn.Sequential(*steps, last[:-1])


def fold_norms(network: BPRNetwork) -> BPRNetwork:
    """Folds every batch norm into the convolution before it; for inference only.

    Args:
        network: in eval mode; changed in place and returned. Its results stay the same up to
            rounding, its state dict does not.
    """
    backbone = network.backbone
    variance = backbone.bn1.running_var
    assert variance is not None
    scale = backbone.bn1.weight / torch.sqrt(variance + backbone.bn1.eps)
    mask_weight = backbone.conv_mask.weight * scale.view(-1, 1, 1, 1)  # bn1 follows a sum of two
    backbone.conv_mask.weight = nn.Parameter(mask_weight.detach())
    for module in list(network.modules()):
        children = dict(module.named_children())
        for name, norm in children.items():
            if isinstance(norm, nn.BatchNorm2d):
                before = _name_before(module, name)
                conv = children[before]
                assert isinstance(conv, nn.Conv2d)
                setattr(module, before, fuse_conv_bn_eval(conv, norm))
                setattr(module, name, nn.Identity())
    return network


def _name_before(module: nn.Module, norm_name: str) -> str:
    """Names the convolution that a norm belongs to: `conv2` for `bn2`, 0 for 1 in a sequence."""
    if isinstance(module, nn.Sequential):
        return str(int(norm_name) - 1)
    return norm_name.replace("bn", "conv")
