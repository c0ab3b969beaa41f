"""The random walk: class maps spread to pixels of the same thing, and stop at its edges.

K class maps on a grid of h x w cells of 4 x 4 pixels. Source: Ahn and Kwak, CVPR 2018, section 3.3;
Ahn et al., "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR
2019; OFRIN/PuzzleCAM:core/aff_utils.py, inference_rw.py.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import dia_array
from torch.nn.functional import interpolate, pad

from maskhone.errors import InputError
from maskhone.methods.perimeterfit.pairs import index_paths, measure_affinities

Maps = NDArray[np.float32]  # (K, h, w)
Edges = NDArray[np.float32]  # (h, w), probabilities

STRIDE_PX = 4
"""The side of a cell (OFRIN/PuzzleCAM:inference_rw.py)."""


def walk(
    maps: Maps, edges: Edges, *, radius: int = 5, beta: float = 10.0, exp_times: int = 8
) -> Maps:
    """Spreads class maps by a random walk of `2 ** exp_times` steps between near cells.

    Args:
        maps: `(K, h, w)`, 0 or more; K may be 0.
        edges: `(h, w)` probability of an edge in each cell, in [0, 1].
        radius: cells nearer than this are neighbours.
        beta: power of the affinities; the larger, the firmer an edge.
        exp_times: logarithm of the number of steps.

    Returns:
        `(K, h, w)` float32. The sum over a map is not kept: a cell takes the mean of its
        neighbours, weighted by affinity.

    Raises:
        InputError: maps and edges differ in size.

    Notes:
        A step is one product with a sparse matrix of at most 69 diagonals for radius 5, in double
        precision; three maps of 94 x 125 cells take 0.22 s on one CPU thread.
        Differs: the original squares a dense matrix `exp_times` times in single precision, which
        takes 0.55 GB at that size. The values are the same up to its rounding, 3e-5.

    Example:
        >>> maps = np.zeros((1, 3, 9), dtype=np.float32)
        >>> maps[:, :, 0] = 1
        >>> edges = np.zeros((3, 9), dtype=np.float32)
        >>> edges[:, 4] = 1
        >>> walk(maps, edges)[0, 1].round(2).tolist()
        [0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if maps.shape[1:] != edges.shape:
        raise InputError(
            f"class maps of {maps.shape[1:]} cells but edges of {edges.shape}; "
            "both must be of one picture"
        )
    if not len(maps):
        return maps.astype(np.float32)
    step = make_step(edges, radius=radius, beta=beta)
    inside = np.asarray(maps * (1 - edges), dtype=np.float64).reshape(len(maps), -1)
    walked = [_repeat(step, flat, 2**exp_times) for flat in inside]
    return np.array(walked, dtype=np.float32).reshape(maps.shape)


def make_step(edges: Edges, *, radius: int = 5, beta: float = 10.0) -> dia_array:
    """Makes one step of the walk: a sparse `(h*w, h*w)` matrix whose rows sum to 1.

    The published matrix is its transpose, applied from the right. Pairs of one direction are one
    distance apart in flat indices wherever they are, so their affinities are a diagonal.
    """
    assert beta > 0, "the power 0 joins every cell with every other"
    diagonals = {0: np.ones(edges.size)}
    for (dy, dx), affinity in _measure_directions(edges, radius):
        weight = affinity.ravel().astype(np.float64) ** beta
        if not weight.any():
            continue
        offset = dy * edges.shape[1] + dx
        there = np.roll(weight, offset)  # what rolls over the end is 0, its partner is outside
        diagonals[offset] = diagonals.get(offset, 0) + there
        diagonals[-offset] = diagonals.get(-offset, 0) + weight
    offsets = list(diagonals)
    matrix = dia_array((np.stack(list(diagonals.values())), offsets), shape=(edges.size,) * 2)
    total = matrix @ np.ones(edges.size)
    scaled = np.stack([diagonals[offset] / np.roll(total, offset) for offset in offsets])
    return dia_array((scaled, offsets), shape=matrix.shape)


def pad_edges(edges: Edges, radius: int) -> torch.Tensor:
    """Surrounds `(h, w)` cells by edges so wide that every cell is a source: `(1, h', w')`."""
    return pad(torch.tensor(edges)[None], (radius, radius, 0, radius), value=1.0)


def enlarge(maps: Maps, size_hw: tuple[int, int]) -> Maps:
    """Brings maps of the grid to the size of the picture, and their common maximum to 1.

    Args:
        maps: `(K, h, w)`, 0 or more; K may be 0.
        size_hw: of the picture, of at most 4 h x 4 w pixels.

    Returns:
        `(K, H, W)` float32 in [0, 1].

    Differs: maps that are 0 everywhere stay so; the original divides by 0.

    Example:
        >>> enlarge(np.full((2, 2, 3), 0.5, dtype=np.float32), (7, 10)).max()
        np.float32(1.0)
    """
    height, width = size_hw
    if not len(maps):
        return np.zeros((0, height, width), dtype=np.float32)
    large = interpolate(
        torch.tensor(maps)[None], scale_factor=STRIDE_PX, mode="bilinear", align_corners=False
    )[0, :, :height, :width].numpy()
    highest = large.max()
    return large / highest if highest > 0 else large


def _measure_directions(edges: Edges, radius: int) -> Iterator[tuple[list[int], Edges]]:
    """Yields each direction, dy and dx, with the `(h, w)` affinities of the pairs that start there.

    A pair whose other end is outside has affinity 0.
    """
    height, width = edges.shape
    padded = pad_edges(edges, radius)
    index = index_paths(radius, (padded.shape[1], padded.shape[2]))
    affinities = measure_affinities(padded, index)[0].numpy()
    sources_w = padded.shape[2] - 2 * (radius - 1)  # one more than the grid on either side
    for path, affinity in zip(index.paths, affinities, strict=True):
        yield path[0].tolist(), affinity.reshape(-1, sources_w)[:height, 1 : 1 + width]


def _repeat(step: dia_array, flat: NDArray[np.float64], times: int) -> NDArray[np.float64]:
    for _ in range(times):
        flat = step @ flat
    return flat
