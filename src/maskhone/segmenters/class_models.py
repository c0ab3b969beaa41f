"""What a checkpoint of the classifier or of DeepLabv3+ holds, told by its tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from maskhone.errors import WeightsError
from maskhone.nn.backbones import ARCHITECTURES, find_architecture
from maskhone.segmenters.classifier import Classifier
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus

_CLASSIFIER_KEY = "classifier.weight"
_DEEPLAB_KEY = "decoder.classifier.8.weight"
_PYRAMID_STATISTICS = "aspp.bn1.running_mean"  # which group normalisation has not


@dataclass(frozen=True, kw_only=True)
class ClassModel:
    """A network for several classes.

    Attributes:
        kind: `classifier` or `deeplabv3plus`.
        architecture: of the body, one of `ARCHITECTURES`.
        num_classes: of the outputs: with the background for `deeplabv3plus`, else without.
        uses_group_norm: whether DeepLabv3+ normalises its new layers in groups of channels.
    """

    kind: str
    architecture: str
    num_classes: int
    uses_group_norm: bool = True

    def build(self) -> Classifier | DeepLabV3Plus:
        """Builds the untrained network."""
        if self.kind == "classifier":
            return Classifier(self.architecture, self.num_classes)
        return DeepLabV3Plus(
            self.architecture, self.num_classes, uses_group_norm=self.uses_group_norm
        )

    def to_config(self) -> dict[str, Any]:
        """Returns what the header of a weight file says of the network."""
        config = asdict(self)
        del config["kind"]
        return config


def describe_tensors(state: Mapping[str, Tensor], *, source: str = "weights") -> ClassModel:
    """Tells kind, body and number of classes from the tensors, under our names.

    Raises:
        WeightsError: they are of another network.
    """
    head = _DEEPLAB_KEY if _DEEPLAB_KEY in state else _CLASSIFIER_KEY
    architecture = find_architecture(state, prefix="model.")
    if head not in state or architecture is None:
        lacking = (
            f"no {_CLASSIFIER_KEY} or {_DEEPLAB_KEY}" if head not in state else "no known body"
        )
        raise WeightsError(
            f"{source}: neither a classifier nor a DeepLabv3+ ({lacking}); known bodies: "
            f"{', '.join(ARCHITECTURES)}"
        )
    is_deeplab = head == _DEEPLAB_KEY
    return ClassModel(
        kind="deeplabv3plus" if is_deeplab else "classifier",
        architecture=architecture,
        num_classes=len(state[head]),
        uses_group_norm=not is_deeplab or _PYRAMID_STATISTICS not in state,
    )
