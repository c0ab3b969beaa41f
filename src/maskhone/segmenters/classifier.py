"""An image classifier whose class maps show where it saw what: the network of Puzzle-CAM.

B batch, C classes, K classes of one picture. Written from the description alone (PerimeterFit
sections 1.2 and 2). Source: Jo and Yu, "Puzzle-CAM", ICIP 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskhone.contracts import Image, Scores, check_image
from maskhone.data.class_maps import Cams, find_grid_hw
from maskhone.errors import UsageError
from maskhone.nn.backbones import find_widths, make_backbone, run_backbone
from maskhone.segmenters.scales import (
    SCALES,
    add_mirrored,
    list_views,
    normalise_image,
    resize_maps,
)

_STRIDE_PX = 16
_TINY = 1e-5  # keeps the maps of an unseen class at zero


class Classifier(nn.Module):
    """A body and one 1x1 convolution to the classes.

    Attributes:
        architecture: of the body, one of `ARCHITECTURES`.
        num_classes: C, the background not counted.
    """

    def __init__(self, architecture: str, num_classes: int, *, fixes_norms: bool = False) -> None:
        """Builds it with fresh weights.

        Args:
            architecture: one of `maskhone.nn.backbones.ARCHITECTURES`.
            num_classes: 1 or more.
            fixes_norms: normalise by the running statistics in training too.

        Raises:
            UsageError: unknown architecture, or no classes.
        """
        super().__init__()
        if num_classes < 1:
            raise UsageError(f"num_classes is {num_classes}; expected 1 or more")
        self.architecture, self.num_classes = architecture, num_classes
        self.model = make_backbone(architecture, fixes_norms=fixes_norms)
        self.classifier = nn.Conv2d(find_widths(self.model)[-1], num_classes, 1, bias=False)
        nn.init.kaiming_normal_(self.classifier.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Takes normalised `(B, 3, H, W)`, returns `(B, C)` logits."""
        features = run_backbone(self.model, x)[-1]
        logits: Tensor = self.classifier(features.mean(dim=(2, 3), keepdim=True))
        return logits.flatten(1)

    def find_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns `(B, C)` logits, and `(B, C, h, w)` class maps of which they are the means.

        The maps are signed and not normalised, at a sixteenth of the size, rounded up.
        """
        maps: Tensor = self.classifier(run_backbone(self.model, x)[-1])
        return maps.mean(dim=(2, 3)), maps


def make_cams(
    network: Classifier,
    image: Image,
    present: Sequence[int],
    *,
    scales: Sequence[float] = SCALES,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Cams:
    """Finds where the classes of a picture are, over several sizes and mirror images.

    Memory grows with the area of the largest scale: about 0.7 kB for each of its pixels.

    Args:
        network: in eval mode, on `device`.
        image: `(H, W, 3)` uint8 RGB of any size.
        present: numbers of the classes in the picture, from 0; may be empty.
        scales: of the picture, each above 0.
        device: where the network lives; None is the CPU.
        dtype: of the matrix products; float32 or an autocast type.

    Returns:
        Class maps with maximum 1, or 0 for a class that is nowhere seen.

    Raises:
        InputError: not a picture.
        UsageError: a class that the network does not have, or no scales.
    """
    assert not network.training, "class maps are made in eval mode"
    check_image(image)
    classes = _check_classes(present, network.num_classes)
    device = device or torch.device("cpu")
    h, w = image.shape[:2]
    grid_hw = find_grid_hw((h, w))
    padded_hw = (-(-h // _STRIDE_PX) * _STRIDE_PX, -(-w // _STRIDE_PX) * _STRIDE_PX)
    coarse = torch.zeros((len(classes), *grid_hw), device=device)
    fine = torch.zeros((len(classes), *padded_hw), device=device)
    if len(classes):
        chosen = torch.from_numpy(classes).to(device)
        for views in list_views(image, scales):
            maps = _find_positive_maps(network, views.to(device), dtype)
            seen = add_mirrored(maps[:, chosen])
            coarse += resize_maps(seen, grid_hw)
            fine += resize_maps(seen, padded_hw)
    return Cams(
        keys=np.concatenate([[0], classes + 1]).astype(np.int64),
        cam=_scale_to_one(coarse),
        hr_cam=_scale_to_one(fine[:, :h, :w]),
    )


@dataclass(frozen=True, kw_only=True)
class ClassifierSegmenter:
    """Scores each class by its class map, where the classifier says that the class is there.

    Attributes:
        network: in eval mode, on `device`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        scales: of the picture.
        least_probability: a class is there when its probability is above this.
    """

    network: Classifier
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    scales: Sequence[float] = SCALES
    least_probability: float = 0.5

    def segment(self, image: Image) -> Scores:
        """Returns `(C, H, W)` scores in [0, 1]; classes that are not there score 0 everywhere."""
        present = np.flatnonzero(self.classify(image) > self.least_probability)
        cams = make_cams(
            self.network,
            image,
            present.tolist(),
            scales=self.scales,
            device=self.device,
            dtype=self.dtype,
        )
        scores = np.zeros((self.network.num_classes, *image.shape[:2]), dtype=np.float32)
        scores[cams.classes] = cams.hr_cam
        return scores

    def classify(self, image: Image) -> Scores:
        """Returns the `(C,)` probabilities of the classes."""
        check_image(image)
        views = normalise_image(image)[None].to(self.device)
        is_mixed = self.dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=self.dtype, enabled=is_mixed),
        ):
            logits = self.network(views)
        probabilities: Scores = logits[0].float().sigmoid().cpu().numpy()
        return probabilities


def _check_classes(present: Sequence[int], num_classes: int) -> NDArray[np.int64]:
    classes = np.unique(np.asarray(present, dtype=np.int64).reshape(-1))
    if len(classes) and not (classes[0] >= 0 and classes[-1] < num_classes):
        raise UsageError(
            f"classes are {classes.tolist()}; the network knows 0 to {num_classes - 1}"
        )
    return classes


def _find_positive_maps(network: Classifier, views: Tensor, dtype: torch.dtype) -> Tensor:
    is_mixed = dtype != torch.float32
    with (
        torch.inference_mode(),
        torch.autocast(views.device.type, dtype=dtype, enabled=is_mixed),
    ):
        _, maps = network.find_maps(views)
    return maps.float().relu()


def _scale_to_one(maps: Tensor) -> Scores:
    if maps.numel():
        maps = maps / (maps.amax(dim=(1, 2), keepdim=True) + _TINY)
    scaled: Scores = maps.cpu().numpy().astype(np.float32)
    return np.ascontiguousarray(scaled)
