"""The shapes that every floor agrees on, and the checks at the door.

Images are `(H, W, 3)` uint8 RGB. Masks are `(N, H, W)` float32 scores in [0, 1], one per object;
a score above one half is foreground. Data is checked once, here; the code behind trusts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from maskhone.errors import InputError

Image = NDArray[np.uint8]  # (H, W, 3), RGB
Scores = NDArray[np.float32]  # (N, H, W), in [0, 1]
Boxes = NDArray[np.int64]  # (N, 4), x1 y1 x2 y2, end-exclusive

FOREGROUND = 0.5
"""A pixel is foreground iff its score is strictly above this (BPR, SegRefiner, PRN agree)."""


@runtime_checkable
class Refiner(Protocol):
    """Turns coarse masks of one image into better ones."""

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Returns refined scores of the same shape; never changes its arguments."""
        ...


@runtime_checkable
class LooksAgain(Protocol):
    """A refiner that knows ways to refine the same masks that should give the same answer."""

    def look_again(self, image: Image, masks: Scores) -> list[Scores]:
        """Returns refined scores of the same shape, one for each way."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """A base model: makes class scores from an image alone."""

    def segment(self, image: Image) -> Scores:
        """Returns `(C, H, W)` float32 class scores."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with the masks of its objects; checked when made, trusted afterwards.

    Attributes:
        id: name that is unique within its data set; results are filed under it.
        image: `(H, W, 3)` uint8 RGB.
        masks: `(N, H, W)` float32 coarse scores in [0, 1]; N may be 0.
        target: `(N, H, W)` float32 ground truth in [0, 1], or None when unknown.
        labels: `(N,)` int64 class numbers, or None when unknown.
        meta: whatever the format carries beside (scores, ids, file names); passed on untouched.
    """

    id: str
    image: Image
    masks: Scores
    target: Scores | None = None
    labels: NDArray[np.int64] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_image(self.image, name=self.id)
        check_masks(self.masks, size_hw=self.image.shape[:2], name=self.id)
        if self.target is not None:
            check_masks(self.target, size_hw=self.image.shape[:2], name=f"{self.id} (target)")
            if len(self.target) != len(self.masks):
                raise InputError(
                    f"{self.id}: {len(self.masks)} masks but {len(self.target)} targets; "
                    "give one target for each mask"
                )
        if self.labels is not None and self.labels.shape != (len(self.masks),):
            raise InputError(
                f"{self.id}: {len(self.masks)} masks but labels of shape {self.labels.shape}"
            )


def check_image(image: Image, *, name: str = "image") -> None:
    """Refuses anything but a non-empty `(H, W, 3)` uint8 array."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        received = getattr(image, "dtype", type(image).__name__)
        raise InputError(f"{name}: image is {received}, expected uint8 RGB in 0..255")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"{name}: image has shape {image.shape}, expected (height, width, 3)")


def check_masks(masks: Scores, *, size_hw: tuple[int, ...], name: str = "masks") -> None:
    """Refuses anything but `(N, H, W)` float32 scores in [0, 1] of the image's size."""
    if not isinstance(masks, np.ndarray) or masks.dtype != np.float32:
        received = getattr(masks, "dtype", type(masks).__name__)
        raise InputError(f"{name}: masks are {received}, expected float32 scores in [0, 1]")
    if masks.ndim != 3:
        raise InputError(f"{name}: masks have shape {masks.shape}, expected (objects, H, W)")
    if masks.shape[1:] != tuple(size_hw):
        raise InputError(f"{name}: {describe_size_mismatch(size_hw, masks.shape[1:])}")
    if masks.size and not (masks.min() >= 0.0 and masks.max() <= 1.0):  # false for NaN too
        raise InputError(
            f"{name}: mask scores must lie in [0, 1] and not be NaN, received "
            f"{masks.min():g} to {masks.max():g}; divide by 255, or apply a sigmoid to logits"
        )


def describe_size_mismatch(image_hw: tuple[int, ...], mask_hw: tuple[int, ...]) -> str:
    """Says how two sizes differ and what would mend it.

    Example:
        >>> describe_size_mismatch((40, 60), (20, 30)).split("; ")[1]
        "the shapes agree: resize the mask to the image's size"
    """
    said = (
        f"image is {image_hw[0]}x{image_hw[1]} but mask is {mask_hw[0]}x{mask_hw[1]} "
        "(height x width); "
    )
    if tuple(image_hw) == tuple(mask_hw)[::-1]:
        return said + ("transpose the mask, or apply the image's EXIF rotation before segmenting")
    if image_hw[0] * mask_hw[1] == image_hw[1] * mask_hw[0]:
        return said + "the shapes agree: resize the mask to the image's size"
    return said + "give the mask that belongs to this image, at the image's size"
