"""SegRefiner inference: objects, or whole pictures, in shared batches."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import FOREGROUND, Boxes, Image, Scores
from maskhone.engine.infer import run_batched
from maskhone.errors import WeightsError
from maskhone.methods.segrefiner.config import UNETS, SegRefinerConfig
from maskhone.methods.segrefiner.diffusion import Noise, SeededNoise, choose_steps, run_backwards
from maskhone.methods.segrefiner.network import DenoisingUNet
from maskhone.methods.segrefiner.objects import crop_object, paste_object, plan_crops
from maskhone.methods.segrefiner.pictures import (
    choose_patches,
    enlarge_map,
    find_uncertain,
    shrink_picture,
)
from maskhone.ops.masks import longer_side, surround
from maskhone.ops.patches import crop, paste_average

_LEAST_PICTURE_AREA_PX = 128  # SegRefiner section 5, step 0


@dataclass(frozen=True, kw_only=True)
class SegRefiner:
    """Refines masks by a short discrete diffusion.

    Attributes:
        network: in eval mode, on `device`.
        config: how to refine; see `SegRefinerConfig`.
        device: where to compute.
        dtype: of the matrix products; float32 or an autocast type.
        batch_size: objects or patches per call of the network.
        make_noise: from the keys of a batch to its noise; None takes `SeededNoise`.

    Source: Wang et al., "SegRefiner", NeurIPS 2023; MengyuWang826/SegRefiner.
    Differs: noise comes from an explicit generator per object; probabilities are returned; all
    objects of an image share batches.
    """

    network: DenoisingUNet
    config: SegRefinerConfig = field(default_factory=SegRefinerConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    batch_size: int = 32
    make_noise: Callable[[Sequence[int]], Noise] | None = None

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Refines `(N, H, W)` scores."""
        if self.config.scope == "objects":
            return self._refine_objects(image, masks)
        return self._refine_picture(image, masks)

    def _refine_objects(self, image: NDArray[Any], masks: Scores) -> Scores:
        scores = masks.copy()
        is_inside = masks > FOREGROUND
        chosen, boxes = plan_crops(is_inside, self.config)
        side = self.config.model_px

        def items() -> Iterator[tuple[NDArray[Any], ...]]:
            for i, box in zip(chosen, boxes, strict=True):
                yield self._item(*crop_object(image, is_inside[i], box, side))

        refined = self._run(self._steps, items())
        for i, box, found in zip(chosen, boxes, refined, strict=True):
            paste_object(found[0], box, scores[i], fades=self.config.fades_at_crop)
        return scores

    def _refine_picture(self, image: NDArray[Any], masks: Scores) -> Scores:
        scores = masks.copy()
        is_inside = masks > FOREGROUND
        is_large = np.count_nonzero(is_inside, axis=(1, 2)) > _LEAST_PICTURE_AREA_PX
        if self.config.drops_small:
            scores[~is_large] = 0
        parts = [self._look_about(image, is_inside[i], scores[i]) for i in np.flatnonzero(is_large)]
        if not self.config.drops_small:  # what vanishes when shrunk would be erased
            parts = [part for part in parts if part.small_mask.any()]
        plans = self._look_at_whole(parts)

        def items() -> Iterator[tuple[NDArray[Any], ...]]:
            for part, boxes in zip(parts, plans, strict=True):
                for box in boxes:
                    inside = crop(part.scores, box[None])[0] >= FOREGROUND
                    yield self._item(crop(part.image, box[None])[0].astype(np.float32), inside)

        step = self._steps[0 if self.config.patches_are_coarse else -1]
        refined = self._run([step], items())
        for part, boxes in zip(parts, plans, strict=True):
            found = (next(refined)[0] for _ in boxes)
            mean, is_covered = paste_average(found, boxes, part.scores.shape)
            np.copyto(part.scores, mean, where=is_covered)  # by now all its patches are cut
        return scores

    def _look_about(
        self, image: NDArray[Any], is_inside: NDArray[np.bool_], scores: NDArray[np.float32]
    ) -> "Part":
        """Takes the surroundings of an object, or the whole picture."""
        config = self.config
        if config.surroundings > 0:
            margin_px = round(config.surroundings * longer_side(is_inside))
            window = surround(is_inside, margin_px, least_px=config.model_px)
            assert window is not None
            image, is_inside, scores = image[window], is_inside[window], scores[window]
        small_mask = shrink_picture(is_inside[..., None], config)[..., 0] >= FOREGROUND
        return Part(image=image, small_mask=small_mask, scores=scores)

    def _look_at_whole(self, parts: list["Part"]) -> list[Boxes]:
        """Refines shrunken parts, writes the result into their scores, plans patches of each."""
        config = self.config

        def items() -> Iterator[tuple[NDArray[Any], ...]]:
            for part in parts:
                yield self._item(shrink_picture(part.image, config), part.small_mask)

        plans = []
        *first, last = self._steps
        refined = self._run(first, items(), leads_to=last)
        for part, (probability, fine) in zip(parts, refined, strict=True):
            size_hw = part.scores.shape
            part.scores[:] = enlarge_map(probability, size_hw, config)
            boxes, uncertainty = find_uncertain(fine, size_hw, config)
            plans.append(choose_patches(boxes, uncertainty, part.scores >= FOREGROUND, config))
        return plans

    @property
    def _steps(self) -> list[int]:
        config = self.config
        return choose_steps(config.schedule, config.steps, truncates=config.truncates_steps)

    def _item(
        self, rgb_SS3: NDArray[np.float32], mask_SS: NDArray[Any]
    ) -> tuple[NDArray[Any], ...]:
        """Makes one row of a batch: picture, mask, and the key of its noise."""
        mask = mask_SS.astype(np.float32)
        return rgb_SS3, mask, np.array(zlib.crc32(mask.tobytes()), dtype=np.int64)

    def _run(
        self,
        steps: list[int],
        items: Iterator[tuple[NDArray[Any], ...]],
        *,
        leads_to: int | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Yields, for each item, `(2, S, S)`: probability of foreground, and of being fine."""

        def refine_batch(rgb_BSS3: Tensor, mask_BSS: Tensor, key_B: Tensor) -> Tensor:
            keys = key_B.tolist()
            noise = (
                self.make_noise(keys)
                if self.make_noise
                else SeededNoise([(self.config.noise_seed, key) for key in keys], self.device)
            )
            rgb = self.network.normalise(rgb_BSS3.permute(0, 3, 1, 2))
            found = run_backwards(
                self._denoise,
                rgb,
                mask_BSS.unsqueeze(1),
                steps=steps,
                schedule=self.config.schedule,
                noise=noise,
                leads_to=leads_to,
            )
            return torch.cat(found, dim=1)

        return run_batched(
            refine_batch, items, batch_size=self.batch_size, device=self.device, dtype=self.dtype
        )

    def _denoise(self, input_B4SS: Tensor, step_B: Tensor) -> Tensor:
        logits: Tensor = self.network(
            input_B4SS.contiguous(memory_format=torch.channels_last), step_B
        )
        return logits.float()


@dataclass(frozen=True, kw_only=True)
class Part:
    """The part of a picture in which one object is refined; views, so writing shows.

    Attributes:
        image: `(h, w, 3)`.
        small_mask: `(S, S)` bool, the coarse mask shrunk to the network's square.
        scores: `(h, w)` written to.
    """

    image: NDArray[Any]
    small_mask: NDArray[np.bool_]
    scores: NDArray[np.float32]


def make_network(config: SegRefinerConfig) -> DenoisingUNet:
    """Makes the network of a configuration, with fresh weights."""
    return DenoisingUNet(replace(UNETS[config.network], num_timesteps=config.num_timesteps))


def fill_network(
    network: DenoisingUNet, state: dict[str, Tensor], config: SegRefinerConfig, *, source: str
) -> None:
    """Gives a network its weights.

    Raises:
        WeightsError: the tensors are those of another network, or of other steps.
    """
    table = state.get("time_embed.weight")
    if table is not None and len(table) != config.num_timesteps:
        raise WeightsError(
            f"{source}: trained for {len(table)} steps, but num_timesteps is "
            f"{config.num_timesteps}; leave num_timesteps out"
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"{source}: these are not weights of the {config.network} network"
        ) from error


def build_network(
    state: dict[str, Tensor], config: SegRefinerConfig, *, source: str
) -> DenoisingUNet:
    """Makes the network of a configuration for inference.

    Raises:
        WeightsError: the tensors are those of another network, or of other steps.
    """
    network = make_network(config)
    fill_network(network, state, config, source=source)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.freeze()
    return network
