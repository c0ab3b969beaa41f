"""The bodies that classifiers and segmenters are built on, by name, at output stride 16."""

import re
from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor, nn

from maskhone.errors import UsageError
from maskhone.nn.efficientnet import EfficientNetLite0
from maskhone.nn.norms import choose_norm
from maskhone.nn.resnest import RESNEST_COUNTS, STEM_WIDTHS, ResNeSt
from maskhone.nn.resnet import RESNET_COUNTS, ResNet

ARCHITECTURES = (*RESNEST_COUNTS, *RESNET_COUNTS, "efficientnet_lite0")


class Backbone(Protocol):
    """What every body offers.

    Attributes:
        widths: channels of the five outputs.
    """

    widths: tuple[int, int, int, int, int]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Takes `(B, 3, H, W)`, returns five outputs at strides 4, 4, 8, 16, 16 (rounded up)."""
        ...


def make_backbone(architecture: str, *, fixes_norms: bool = False) -> nn.Module:
    """Makes a body with fresh weights; it is a `Backbone`.

    Args:
        architecture: one of `ARCHITECTURES`.
        fixes_norms: normalise by the running statistics in training too; scale and shift are
            still trained.

    Raises:
        UsageError: unknown architecture.

    Example:
        >>> make_backbone("efficientnet_lite0").widths
        (24, 24, 40, 112, 1280)
    """
    norm = choose_norm(fixes_norms=fixes_norms)
    if architecture in RESNEST_COUNTS:
        return ResNeSt(
            RESNEST_COUNTS[architecture], stem_width=STEM_WIDTHS[architecture], norm=norm
        )
    if architecture in RESNET_COUNTS:
        return ResNet(RESNET_COUNTS[architecture], strides=(1, 2, 2, 1), norm=norm)
    if architecture == "efficientnet_lite0":
        return EfficientNetLite0(norm=norm)
    raise UsageError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")


def run_backbone(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """Returns the five outputs of a body that is held as a plain module."""
    return cast(Backbone, backbone)(x)


def find_widths(backbone: nn.Module) -> tuple[int, int, int, int, int]:
    """Returns the channels of the five outputs of a body that is held as a plain module."""
    return cast(Backbone, backbone).widths


def find_architecture(state: Mapping[str, Tensor], *, prefix: str = "") -> str | None:
    """Finds which body some tensors belong to, by their names and the stem's width.

    Args:
        state: tensors by key; others may be among them.
        prefix: of the body's keys, such as `model.`.

    Returns:
        One of `ARCHITECTURES`; None when it is none of them.
    """
    if f"{prefix}_conv_stem.weight" in state:
        return "efficientnet_lite0"
    pattern = re.compile(rf"{re.escape(prefix)}layer([1-4])\.(\d+)\.")
    blocks = {match.groups() for key in state if (match := pattern.match(key))}
    counts = tuple(sum(level == str(i) for level, _ in blocks) for i in (1, 2, 3, 4))
    if f"{prefix}conv1.0.weight" not in state:
        has_bottlenecks = f"{prefix}layer1.0.conv3.weight" in state
        found = [name for name, known in RESNET_COUNTS.items() if known == counts]
        return found[0] if found and has_bottlenecks else None
    found = [name for name, known in RESNEST_COUNTS.items() if known == counts]
    width = state[f"{prefix}conv1.0.weight"].shape[0]
    return found[0] if found and width == STEM_WIDTHS[found[0]] else None
