"""Pairs of near pixels, and the paths between them on which an edge parts the two.

D directions, S sources, L points of a path, B batch, h and w of the grid. A direction and its
opposite are one, so a pair of pixels comes once. Source: Ahn and Kwak, "Learning Pixel-level
Semantic Affinity with Image-level Supervision", CVPR 2018; OFRIN/PuzzleCAM:core/aff_utils.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Points = NDArray[np.int64]  # (..., 2), dy dx


@dataclass(frozen=True, eq=False)
class PathIndex:
    """All pairs of a grid whose pixels are less than a radius apart, as flat indices.

    A source is a pixel from which every path stays inside the grid. Directions go by the length of
    their paths; those of one length are as in `list_directions`.

    Attributes:
        radius: in pixels; pairs are nearer than this.
        size_hw: of the grid.
        paths: `(L, 2)` for each direction, its destination first and the source, (0, 0), last.
        sources: `(S,)` int64 flat indices.
        destinations: `(D, S)` int64 flat indices.
    """

    radius: int
    size_hw: tuple[int, int]
    paths: tuple[Points, ...]
    sources: Tensor
    destinations: Tensor

    def index_path(self, direction: int) -> Tensor:
        """Returns the `(L, S)` flat indices of the points between the pairs of one direction."""
        steps_L = torch.from_numpy(_flatten(self.paths[direction], self.size_hw))
        return steps_L.to(self.sources.device)[:, None] + self.sources


def index_paths(
    radius: int, size_hw: tuple[int, int], *, device: torch.device | str = "cpu"
) -> PathIndex:
    """Finds the pairs of a grid, and the paths between them.

    Args:
        radius: in pixels, 2 or more; 34 directions for 5, 152 for 10.
        size_hw: of the grid; at least `radius` high and `2 * radius - 1` wide for a pair to exist.
        device: where the indices are kept.

    Example:
        >>> index = index_paths(2, (2, 3))
        >>> index.sources.tolist(), index.destinations.ravel().tolist()
        ([1], [2, 4, 3, 5])
    """
    reach = radius - 1
    height, width = size_hw
    rows = np.arange(height - reach)[:, None] * width
    sources = (rows + np.arange(reach, width - reach)).reshape(-1)
    paths = sorted((trace_path(*d) for d in list_directions(radius).tolist()), key=len)
    ends = _flatten(np.array([path[0] for path in paths]), size_hw)
    destinations = ends[:, None] + sources
    return PathIndex(
        radius=radius,
        size_hw=size_hw,
        paths=tuple(paths),
        sources=torch.from_numpy(sources).to(device),
        destinations=torch.from_numpy(destinations).to(device),
    )


def list_directions(radius: int) -> Points:
    """Lists the half disc of steps shorter than a radius, to the right and down: `(D, 2)` dy, dx.

    Example:
        >>> list_directions(2).tolist()
        [[0, 1], [1, -1], [1, 0], [1, 1]]
    """
    assert radius >= 2, "a smaller radius pairs nothing"
    right = [(0, x) for x in range(1, radius)]
    steps = range(1 - radius, radius)
    below = [(y, x) for y in range(1, radius) for x in steps if x * x + y * y < radius * radius]
    return np.array(right + below, dtype=np.int64)


def trace_path(dy: int, dx: int) -> Points:
    """Lists the points less than a pixel from the line between (0, 0) and (dy, dx): `(L, 2)`.

    The farthest comes first; of equally far ones the upper, then the left.

    Example:
        >>> trace_path(1, -1).tolist()
        [[1, -1], [0, -1], [1, 0], [0, 0]]
        >>> trace_path(1, 2).tolist()
        [[1, 2], [0, 2], [1, 1], [0, 1], [1, 0], [0, 0]]
    """
    y, x = np.mgrid[min(0, dy) : max(0, dy) + 1, min(0, dx) : max(0, dx) + 1].reshape(2, -1)
    is_near = (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    points = np.stack([y, x], axis=1)[is_near]
    order = np.argsort(-np.abs(points).sum(axis=1), kind="stable")
    path: Points = points[order]
    return path


def measure_affinities(edges_Bhw: Tensor, index: PathIndex) -> Tensor:
    """Computes how surely each pair is one thing: 1 minus the strongest edge between them.

    Args:
        edges_Bhw: edge probabilities in [0, 1]; gradients pass through.
        index: of a grid of this size.

    Returns:
        `(B, D, S)`. Both ends of a path belong to it.

    Notes:
        Where a path is highest is found first, without gradients; only that point is then read.
        The graph so holds one number for each pair, not one for each point of each path.
    """
    assert tuple(edges_Bhw.shape[1:]) == index.size_hw, "an index of another grid"
    with torch.no_grad():
        highest = [_find_highest(edges_Bhw, index, d) for d in range(len(index.paths))]
    where_BDS = torch.stack(highest, dim=1)
    return 1 - edges_Bhw.flatten(1).gather(1, where_BDS.flatten(1)).view(where_BDS.shape)


def _find_highest(edges_Bhw: Tensor, index: PathIndex, direction: int) -> Tensor:
    """Returns the `(B, S)` flat index of the highest point of each path of one direction."""
    reach, (height, width) = index.radius - 1, index.size_hw
    along_path = [
        edges_Bhw[:, y : y + height - reach, x + reach : x + width - reach]
        for y, x in index.paths[direction].tolist()
    ]
    step_Bhw = torch.stack(along_path).max(dim=0).indices
    return index.index_path(direction).gather(0, step_Bhw.flatten(1))


def _flatten(points: Points, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    flat: NDArray[np.int64] = points @ np.array([size_hw[1], 1])
    return flat
