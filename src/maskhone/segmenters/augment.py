"""Random changes of pictures and masks for training the base models and PatchRefineNet.

Pictures are `(H, W, 3)` uint8 RGB, masks `(H, W)` float32 in [0, 1]; both are changed alike. All
randomness comes from the generator that is handed in; the originals draw from NumPy's global one.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image

_HUE_REACH = 30  # PatchRefineNet section 10.1, as the next four
_SATURATION_REACH = 5.0
_VALUE_REACH = 15.0
_SHIFT_REACH = 0.1  # of the picture's width and height
_SCALE_RANGE = (0.9, 1.1)
_CROP_SHARE = 8  # at most one part in eight of each side; PatchRefineNet section 10.2, as the rest
_ANGLE_RANGE_DEG = (-25, 25)  # the end is not drawn
_CONTRAST_RANGE = (0.5, 1.5)
_OFFSET_RANGE = (-20, 20)  # the end is not drawn

Mask = NDArray[np.float32]


def augment_roads(image: Image, mask: Mask, random: np.random.Generator) -> tuple[Image, Mask]:
    """Changes colours, moves and stretches, flips and turns: each at even odds.

    Returns:
        The picture and its mask; sides change places when the pair is turned.

    Source: PatchRefineNet section 10.1, for D-LinkNet.
    """
    if random.random() < 0.5:
        image = shift_colours(image, random)
    if random.random() < 0.5:
        image, mask = _move(image, mask, random)
    image, mask = flip_and_turn((image, mask), random)
    return image, mask


def augment_salient_objects(
    image: Image, mask: Mask, random: np.random.Generator
) -> tuple[Image, Mask]:
    """Crops, flips at even odds, turns by some degrees, and changes contrast and brightness.

    Returns:
        The picture and its mask, of another size than before.

    Source: PatchRefineNet section 10.2, for PFANet.
    """
    image, mask = _crop(image, mask, random)
    if random.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    angle_deg = int(random.integers(*_ANGLE_RANGE_DEG))
    image, mask = rotate(image, angle_deg), rotate(mask, angle_deg)
    contrast, offset = random.uniform(*_CONTRAST_RANGE), random.integers(*_OFFSET_RANGE)
    return _to_uint8(image * contrast + offset), mask


def augment_polyps(image: Image, mask: Mask, random: np.random.Generator) -> tuple[Image, Mask]:
    """Turns the pair upside down at even odds.

    Source: PatchRefineNet section 10.3, for ResUNet++. Differs: for training only; the published
    program does it to what it validates on, too.
    """
    if random.random() < 0.5:
        return image[::-1].copy(), mask[::-1].copy()
    return image, mask


def flip_and_turn(
    arrays: Sequence[NDArray[Any]], random: np.random.Generator
) -> tuple[NDArray[Any], ...]:
    """Flips sideways, flips upside down, turns left by 90 degrees: each at even odds, all alike.

    Args:
        arrays: `(H, W)` or `(H, W, C)`: for PatchRefineNet its scores, pseudo-label and truth.
        random: three numbers are drawn, always.

    Source: PatchRefineNet sections 6 and 10.1.

    Example:
        >>> corner = np.array([[1, 0], [0, 0]])
        >>> turned, same = flip_and_turn((corner, corner), np.random.default_rng(0))
        >>> int(turned.sum()), bool((turned == same).all())
        (1, True)
    """
    is_mirrored, is_upside_down, is_turned = random.random(3) < 0.5
    changed = []
    for array in arrays:
        result = array[:, ::-1] if is_mirrored else array
        result = result[::-1] if is_upside_down else result
        changed.append(np.ascontiguousarray(np.rot90(result) if is_turned else result))
    return tuple(changed)


def shift_colours(image: Image, random: np.random.Generator) -> Image:
    """Shifts hue by up to 30 of 180, saturation by up to 5 and value by up to 15 of 255.

    The hue goes round at 256 and not at 180, as in the published program: its bytes overflow. So
    a red shifted by -10 comes out at 246, which is the green at 66, and not at 170.
    """
    hue_shift = int(random.integers(-_HUE_REACH, _HUE_REACH + 1))
    shifts = [random.uniform(-reach, reach) for reach in (_SATURATION_REACH, _VALUE_REACH)]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + hue_shift) % 256 % 180
    hsv[..., 1:] = np.rint(hsv[..., 1:] + np.array(shifts, dtype=np.float32))
    return np.asarray(cv2.cvtColor(_to_uint8(hsv), cv2.COLOR_HSV2RGB), dtype=np.uint8)


def rotate(array: NDArray[Any], angle_deg: float) -> NDArray[Any]:
    """Turns `(H, W)` or `(H, W, 3)` to the left; the canvas grows to hold all, 0 fills the rest."""
    h, w = array.shape[:2]
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle_deg, 1.0)
    cosine, sine = np.abs(matrix[0, :2])
    new_w, new_h = (round(w * cosine + h * sine), round(w * sine + h * cosine))
    matrix[:, 2] += (new_w - w) / 2, (new_h - h) / 2
    return _warp(array, matrix, (new_h, new_w))


def _move(image: Image, mask: Mask, random: np.random.Generator) -> tuple[Image, Mask]:
    """Shifts by up to a tenth, scales and changes the aspect by up to a tenth; fills with 0."""
    h, w = image.shape[:2]
    scale, aspect = random.uniform(*_SCALE_RANGE), random.uniform(*_SCALE_RANGE)
    shift_x, shift_y = np.rint(random.uniform(-_SHIFT_REACH, _SHIFT_REACH, 2) * (w, h))
    stretch_x, stretch_y = scale * np.sqrt(aspect), scale / np.sqrt(aspect)
    centre_x, centre_y = w / 2, h / 2
    matrix = np.array(
        [
            [stretch_x, 0, centre_x * (1 - stretch_x) + shift_x],
            [0, stretch_y, centre_y * (1 - stretch_y) + shift_y],
        ]
    )
    return _warp(image, matrix, (h, w)), _warp(mask, matrix, (h, w))


def _crop(image: Image, mask: Mask, random: np.random.Generator) -> tuple[Image, Mask]:
    """Cuts up to an eighth off each side's length, wherever."""
    h, w = image.shape[:2]
    less_y, less_x = (int(random.integers(n // _CROP_SHARE + 1)) for n in (h, w))
    top, left = (int(random.integers(less + 1)) for less in (less_y, less_x))
    window = np.s_[top : top + h - less_y, left : left + w - less_x]
    return image[window], mask[window]


def _warp(array: NDArray[Any], matrix: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    return cv2.warpAffine(
        np.ascontiguousarray(array),
        matrix,
        size_hw[::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )


def _to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    clipped: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return clipped
