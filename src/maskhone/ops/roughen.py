"""Makes believable coarse masks out of good ones, for training.

One network's mistakes are only one kind of mistake. Masks roughened here are wrong in the ways that
detectors, trackers, polygon tools and low-resolution networks are: wavy or simplified outlines,
grown or shrunken parts, lost thin structures, stair-steps and blur, small displacements.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.ops.masks import longer_side, mean_width

_WIDTHS_IN_EXTENT = 8.0  # a standing person is about eight mean widths tall
_LARGEST_SHIFT = 0.02  # of the object's extent, each way
_WAVE_RANGE = (0.004, 0.06)  # amplitude of the outline's waves, of the object's extent
_KERNEL_RANGE = (0.005, 0.05)  # diameter of the morphology kernel, likewise
_GRID_RANGE = (8.0, 120.0)  # cells along the object's extent in a low-resolution mask


def roughen(
    mask: NDArray[np.bool_], random: np.random.Generator, *, extent_px: float
) -> NDArray[np.float32]:
    """Returns a coarse version of a mask: soft scores whose outline strays by random amounts.

    Args:
        mask: `(H, W)` bool.
        random: all randomness comes from here.
        extent_px: of the object, see `measure_extent`; how far the outline strays is
            measured by it.

    Returns:
        `(H, W)` float32 in [0, 1].

    Example:
        >>> square = np.zeros((40, 40), dtype=bool)
        >>> square[10:30, 10:30] = True
        >>> rough = roughen(square, np.random.default_rng(0), extent_px=20)
        >>> bool(rough[20, 20] > 0.5), bool(rough[0, 0] < 0.5)
        (True, True)
    """
    rough = mask
    if random.random() < 0.7:
        rough = _wave_outline(rough, random, extent_px)
    if random.random() < 0.5:
        rough = _grow_or_shrink(rough, random, extent_px)
    if random.random() < 0.4:
        rough = _shift(rough, random, extent_px)
    if random.random() < 0.7:
        return _lower_resolution(rough, random, extent_px)
    return rough.astype(np.float32)


def misread_strands(
    mask: NDArray[np.bool_], random: np.random.Generator, *, width_px: float
) -> NDArray[np.float32]:
    """Returns what a small network might say of thin strands: too wide, with gaps and specks.

    Args:
        mask: `(H, W)` bool.
        random: all randomness comes from here.
        width_px: mean width of the strands, which all blur is measured by.

    Returns:
        `(H, W)` float32 in [0, 1].

    Example:
        >>> wire = np.zeros((40, 40), dtype=bool)
        >>> wire[18:21] = True
        >>> coarse = misread_strands(wire, np.random.default_rng(0), width_px=3)
        >>> bool(coarse[17:22].mean() > coarse[:15].mean())
        True
    """
    pen_px = int(random.uniform(0, 1.5) * width_px) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pen_px, pen_px))
    thick = cv2.dilate(mask.astype(np.uint8), kernel).astype(np.float32)
    blur_px = max(random.uniform(0.2, 0.8) * width_px, 0.5)
    strands = _blur(thick, blur_px)
    gaps = random.uniform(0, 0.6) * _cells(mask.shape, 12 * width_px, random)
    is_speck = _cells(mask.shape, max(2.5 * width_px, 4), random) > random.uniform(1.2, 3.0)
    specks = random.uniform(0.2, 1) * _blur(is_speck.astype(np.float32), blur_px)
    strands = strands / max(float(strands.max()), 0.1) * (1 - gaps.clip(-0.2, 1))
    contrast = _log_uniform(random, 1.0, 3.0)
    level = random.uniform(0.3, 0.6)  # what becomes one half
    said = (np.maximum(strands, specks) - level) * contrast + 0.5
    return np.asarray(np.clip(said, 0.0, 1.0), dtype=np.float32)


def is_thin(mask: NDArray[np.bool_]) -> bool:
    """Says whether an object is much longer than wide, or many such: cracks, vessels, wires.

    Example:
        >>> square, wire = np.ones((40, 40), dtype=bool), np.zeros((40, 40), dtype=bool)
        >>> wire[:, 20] = True
        >>> is_thin(square), is_thin(wire)
        (False, True)
    """
    return bool(mask.any()) and 2 * measure_extent(mask) < longer_side(mask)


def _blur(scores: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(scores, (0, 0), sigma_px), dtype=np.float32)


def _cells(
    size_hw: tuple[int, ...], cell_px: float, random: np.random.Generator
) -> NDArray[np.float32]:
    """Draws smooth normal noise of a certain coarseness."""
    cells = [max(2, round(n / cell_px) + 1) for n in size_hw]
    noise = random.standard_normal(cells).astype(np.float32)
    return np.asarray(cv2.resize(noise, size_hw[::-1], interpolation=cv2.INTER_CUBIC))


def measure_extent(mask: NDArray[np.bool_]) -> float:
    """Measures an object by its longer side or, when it is thin, by some multiple of its width.

    Args:
        mask: `(H, W)` bool; an empty one has an extent of one pixel.
    """
    if not mask.any():
        return 1.0
    return max(min(longer_side(mask), _WIDTHS_IN_EXTENT * mean_width(mask)), 1.0)


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _wave_outline(
    mask: NDArray[np.bool_], random: np.random.Generator, extent_px: float
) -> NDArray[np.bool_]:
    """Moves the outline in and out by smooth noise: a level set of the signed distance."""
    amplitude_px = extent_px * _log_uniform(random, *_WAVE_RANGE)
    wavelength_px = max(extent_px * _log_uniform(random, 0.03, 0.5), 4.0)
    smooth = _cells(mask.shape, wavelength_px, random)
    waved: NDArray[np.bool_] = signed_distance(mask) + amplitude_px * smooth > 0
    return waved


def signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Measures pixels to the outline, positive inside: `(H, W)` float32."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    return np.asarray(inside - outside, dtype=np.float32)


def _grow_or_shrink(
    mask: NDArray[np.bool_], random: np.random.Generator, extent_px: float
) -> NDArray[np.bool_]:
    diameter_px = int(extent_px * _log_uniform(random, *_KERNEL_RANGE)) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter_px, diameter_px))
    operations = (cv2.MORPH_ERODE, cv2.MORPH_DILATE, cv2.MORPH_OPEN, cv2.MORPH_CLOSE)
    operation = operations[random.integers(len(operations))]
    return cv2.morphologyEx(mask.astype(np.uint8), operation, kernel) > 0


def _shift(
    mask: NDArray[np.bool_], random: np.random.Generator, extent_px: float
) -> NDArray[np.bool_]:
    reach_px = _LARGEST_SHIFT * extent_px
    move = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float64)
    move[:, 2] = np.round(random.uniform(-reach_px, reach_px, 2))
    return cv2.warpAffine(mask.astype(np.uint8), move, mask.shape[::-1]) > 0


def _lower_resolution(
    mask: NDArray[np.bool_], random: np.random.Generator, extent_px: float
) -> NDArray[np.float32]:
    """Shrinks by averaging and enlarges bilinearly; sometimes sharpens what comes out."""
    factor = max(extent_px / _log_uniform(random, *_GRID_RANGE), 1.0)
    small_hw = [max(2, round(n / factor)) for n in mask.shape]
    small = cv2.resize(mask.astype(np.float32), small_hw[::-1], interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    contrast = _log_uniform(random, 1.0, 4.0)
    sharpened = np.clip((soft - 0.5) * contrast + 0.5, 0.0, 1.0)
    return np.asarray(sharpened, dtype=np.float32)
