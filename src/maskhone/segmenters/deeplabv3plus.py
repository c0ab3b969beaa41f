"""DeepLabv3+ as Puzzle-CAM trains it on pseudo labels.

B batch, C classes with the background, the first of them. Module names are those of the published
checkpoints. Written from the description alone (PerimeterFit section 8).
Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from maskhone.contracts import Image, Scores, check_image
from maskhone.errors import UsageError
from maskhone.nn.backbones import find_widths, make_backbone, run_backbone
from maskhone.nn.norms import MakeNorm, choose_norm
from maskhone.segmenters.scales import SCALES, add_mirrored, list_views, resize_maps

_WIDTH = 256
_LOW_WIDTH = 48
_DILATIONS = (1, 6, 12, 18)
_GROUPS = 4


class DeepLabV3Plus(nn.Module):
    """Returns `(B, C, H, W)` logits at the size of its input.

    Attributes:
        architecture: of the body, one of `ARCHITECTURES`.
        num_classes: C.
    """

    def __init__(
        self,
        architecture: str,
        num_classes: int,
        *,
        uses_group_norm: bool = True,
        fixes_norms: bool = True,
    ) -> None:
        """Builds it with fresh weights.

        Args:
            architecture: one of `maskhone.nn.backbones.ARCHITECTURES`.
            num_classes: with the background; 2 or more.
            uses_group_norm: the new layers are normalised in four groups of channels; otherwise
                like the body.
            fixes_norms: batch normalisations keep their statistics in training.

        Raises:
            UsageError: unknown architecture, or fewer than two classes.
        """
        super().__init__()
        if num_classes < 2:
            raise UsageError(
                f"num_classes is {num_classes}; expected 2 or more, the background among them"
            )
        self.architecture, self.num_classes = architecture, num_classes
        body_norm = choose_norm(fixes_norms=fixes_norms)
        norm: MakeNorm = partial(nn.GroupNorm, _GROUPS) if uses_group_norm else body_norm
        self.model = make_backbone(architecture, fixes_norms=fixes_norms)
        widths = find_widths(self.model)
        self.aspp = AtrousPyramid(widths[-1], norm=norm)
        self.decoder = Decoder(widths[1], num_classes, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Takes normalised `(B, 3, H, W)` of any size."""
        _, low, *_, high = run_backbone(self.model, x)
        logits = self.decoder(self.aspp(high), low)
        return _resize_aligned(logits, x)


class AtrousPyramid(nn.Module):
    """Looks at the body's output through convolutions of growing reach, and as a whole."""

    def __init__(self, channels_in: int, *, norm: MakeNorm) -> None:
        super().__init__()
        for i, dilation in enumerate(_DILATIONS, start=1):
            self.add_module(f"aspp{i}", AtrousBranch(channels_in, dilation=dilation, norm=norm))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), _make_conv(channels_in, _WIDTH, 1), norm(_WIDTH), nn.ReLU()
        )
        self.conv1 = _make_conv(_WIDTH * (len(_DILATIONS) + 1), _WIDTH, 1)
        self.bn1 = norm(_WIDTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns 256 channels of the same size."""
        views = [self.get_submodule(f"aspp{i + 1}")(x) for i in range(len(_DILATIONS))]
        whole = _resize_aligned(self.global_avg_pool(x), x)
        joined = self.conv1(torch.cat([*views, whole], dim=1))
        dropped: Tensor = self.dropout(torch.relu(self.bn1(joined)))
        return dropped


class AtrousBranch(nn.Module):
    """One convolution of the pyramid: 1x1 at dilation 1, else 3x3."""

    def __init__(self, channels_in: int, *, dilation: int, norm: MakeNorm) -> None:
        super().__init__()
        kernel = 1 if dilation == 1 else 3
        self.atrous_conv = _make_conv(channels_in, _WIDTH, kernel, dilation=dilation)
        self.bn = norm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Returns 256 channels of the same size."""
        return torch.relu(self.bn(self.atrous_conv(x)))


class Decoder(nn.Module):
    """Joins what the pyramid saw with the body's fine features, and scores the classes."""

    def __init__(self, channels_low: int, num_classes: int, *, norm: MakeNorm) -> None:
        super().__init__()
        self.conv1 = _make_conv(channels_low, _LOW_WIDTH, 1)
        self.bn1 = norm(_LOW_WIDTH)
        self.classifier = nn.Sequential(
            _make_conv(_WIDTH + _LOW_WIDTH, _WIDTH, 3),
            norm(_WIDTH),
            nn.ReLU(),
            nn.Dropout(0.5),
            _make_conv(_WIDTH, _WIDTH, 3),
            norm(_WIDTH),
            nn.ReLU(),
            nn.Dropout(0.1),
            _make_conv(_WIDTH, num_classes, 1, has_bias=True),
        )

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Returns logits at the size of `low`, a quarter of the picture's."""
        low = torch.relu(self.bn1(self.conv1(low)))
        logits: Tensor = self.classifier(torch.cat([_resize_aligned(high, low), low], dim=1))
        return logits


def predict_scores(
    network: Callable[[Tensor], Tensor],
    image: Image,
    *,
    scales: Sequence[float] = SCALES,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Scores:
    """Scores the classes of a picture over several sizes and mirror images.

    The logits of all views are summed, not averaged, before the softmax, as published.

    Args:
        network: gives `(B, C, h, w)` logits; in eval mode, on `device`.
        image: `(H, W, 3)` uint8 RGB of any size.
        scales: of the picture, each above 0.
        device: where the network lives; None is the CPU.
        dtype: of the matrix products; float32 or an autocast type.

    Returns:
        `(C, H, W)` probabilities.

    Raises:
        InputError: not a picture.
        UsageError: no scales.
    """
    assert not getattr(network, "training", False), "scores are predicted in eval mode"
    check_image(image)
    device = device or torch.device("cpu")
    is_mixed = dtype != torch.float32
    total = torch.zeros((), device=device)
    for views in list_views(image, scales):
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=dtype, enabled=is_mixed),
        ):
            logits = network(views.to(device))
        total = total + add_mirrored(resize_maps(logits.float(), image.shape[:2]))
    probabilities: Scores = total.softmax(dim=0).cpu().numpy()
    return probabilities


@dataclass(frozen=True, kw_only=True)
class DeepLabSegmenter:
    """Scores the background and the classes.

    Attributes:
        network: in eval mode, on `device`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        scales: of the picture.
    """

    network: DeepLabV3Plus
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    scales: Sequence[float] = SCALES

    def segment(self, image: Image) -> Scores:
        """Returns `(C, H, W)` probabilities; the first is the background's."""
        return predict_scores(
            self.network, image, scales=self.scales, device=self.device, dtype=self.dtype
        )


def _make_conv(
    channels_in: int, channels_out: int, kernel: int, *, dilation: int = 1, has_bias: bool = False
) -> nn.Conv2d:
    conv = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        bias=has_bias,
    )
    nn.init.kaiming_normal_(conv.weight)
    return conv


def _resize_aligned(maps: Tensor, like: Tensor) -> Tensor:
    return interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=True)
