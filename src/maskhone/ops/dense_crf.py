"""Fully connected CRF with Gaussian edge potentials, filtered on the permutohedral lattice.

Sources: Krahenbuhl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011. Held to the results of their C++ library (lucasb-eyer/pydensecrf).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image
from maskhone.errors import UsageError
from maskhone.ops.permutohedral import PermutohedralLattice

Field = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CRFParameters:
    """How strongly, and how far, pixels pull each other towards one label.

    Attributes:
        position_weight: of the kernel on position alone.
        position_px: its standard deviation.
        colour_weight: of the kernel on position and colour.
        colour_position_px: its standard deviation in position.
        colour_range: its standard deviation in colour, of 0..255.
    """

    position_weight: float = 3.0
    position_px: float = 3.0
    colour_weight: float = 10.0
    colour_position_px: float = 80.0
    colour_range: float = 13.0

    def __post_init__(self) -> None:
        ranges = (self.position_px, self.colour_position_px, self.colour_range)
        if not all(value >= 0.1 for value in ranges):
            raise UsageError(f"the ranges of a CRF are {ranges}; expected 0.1 or more")
        if not (self.position_weight >= 0 and self.colour_weight >= 0):
            raise UsageError("the weights of a CRF must be 0 or more")


SOFTMAX_PARAMETERS = CRFParameters()
"""For network scores (OFRIN/PuzzleCAM:tools/ai/demo_utils.py `crf_inference`)."""

LABEL_PARAMETERS = CRFParameters(colour_position_px=50.0, colour_range=5.0)
"""For label maps (the same file, `crf_inference_label`)."""

LABEL_CERTAINTY = 0.7
"""How far a given label is trusted (the same file, `gt_prob`)."""


def unary_from_labels(
    labels: NDArray[np.integer[Any]], n_labels: int, *, certainty: float = LABEL_CERTAINTY
) -> Field:
    """Turns a label map into the cost of every label at every pixel.

    Args:
        labels: `(H, W)` integers below `n_labels`; 0 is an ordinary label.
        n_labels: at least 2.
        certainty: probability of the given label; the rest is shared by the others.

    Returns:
        `(L, H, W)` float32 negative log probabilities.

    Example:
        >>> np.exp(-unary_from_labels(np.array([[1]]), 2)).ravel().round(1).tolist() == [
        ...     np.float32(0.3), np.float32(0.7)]
        True
    """
    assert n_labels >= 2, "one label leaves nothing to decide"
    cost = np.full((n_labels, *labels.shape), -np.log((1 - certainty) / (n_labels - 1)))
    np.put_along_axis(cost, labels[None].astype(np.int64), -np.log(certainty), axis=0)
    return cost.astype(np.float32)


def unary_from_probabilities(probabilities: Field) -> Field:
    """Turns `(L, H, W)` probabilities into costs: `-ln p`, p cut to [1e-5, 1].

    Example:
        >>> unary_from_probabilities(np.ones((1, 1, 1), dtype=np.float32)).item() == 0
        True
    """
    return -np.log(np.clip(probabilities, 1e-5, 1.0)).astype(np.float32)


def infer(
    unary: Field,
    image: Image,
    *,
    parameters: CRFParameters = SOFTMAX_PARAMETERS,
    iterations: int = 10,
) -> Field:
    """Runs mean-field inference; returns `(L, H, W)` float32 label probabilities.

    Args:
        unary: `(L, H, W)` cost of each label.
        image: `(H, W, 3)` uint8 RGB.
        parameters: of the two kernels.
        iterations: parallel updates; 10 in the published systems.

    Raises:
        UsageError: the ranges are so small that the picture's lattice cannot be numbered.

    Notes:
        Memory was measured on photographs: 300 to 330 bytes a pixel while the lattices are built,
        or, where that is more, 105 and 18 a label afterwards; 400 a pixel for a picture of noise.

    Example:
        >>> image = np.zeros((4, 4, 3), dtype=np.uint8)
        >>> labels = np.zeros((4, 4), dtype=np.int64)
        >>> labels[1, 1] = 1
        >>> infer(unary_from_labels(labels, 2), image).argmax(axis=0).sum()
        np.int64(0)
    """
    if len(unary) == 1:
        return np.ones_like(unary)
    kernels = _make_kernels(image, parameters)
    cost = unary.reshape(len(unary), -1)
    probability = _softmax(-cost)
    for _ in range(iterations):
        pixels = np.ascontiguousarray(probability.T)  # as the filters want them
        energy = np.negative(cost)
        for kernel in kernels:
            energy += kernel.filter(pixels).T
        probability = _softmax(energy)
    return probability.reshape(unary.shape)


def infer_labels(
    labels: NDArray[np.integer[Any]],
    image: Image,
    n_labels: int,
    *,
    parameters: CRFParameters = LABEL_PARAMETERS,
    iterations: int = 10,
) -> NDArray[np.int64]:
    """Smooths a label map; returns `(H, W)` labels.

    Differs: with a single label the map is returned as it is; the original divides by zero.
    """
    if n_labels < 2:
        return labels.astype(np.int64)
    unary = unary_from_labels(labels, n_labels)
    probability = infer(unary, image, parameters=parameters, iterations=iterations)
    return np.asarray(probability.argmax(axis=0), dtype=np.int64)


def _make_kernels(image: Image, parameters: CRFParameters) -> list[PermutohedralLattice]:
    position = np.indices(image.shape[:2], dtype=np.float32)[::-1].reshape(2, -1)  # x, then y
    near = position / np.float32(parameters.position_px)
    far = position / np.float32(parameters.colour_position_px)
    colour = image.reshape(-1, 3).T / np.float32(parameters.colour_range)
    kernels = [PermutohedralLattice(near), PermutohedralLattice(np.concatenate([far, colour]))]
    for kernel, weight in zip(
        kernels, (parameters.position_weight, parameters.colour_weight), strict=True
    ):
        kernel.normalise(weight)
    return kernels


def _softmax(energy: Field) -> Field:
    """Normalises the columns of `(L, N)`."""
    powers: Field = energy - energy.max(axis=0)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0)
    return powers
