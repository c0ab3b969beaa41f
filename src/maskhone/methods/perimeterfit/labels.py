"""Class maps to label maps, smoothed by the dense CRF: for AffinityNet, and for the segmenter.

K classes; a label map holds 0 for background, then classes, 255 for unknown. Source: Ahn and Kwak,
CVPR 2018; OFRIN/PuzzleCAM:make_affinity_labels.py, make_pseudo_labels.py.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.contracts import Image
from maskhone.errors import InputError
from maskhone.methods.perimeterfit.affinity import IGNORE
from maskhone.ops.dense_crf import infer_labels

ClassMaps = NDArray[np.float32]  # (K, H, W)
Labels = NDArray[np.uint8]  # (H, W)
Keys = NDArray[np.integer[Any]]  # (K + 1,), 0 first


def make_affinity_labels(
    image: Image,
    maps: ClassMaps,
    keys: Keys,
    *,
    fg_threshold: float = 0.6,
    bg_threshold: float = 0.4,
    crf_iterations: int = 10,
) -> Labels:
    """Labels what is surely of a class and what is surely background; the rest is unknown.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        maps: `(K, H, W)`, one for each class in the picture; K may be 0.
        keys: `(K + 1,)`, 0 and then the label of each map.
        fg_threshold: a class must exceed it to be sure. 0.6 and 0.4 are PerimeterFit's, for
            combined maps of up to 2; Puzzle-CAM has 0.4 and 0.1.
        bg_threshold: background is sure where no class exceeds it.
        crf_iterations: 0 leaves the CRF out.

    Returns:
        `(H, W)` uint8. Without classes all is background.

    Raises:
        InputError: maps of another size than the picture, or of another number than the keys.

    Example:
        >>> image = np.zeros((1, 3, 3), dtype=np.uint8)
        >>> maps = np.array([[[0.2, 0.5, 1.0]]], dtype=np.float32)
        >>> make_affinity_labels(image, maps, np.array([0, 8]), crf_iterations=0).tolist()
        [[0, 255, 8]]
    """
    sure = label_maps(image, maps, keys, threshold=fg_threshold, crf_iterations=crf_iterations)
    maybe = label_maps(image, maps, keys, threshold=bg_threshold, crf_iterations=crf_iterations)
    is_unknown = (sure == 0) & (maybe != 0)
    return np.where(is_unknown, np.uint8(IGNORE), sure)


def label_maps(
    image: Image, maps: ClassMaps, keys: Keys, *, threshold: float, crf_iterations: int
) -> Labels:
    """Labels each pixel by its highest class map, or 0 where none exceeds the threshold.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        maps: `(K, H, W)`, one for each class in the picture; K may be 0.
        keys: `(K + 1,)`, 0 and then the label of each map.
        threshold: of equal maps the first wins, and the threshold before all. For pseudo labels
            of the random walk PerimeterFit takes 0.35; make_pseudo_labels.py has 0.25.
        crf_iterations: of the dense CRF that then smooths the labels; 1 for PerimeterFit, 0 for
            none.

    Returns:
        `(H, W)` uint8. Without classes all is background.

    Raises:
        InputError: maps of another size than the picture, or of another number than the keys.

    Example:
        >>> image = np.zeros((1, 3, 3), dtype=np.uint8)
        >>> maps = np.array([[[0.3, 0.5, 1.0]], [[0.1, 0.9, 0.9]]], dtype=np.float32)
        >>> label_maps(image, maps, np.array([0, 3, 8]), threshold=0.3, crf_iterations=0).tolist()
        [[0, 8, 3]]
    """
    _check(image, maps, keys)
    background = np.full((1, *maps.shape[1:]), threshold, dtype=np.float32)
    places = np.concatenate([background, maps]).argmax(axis=0)
    if crf_iterations:
        places = infer_labels(places, image, len(keys), iterations=crf_iterations)
    labels: Labels = np.asarray(keys, dtype=np.uint8)[places]
    return labels


def _check(image: Image, maps: ClassMaps, keys: Keys) -> None:
    if maps.shape[1:] != image.shape[:2]:
        raise InputError(
            f"image is {image.shape[:2]} but its class maps are {maps.shape[1:]}; "
            "make the maps again from this image"
        )
    if len(keys) != len(maps) + 1 or keys[0] != 0:
        raise InputError(
            f"keys are {keys.tolist()} for {len(maps)} class maps; "
            "expected 0 and then one label for each map"
        )
