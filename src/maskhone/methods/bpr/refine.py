"""BPR inference: boundary patches of every object, refined in shared batches, averaged back."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import FOREGROUND, Boxes, Image, Scores
from maskhone.engine.infer import run_batched
from maskhone.errors import WeightsError
from maskhone.methods.bpr.boundary import plan_boundary_patches
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.network import HRNETS, BPRNetwork, fold_norms, resize
from maskhone.methods.bpr.passes import count_halvings, shrink
from maskhone.methods.bpr.patches import cut_image_patches, cut_mask_patches
from maskhone.ops.boxes import enclose_boxes
from maskhone.ops.looks import mirror
from maskhone.ops.patches import paste_average


@dataclass(frozen=True, kw_only=True)
class BPRRefiner:
    """Refines masks along their boundary with a BPR network.

    Attributes:
        network: in eval mode, on `device`.
        config: how to refine; see `BPRConfig`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        batch_size: patches per call of the network.

    Source: Tang et al., "Look Closer to Segment Better", CVPR 2021; tinyalpha/BPR.
    Differs: everything stays in memory, and the patches of all objects of an image share batches;
    the results are those of one patch at a time.
    """

    network: BPRNetwork
    config: BPRConfig = field(default_factory=BPRConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    batch_size: int = 32

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Refines `(N, H, W)` scores; outside the patches they stay as they are."""
        scores = masks.copy()
        halvings = [count_halvings(mask > FOREGROUND, self.config) for mask in masks]
        for level in range(max(halvings, default=0), -1, -1):
            chosen = [i for i, most in enumerate(halvings) if most >= level]
            self._refine_level(image, scores, chosen, factor=2**level)
        return scores

    def look_again(self, image: Image, masks: Scores) -> list[Scores]:
        """Refines the mirrored picture in one pass; see `ops/looks.py`."""
        once = replace(self, config=replace(self.config, coarsest_side_px=0))
        mirrored = once.refine(mirror(image, axis=1), mirror(masks, axis=2))
        return [mirror(mirrored, axis=2)]

    def _refine_level(
        self, image: Image, scores: Scores, chosen: list[int], *, factor: int
    ) -> None:
        """Refines the chosen objects in an image shrunk by a factor, writing into `scores`."""
        small = shrink(image, factor)
        plans = [plan_object(scores[i], factor, self.config) for i in chosen]
        probabilities = run_batched(
            self._predict,
            self._cut_all(small, plans),
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
        )
        for i, plan in zip(chosen, plans, strict=True):
            patches = [next(probabilities) for _ in plan.boxes_xyxy]
            if patches:
                paste_object(np.stack(patches)[plan.copies], plan, scores[i], factor)

    def _cut_all(
        self, image: Image, plans: list["ObjectPlan"]
    ) -> Iterator[tuple[NDArray[np.generic], ...]]:
        """Cuts the patches of all objects, one batch's worth at a time."""
        for plan in plans:
            for start in range(0, len(plan.boxes_xyxy), self.batch_size):
                boxes = plan.boxes_xyxy[start : start + self.batch_size]
                yield from zip(
                    cut_image_patches(image, boxes, self.config),
                    cut_mask_patches(plan.scores, boxes - plan.origin, self.config),
                    strict=True,
                )

    def _predict(self, rgb_BSS3: Tensor, score_BSS: Tensor) -> Tensor:
        """Returns `(B, P, P)` probabilities of foreground for enlarged patches."""
        config = self.config
        inputs = self.network.prepare(rgb_BSS3.permute(0, 3, 1, 2).float(), score_BSS.unsqueeze(1))
        logits = self.network(inputs.contiguous(memory_format=torch.channels_last)).float()
        enlarged = resize(logits, inputs.shape[2:])
        side = config.patch_px + 2 * config.padding_px
        if config.resizes_probabilities:
            probability = resize(enlarged.softmax(dim=1), (side, side))
        else:
            probability = resize(enlarged, (side, side)).softmax(dim=1)
        inner = slice(config.padding_px, config.padding_px + config.patch_px)
        return probability[:, 1, inner, inner]


@dataclass(frozen=True, kw_only=True)
class ObjectPlan:
    """What is refined of one object, in the coordinates of the shrunken image.

    Attributes:
        scores: `(h, w)` float32 scores of the part of the image that holds the object.
        origin: `(4,)` x, y, x, y of that part's corner.
        boxes_xyxy: `(K, 4)` distinct patches.
        copies: `(M,)` the distinct patch of each planned one; moving patches into the image can
            make them coincide, and each counts in the average.
    """

    scores: NDArray[np.float32]
    origin: NDArray[np.int64]
    boxes_xyxy: Boxes
    copies: NDArray[np.int64]


def plan_object(scores: NDArray[np.float32], factor: int, config: BPRConfig) -> ObjectPlan:
    """Plans the patches of one object in an image shrunk by a factor."""
    size_hw = (-(-scores.shape[0] // factor), -(-scores.shape[1] // factor))
    x1, y1, x2, y2 = _surroundings(scores, factor, config, size_hw)
    window = shrink(scores[y1 * factor : y2 * factor, x1 * factor : x2 * factor], factor)
    mask = np.zeros(size_hw, dtype=np.bool_)
    mask[y1:y2, x1:x2] = window > FOREGROUND
    planned, _ = plan_boundary_patches(
        mask,
        patch_px=config.patch_px,
        nms_iou=config.nms_iou,
        window_px=config.window_px,
        edge_rule=config.edge_rule,
    )
    boxes, first, copies = np.unique(planned, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # keep the order of the plan
    return ObjectPlan(
        scores=window,
        origin=np.array([x1, y1, x1, y1]),
        boxes_xyxy=boxes[order],
        copies=np.argsort(order)[copies.reshape(-1)],
    )


def _surroundings(
    scores: NDArray[np.float32], factor: int, config: BPRConfig, size_hw: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Returns the box, in the shrunken image, that holds the object and all its patches."""
    x, y, width, height = cv2.boundingRect((scores > FOREGROUND).view(np.uint8))
    reach = config.patch_px + config.padding_px + 1
    near = np.array(
        [[x // factor, y // factor, -(-(x + width) // factor), -(-(y + height) // factor)]]
    )
    return enclose_boxes(near + np.array([-reach, -reach, reach, reach]), size_hw)


def paste_object(
    patches: NDArray[np.float32], plan: ObjectPlan, scores: NDArray[np.float32], factor: int
) -> None:
    """Averages patches of a shrunken image and writes them, enlarged, into full-size scores."""
    boxes = plan.boxes_xyxy[plan.copies] - plan.origin
    mean, is_covered = paste_average(patches, boxes, plan.scores.shape)
    x, y = (plan.origin[:2] * factor).tolist()
    if factor > 1:
        filled = np.where(is_covered, mean, plan.scores)
        size_wh = (filled.shape[1] * factor, filled.shape[0] * factor)
        mean = np.asarray(cv2.resize(filled, size_wh), dtype=np.float32)  # bilinear
        is_covered = is_covered.repeat(factor, axis=0).repeat(factor, axis=1)
    here = scores[y : y + mean.shape[0], x : x + mean.shape[1]]
    height, width = here.shape
    np.copyto(here, mean[:height, :width], where=is_covered[:height, :width])


def build_network(state: dict[str, Tensor], config: BPRConfig, *, source: str) -> BPRNetwork:
    """Makes the network of a configuration, ready for inference: eval mode, norms folded.

    Raises:
        WeightsError: the tensors are those of another network.
    """
    network = BPRNetwork(HRNETS[config.network])
    fill_network(network, state, config, source=source)
    fold_norms(network.eval())
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def fill_network(
    network: BPRNetwork, state: dict[str, Tensor], config: BPRConfig, *, source: str
) -> None:
    """Gives a network its weights.

    Raises:
        WeightsError: the tensors are those of another network.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{source}: these are not weights of {config.network}") from error
