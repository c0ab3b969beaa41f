"""Random changes of a picture and its label map for training: size, side, place.

S side of the square that the network sees. All randomness comes from the draws that are handed in,
in the published order. Source: PerimeterFit section 1.4; OFRIN/PuzzleCAM:tools/ai/augment_utils.py.
"""

import random
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import Image
from maskhone.errors import UsageError
from maskhone.ops.masks import IGNORE_LABEL
from maskhone.segmenters.scales import normalise_image

LabelMap = NDArray[np.uint8]  # (H, W)


class Draws(Protocol):
    """Where chance comes from."""

    def draw_below(self, n: int) -> int:
        """Draws one of 0 to n - 1."""
        ...

    def toss(self) -> bool:
        """Draws true or false at even odds."""
        ...


@dataclass(frozen=True)
class GeneratorDraws:
    """Draws for our own trainings, from an explicit generator."""

    generator: np.random.Generator

    def draw_below(self, n: int) -> int:
        """Draws one of 0 to n - 1."""
        return int(self.generator.integers(n))

    def toss(self) -> bool:
        """Draws true or false at even odds."""
        return bool(self.generator.integers(2))


@dataclass(frozen=True)
class PublishedDraws:
    """The draws of the original for one state of Python's generator."""

    generator: random.Random

    def draw_below(self, n: int) -> int:
        """Draws one of 0 to n - 1."""
        return self.generator.randrange(n)

    def toss(self) -> bool:
        """Draws true or false at even odds."""
        return bool(self.generator.getrandbits(1))


@dataclass(frozen=True, kw_only=True)
class Views:
    """How large the network sees a picture.

    Attributes:
        image_px: side of the square that is cut out.
        min_image_px: least length that the longer side of a picture is resized to.
        max_image_px: greatest such length.
    """

    image_px: int = 512
    min_image_px: int = 320
    max_image_px: int = 640

    def __post_init__(self) -> None:
        if not 1 <= self.min_image_px <= self.max_image_px:
            raise UsageError(
                f"min_image_px is {self.min_image_px} and max_image_px {self.max_image_px}; "
                "expected 1 or more, and the first at most the second"
            )
        if self.image_px < 1:
            raise UsageError(f"image_px is {self.image_px}; expected 1 or more")


def view_at_random(
    image: Image, labels: LabelMap | None, draws: Draws, views: Views
) -> tuple[Tensor, LabelMap | None]:
    """Resizes, mirrors at even odds, and cuts out or pads to a square.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        labels: `(H, W)` label map, changed alike by nearest pixels, or None.
        draws: the length of the longer side, the mirror, the column and the row, in this order.
        views: the sizes.

    Returns:
        `(3, S, S)` float32, normalised, 0 outside the picture; and `(S, S)`, 255 outside.
    """
    length = views.min_image_px + draws.draw_below(views.max_image_px - views.min_image_px + 1)
    image, labels = resize_to(image, labels, length)
    if draws.toss():
        image, labels = image[:, ::-1], None if labels is None else labels[:, ::-1]
    h, w = image.shape[:2]
    x = _draw_place(w, views.image_px, draws)
    y = _draw_place(h, views.image_px, draws)
    return place(image, labels, views.image_px, x=x, y=y)


def view_top_left(
    image: Image, labels: LabelMap | None, side_px: int
) -> tuple[Tensor, LabelMap | None]:
    """Cuts out the square at the top left, as the original does to validate."""
    return place(image, labels, side_px, x=0, y=0)


def resize_to(
    image: Image, labels: LabelMap | None, length_px: int
) -> tuple[Image, LabelMap | None]:
    """Resizes so that the longer side has a length: bicubic, labels by the nearest pixel.

    Example:
        >>> resize_to(np.zeros((30, 44, 3), dtype=np.uint8), None, 22)[0].shape
        (15, 22, 3)
    """
    h, w = image.shape[:2]
    scale = length_px / max(h, w)
    size_wh = (max(round(w * scale), 1), max(round(h * scale), 1))
    if size_wh == (w, h):
        return image, labels
    image = np.asarray(
        PIL.Image.fromarray(image).resize(size_wh, PIL.Image.Resampling.BICUBIC), dtype=np.uint8
    )
    return image, None if labels is None else _resize_labels(labels, size_wh)


def place(
    image: Image, labels: LabelMap | None, side_px: int, *, x: int, y: int
) -> tuple[Tensor, LabelMap | None]:
    """Puts a normalised picture on a square of 0, its labels on one of 255.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        labels: `(H, W)`, or None.
        side_px: of the square.
        x: column of the square where the picture begins; below 0 the picture's first columns are
            cut off.
        y: row, likewise.
    """
    h, w = image.shape[:2]
    rows = slice(max(y, 0), min(y + h, side_px)), slice(max(-y, 0), min(h, side_px - y))
    columns = slice(max(x, 0), min(x + w, side_px)), slice(max(-x, 0), min(w, side_px - x))
    square = torch.zeros((3, side_px, side_px))
    square[:, rows[0], columns[0]] = normalise_image(image[rows[1], columns[1]])
    if labels is None:
        return square, None
    label_square = np.full((side_px, side_px), IGNORE_LABEL, dtype=np.uint8)
    label_square[rows[0], columns[0]] = labels[rows[1], columns[1]]
    return square, label_square


def shrink_labels(labels: LabelMap, size_hw: tuple[int, int]) -> LabelMap:
    """Takes the nearest label for each cell of a grid."""
    return _resize_labels(labels, size_hw[::-1])


def _resize_labels(labels: LabelMap, size_wh: tuple[int, int]) -> LabelMap:
    picture = PIL.Image.fromarray(np.ascontiguousarray(labels))
    return np.asarray(picture.resize(size_wh, PIL.Image.Resampling.NEAREST), dtype=np.uint8)


def _draw_place(length_px: int, side_px: int, draws: Draws) -> int:
    """Draws where a side begins on the square; below 0 when it is longer than that."""
    space = length_px - side_px
    drawn = draws.draw_below(abs(space) + 1)
    return -drawn if space > 0 else drawn
