"""Superpixels: small patches of like colour that follow the edges of a picture.

Both come from scikit-image, an optional dependency. They convert the colours to Lab, reading the
channels as red, green, blue in the order in which they are given.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image
from maskhone.errors import MissingExtraError

Labels = NDArray[np.int32]  # (H, W)


def find_slic(
    image: Image, *, n_segments: int = 1000, compactness: float = 15.0, sigma: float = 1.0
) -> Labels:
    """Clusters pixels by colour and place into compact patches of about equal size.

    Args:
        image: `(H, W, 3)` uint8.
        n_segments: how many patches, about, whatever the size of the picture.
        compactness: how much place counts against colour; more makes squarer patches.
        sigma: of the Gaussian blur beforehand, in pixels.

    Returns:
        `(H, W)` int32, numbered from 1.

    Raises:
        MissingExtraError: scikit-image is not installed.

    Source: Achanta et al., "SLIC Superpixels", TPAMI 2012, in scikit-image. The defaults are those
    of ErikOstrowski/Automated-Framework-for-Semantic-Segmentation-...:USS.py.
    """
    labels: NDArray[Any] = _import_segmentation().slic(
        image,
        n_segments=n_segments,
        compactness=compactness,
        sigma=sigma,
        start_label=1,
        channel_axis=-1,
    )
    return labels.astype(np.int32)


def find_quickshift(
    image: Image, *, kernel_size: float = 3.0, max_dist: float = 6.0, ratio: float = 0.29
) -> Labels:
    """Links every pixel to its nearest neighbour of higher density in colour and place.

    Args:
        image: `(H, W, 3)` uint8.
        kernel_size: standard deviation of the density estimate; larger makes fewer patches.
        max_dist: the longest link, in pixels and in weighted colour.
        ratio: in 0..1: how much colour counts against place.

    Returns:
        `(H, W)` int32, numbered from 0. Ties are broken at random, always in the same way.

    Raises:
        MissingExtraError: scikit-image is not installed.

    Source: Vedaldi and Soatto, "Quick Shift and Kernel Methods for Mode Seeking", ECCV 2008, in
    scikit-image. The defaults are those of
    ErikOstrowski/Automated-Framework-for-Semantic-Segmentation-...:USS.py.
    """
    labels: NDArray[Any] = _import_segmentation().quickshift(
        image, ratio=ratio, kernel_size=kernel_size, max_dist=max_dist, channel_axis=-1
    )
    return labels.astype(np.int32)


SUPERPIXELS: dict[str, Callable[[Image], Labels]] = {"slic": find_slic, "quick": find_quickshift}
"""Both by the names they have in PerimeterFit."""


def check_installed() -> None:
    """Refuses to go on without scikit-image, before any work is done.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    _import_segmentation()


def _import_segmentation() -> ModuleType:
    try:
        from skimage import segmentation
    except ImportError as error:
        raise MissingExtraError("scikit-image", extra="wsss") from error
    module: ModuleType = segmentation
    return module
