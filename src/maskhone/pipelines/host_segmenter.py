"""A network that labels pictures with classes, as a segmenter: one for each kind of weight file."""

from pathlib import Path

from torch import Tensor, nn

from maskhone.contracts import Segmenter
from maskhone.engine.infer import choose_device
from maskhone.engine.weights import load_weights, read_header
from maskhone.methods.rws.attention import pick_logits
from maskhone.methods.rws.host import build_host
from maskhone.pipelines.deeplabv3 import load_deeplabv3
from maskhone.pipelines.segmenters import load_class_segmenter
from maskhone.segmenters.catalogue import CLASS_SEGMENTERS
from maskhone.segmenters.deeplabv3 import DeepLabV3Segmenter


class Logits(nn.Module):
    """Somebody's own network, with its logits where `DeepLabV3Segmenter` looks for them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Takes normalised RGB `(B, 3, H, W)`."""
        return {"out": pick_logits(self.network(x))}


def load_host_segmenter(weights: Path, *, device: str = "auto") -> Segmenter:
    """Loads what labels pictures: DeepLabv3 (torchvision's file, too), DeepLabv3+, or one's own.

    Args:
        weights: a maskhone weight file, such as one that RWS trained; or torchvision's `.pth`.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        UsageError: somebody's own network cannot be imported.
        WeightsError: the weights are missing, damaged or of another network.
    """
    header = read_header(weights) if weights.suffix == ".safetensors" else {}
    method, config = str(header.get("method", "")), header.get("config", {})
    if method in CLASS_SEGMENTERS:
        return load_class_segmenter(weights, device=device)
    if ":" not in method:
        return load_deeplabv3(weights, device=device)
    network = build_host(method, int(config["num_classes"]))
    network.load_state_dict(load_weights(weights)[0])
    chosen = choose_device(device)
    ready = Logits(network).eval().requires_grad_(False).to(chosen)
    return DeepLabV3Segmenter(network=ready, device=chosen, side_px=int(config.get("side_px", 0)))
