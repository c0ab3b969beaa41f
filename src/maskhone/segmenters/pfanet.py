"""PFANet: salient objects; the base model of PatchRefineNet on DUTS.

B batch, C channels; S the side of the square that the network sees. Module names are those of the
published checkpoint, so that its keys are ours. Written from the description alone (PatchRefineNet
section 10.2). Source: Zhao and Wu, "Pyramid Feature Attention Network for Saliency Detection",
CVPR 2019.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from maskhone.contracts import Image, Scores, check_image
from maskhone.nn.losses import edge_loss, truth_loss
from maskhone.segmenters.forward import compute_scores
from maskhone.segmenters.squares import cut_from_square, fit_into_square

SIDE_PX = 256
_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # width and number of convolutions
_TAPS = (3, 8, 15, 22, 29)  # the last ReLU of each group
_DILATIONS = (3, 5, 7)
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
_TRUTH_SHARE = 0.7  # of the loss; the edges have the rest


class PFANet(nn.Module):
    """Returns logits and, for the loss, the mean channel attention.

    Height and width of its input are multiples of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vgg16 = make_vgg16()
        self.cpfe_conv3_3 = ContextFeatures(256)
        self.cpfe_conv4_3 = ContextFeatures(512)
        self.cpfe_conv5_3 = ContextFeatures(512)
        self.cha_att = ChannelAttention(384)
        self.hl_conv1 = nn.Conv2d(384, 64, 3, padding=1)
        self.hl_bn1 = nn.BatchNorm2d(64)
        self.ll_conv_1 = nn.Conv2d(64, 64, 3, padding=1)
        self.ll_bn_1 = nn.BatchNorm2d(64)
        self.ll_conv_2 = nn.Conv2d(128, 64, 3, padding=1)
        self.ll_bn_2 = nn.BatchNorm2d(64)
        self.ll_conv_3 = nn.Conv2d(128, 64, 3, padding=1)
        self.ll_bn_3 = nn.BatchNorm2d(64)
        self.spa_att = SpatialAttention(64)
        self.ff_conv_1 = nn.Conv2d(128, 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Takes `(B, 3, H, W)` normalised colours.

        Returns:
            `(B, 1, H, W)` logits, and a scalar in [0, 1] that is added to the loss.
        """
        f1, f2, f3, f4, f5 = self._tap(x)
        contexts = (
            self.cpfe_conv3_3(f3),
            _enlarge(self.cpfe_conv4_3(f4), 2),
            _enlarge(self.cpfe_conv5_3(f5), 4),
        )
        high = torch.cat(contexts, dim=1)
        attention = self.cha_att(high)
        high = torch.relu(self.hl_bn1(self.hl_conv1(high * attention)))
        high = _enlarge(high, 4)

        low1 = torch.relu(self.ll_bn_1(self.ll_conv_1(f1)))
        low2 = _enlarge(torch.relu(self.ll_bn_2(self.ll_conv_2(f2))), 2)
        low = torch.relu(self.ll_bn_3(self.ll_conv_3(torch.cat([low1, low2], dim=1))))
        low = low * self.spa_att(high)
        return self.ff_conv_1(torch.cat([low, high], dim=1)), attention.mean()

    def _tap(self, x: Tensor) -> list[Tensor]:
        """Returns the last features of the five groups, at strides 1, 2, 4, 8 and 16."""
        taps = []
        for i, layer in enumerate(self.vgg16.children()):
            if i > _TAPS[-1]:
                break
            x = layer(x)
            if i in _TAPS:
                taps.append(x)
        return taps


def make_vgg16() -> nn.Sequential:
    """Makes the convolutions of VGG-16, numbered as in torchvision."""
    layers: list[nn.Module] = []
    given = 3
    for width, count in _VGG16:
        for _ in range(count):
            layers += [nn.Conv2d(given, width, 3, padding=1), nn.ReLU()]
            given = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class ContextFeatures(nn.Module):
    """Looks at four distances side by side: 32 channels each."""

    def __init__(self, channels_in: int, width: int = 32) -> None:
        super().__init__()
        self.conv_1_1 = nn.Conv2d(channels_in, width, 1, bias=False)
        for d in _DILATIONS:
            conv = nn.Conv2d(channels_in, width, 3, padding=d, dilation=d, bias=False)
            self.add_module(f"conv_dil_{d}", conv)
        self.bn = nn.BatchNorm2d(width * (1 + len(_DILATIONS)))

    def forward(self, x: Tensor) -> Tensor:
        """Returns 128 channels of the same size."""
        parts = [self.get_submodule(f"conv_dil_{d}")(x) for d in _DILATIONS]
        return torch.relu(self.bn(torch.cat([self.conv_1_1(x), *parts], dim=1)))


class ChannelAttention(nn.Module):
    """Finds a weight for each channel from the averages of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, channels // 4)
        self.linear_2 = nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, C, 1, 1)` weights in (0, 1)."""
        hidden = torch.relu(self.linear_1(x.mean(dim=(2, 3))))
        return torch.sigmoid(self.linear_2(hidden))[:, :, None, None]


class SpatialAttention(nn.Module):
    """Finds a weight for each position from its row and its column."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.grp1_conv1k = nn.Conv2d(channels, inner, (1, 9), padding=(0, 4))
        self.grp1_bn1 = nn.BatchNorm2d(inner)
        self.grp1_convk1 = nn.Conv2d(inner, 1, (9, 1), padding=(4, 0))
        self.grp1_bn2 = nn.BatchNorm2d(1)
        self.grp2_convk1 = nn.Conv2d(channels, inner, (9, 1), padding=(4, 0))
        self.grp2_bn1 = nn.BatchNorm2d(inner)
        self.grp2_conv1k = nn.Conv2d(inner, 1, (1, 9), padding=(0, 4))
        self.grp2_bn2 = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, 1, H, W)` weights in [0.5, 1): the sigmoid is of nothing negative."""
        row_first = torch.relu(self.grp1_bn1(self.grp1_conv1k(x)))
        row_first = torch.relu(self.grp1_bn2(self.grp1_convk1(row_first)))
        column_first = torch.relu(self.grp2_bn1(self.grp2_convk1(x)))
        column_first = torch.relu(self.grp2_bn2(self.grp2_conv1k(column_first)))
        return torch.sigmoid(row_first + column_first)


def _enlarge(x: Tensor, factor: int) -> Tensor:
    return interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


def saliency_loss(prediction_B1HW: Tensor, target_B1HW: Tensor, mean_attention: Tensor) -> Tensor:
    """Computes the loss of PFANet.

    Args:
        prediction_B1HW: probabilities in (0, 1).
        target_B1HW: truth in [0, 1]; may be soft.
        mean_attention: second output of the network.

    Source: PatchRefineNet section 10.2. The weight of the foreground is the one in its code, 1.12;
    its list of parameters says 1.15.
    """
    to_truth = truth_loss(prediction_B1HW, target_B1HW)
    to_edges = edge_loss(prediction_B1HW, target_B1HW)
    return _TRUTH_SHARE * to_truth + (1 - _TRUTH_SHARE) * to_edges + mean_attention


@dataclass(frozen=True, kw_only=True)
class PFANetSegmenter:
    """Scores salient objects.

    Attributes:
        network: in eval mode, on `device`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        side_px: of the square that the network sees; a multiple of 16.
    """

    network: PFANet
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    side_px: int = SIDE_PX

    def segment(self, image: Image) -> Scores:
        """Returns `(1, H, W)` scores at the picture's size."""
        return cut_from_square(self._score(image), image.shape[:2])

    def score_square(self, image: Image) -> Scores:
        """Returns `(1, 2 S, 2 S)` scores of the padded picture, which PatchRefineNet refines."""
        return double_pixels(self._score(image))

    def _score(self, image: Image) -> Scores:
        check_image(image)
        inputs = prepare_image(image, self.side_px)
        return compute_scores(
            lambda x: self.network(x)[0], inputs, device=self.device, dtype=self.dtype
        )


def prepare_image(image: Image, side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Turns a picture into `(3, S, S)`: padded to a square, red green blue, normalised."""
    square = fit_into_square(image.astype(np.float32), side_px) / 255.0
    normalised = (square - _MEAN) / _STD
    return np.ascontiguousarray(normalised.transpose(2, 0, 1), dtype=np.float32)


def prepare_mask(mask: NDArray[np.float32], side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Turns `(H, W)` scores into a soft `(1, S, S)` truth whose largest value was 1 before.

    Differs: an empty mask stays empty; the published loader divides it by zero.
    """
    top = mask.max()
    scaled = mask.astype(np.float32) / (top if top > 0 else 1)
    return np.clip(fit_into_square(scaled, side_px), 0, 1)[np.newaxis]


def double_pixels(scores: Scores) -> Scores:
    """Repeats each pixel of `(N, S, S)` twice along rows and columns.

    Source: PatchRefineNet section 7: how its 512 px inputs are made from 256 px ones. The truth
    is doubled too and then rounded, one half down: `double_pixels(prepare_mask(truth)) > 0.5`.
    """
    return scores.repeat(2, axis=1).repeat(2, axis=2)
