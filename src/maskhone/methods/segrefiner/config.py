"""What can be set about SegRefiner, and the configurations that were published."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from maskhone.errors import UsageError
from maskhone.methods.segrefiner.diffusion import DiffusionSchedule
from maskhone.methods.segrefiner.network import UNetSpec

UNETS = {
    "published": UNetSpec(),
    "lite": UNetSpec(
        model_channels=32, channel_mult=(1, 1, 2, 2, 4), num_res_blocks=1, attention_strides=(16,)
    ),
}
"""`published`: 118.6 M parameters (SegRefiner section 2.1). `lite`: the same family for a CPU."""


@dataclass(frozen=True, kw_only=True)
class SegRefinerConfig:
    """How SegRefiner refines. The defaults are the published instance configuration, mended.

    Attributes:
        network: `published` or `lite`, see `UNETS`.
        scope: `objects` crops each object and resizes it to the network's size (LR); `picture`
            sees the whole picture shrunk, then its uncertain parts at full size (HR).
        model_px: side of the network's input; 256 as published.
        num_timesteps: of the weights; 6 as published.
        steps: calls of the network, at most `num_timesteps`.
            Differs: fewer steps are spread over the whole schedule; see `truncates_steps`.
        truncates_steps: leave out the last steps instead, as the original's `--step`.
        context_px: around an object's tight box; 20 as published.
        least_area_px: smaller objects stay as they are; 512 as published.
        fades_at_crop: let an object fade out at the border of its crop, as the original's zero
            padding does. Differs: by default objects reach the image border whole.
        surroundings: with scope `picture`, look at the object's box widened by this share of its
            longer side each way, and not at the whole picture; 0 as published. Differs: objects
            that are small in their picture are seen large.
        picks_nearest: shrink and enlarge the picture by picking pixels, as the original.
            Differs: otherwise bilinear, with antialiasing on the way down.
        fine_share: a pixel is uncertain when its probability of being fine is below this share of
            the highest one; 0.9 as published.
        nms_iou: of the patches at full size; 0.3 as published.
        max_patches: at most this many patches at full size, the most uncertain first; 0: no limit.
        patches_are_coarse: at full size, look at the mask so far as at a coarse one, at the first
            step. Differs: by default as at one that is nearly fine, at the last step, as the
            original; a network that was trained briefly then hardly changes it.
        drops_small: erase the mask of a picture that has at most 128 foreground pixels, or none
            once it is shrunk, as the original. Differs: by default such a mask is kept as it is.
        noise_seed: of the noise; the same number gives the same answer whatever the batch size.
    """

    network: Literal["published", "lite"] = "published"
    scope: Literal["objects", "picture"] = "objects"
    model_px: int = 256
    num_timesteps: int = 6
    steps: int = 6
    truncates_steps: bool = False
    context_px: int = 20
    least_area_px: int = 512
    fades_at_crop: bool = False
    surroundings: float = 0.0
    picks_nearest: bool = False
    fine_share: float = 0.9
    nms_iou: float = 0.3
    max_patches: int = 0
    patches_are_coarse: bool = False
    drops_small: bool = False
    noise_seed: int = 0

    def __post_init__(self) -> None:
        _require(self.network in UNETS, "network", self.network, "published or lite")
        _require(self.scope in ("objects", "picture"), "scope", self.scope, "objects or picture")
        stride = UNETS[self.network].stride
        is_fit = self.model_px > 0 and self.model_px % stride == 0
        _require(is_fit, "model_px", self.model_px, f"a multiple of {stride}")
        _require(self.num_timesteps >= 2, "num_timesteps", self.num_timesteps, "2 or more")
        fewest = 2 if self.scope == "picture" else 1
        is_in_range = fewest <= self.steps <= self.num_timesteps
        _require(is_in_range, "steps", self.steps, f"{fewest} to {self.num_timesteps}")
        for name in ("context_px", "least_area_px", "max_patches", "noise_seed"):
            value = getattr(self, name)
            _require(value >= 0, name, value, "0 or more")
        _require(self.surroundings >= 0, "surroundings", self.surroundings, "0 or more")
        for name in ("fine_share", "nms_iou"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, value, "a number from 0 to 1")

    @property
    def schedule(self) -> DiffusionSchedule:
        """The diffusion schedule of the weights."""
        return DiffusionSchedule(num_timesteps=self.num_timesteps)


def _require(is_met: bool, name: str, received: object, expected: str) -> None:
    if not is_met:
        raise UsageError(f"{name} is {received!r}; expected {expected}")


OBJECT_OPTIONS = ("context_px", "least_area_px", "fades_at_crop")
"""What has an effect with scope `objects` only."""
PICTURE_OPTIONS = (
    "surroundings", "picks_nearest", "fine_share", "nms_iou", "max_patches", "drops_small",
    "patches_are_coarse",
)  # fmt: skip
"""What has an effect with scope `picture` only."""


def check_have_effect(config: SegRefinerConfig, names: Iterable[str]) -> None:
    """Refuses options that the scope of a configuration passes by.

    Raises:
        UsageError: one has no effect.
    """
    idle = OBJECT_OPTIONS if config.scope == "picture" else PICTURE_OPTIONS
    without = [name for name in names if name in idle]
    if without:
        other = "objects" if config.scope == "picture" else "picture"
        raise UsageError(
            f"{', '.join(without)}: no effect on {config.scope}; it belongs to scope {other}"
        )


CPU_BATCH_PX = 1 << 16
"""Per call of the network on a CPU, the fastest of those tried: one view of 256 px, four of 128."""

PRESETS = {
    "segrefiner_lr": SegRefinerConfig(),
    "segrefiner_hr": SegRefinerConfig(scope="picture", picks_nearest=True),
}
"""The published checkpoints by our names."""
