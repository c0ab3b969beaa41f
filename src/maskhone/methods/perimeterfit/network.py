"""AffinityNet: a picture in, the probability of an edge in each cell of 4 x 4 pixels out.

B batch, C channels, H and W of the picture, h and w of the grid of cells, rounded up. Module names
are those of the published checkpoints. Source: Ahn et al., "Weakly Supervised Learning of Instance
Segmentation with Inter-pixel Relations", CVPR 2019, whose edge branch it is;
OFRIN/PuzzleCAM:core/networks.py, inference_rw.py.
"""

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from maskhone.contracts import Image
from maskhone.methods.perimeterfit.walk import Edges
from maskhone.nn.backbones import find_widths, make_backbone, run_backbone
from maskhone.segmenters.scales import normalise_image

CANVAS_PX = 512
"""Smaller pictures are put on a black square of this side (OFRIN/PuzzleCAM:inference_rw.py)."""

_CELL_PX = 4
_HEAD_WIDTH, _GROUPS = 32, 4
_SCALES = (1, 1, 2, 4, 4)  # from the outputs of a backbone to cells
_COARSEST_PX = 16


class AffinityNet(nn.Module):
    """Reads edges off the five outputs of a backbone that is never trained.

    Args:
        architecture: of the backbone, one of `nn.backbones.ARCHITECTURES`.

    Differs: the first head has as many channels as the backbone gives; the original expects 128 of
    any but the 50-layer ones, and so fails with ResNet-101 and -152.
    """

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = make_backbone(architecture, fixes_norms=True)
        for number, channels in enumerate(find_widths(self.model), start=1):
            head = nn.Sequential(
                nn.Conv2d(channels, _HEAD_WIDTH, 1, bias=False),
                nn.GroupNorm(_GROUPS, _HEAD_WIDTH),
            )
            self.add_module(f"fc_edge{number}", head)
        self.fc_edge6 = nn.Conv2d(len(_SCALES) * _HEAD_WIDTH, 1, 1)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Returns `(B, 1, h, w)` logits; their gradients end at the heads.

        Args:
            x_B3HW: normalised with the mean and deviation of ImageNet.
        """
        with torch.no_grad():
            stages = run_backbone(self.model, x_B3HW)
        edges = [
            self._read_edges(number, stage, scale)
            for number, (stage, scale) in enumerate(zip(stages, _SCALES, strict=True), start=1)
        ]
        height, width = edges[1].shape[2:]
        return self._join(torch.cat([edge[:, :, :height, :width] for edge in edges], dim=1))

    def list_heads(self) -> list[nn.Module]:
        """Lists the parts that are trained."""
        return [module for name, module in self.named_children() if name != "model"]

    def _read_edges(self, number: int, stage_BChw: Tensor, scale: int) -> Tensor:
        edges: Tensor = self.get_submodule(f"fc_edge{number}")(stage_BChw)
        if scale > 1:
            edges = interpolate(edges, scale_factor=scale, mode="bilinear", align_corners=False)
        return torch.relu(edges)

    def _join(self, edges_BChw: Tensor) -> Tensor:
        joined: Tensor = self.fc_edge6(edges_BChw)
        return joined


def predict_edges(
    network: AffinityNet,
    image: Image,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    canvas_px: int = CANVAS_PX,
) -> Edges:
    """Computes the probability of an edge in each cell of a picture of any size.

    Args:
        network: on `device`, in eval mode.
        image: `(H, W, 3)` uint8 RGB.
        device: where to compute; None is the CPU.
        dtype: of the matrix products; float32 or an autocast type.
        canvas_px: see `find_edges`.

    Returns:
        `(h, w)` float32 in [0, 1].
    """
    device = device or torch.device("cpu")
    x_3HW = normalise_image(image).to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        found = find_edges(network, x_3HW, canvas_px=canvas_px)
    edges: Edges = found.float().cpu().numpy()
    return edges


@torch.no_grad()
def find_edges(network: AffinityNet, x_3HW: Tensor, *, canvas_px: int = CANVAS_PX) -> Tensor:
    """Computes `(h, w)` edge probabilities: the mean logit of a picture and of its mirror image.

    Args:
        network: on the device of the picture, in eval mode.
        x_3HW: normalised.
        canvas_px: zeros are added on the right and below up to this side.

    Notes:
        The mirror image lies on the left of its canvas, too. Where the width is no multiple of 4
        its cells are up to 3 pixels beside those of the picture, as published.
        Differs: a side beyond `canvas_px` is filled up to the next multiple of 16; the original
        cuts it off, and then fails.
    """
    height, width = x_3HW.shape[1:]
    below, right = (_find_side(side, canvas_px) - side for side in (height, width))
    pair = pad(torch.stack([x_3HW, x_3HW.flip(-1)]), (0, right, 0, below))
    assert not network.training, "edges are found in eval mode"
    logits: Tensor = network(pair)[:, 0, : ceil(height / _CELL_PX), : ceil(width / _CELL_PX)]
    return ((logits[0] + logits[1].flip(-1)) / 2).sigmoid()


def _find_side(side_px: int, canvas_px: int) -> int:
    return max(canvas_px, ceil(side_px / _COARSEST_PX) * _COARSEST_PX)
