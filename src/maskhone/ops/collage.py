"""Makes pictures whose truth is exact: one picture pasted into another along a known outline.

A few hundred pictures of a few kinds of object teach a network to look for those kinds. In a
collage any shape, thin ones too, lies on any ground, often beside an object that is not meant, so
that only the mask says what to refine.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image

_MOST_TURN = 30.0  # degrees, of an object that keeps its own pixels
_SCALES = (0.6, 1.3)
_EDGE_BLUR_PX = (0.4, 1.6)  # sigma; cameras and resizing do not leave hard edges
_FAINTEST = 0.35  # share of its contrast to the ground that a pasted piece keeps at least
_STRAND_WIDTHS_PX = (1.5, 24.0)
_SHADES = (0.45, 1.6)  # of a ground in and outside of a thing that is only darker or lighter
_BLURS_PX = (2.0, 30.0)  # sigma
_GRAIN = 40.0  # grey values, before it is blurred
_TINT = 20.0  # grey values, standard deviation by channel


def paste_into(
    ground: Image,
    image: Image,
    truth: NDArray[np.bool_],
    random: np.random.Generator,
    *,
    drawn_share: float = 0.5,
    shaded_share: float = 0.0,
) -> tuple[Image, NDArray[np.bool_]]:
    """Pastes an object, or a random shape filled with a picture, into another picture.

    Args:
        ground: `(h, w, 3)` uint8 RGB to paste into; resized to the size of `image`.
        image: `(H, W, 3)` uint8 RGB to take from.
        truth: `(H, W)` bool, the object of `image`.
        random: all randomness comes from here.
        drawn_share: probability of a random shape; else it is the object.
        shaded_share: probability that a random shape is the ground itself, darker, lighter or of
            another tint, as cracks, vessels and shadows are, and mostly strands.

    Returns:
        The collage and the mask of what was pasted, of the size of `image`.
    """
    size_wh = truth.shape[1::-1]
    fitted = np.asarray(cv2.resize(ground, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    below = _move(fitted, random, most_turn=180)
    if truth.any() and random.random() < 1 - drawn_share:
        both = np.dstack([image, truth.astype(np.uint8) * 255])
        moved = _move(both, random, most_turn=_MOST_TURN, border=cv2.BORDER_CONSTANT)
        piece, shape = moved[..., :3], moved[..., 3] > 127
    elif shaded_share and random.random() < shaded_share:
        draw = draw_strands if random.random() < 0.7 else draw_shape
        shape = draw(truth.shape, random)
        below = _smooth(below, random) if random.random() < 0.5 else below
        piece = _shade(below, random)
    else:
        piece, shape = _move(image, random, most_turn=180), draw_shape(truth.shape, random)
    return _blend(below, piece, shape, random), shape


def _smooth(picture: Image, random: np.random.Generator) -> Image:
    """Blurs a picture to a plain ground, and gives it the grain of one."""
    sigma_px = np.exp(random.uniform(*np.log(_BLURS_PX)))
    plain = cv2.GaussianBlur(picture, (0, 0), float(sigma_px)).astype(np.float32)
    specks = random.normal(0, random.uniform(0, _GRAIN), picture.shape[:2])
    grain = np.asarray(cv2.GaussianBlur(specks, (0, 0), random.uniform(0.3, 1.5)))
    return np.asarray(np.clip(plain + grain[..., None], 0, 255).round(), dtype=np.uint8)


def _shade(below: Image, random: np.random.Generator) -> Image:
    """Makes a picture darker or lighter, more so in some places, and of another tint."""
    low, high = np.log(_SHADES)
    shade = np.exp(random.uniform(low, high) * np.clip(1 + 0.4 * _noise_of(below, random), 0, 2))
    tint = random.normal(0, _TINT, 3)
    return np.asarray(np.clip(below * shade[..., None] + tint, 0, 255).round(), dtype=np.uint8)


def _noise_of(picture: Image, random: np.random.Generator) -> NDArray[np.float32]:
    return _smooth_noise((picture.shape[0], picture.shape[1]), random)


def _blend(
    below: Image, piece: Image, shape: NDArray[np.bool_], random: np.random.Generator
) -> Image:
    """Joins two pictures along a soft edge, sometimes with little contrast between them."""
    sigma = random.uniform(*_EDGE_BLUR_PX)
    alpha = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), sigma)[..., None]
    if random.random() < 0.4:
        alpha = alpha * random.uniform(_FAINTEST, 1)
    joined = below + alpha * (piece.astype(np.float32) - below)
    return np.asarray(joined.round(), dtype=np.uint8)


def _move(
    picture: NDArray[np.uint8],
    random: np.random.Generator,
    *,
    most_turn: float,
    border: int = cv2.BORDER_REFLECT_101,
) -> NDArray[np.uint8]:
    """Turns, scales and flips `(H, W, C)` about its centre."""
    height, width = picture.shape[:2]
    turn, scale = random.uniform(-most_turn, most_turn), random.uniform(*_SCALES)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
    moved = cv2.warpAffine(picture, matrix, (width, height), borderMode=border)
    flipped = moved[:, ::-1] if random.random() < 0.5 else moved
    return np.ascontiguousarray(flipped, dtype=np.uint8)


def draw_shape(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.bool_]:
    """Draws blobs, strands, leaves or polygons: `(H, W)` bool.

    Example:
        >>> shape = draw_shape((48, 64), np.random.default_rng(0))
        >>> shape.shape, bool(shape.any()), bool(shape.all())
        ((48, 64), True, False)
    """
    draw = _DRAWINGS[random.integers(len(_DRAWINGS))]
    shape = draw(size_hw, random)
    return shape if shape.any() and not shape.all() else _draw_polygon(size_hw, random)


def _draw_blobs(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.bool_]:
    noise = _smooth_noise(size_hw, random)
    blobs: NDArray[np.bool_] = noise > np.quantile(noise, random.uniform(0.5, 0.9))
    return blobs


def draw_strands(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.bool_]:
    """Draws strands that cross, end and are jagged or smooth: `(H, W)` bool.

    They follow level lines of noise, as cracks, vessels, roads and wires do roughly.

    Example:
        >>> strands = draw_strands((48, 64), np.random.default_rng(0))
        >>> strands.shape, bool(strands.any()), bool(strands.all())
        ((48, 64), True, False)
    """
    roughness = random.uniform(0, 0.25)
    drawn = np.zeros(size_hw, dtype=bool)
    for _ in range(random.integers(1, 4)):
        jagged = _smooth_noise(size_hw, random)
        for octave in range(1, 4):
            cells = [max(2, n >> (6 - octave)) for n in size_hw]
            fine = random.standard_normal(cells).astype(np.float32)
            jagged += roughness / 2**octave * cv2.resize(fine, size_hw[::-1])
        has_ended = _smooth_noise(size_hw, random) > random.uniform(0, 1.5)
        drawn |= _widen(jagged > 0, size_hw, random) & ~has_ended
    return drawn if drawn.any() and not drawn.all() else _draw_strands(size_hw, random)


def _draw_strands(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.bool_]:
    """Follows the level lines of smooth noise, as cracks, vessels, roads and wires do roughly."""
    return _widen(_smooth_noise(size_hw, random) > 0, size_hw, random)


def _widen(
    above: NDArray[np.bool_], size_hw: tuple[int, int], random: np.random.Generator
) -> NDArray[np.bool_]:
    """Draws the outline of a region with a pen of random and changing width."""
    line = cv2.morphologyEx(
        above.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), dtype=np.uint8)
    )
    distance = cv2.distanceTransform(1 - line, cv2.DIST_L2, 3)
    low, high = np.log(_STRAND_WIDTHS_PX)
    width_px = np.exp(random.uniform(low, high)) * np.exp(0.3 * _smooth_noise(size_hw, random))
    strands: NDArray[np.bool_] = distance < width_px / 2
    return strands


def _draw_leaves(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.bool_]:
    """Lays long ellipses about a few centres."""
    canvas = np.zeros(size_hw, dtype=np.uint8)
    for _ in range(random.integers(1, 5)):
        centre = random.uniform(0.1, 0.9, 2) * size_hw[::-1]
        length = max(size_hw) * random.uniform(0.05, 0.3)
        for angle in random.uniform(0, 2 * np.pi, random.integers(2, 10)):
            middle = centre + length * 0.8 * np.array([np.cos(angle), np.sin(angle)])
            axes = (length, length * random.uniform(0.08, 0.5))
            box = (tuple(middle.tolist()), tuple(2 * a for a in axes), float(np.degrees(angle)))
            cv2.ellipse(canvas, box, 1, -1)
    return canvas > 0


def _draw_polygon(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.bool_]:
    """Joins points about a centre: straight sides and corners, as made things have."""
    n_corners = random.integers(3, 12)
    angles = np.sort(random.uniform(0, 2 * np.pi, n_corners))
    reach = random.uniform(0.15, 0.5, n_corners)[:, None] * np.array(size_hw[::-1])
    corners = reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centre = random.uniform(0.35, 0.65, 2) * size_hw[::-1]
    canvas = np.zeros(size_hw, dtype=np.uint8)
    cv2.fillPoly(canvas, [np.round(corners + centre).astype(np.int32)], 1)
    return canvas > FOREGROUND


_DRAWINGS: tuple[Callable[[tuple[int, int], np.random.Generator], NDArray[np.bool_]], ...] = (
    _draw_blobs,
    _draw_strands,
    _draw_leaves,
    _draw_polygon,
)


def _smooth_noise(size_hw: tuple[int, int], random: np.random.Generator) -> NDArray[np.float32]:
    cell_px = max(size_hw) / np.exp(random.uniform(np.log(3), np.log(16)))
    cells = [max(2, round(n / cell_px) + 1) for n in size_hw]
    noise = random.standard_normal(cells).astype(np.float32)
    return np.asarray(cv2.resize(noise, size_hw[::-1], interpolation=cv2.INTER_CUBIC))
