"""PerimeterFit: what of a picture's segments a class map claims, and what of the map that doubles.

A segment that reaches outside a class's support is not that class's; the ones that lie within, and
the perimeter lines, are. The class map counts double where two kinds of segments agree.

Sources: Ostrowski et al., "SILOP", IJCNN 2023 (arXiv 2303.07892); sections 4 to 6 of our
description of "PF", that is ErikOstrowski/Automated-Framework-for-Semantic-Segmentation-Using-
Image-Labels-Based-On-Object-Perimeters: `Edge_detection.py`, `PerimeterFit.py`,
`Combine_PerimeterFit.py`.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn import functional

from maskhone.contracts import Image
from maskhone.errors import UsageError

Bits = NDArray[np.bool_]

COLOUR_TOLERANCE = 10
"""A flood takes colours this near to its seed's, over all channels (PF, `PerimeterFit.py`)."""


@dataclass(frozen=True, kw_only=True)
class FitSetting:
    """How one kind of segments is fitted.

    Attributes:
        support_above: a class's support is where its map, 1 at the most, lies above this.
        keeps_outside: perimeter lines count everywhere, also outside the support.
        perimeter_above: of pictures of perimeters in 0..255: what is a line in spite of the JPEG.
    """

    support_above: float = 0.05
    keeps_outside: bool = False
    perimeter_above: int = 250

    def __post_init__(self) -> None:
        if not 0 <= self.support_above < 1:
            raise UsageError(f"support_above is {self.support_above}; expected 0 or more, below 1")


SETTINGS = {
    "slic": FitSetting(),
    "quick": FitSetting(support_above=0.0, keeps_outside=True, perimeter_above=200),
}
"""The two published ones, by kind of superpixels."""


def fit_segments(
    segments: NDArray[np.integer[Any]],
    is_perimeter: Bits,
    class_maps: NDArray[np.floating[Any]],
    setting: FitSetting,
) -> Bits:
    """Marks, for each class, the segments that lie in its support, and the perimeter lines.

    All classes share one labelling of the segments; time grows with the pixels, not the segments.

    Args:
        segments: `(H, W)` labels; a segment is a 4-connected region of one label.
        is_perimeter: `(H, W)`, see `find_perimeter`.
        class_maps: `(K, H, W)` scores, from 0 to 1; K may be 0.
        setting: see `FitSetting`.

    Returns:
        `(K, H, W)` bool.

    Source: PF, `PerimeterFit.py`, whose flood from every pixel outside the support, on pictures
    that no JPEG has spoilt, comes to this. Pixels of the last row and column are never seeds.

    Example:
        >>> segments = np.array([[1, 1, 2, 2, 3]] * 2)
        >>> scores = np.array([[[0.0, 0.9, 0.9, 0.9, 0.9]] * 2])
        >>> fit_segments(segments, np.zeros((2, 5), bool), scores, FitSetting())[0, 0].tolist()
        [False, False, True, True, True]
    """
    components, n_components = number_components(segments)
    seeds = components[:-1, :-1]
    fits = np.empty(class_maps.shape, dtype=np.bool_)
    for fit, class_map in zip(fits, class_maps, strict=True):
        has_support = class_map > setting.support_above
        is_alive = np.ones(n_components, dtype=np.bool_)
        is_alive[seeds[~has_support[:-1, :-1]]] = False
        fit[:] = _join(is_alive.take(components), is_perimeter, has_support, setting)
    return fits


def fit_pictures(
    segments_picture: Image,
    perimeter_picture: NDArray[np.uint8],
    class_maps: NDArray[np.floating[Any]],
    setting: FitSetting,
) -> Bits:
    """Does what `fit_segments` does as published: by flooding a picture of the segments.

    It is here for comparison: the noise of the JPEG files leaves speckles at segment borders, and
    a flood in Python takes a second per class.

    Args:
        segments_picture: `(H, W, 3)` uint8 RGB, read from JPEG.
        perimeter_picture: `(H, W)` uint8, read from JPEG.
        class_maps: `(K, H, W)` scores, from 0 to 1; K may be 0.
        setting: see `FitSetting`.

    Returns:
        `(K, H, W)` bool.

    Source: PF, `PerimeterFit.py`. Colours are stretched to 255 and truncated. Colours near black
    are no seeds and stay.
    """
    brightest = max(int(segments_picture.max()), 1)
    colours = np.trunc(segments_picture / brightest * 255).astype(np.int64)
    is_perimeter = perimeter_picture > setting.perimeter_above
    fits = np.empty(class_maps.shape, dtype=np.bool_)
    for fit, class_map in zip(fits, class_maps, strict=True):
        has_support = class_map > setting.support_above
        is_alive = flood(colours, ~has_support) & colours.any(axis=2)
        fit[:] = _join(is_alive, is_perimeter, has_support, setting)
    return fits


def _join(is_alive: Bits, is_perimeter: Bits, has_support: Bits, setting: FitSetting) -> Bits:
    claimed = is_alive | is_perimeter
    return claimed if setting.keeps_outside else claimed & has_support


def number_components(segments: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], int]:
    """Numbers the 4-connected regions of equal label; returns `(H, W)` numbers and their count.

    Example:
        >>> numbers, _ = number_components(np.array([[5, 5, 6], [6, 5, 6], [6, 6, 5]]))
        >>> len(np.unique(numbers)), bool(numbers[0, 2] == numbers[2, 0])
        (4, False)
    """
    is_start = np.ones(segments.shape, dtype=np.bool_)  # of a run of one label in its row
    is_start[:, 1:] = segments[:, 1:] != segments[:, :-1]
    run_of_pixel = np.cumsum(is_start, dtype=np.int32) - 1
    n_runs = run_of_pixel[-1] + 1
    # Two runs of one label that touch are linked once, where the later of them starts.
    is_link = (segments[1:] == segments[:-1]) & (is_start[1:] | is_start[:-1])
    above = np.flatnonzero(is_link)
    ends = run_of_pixel[above], run_of_pixel[above + segments.shape[1]]
    links = csr_matrix((np.ones(len(above), dtype=np.bool_), ends), (n_runs, n_runs))
    n_components, component_of_run = connected_components(links, directed=False)
    return component_of_run.take(run_of_pixel).reshape(segments.shape), n_components


def flood(colours: NDArray[np.integer[Any]], is_seed: Bits) -> Bits:
    """Floods from seed after seed, in raster order; returns the pixels no flood has reached.

    A flood takes the 4-connected pixels whose colour, summed over the channels, differs from the
    seed's by `COLOUR_TOLERANCE` at most, and makes them black. Seeds in the last row and column,
    and near black ones, start none.

    Args:
        colours: `(H, W, 3)` integers in 0..255.
        is_seed: `(H, W)`.
    """
    height, width = colours.shape[:2]
    side = width + 2  # a rim of colours too far from all others stops every flood
    rimmed = np.full((height + 2, side, 3), 4 * 255, dtype=np.int64)
    rimmed[1:-1, 1:-1] = colours
    red, green, blue = (rimmed[..., channel].ravel().tolist() for channel in range(3))
    is_dry = bytearray(b"\1" * len(red))
    rows, columns = np.nonzero(is_seed[:-1, :-1])
    for seed in ((rows + 1) * side + columns + 1).tolist():
        seed_red, seed_green, seed_blue = red[seed], green[seed], blue[seed]
        if not is_dry[seed] or seed_red + seed_green + seed_blue <= COLOUR_TOLERANCE:
            continue
        is_dry[seed] = 0
        waiting = [seed]
        while waiting:
            place = waiting.pop()
            for near in (place - 1, place + 1, place - side, place + side):
                if is_dry[near]:
                    difference = abs(red[near] - seed_red) + abs(green[near] - seed_green)
                    difference += abs(blue[near] - seed_blue)
                    if difference <= COLOUR_TOLERANCE:
                        is_dry[near] = 0
                        waiting.append(near)
    dry = np.frombuffer(bytes(is_dry), dtype=np.bool_).reshape(height + 2, side)
    return dry[1:-1, 1:-1].copy()


def find_perimeter(segments: NDArray[np.integer[Any]]) -> Bits:
    """Marks the pixels whose right or lower neighbour has another label: lines of one pixel.

    Differs: the original looks for edges in a JPEG picture of the segments; `find_edges` does.

    Example:
        >>> find_perimeter(np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])).astype(int).tolist()
        [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    """
    is_line = np.zeros(segments.shape, dtype=np.bool_)
    is_line[:, :-1] |= segments[:, 1:] != segments[:, :-1]
    is_line[:-1] |= segments[1:] != segments[:-1]
    return is_line


def find_edges(picture: Image, *, low: int = 1, high: int = 50) -> NDArray[np.uint8]:
    """Finds the edges of an `(H, W, 3)` RGB picture of segments; `(H, W)` of 0 and 255.

    Source: PF, `Edge_detection.py`: grey, blurred, Canny with 3 x 3 Sobel and the L1 norm.

    Args:
        picture: the segments in colours, see `paint`.
        low: gradient above which an edge goes on.
        high: gradient above which an edge starts.
    """
    smooth = blur(make_grey(picture))
    edges = cv2.Canny(smooth, low, high, apertureSize=3, L2gradient=False)
    return np.asarray(edges, dtype=np.uint8)


def make_grey(picture: Image) -> NDArray[np.uint8]:
    """Weighs red, green and blue by 0.299, 0.587 and 0.114; `(H, W)` uint8."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def blur(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Weighs each pixel and its neighbours by 1/4, 1/2, 1/4 both ways."""
    return np.asarray(cv2.GaussianBlur(grey, (3, 3), 0), dtype=np.uint8)


def combine(
    class_maps: NDArray[np.float32], slic_fits: Bits, quick_fits: Bits
) -> NDArray[np.float32]:
    """Doubles class maps where both fits agree.

    Args:
        class_maps: `(K, h, w)` scores, at the size of the fits or a smaller one.
        slic_fits: `(K, H, W)`, of the segments of one kind.
        quick_fits: `(K, H, W)`, of the other kind.

    Returns:
        `(K, h, w)` float32, up to twice the scores: nothing is normalised again.

    Source: PF, `Combine_PerimeterFit.py`. For smaller maps each fit is resized, bilinearly, before
    both are multiplied.
    """
    agreement = _resize(slic_fits, class_maps.shape[1:]) * _resize(quick_fits, class_maps.shape[1:])
    combined: NDArray[np.float32] = (class_maps * agreement + class_maps).astype(np.float32)
    return combined


def _resize(fits: Bits, size_hw: tuple[int, ...]) -> NDArray[np.float64]:
    numbers = fits.astype(np.float64)
    if fits.shape[1:] == size_hw or not len(fits):
        return numbers.reshape(len(fits), *size_hw)
    resized: NDArray[np.float64] = functional.interpolate(
        torch.from_numpy(numbers)[None], size=size_hw, mode="bilinear", align_corners=False
    )[0].numpy()
    return resized
