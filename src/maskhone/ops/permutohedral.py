"""A fast Gaussian filter over scattered points of few dimensions: the permutohedral lattice.

Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
2010. Arrays hold coordinates first, `(d, N)`: every step is then a pass over contiguous rows.
"""

import itertools
import math
import operator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from maskhone.errors import UsageError

Field = NDArray[np.float32]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio (Knuth, The Art of Computer Programming 3, 6.4): spreads codes."""

BLOCK = 2**14
"""Points located at once: few enough for a processor's cache."""


class PermutohedralLattice:
    """A Gaussian filter of standard deviation 1.

    Args:
        features: `(d, N)` float32, the point of each value, in standard deviations.

    Notes:
        Values are splatted onto the corners of the lattice simplex around their points, the corners
        are blurred along each of the d + 1 lattice directions, and the result is sliced back. Splat
        and slice are one sparse matrix, `(N, M)` for M corners, and its transpose; a blur is two
        gathers.
    """

    def __init__(self, features: Field) -> None:
        d, n = features.shape
        elevated = _elevate(features)
        low, bases = _choose_code(elevated)
        codes = np.empty((n, d + 1), dtype=np.int64)
        weights = np.empty((n, d + 1), dtype=np.float32)
        for start in range(0, n, BLOCK):
            part = slice(start, start + BLOCK)
            vertex, order, weights[part] = _locate(elevated[:, part])
            codes[part] = _encode_corners(vertex - low, order, bases)
        del elevated
        vertices, corners = number(codes.ravel())
        rows = np.arange(0, n * (d + 1) + 1, d + 1)
        self._slice = csr_matrix((weights.ravel(), corners, rows), (n, len(vertices)))
        self._neighbours = [_find_neighbours(vertices, bases, j) for j in range(d + 1)]
        self._gain = np.float32(1 / (1 + 2.0**-d))

    def filter(self, values: Field) -> Field:
        """Filters `(N, C)` values; returns the same shape."""
        missing = np.zeros((1, values.shape[1]), dtype=np.float32)
        on_vertices = np.concatenate([self._slice.T @ values, missing])
        for before, after in self._neighbours:
            around = on_vertices.take(before, axis=0)
            around += on_vertices.take(after, axis=0)
            around *= np.float32(0.5)
            on_vertices[:-1] += around
        filtered: Field = self._slice @ (self._gain * on_vertices[:-1])
        return filtered

    def normalise(self, weight: float) -> None:
        """Makes the filter symmetric, D^-1/2 K D^-1/2 with D the sums of K, times `weight`."""
        total = self.filter(np.ones((self._slice.shape[0], 1), dtype=np.float32))
        scale = np.sqrt(weight / (total + 1e-20)).astype(np.float32)
        self._slice.data.reshape(len(scale), -1)[:] *= scale


def number(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Finds the distinct codes, sorted, and the place of every code among them.

    Does what `np.unique` does, several times as fast where most codes are repeated: codes are
    written into the slots of a table, and of most only what is found there is sorted; those that
    lost their slot to another are sorted all.

    Args:
        codes: `(M,)`, 0 or more, contiguous.

    Example:
        >>> distinct, places = number(np.array([7, 3, 7]))
        >>> distinct.tolist(), places.tolist()
        ([3, 7], [1, 0, 1])
    """
    bits = max((len(codes) // 4).bit_length(), 1)
    slots = codes.view(np.uint64) * GOLDEN
    slots >>= np.uint64(64 - bits)
    slots = slots.view(np.int64)
    table = np.full(1 << bits, -1, dtype=np.int64)
    table[slots] = codes
    is_lost = table[slots] != codes
    used = np.flatnonzero(table >= 0)
    distinct = np.unique(np.concatenate([table[used], codes[is_lost]]))
    place_of_slot = np.zeros(1 << bits, dtype=np.int32)
    place_of_slot[used] = np.searchsorted(distinct, table[used])
    places = place_of_slot[slots]
    places[is_lost] = np.searchsorted(distinct, codes[is_lost])
    return distinct, places


def _locate(elevated: Field) -> tuple[NDArray[np.int32], NDArray[np.int64], Field]:
    """Finds the simplex around each point.

    Returns:
        `(d+1, N)` nearest remainder-0 vertex; `(d+1, N)` coordinates in falling order of the
        point's residue there; `(N, d+1)` barycentric weights of the corners.
    """
    d, n = len(elevated) - 1, elevated.shape[1]
    nearest = np.rint(elevated / np.float32(d + 1)).astype(np.int32)
    rank = _rank(elevated - np.float32(d + 1) * nearest.astype(np.float32))
    rank += nearest.sum(axis=0).astype(np.int8)
    shift = (rank < 0).view(np.int8) - (rank > d).view(np.int8)
    rank += np.int8(d + 1) * shift
    vertex = np.int32(d + 1) * (nearest + shift)

    order = np.empty(rank.shape, dtype=np.int64)
    np.put_along_axis(order, rank.astype(np.int64), np.arange(d + 1)[:, None], axis=0)
    residue = (elevated - vertex.astype(np.float32)) / np.float32(d + 1)
    falling = np.take_along_axis(residue, order, axis=0)
    weights = np.empty((n, d + 1), dtype=np.float32)
    weights[:, 0] = 1 + falling[d] - falling[0]
    for k in range(1, d + 1):
        weights[:, k] = falling[d - k] - falling[d + 1 - k]
    return vertex, order, weights


def _elevate(features: Field) -> Field:
    """Lifts d-dimensional points onto the plane of d + 1 coordinates that sum to zero."""
    d, n = features.shape
    i = np.arange(d)
    scale = (np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))).astype(np.float32)
    scaled = features * scale[:, None]
    elevated = np.empty((d + 1, n), dtype=np.float32)
    total = np.zeros(n, dtype=np.float32)
    for j in range(d, 0, -1):
        elevated[j] = total - np.float32(j) * scaled[j - 1]
        total += scaled[j - 1]
    elevated[0] = total
    return elevated


def _rank(residue: Field) -> NDArray[np.int8]:
    """Counts, for each coordinate, the larger ones; of equal ones the earlier ranks first."""
    rank = np.zeros(residue.shape, dtype=np.int8)
    for i in range(len(residue)):
        for j in range(i + 1, len(residue)):
            is_less = residue[i] < residue[j]
            rank[i] += is_less
            rank[j] += ~is_less
    return rank


def _choose_code(elevated: Field) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Chooses how coordinates are packed into one integer; the last follows from the others.

    Returns:
        `(d+1, 1)` lowest coordinates, and `(d+1,)` place values.

    Raises:
        UsageError: the points are spread too wide for 63 bits.
    """
    d = len(elevated) - 1
    reach = 2 * (d + 1) + 2 * d  # point to vertex, less than 2 (d + 1); to a corner d; one further
    low = np.floor(elevated.min(axis=1)).astype(np.int32) - reach
    extents = (np.ceil(elevated.max(axis=1)).astype(np.int32) + reach - low + 1).tolist()
    if math.prod(extents[:d]) >= 2**63:
        raise UsageError(
            "the ranges of the filter are too small for this picture; give larger ones"
        )
    bases = np.array([*itertools.accumulate([1, *extents[: d - 1]], operator.mul), 0])
    return low[:, None], bases


def _encode_corners(
    vertex: NDArray[np.int32], order: NDArray[np.int64], bases: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Packs each corner's coordinates: `(N, d+1)` codes of those of simplex corners 0 to d.

    Corner k + 1 is corner k and 1 in every coordinate, less d + 1 in that of rank d - k.
    """
    d, n = len(vertex) - 1, vertex.shape[1]
    codes = np.empty((n, d + 1), dtype=np.int64)
    codes[:, 0] = bases @ vertex
    steps = bases.sum() - (d + 1) * bases
    for k in range(d):
        codes[:, k + 1] = codes[:, k] + steps[order[d - k]]
    return codes


def _find_neighbours(
    vertices: NDArray[np.int64], bases: NDArray[np.int64], axis: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the two neighbours of every vertex along one lattice direction; a missing one is M."""
    step = len(bases) * bases[axis] - bases.sum()
    place = np.searchsorted(vertices, vertices + step)
    place[place == len(vertices)] = 0
    exists = vertices[place] == vertices + step
    after = np.where(exists, place, len(vertices))
    before = np.full(len(vertices), len(vertices))
    before[place[exists]] = np.flatnonzero(exists)
    return before, after
