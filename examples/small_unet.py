"""A small U-Net of one's own, trained by RWS and asked what each of its stages misses.

    maskhone train recipes/rws_small_unet.camvid.toml -o runs/small_unet

RWS needs nothing of a network but the names of its stages: modules that put out maps. `layers` in
the recipe lists `stage1` to `stage4`, the encoder below.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

WIDTHS = (24, 48, 64, 96)


class SmallUNet(nn.Module):
    """Returns logits `(B, C, H, W)` at the size of its input; any size will do."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stage1 = make_stage(3, WIDTHS[0], stride=2)
        self.stage2 = make_stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.stage3 = make_stage(WIDTHS[1], WIDTHS[2], stride=2)
        self.stage4 = make_stage(WIDTHS[2], WIDTHS[3], stride=1)
        self.join2 = make_stage(WIDTHS[3] + WIDTHS[1], WIDTHS[1], stride=1)
        self.join1 = make_stage(WIDTHS[1] + WIDTHS[0], WIDTHS[0], stride=1)
        self.head = nn.Conv2d(WIDTHS[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Takes normalised RGB `(B, 3, H, W)`."""
        fine = self.stage1(x)
        middle = self.stage2(fine)
        coarse = self.stage4(self.stage3(middle))
        middle = self.join2(torch.cat([grow(coarse, middle), middle], dim=1))
        fine = self.join1(torch.cat([grow(middle, fine), fine], dim=1))
        return grow(self.head(fine), x)


def make_stage(channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions; the first one takes the step."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def grow(x: Tensor, like: Tensor) -> Tensor:
    """Resizes to the grid of another map."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
