"""PatchRefineNet inference: probability maps of any size, in shared batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import Boxes, Image, Scores
from maskhone.engine.infer import limit_batch, run_batched
from maskhone.errors import WeightsError
from maskhone.methods.prn.config import PRNConfig
from maskhone.methods.prn.merge import merge_scores
from maskhone.methods.prn.network import PRN, choose_statistics, find_logits
from maskhone.ops.patches import crop, paste_average

_OVERLAP_SHARE = 0.25  # of neighbouring tiles, at least; ours
_PIXELS_AT_ONCE = 1 << 18
"""Per call of the network on a CPU: one map of 512 px; more at once take memory, not less time."""

_RULES = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}


@dataclass(frozen=True, kw_only=True)
class PRNRefiner:
    """Refines probability maps by what it learnt of a base model's bias; sees no picture.

    Attributes:
        network: in eval mode, on `device`.
        config: how to refine; see `PRNConfig`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        batch_size: maps, or tiles of maps, per call of the network; fewer on a CPU.

    Source: Nagendra et al., "PatchRefineNet", WACV 2024; savinay95n/PatchRefineNet.
    Differs: scores are returned, of which the published mask is what lies above one half; a map of
    zeros stays one; maps of any size.
    """

    network: PRN
    config: PRNConfig = field(default_factory=PRNConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    batch_size: int = 32

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Refines `(N, H, W)` scores; of the image not even the size is looked at."""
        chosen = [i for i, mask in enumerate(masks) if mask.any()]
        boxes = self._plan(masks.shape[1:])

        def items() -> Iterator[tuple[NDArray[np.float32], ...]]:
            for i in chosen:
                for seen in look_at(masks[i], boxes, self.config):
                    yield (seen[np.newaxis],)

        refined = self._run(items())
        scores = np.zeros_like(masks)
        for i in chosen:
            scores[i] = self._assemble(refined, boxes, masks[i])
        return scores

    def _plan(self, size_hw: tuple[int, ...]) -> Boxes:
        return plan_tiles(size_hw, self.config.map_px) if self.config.tile else whole_box(size_hw)

    def _run(
        self, items: Iterator[tuple[NDArray[np.float32], ...]]
    ) -> Iterator[NDArray[np.float32]]:
        """Yields `(S, S)` merged probabilities of each item."""
        batch_size = limit_batch(
            self.batch_size, self.device, side_px=self.config.map_px, most_px=_PIXELS_AT_ONCE
        )

        def forward(scores_B1SS: Tensor) -> Tensor:
            found = self.network(
                scores_B1SS,
                has_row_quirk=self.config.has_row_quirk,
                needs_local=self.config.merge != "global",
            )
            return torch.cat([x.float().sigmoid() for x in found if x is not None], dim=1)

        for branches in run_batched(
            forward, items, batch_size=batch_size, device=self.device, dtype=self.dtype
        ):
            local = branches[1] if len(branches) > 1 else None
            yield merge_scores(branches[0], local, self.config.merge)

    def _assemble(
        self, refined: Iterator[NDArray[np.float32]], boxes: Boxes, scores_HW: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        height, width = scores_HW.shape
        if self.config.tile:
            tiles = (next(refined) for _ in boxes)
            whole = paste_average(tiles, boxes, (height, width))[0]
            return give_back_sureness(whole, scores_HW) if self.config.residual else whole
        if not self.config.residual:
            return resize_map(next(refined), (height, width), "linear")
        seen = next(look_at(scores_HW, boxes, self.config))
        return add_change(scores_HW, seen, next(refined))


def look_at(
    scores_HW: NDArray[np.float32], boxes: Boxes, config: PRNConfig
) -> Iterator[NDArray[np.float32]]:
    """Yields what the network sees of each box: `(S, S)`; beyond the map is 0."""
    for box in boxes:
        cut = crop(scores_HW, box[np.newaxis])[0]
        yield resize_map(cut, (config.map_px, config.map_px), config.resize)


def add_change(
    scores_HW: NDArray[np.float32], seen: NDArray[np.float32], refined: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Changes a map as a small picture of it was changed: logits are added, detail stays.

    Args:
        scores_HW: probabilities.
        seen: `(S, S)` the same made small.
        refined: `(S, S)` what became of that.
    """
    given, before, after = (
        find_logits(torch.from_numpy(np.ascontiguousarray(x))) for x in (scores_HW, seen, refined)
    )
    change = cv2.resize(
        (after - before).numpy(), scores_HW.shape[::-1], interpolation=cv2.INTER_LINEAR
    )
    changed: NDArray[np.float32] = (given + torch.from_numpy(change)).sigmoid().numpy()
    return give_back_sureness(changed, scores_HW)


def give_back_sureness(
    changed: NDArray[np.float32], scores_HW: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Adds what `find_logits` took from very sure scores, so that no change is none at all."""
    given = torch.from_numpy(np.ascontiguousarray(scores_HW))
    lost = (given - find_logits(given).sigmoid()).numpy()
    given_back: NDArray[np.float32] = np.clip(changed + lost, 0, 1)
    return given_back


def whole_box(size_hw: tuple[int, ...]) -> Boxes:
    """Returns the one box that is the whole map."""
    return np.array([[0, 0, size_hw[1], size_hw[0]]], dtype=np.int64)


def plan_tiles(size_hw: tuple[int, ...], side_px: int) -> Boxes:
    """Covers a map with evenly spaced squares that overlap by a quarter or more, row by row.

    In a map that is smaller than the square, it overhangs on the right or below.

    Example:
        >>> plan_tiles((4, 10), 4).tolist()
        [[0, 0, 4, 4], [3, 0, 7, 4], [6, 0, 10, 4]]
    """
    down, across = (_start_tiles(length, side_px) for length in size_hw)
    boxes = [(x, y, x + side_px, y + side_px) for y in down for x in across]
    return np.array(boxes, dtype=np.int64)


def _start_tiles(length: int, side_px: int) -> list[int]:
    step = max(int(side_px * (1 - _OVERLAP_SHARE)), 1)
    room = max(length - side_px, 0)
    count = -(-room // step) + 1
    starts: list[int] = np.rint(np.linspace(0, room, count)).astype(int).tolist()
    return starts


def resize_map(
    scores_HW: NDArray[np.float32], size_hw: tuple[int, ...], rule: str
) -> NDArray[np.float32]:
    """Resizes a map, its shape stretched; one of the right size stays as it is."""
    if scores_HW.shape == size_hw:
        return scores_HW
    resized = cv2.resize(np.ascontiguousarray(scores_HW), size_hw[::-1], interpolation=_RULES[rule])
    return np.clip(np.asarray(resized, dtype=np.float32), 0, 1)


def build_network(state: Mapping[str, Tensor], config: PRNConfig, *, source: str) -> PRN:
    """Makes the network of a configuration, in eval mode.

    Raises:
        WeightsError: the tensors are those of another network.
    """
    network = PRN(config.spec)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{source}: these are not weights of the {config.network} network"
        ) from error
    choose_statistics(network, of_each_map=config.bn == "batch")
    return network.eval()
