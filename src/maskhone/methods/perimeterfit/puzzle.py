"""The puzzle of Puzzle-CAM: a picture in pieces must have the class maps of the whole.

B batch, C channels or classes, P pieces, h and w of the class maps. Source: Jo and Yu,
"Puzzle-CAM", ICIP 2021; PerimeterFit section 1.7; OFRIN/PuzzleCAM:core/puzzle_utils.py,
train_classification_with_puzzle.py.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import multilabel_soft_margin_loss

from maskhone.errors import UsageError

Distance = Literal["l1", "l2"]
Masking = Literal["masking", "selection", "none"]
Level = Literal["feature", "cam"]

_EPSILON = 1e-5  # train_classification_with_puzzle.py, core/networks.py: make_cam, shannon entropy


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """What is asked of the pieces; the defaults are published.

    Attributes:
        pieces: of a picture, a square number; its sides must be divisible by the root. 1 or less
            plays no puzzle: a plain classifier.
        has_part_loss: the joined maps of the pieces have to classify, too.
        has_reconstruction_loss: they have to be those of the whole.
        has_confidence_loss: each piece has to be sure.
        level: what is compared, the class maps as they are (`feature`) or their positive part
            scaled to 1 (`cam`).
        distance: `l1` or `l2`.
        masking: `masking` compares the maps of the classes that are there and counts the others
            as 0 in the mean; `selection` leaves them out; `none` compares all.
        alpha: weight of the reconstruction at the end of its rise. 4 is published; the program's
            own default is 1.
        alpha_schedule: share of the training over which it rises from 0; 0: it is there at once.
    """

    pieces: int = 4
    has_part_loss: bool = True
    has_reconstruction_loss: bool = True
    has_confidence_loss: bool = False
    level: Level = "feature"
    distance: Distance = "l1"
    masking: Masking = "masking"
    alpha: float = 4.0
    alpha_schedule: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("level", Level), ("distance", Distance), ("masking", Masking)):
            if getattr(self, name) not in get_args(known):
                said = ", ".join(get_args(known))
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected {said}")
        if self.pieces > 1 and math.isqrt(self.pieces) ** 2 != self.pieces:
            raise UsageError(f"pieces is {self.pieces}; expected a square number, such as 4")
        if not 0 <= self.alpha_schedule <= 1:
            raise UsageError(f"alpha_schedule is {self.alpha_schedule}; expected 0 to 1")


def cut(x_BCHW: Tensor, pieces: int) -> Tensor:
    """Cuts each picture into equal pieces: `(P * B, C, H / n, W / n)`, n the root of P.

    All first pieces come first, then all second ones; pieces count along the rows.

    Raises:
        UsageError: the sides cannot be divided.

    Example:
        >>> cut(torch.arange(8.0).reshape(2, 1, 2, 2), 4).flatten().tolist()
        [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]
    """
    n = math.isqrt(pieces)
    batch, channels, height, width = x_BCHW.shape
    if height % n or width % n:
        raise UsageError(
            f"{height}x{width} cannot be cut into {n}x{n} equal pieces; "
            f"expected sides divisible by {n}"
        )
    parts = x_BCHW.reshape(batch, channels, n, height // n, n, width // n)
    return parts.permute(2, 4, 0, 1, 3, 5).reshape(-1, channels, height // n, width // n)


def join(x_QChw: Tensor, pieces: int) -> Tensor:
    """Joins the maps of pieces, in the order of `cut`, to `(B, C, n * h, n * w)`."""
    n = math.isqrt(pieces)
    _, channels, height, width = x_QChw.shape
    parts = x_QChw.reshape(n, n, -1, channels, height, width)
    return parts.permute(2, 3, 0, 4, 1, 5).reshape(-1, channels, n * height, n * width)


def classification_loss(logits_BC: Tensor, tags_BC: Tensor) -> Tensor:
    """Computes the soft-margin loss: the mean over classes, then over pictures."""
    return multilabel_soft_margin_loss(logits_BC, tags_BC)


def reconstruction_loss(
    maps_BChw: Tensor,
    joined_BChw: Tensor,
    tags_BC: Tensor,
    *,
    distance: Distance = "l1",
    masking: Masking = "masking",
) -> Tensor:
    """Compares the class maps of whole pictures with the joined ones of their pieces.

    With `selection` a picture without classes has nothing to compare, and counts as 0.
    """
    difference = maps_BChw - joined_BChw
    lost = difference.abs() if distance == "l1" else difference.square()
    if masking == "none":
        return lost.mean()
    if masking == "masking":
        return (lost * tags_BC[:, :, None, None]).mean()
    of_class = lost.mean(dim=(2, 3)) * tags_BC
    return (of_class.sum(dim=1) / tags_BC.sum(dim=1).clamp(min=1)).mean()


def confidence_loss(logits_QC: Tensor) -> Tensor:
    """Computes Shannon's entropy of the class probabilities, summed over classes."""
    probability = logits_QC.sigmoid()
    return -(probability * torch.log(probability + _EPSILON)).sum(dim=1).mean()


def scale_to_one(maps_BChw: Tensor) -> Tensor:
    """Takes the positive part of class maps and scales each map's maximum to 1."""
    positive = maps_BChw.relu()
    highest = positive.amax(dim=(2, 3), keepdim=True)
    return (positive - _EPSILON).relu() / (highest + _EPSILON)


def find_alpha(puzzle: Puzzle, step: int, *, steps: int) -> float:
    """Returns the weight of the reconstruction at a step.

    Example:
        >>> [find_alpha(Puzzle(), step, steps=1000) for step in (0, 250, 999)]
        [0.0, 2.0, 4.0]
    """
    rise = steps * puzzle.alpha_schedule
    return min(puzzle.alpha * step / rise, puzzle.alpha) if rise else puzzle.alpha


def puzzle_losses(
    whole: tuple[Tensor, Tensor],
    parts: tuple[Tensor, Tensor] | None,
    tags_BC: Tensor,
    puzzle: Puzzle,
    *,
    alpha: float,
) -> dict[str, Tensor]:
    """Computes all losses of a batch; `loss` is the one to make small.

    Args:
        whole: `(B, C)` logits and `(B, C, h, w)` class maps of the pictures.
        parts: the same of their pieces, `P * B` of them; None: a plain classifier.
        tags_BC: 1 for a class that is there, otherwise 0.
        puzzle: which losses, and how.
        alpha: weight of the reconstruction, see `find_alpha`.
    """
    logits, maps = whole
    losses = {"classes": classification_loss(logits, tags_BC)}
    if parts is None:
        return {"loss": losses["classes"], **losses}
    part_logits, part_maps = parts
    joined = join(part_maps, puzzle.pieces)
    if puzzle.level == "cam":
        maps, joined = scale_to_one(maps), scale_to_one(joined)
    if puzzle.has_part_loss:
        losses["part_classes"] = classification_loss(joined.mean(dim=(2, 3)), tags_BC)
    if puzzle.has_reconstruction_loss:
        losses["reconstruction"] = reconstruction_loss(
            maps, joined, tags_BC, distance=puzzle.distance, masking=puzzle.masking
        )
    if puzzle.has_confidence_loss:
        losses["confidence"] = confidence_loss(part_logits)
    weights = {"reconstruction": alpha}
    total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
    return {"loss": total, **losses}
