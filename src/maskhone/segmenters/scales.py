"""A picture at several sizes, each with its mirror image: what DeepLabv3+ and classifiers see."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor
from torch.nn.functional import interpolate

from maskhone.contracts import Image
from maskhone.errors import UsageError

SCALES = (0.5, 1.0, 1.5, 2.0)
"""Source: OFRIN/PuzzleCAM:inference_classification.py, argument `scales`."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_SPREAD = (0.229, 0.224, 0.225)


def normalise_image(image: Image) -> Tensor:
    """Turns a picture into `(3, H, W)` float32 with ImageNet's mean and spread taken out."""
    mean = np.asarray(IMAGENET_MEAN, dtype=np.float32)
    spread = np.asarray(IMAGENET_SPREAD, dtype=np.float32)
    scaled = (image.astype(np.float32) / np.float32(255) - mean) / spread
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))


def scale_image(image: Image, scale: float) -> Image:
    """Resizes by Pillow's bicubic rule on 8 bits; sides are rounded half to even, to 1 at least."""
    h, w = image.shape[:2]
    size_wh = (max(round(w * scale), 1), max(round(h * scale), 1))
    if size_wh == (w, h):
        return image
    resized = PillowImage.fromarray(image).resize(size_wh, PillowImage.Resampling.BICUBIC)
    return np.asarray(resized)


def list_views(image: Image, scales: Sequence[float]) -> Iterator[Tensor]:
    """Yields `(2, 3, h, w)` for each scale: the picture and its mirror image.

    Raises:
        UsageError: no scales, or one that is not above 0.
    """
    if not scales or not all(scale > 0 for scale in scales):
        raise UsageError(f"scales are {tuple(scales)}; expected one or more numbers above 0")
    for scale in scales:
        view = normalise_image(scale_image(image, scale))
        yield torch.stack([view, view.flip(-1)])


def add_mirrored(maps: Tensor) -> Tensor:
    """Adds the maps `(2, C, h, w)` of a picture and of its mirror image: `(C, h, w)`."""
    return maps[0] + maps[1].flip(-1)


def resize_maps(maps: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Resizes `(C, h, w)` or `(B, C, h, w)` bilinearly, corners not aligned; C may be 0."""
    if maps.numel() == 0:
        return maps.new_zeros((*maps.shape[:-2], *size_hw))
    batch = maps if maps.ndim == 4 else maps[None]
    resized = interpolate(batch, size=tuple(size_hw), mode="bilinear", align_corners=False)
    return resized if maps.ndim == 4 else resized[0]
