"""Random colours for training."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image


def shuffle_colours(image: Image, random: np.random.Generator) -> Image:
    """Permutes the channels of an `(H, W, 3)` picture, and makes it negative every other time."""
    shuffled = image[..., random.permutation(3)]
    return np.ascontiguousarray(255 - shuffled if random.random() < 0.5 else shuffled)


def distort_colours(image: Image, random: np.random.Generator) -> Image:
    """Changes brightness, contrast, saturation and hue at random, each with probability 1/2.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        random: all randomness comes from here.

    Source: BPR section 6; open-mmlab/mmsegmentation 0.7 `PhotoMetricDistortion`: brightness by
    +-32, contrast and saturation by 0.5 to 1.5, hue by -18 to 17 of 180; contrast comes before or
    after the others, at even odds.
    """
    comes_first = random.random() < 0.5
    if random.random() < 0.5:
        image = _to_uint8(image + random.uniform(-32, 32))
    if comes_first and random.random() < 0.5:
        image = _to_uint8(image * random.uniform(0.5, 1.5))
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if random.random() < 0.5:
        hsv[..., 1] = _to_uint8(hsv[..., 1] * random.uniform(0.5, 1.5))
    if random.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + random.integers(-18, 18)) % 180
    image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.uint8)
    if not comes_first and random.random() < 0.5:
        image = _to_uint8(image * random.uniform(0.5, 1.5))
    return image


def _to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    clipped: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return clipped
