"""What can be set about RWS; the defaults are the published ones, but for the defects.

Source: RWS sections 3 to 6.
"""

from dataclasses import dataclass, field
from typing import Literal

from maskhone.engine.recipe import Identity
from maskhone.errors import UsageError
from maskhone.methods.rws.attention import WEIGHINGS
from maskhone.methods.rws.fusion import check_share_form
from maskhone.methods.rws.slices import SliceConfig

HEAT_MASKS = ("pred", "label", "union")


@dataclass(frozen=True, kw_only=True)
class HostIdentity(Identity):
    """What the weights are called, and the network that RWS trains.

    Attributes:
        network: `deeplabv3_resnet50`, `deeplabv3_resnet101`, or `package.module:factory` of your
            own, which is called with `num_classes` and returns an `nn.Module`.
        init_from: weights that every stage starts from: a `.pth` state dict such as torchvision's
            `deeplabv3_resnet50_coco-cd0a2569.pth`, or a maskhone file. A last layer for another
            number of classes starts fresh.
        layers: names of the stages, in their order, the last one decides which slices are weak;
            none are needed for DeepLabv3.
        num_classes: outputs of the network, the background among them.
    """

    network: str = "deeplabv3_resnet50"
    init_from: str = ""
    layers: tuple[str, ...] = ()
    num_classes: int = 21

    def __post_init__(self) -> None:
        if self.start_from and self.init_from:
            raise UsageError("start_from and init_from are both given; leave one of them out")
        if self.num_classes < 2:
            raise UsageError(f"num_classes is {self.num_classes}; expected 2 or more")
        if ":" in self.network and not self.layers:
            raise UsageError(f"network is {self.network!r}; name its stages in layers")


@dataclass(frozen=True, kw_only=True)
class RWSConfig:
    """How attention is measured and features are mixed.

    Attributes:
        heat_method: a key of `WEIGHINGS`.
        heat_mask: the pixels whose logits are explained: `pred`, those predicted to be of the
            class; `label`, also right for a class that is missed completely; or `union`.
        share_form: how much of the picture stays, see `compare_heat`.
        mixed_layers: numbers of the layers, from 0, that are mixed; empty mixes all.
        mix_probability: of a picture in training.
        slice_input: a slice is seen at its `native` size, or at the size of its `image`.
        assignment: `own` maps; or `shuffled`, a placebo: those of another picture.
        stage_start: every stage starts from `theta0`, or from the `previous` stage.
            Features can be mixed only between networks that began alike.
        cycles: rounds of slices and mixing, at most; 0 trains plainly.
        settled: stop when the number of slices changes by less than this.
        most_slices_trained: the stage on slices sees so many of them, drawn at random; 0: all.
        extra_slices: `slices.jsonl` of another run, whose windows whole stages see as pictures of
            their own; empty for none. With `cycles = 0` it says what more crops alone bring.
    """

    heat_method: str = "gradcam"
    heat_mask: Literal["pred", "label", "union"] = "pred"
    share_form: str = "relative"
    mixed_layers: tuple[int, ...] = ()
    mix_probability: float = 1.0
    slice_input: Literal["native", "image"] = "native"
    assignment: Literal["own", "shuffled"] = "own"
    stage_start: Literal["theta0", "previous"] = "theta0"
    cycles: int = 10
    settled: int = 20
    most_slices_trained: int = 0
    extra_slices: str = ""

    def __post_init__(self) -> None:
        for name, known in (
            ("heat_method", WEIGHINGS),
            ("heat_mask", HEAT_MASKS),
            ("slice_input", ("native", "image")),
            ("assignment", ("own", "shuffled")),
            ("stage_start", ("theta0", "previous")),
        ):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected {', '.join(known)}")
        check_share_form(self.share_form)
        if not 0 <= self.mix_probability <= 1:
            raise UsageError(f"mix_probability is {self.mix_probability}; expected 0 to 1")
        for name in ("cycles", "settled", "most_slices_trained"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How each stage goes.

    Attributes:
        epochs: of each stage. 1 in the published script, 15 in the published table.
        pretrain_epochs: when above 0, what all stages start from is first trained so long, on all
            classes. For networks without published weights.
        base_px: shorter side of the pictures before they are scaled at random, and when they are
            scored.
        scale_range: lowest and highest random factor of `base_px`.
        crop_px: side of the random square crop; what is beyond the picture is void.
        mirrors: flip left and right at even odds.
        rate: `published`: a linear rise over the first epoch, then a polynomial fall to 0; or
            `schedule`, by the fields of `Schedule`.
    """

    epochs: int = 15
    pretrain_epochs: int = 0
    base_px: int = 520
    scale_range: tuple[float, float] = field(default=(0.5, 2.0))
    crop_px: int = 480
    mirrors: bool = True
    rate: Literal["published", "schedule"] = "published"

    def __post_init__(self) -> None:
        for name in ("epochs", "base_px", "crop_px"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.pretrain_epochs < 0:
            raise UsageError(f"pretrain_epochs is {self.pretrain_epochs}; expected 0 or more")
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise UsageError(f"scale_range is {self.scale_range}; expected two rising factors")
        if self.rate not in ("published", "schedule"):
            raise UsageError(f"rate is {self.rate!r}; expected published or schedule")


PUBLISHED = SliceConfig()
"""Windows and thresholds as published."""

PUBLISHED_SCHEDULE = {
    "optimizer": "sgd",
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "batch_size": 4,
}
"""Source: RWS section 6."""
