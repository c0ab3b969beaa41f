"""Closed-form matting: near the outline a mask becomes a locally linear function of the colours."""

from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.errors import MissingExtraError, UsageError
from maskhone.ops.masks import choose_band, mean_width, near_outline, surround

_SIDE_OF_WINDOWS_PX = 3
_UNKNOWN = 0.5  # in a trimap of 0 and 1
_FILL = 256
"""Numbers that the preconditioner may hold for each unknown pixel; bands of 10 to 30 px took 8 to
67. Its arrays are that large from the start, by PyMatting's own default 4 GB."""


@dataclass(frozen=True, kw_only=True)
class MattingRefiner:
    """Solves the opacity of the pixels near the outline from those that are certain.

    Attributes:
        band_px: distance from the outline, each way, that is unknown; 0 takes `band_share`.
        band_share: the same as a share of the square root of the object's area, at least 2 px.
        width_share: the band is at most this share of the object's mean width (see `mean_width`),
            but at least 1 px, so that thin objects keep a core that is certain.
        smoothness: variance of the colours, on the scale of [0, 1], below which nothing is an edge.
            1e-7 is PyMatting's, for pictures without the noise of a JPEG.
        longest_side_px: a window around an object that is longer is shrunk to this, solved, and
            enlarged. Time and memory grow with the number of unknown pixels.

    Source: Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image Matting", TPAMI
    2008, in PyMatting (pymatting/pymatting:pymatting/alpha/estimate_alpha_cf.py).
    Differs: the trimap is made from the mask, as described above; nobody draws it.
    """

    band_px: int = 0
    band_share: float = 0.05
    width_share: float = 0.25
    smoothness: float = 1e-5
    longest_side_px: int = 1024

    def __post_init__(self) -> None:
        choose_band(np.zeros((1, 1), dtype=np.bool_), self.band_px, self.band_share)
        if not (self.width_share > 0 and self.smoothness > 0 and self.longest_side_px >= 16):
            raise UsageError(
                "width_share and smoothness must be more than 0 and longest_side_px 16 or more; "
                f"received {self.width_share}, {self.smoothness}, {self.longest_side_px}"
            )
        import_pymatting()

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Returns opacities in the band of each object; elsewhere scores stay as they are."""
        refined = masks.copy()
        for scores in refined:
            mask = scores > FOREGROUND
            band_px = choose_band(mask, self.band_px, self.band_share)
            window = surround(mask, 4 * band_px)
            if window is not None:
                self._solve(image[window], band_px, scores[window])
        return refined

    def _solve(self, image: Image, band_px: int, scores: NDArray[np.float32]) -> None:
        """Writes opacities into the band of `scores`."""
        mask = scores > FOREGROUND
        widest_px = max(1.0, self.width_share * mean_width(mask))
        trimap = make_trimap(mask, min(band_px, widest_px) if not self.band_px else band_px)
        small, small_trimap = _shrink(image, trimap, self.longest_side_px)
        is_solvable = min(small_trimap.shape) >= _SIDE_OF_WINDOWS_PX
        if not (is_solvable and (small_trimap == 0).any() and (small_trimap == 1).any()):
            return  # an object thinner than the band has no certain pixels to start from
        alpha = _estimate(small, small_trimap, self.smoothness)
        if alpha.shape != scores.shape:
            enlarged = cv2.resize(alpha, scores.shape[::-1], interpolation=cv2.INTER_LINEAR)
            alpha = np.asarray(enlarged, dtype=np.float32)
        is_band = trimap == _UNKNOWN
        scores[is_band] = alpha[is_band]


def make_trimap(mask: NDArray[np.bool_], band_px: float) -> NDArray[np.float32]:
    """Marks what is certainly outside (0) and inside (1), and a band between that is neither.

    Example:
        >>> make_trimap(np.array([[0, 0, 0, 1, 1, 1]], dtype=bool), 1).tolist()
        [[0.0, 0.0, 0.5, 0.5, 1.0, 1.0]]
    """
    return np.where(near_outline(mask, band_px), _UNKNOWN, mask).astype(np.float32)


def _shrink(
    image: Image, trimap: NDArray[np.float32], longest_px: int
) -> tuple[Image, NDArray[np.float32]]:
    """Shrinks a picture and its trimap; a cell that is not certain throughout is unknown."""
    scale = longest_px / max(trimap.shape)
    if scale >= 1:
        return image, trimap
    height, width = (max(1, round(side * scale)) for side in trimap.shape)
    small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)
    inside, outside = (
        cv2.resize(
            (trimap == side).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
        for side in (1, 0)
    )
    certain = np.where(np.asarray(inside) > 1 - 1e-4, 1.0, _UNKNOWN)
    small_trimap = np.where(np.asarray(outside) > 1 - 1e-4, 0.0, certain).astype(np.float32)
    return np.asarray(small, dtype=np.uint8), small_trimap


def _estimate(image: Image, trimap: NDArray[np.float32], smoothness: float) -> NDArray[np.float32]:
    """Solves the closed form for the unknown pixels of an `(H, W)` trimap."""
    pymatting = import_pymatting()
    room = _FILL * max(int((trimap == _UNKNOWN).sum()), 1)
    solve = partial(
        pymatting.estimate_alpha_cf,
        image.astype(np.float64) / 255,
        trimap.astype(np.float64),
        laplacian_kwargs={"epsilon": smoothness},
    )
    alpha: NDArray[Any]
    try:
        alpha = solve(preconditioner=partial(pymatting.ichol, max_nnz=room))
    except ValueError:  # no decomposition within the room; the same system is solved, but slowly
        alpha = solve(preconditioner=pymatting.jacobi)
    return alpha.astype(np.float32)


def import_pymatting() -> ModuleType:
    """Imports PyMatting; the first time after it was installed, that compiles for a minute.

    Raises:
        MissingExtraError: it is not installed.
    """
    n_threads = torch.get_num_threads()
    try:
        import pymatting
    except ImportError as error:
        raise MissingExtraError("pymatting", extra="matting") from error
    torch.set_num_threads(n_threads)  # numba sets OpenMP to all cores, whatever was asked for
    module: ModuleType = pymatting
    return module
