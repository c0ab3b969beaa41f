"""Fully connected CRF with Gaussian edge potentials, filtered on the permutohedral lattice.

Sources: Krahenbuhl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011; Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice", 2010. Held to the results of their C++ library (lucasb-eyer/pydensecrf).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from maskhone.contracts import Image
from maskhone.errors import UsageError

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

    Example:
        >>> image = np.zeros((4, 4, 3), dtype=np.uint8)
        >>> labels = np.zeros((4, 4), dtype=np.int64)
        >>> labels[1, 1] = 1
        >>> infer(unary_from_labels(labels, 2), image).argmax(axis=0).sum()
        np.int64(0)
    """
    if len(unary) == 1:
        return np.ones_like(unary)
    kernels = (
        (parameters.position_weight, _normalised(_position_features(image, parameters))),
        (parameters.colour_weight, _normalised(_colour_features(image, parameters))),
    )
    cost = unary.reshape(len(unary), -1).T  # pixels first, as the filter wants them
    probability = _softmax(-cost)
    for _ in range(iterations):
        energy = -cost
        for weight, (lattice, scale) in kernels:
            energy = energy + weight * scale * lattice.filter(scale * probability)
        probability = _softmax(energy)
    return np.ascontiguousarray(probability.T).reshape(unary.shape)


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


class PermutohedralLattice:
    """A Gaussian filter of standard deviation 1 over points in few dimensions.

    Args:
        features: `(N, d)` float32, the point of each value, in standard deviations.

    Notes:
        Points are splatted onto the corners of the lattice simplex around them, the corners are
        blurred along each of the d + 1 lattice directions, and the result is sliced back. Splat and
        slice are one sparse matrix and its transpose; a blur is two gathers.
    """

    def __init__(self, features: Field) -> None:
        n, d = features.shape
        remainder, rank, weights = _locate(features)
        keys = _corner_keys(remainder, rank)
        codes, bases = _encode(keys.reshape(-1, d))
        vertices, corner = np.unique(codes, return_inverse=True)
        rows = np.repeat(np.arange(n), d + 1)
        self._slice = csr_matrix((weights.ravel(), (rows, corner.ravel())), (n, len(vertices)))
        self._splat = self._slice.T.tocsr()
        self._neighbours = [_find_neighbours(vertices, bases, d, j) for j in range(d + 1)]
        self._gain = np.float32(1 / (1 + 2.0**-d))

    def filter(self, values: Field) -> Field:
        """Filters `(N, C)` values; returns the same shape."""
        on_vertices = self._splat @ values
        padded = np.concatenate([on_vertices, np.zeros((1, values.shape[1]), np.float32)])
        for before, after in self._neighbours:
            padded[:-1] += np.float32(0.5) * (padded[before] + padded[after])
        filtered: Field = (self._slice @ padded[:-1]) * self._gain
        return filtered


def _normalised(features: Field) -> tuple[PermutohedralLattice, Field]:
    """Makes the kernel and its symmetric normalisation D^-1/2."""
    lattice = PermutohedralLattice(features)
    total = lattice.filter(np.ones((len(features), 1), dtype=np.float32))
    return lattice, (1 / np.sqrt(total + 1e-20)).astype(np.float32)


def _position_features(image: Image, parameters: CRFParameters) -> Field:
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    return np.stack([x, y], axis=1).astype(np.float32) / np.float32(parameters.position_px)


def _colour_features(image: Image, parameters: CRFParameters) -> Field:
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    position = np.stack([x, y], axis=1) / parameters.colour_position_px
    colour = image.reshape(-1, 3) / parameters.colour_range
    return np.concatenate([position, colour], axis=1).astype(np.float32)


def _locate(features: Field) -> tuple[NDArray[np.int64], NDArray[np.int64], Field]:
    """Finds, for each point, the nearest remainder-0 vertex, the order of its residues, weights.

    Returns:
        `(N, d+1)` vertex, `(N, d+1)` rank, `(N, d+1)` barycentric weights of the corners.
    """
    n, d = features.shape
    elevated = _elevate(features)
    nearest = np.rint(elevated / (d + 1)).astype(np.int64)
    excess = nearest.sum(axis=1, keepdims=True)
    vertex = nearest * (d + 1)
    residue = elevated - vertex
    rank = _rank(residue) + excess
    low, high = rank < 0, rank > d
    shift = (d + 1) * (low.astype(np.int64) - high.astype(np.int64))
    rank, vertex = rank + shift, vertex + shift
    t = ((elevated - vertex) / (d + 1)).astype(np.float32)
    weights = np.zeros((n, d + 2), dtype=np.float32)
    points = np.arange(n)
    for i in range(d + 1):
        weights[points, d - rank[:, i]] += t[:, i]
        weights[points, d + 1 - rank[:, i]] -= t[:, i]
    weights[:, 0] += 1 + weights[:, d + 1]
    return vertex, rank, weights[:, : d + 1]


def _elevate(features: Field) -> Field:
    """Lifts d-dimensional points onto the plane of d + 1 coordinates that sum to zero."""
    d = features.shape[1]
    i = np.arange(d)
    scale = (np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))).astype(np.float32)
    scaled = features * scale
    elevated = np.zeros((len(features), d + 1), dtype=np.float32)
    elevated[:, 0] = scaled.sum(axis=1)
    for j in range(1, d + 1):
        elevated[:, j] = scaled[:, j:].sum(axis=1) - j * scaled[:, j - 1]
    return elevated


def _rank(residue: Field) -> NDArray[np.int64]:
    """Counts, for each coordinate, the larger ones; of equal ones the earlier counts the later."""
    n_coordinates = residue.shape[1]
    rank = np.zeros(residue.shape, dtype=np.int64)
    for i in range(n_coordinates):
        for j in range(i + 1, n_coordinates):
            is_less = residue[:, i] < residue[:, j]
            rank[:, i] += is_less
            rank[:, j] += ~is_less
    return rank


def _corner_keys(vertex: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the first d coordinates of the d + 1 corners of each simplex: `(N, d+1, d)`."""
    d = vertex.shape[1] - 1
    k = np.arange(d + 1)[None, :, None]
    ranks = rank[:, None, :d]
    return vertex[:, None, :d] + np.where(ranks <= d - k, k, k - (d + 1))


def _encode(
    keys: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Packs coordinates into one integer each, with room for a neighbour in every direction.

    Returns:
        `(M,)` codes, and the `(d,)` place value of each coordinate.
    """
    d = keys.shape[1]
    room = d + 1  # a neighbour is at most d away in a coordinate
    low = keys.min(axis=0) - room
    extent = keys.max(axis=0) + room - low + 1
    bases = np.cumprod(np.concatenate([[1], extent[:-1]]))
    assert float(np.prod(extent.astype(np.float64))) < 2**62, "the lattice is too large to number"
    return (keys - low) @ bases, bases


def _find_neighbours(
    vertices: NDArray[np.int64], bases: NDArray[np.int64], d: int, axis: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the two neighbours of every vertex along one lattice direction; a missing one is M."""
    step = np.full(d, -1, dtype=np.int64)
    if axis < d:
        step[axis] = d
    offset = int(step @ bases)
    return _look_up(vertices, vertices + offset), _look_up(vertices, vertices - offset)


def _look_up(vertices: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.searchsorted(vertices, wanted)
    place[place == len(vertices)] = 0
    return np.where(vertices[place] == wanted, place, len(vertices))


def _softmax(energy: Field) -> Field:
    """Normalises the rows of `(N, L)`."""
    powers = np.exp(energy - energy.max(axis=1, keepdims=True))
    result: Field = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
