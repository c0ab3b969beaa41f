"""Segments of one picture without any label: a tiny network learns them from that picture alone.

The network names every pixel; superpixels vote on the names; the network learns what was voted.
Names die out on the way, and what is left parts the picture into regions that look alike.

Legend: B batch of one picture, C channels, H W picture.

Sources: Kanezaki, "Unsupervised Image Segmentation by Backpropagation", ICASSP 2018; section 3 of
our description of "PF", that is ErikOstrowski/Automated-Framework-for-Semantic-Segmentation-
Using-Image-Labels-Based-On-Object-Perimeters:USS.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from maskhone.contracts import Image
from maskhone.ops.superpixels import SUPERPIXELS

Labels = NDArray[np.uint8]  # (H, W)

N_LABELS = 32
"""The most regions that a picture can be parted into (PF, `USS.py`)."""

SEED = 43
"""Of the network's first weights and of the palette (PF, `USS.py`)."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One step of the learning.

    Attributes:
        labels: `(H, W)` uint8 below `N_LABELS`, what the superpixels voted.
        loss: cross-entropy of the network's output to them, before the step.
    """

    labels: Labels
    loss: float


class SegmentsNet(nn.Module):
    """Four convolutions; two of them see a pixel's neighbours. `(B, 3, H, W)` to `(B, 32, H, W)`.

    Attributes:
        seq: the layers, under the published key names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 1),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, N_LABELS, 1),
            nn.BatchNorm2d(N_LABELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns how much each pixel is of each name."""
        out: Tensor = self.seq(x)
        return out


def part_picture(
    image: Image,
    kind: str,
    *,
    iterations: int = 64,
    min_labels: int = 20,
    side_px: int = 0,
    seed: int = SEED,
    device: torch.device | str = "cpu",
) -> Labels:
    """Finds the superpixels of a picture, and with them its segments.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        kind: of superpixels, `slic` or `quick`.
        iterations: see `find_segments`.
        min_labels: see `find_segments`.
        side_px: a picture with a longer side is made smaller, its labels larger again; 0 takes it
            as it is, as published. It bounds time and memory.
        seed: see `find_segments`.
        device: see `find_segments`.

    Returns:
        `(H, W)` labels below 32.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    height, width = image.shape[:2]
    scale = side_px / max(height, width) if side_px else 1.0
    seen = image
    if scale < 1:
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        seen = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    superpixels = SUPERPIXELS[kind](np.ascontiguousarray(seen[..., ::-1]))
    labels = find_segments(
        seen,
        superpixels,
        iterations=iterations,
        min_labels=min_labels,
        seed=seed,
        device=device,
    )
    if seen is image:
        return labels
    enlarged = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(enlarged, dtype=np.uint8)


def find_segments(
    image: Image,
    superpixels: NDArray[np.integer[Any]],
    *,
    iterations: int = 64,
    min_labels: int = 20,
    seed: int = SEED,
    device: torch.device | str = "cpu",
) -> Labels:
    """Parts a picture into regions, each of one label.

    Time grows with `iterations` times the number of pixels.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        superpixels: `(H, W)` integers, 0 or more; see `maskhone.ops.superpixels`. The published
            ones are those of the picture in the order blue, green, red.
        iterations: steps of learning, at most.
        min_labels: stop as soon as fewer labels than this are left; the map of that step counts.
        seed: of the network's first weights.
        device: where to learn.

    Returns:
        `(H, W)` labels below 32, not all of them in use. Regions of one label may lie apart.

    Source: PF, `USS.py`; the channels are blue, green, red there, as OpenCV reads them, and here.
    Differs: labels are returned, not their colours in a JPEG file; `paint` makes the colours. A
    picture of one pixel is one region.
    """
    if superpixels.size == 1:
        return np.zeros(superpixels.shape, dtype=np.uint8)  # nothing to normalise over
    network = make_network(seed).to(device)
    *_, last = learn_labels(
        network, image, superpixels, iterations=iterations, min_labels=min_labels
    )
    return last.labels


def make_network(seed: int = SEED) -> SegmentsNet:
    """Makes a network with PyTorch's default weights of a seed; other draws are not disturbed."""
    with torch.inference_mode(mode=False), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SegmentsNet()


def learn_labels(
    network: SegmentsNet,
    image: Image,
    superpixels: NDArray[np.integer[Any]],
    *,
    iterations: int = 64,
    min_labels: int = 20,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
) -> Iterator[Round]:
    """Trains a network on the picture and yields the labels of every step.

    Source: PF, `USS.py`; no loss of continuity, though the paper's figure shows one. The network
    always normalises with the statistics of the picture.
    """
    device = next(network.parameters()).device
    bgr = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), dtype=np.float32) / 255
    with torch.inference_mode(mode=False):
        x = torch.from_numpy(bgr)[None].to(device)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=momentum)
    for _ in range(iterations):
        done = _learn_once(network, optimizer, x, superpixels)
        yield done
        if len(np.unique(done.labels)) < min_labels:
            return


def _learn_once(
    network: SegmentsNet,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    superpixels: NDArray[np.integer[Any]],
) -> Round:
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        out = network(x)
        labels = vote(out.detach()[0].argmax(dim=0).cpu().numpy(), superpixels)
        target = torch.from_numpy(labels.astype(np.int64))[None].to(x.device)
        loss = functional.cross_entropy(out, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Round(labels=labels, loss=float(loss.detach()))


def vote(labels: NDArray[np.integer[Any]], superpixels: NDArray[np.integer[Any]]) -> Labels:
    """Gives all pixels of a superpixel the label most of them have; of equals the smallest.

    Args:
        labels: `(H, W)` integers below `N_LABELS`.
        superpixels: `(H, W)` integers, 0 or more.

    Example:
        >>> vote(np.array([[7, 7, 3], [2, 2, 5]]), np.array([[1, 1, 1], [4, 4, 9]])).tolist()
        [[7, 7, 7], [2, 2, 5]]
    """
    pairs = superpixels.astype(np.int64) * N_LABELS + labels
    counts = np.bincount(pairs.ravel(), minlength=(int(superpixels.max()) + 1) * N_LABELS)
    winners = counts.reshape(-1, N_LABELS).argmax(axis=1).astype(np.uint8)
    voted: Labels = winners[superpixels]
    return voted


def make_palette(seed: int = SEED) -> NDArray[np.uint8]:
    """Draws the published colours: `(256, 3)` uint8 RGB, below 255.

    Example:
        >>> make_palette()[:2].tolist()
        [[49, 64, 68], [16, 58, 21]]
    """
    random = np.random.RandomState(seed)  # the published stream of numbers
    bgr: NDArray[np.uint8] = random.randint(255, size=(256, 3)).astype(np.uint8)
    return np.ascontiguousarray(bgr[:, ::-1])


def paint(labels: Labels, palette: NDArray[np.uint8] | None = None) -> Image:
    """Colours each label by its rank among those in use; `(H, W, 3)` uint8 RGB."""
    colours = make_palette() if palette is None else palette
    _, ranks = np.unique(labels, return_inverse=True)
    painted: Image = colours[ranks.reshape(labels.shape)]
    return painted


def pass_through_jpeg(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns what is left of a grey or RGB picture after OpenCV saved it as JPEG, quality 95.

    The published programs hand pictures on in such files; their thresholds allow for the noise.
    """
    is_grey = picture.ndim == 2
    stored = picture if is_grey else np.ascontiguousarray(picture[..., ::-1])
    coded = cv2.imencode(".jpg", stored)[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR)
    assert decoded is not None
    back = decoded if is_grey else decoded[..., ::-1]
    return np.ascontiguousarray(back, dtype=np.uint8)
