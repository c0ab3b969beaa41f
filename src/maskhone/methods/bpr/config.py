"""What can be set about BPR, and the configurations that were published."""

from dataclasses import dataclass
from typing import Literal

from maskhone.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BPRConfig:
    """How BPR refines. The defaults are the published COCO configuration, with its bugs mended.

    Attributes:
        network: `hrnet18s` or `hrnet48`, see `network.py`.
        patch_px: side of a patch in the image; even. 64 in every published run.
        padding_px: context around a patch that the network sees but that is not pasted back.
        input_px: side to which a patch is enlarged for the network. 128 or 256 as published.
        nms_iou: overlap at which the weaker of two patches is dropped. Published inference: 0.25
            on COCO, 0.55 on Cityscapes.
        window_px: odd side of the window that finds the boundary; 3 as published.
        edge_rule: `inside` or `published`, see `boundary.plan_boundary_patches`.
            Differs: the default also refines the last row and column, and small images.
        mask_input: `binary` shows the network the mask cut at one half, as published; `soft` shows
            it the scores, for weights that were trained so.
        coarsest_side_px: when positive, an object whose longer side exceeds twice this is first
            refined in shrunken copies of the image, each half as large as the next, the first
            having the object's longer side between one and two times this. 0: one pass at full
            size, as published. Differs: errors wider than a patch can be mended.
        narrowest_px: no object is shrunk until its strands are narrower than this on average, lest
            cracks, vessels and stems are lost.
        rounds_resized_image: enlarge the image patch as 8-bit integers, as the published file
            pipeline does; False enlarges in float after normalising, as its single-image demo.
        resizes_probabilities: shrink probabilities back to the patch, as the demo; False shrinks
            logits, as the file pipeline.
    """

    network: Literal["hrnet18s", "hrnet48"] = "hrnet18s"
    patch_px: int = 64
    padding_px: int = 0
    input_px: int = 128
    nms_iou: float = 0.25
    window_px: int = 3
    edge_rule: Literal["inside", "published"] = "inside"
    mask_input: Literal["binary", "soft"] = "binary"
    coarsest_side_px: int = 0
    narrowest_px: float = 10.0
    rounds_resized_image: bool = True
    resizes_probabilities: bool = False

    def __post_init__(self) -> None:
        _require(self.network in ("hrnet18s", "hrnet48"), f"network is {self.network!r}")
        _require(self.patch_px >= 2 and self.patch_px % 2 == 0, f"patch_px is {self.patch_px}")
        _require(self.padding_px >= 0, f"padding_px is {self.padding_px}")
        _require(self.input_px >= 32 and self.input_px % 32 == 0, f"input_px is {self.input_px}")
        _require(0 <= self.nms_iou <= 1, f"nms_iou is {self.nms_iou}")
        _require(self.window_px in range(3, 16, 2), f"window_px is {self.window_px}")
        _require(self.edge_rule in ("inside", "published"), f"edge_rule is {self.edge_rule!r}")
        _require(self.mask_input in ("binary", "soft"), f"mask_input is {self.mask_input!r}")
        _require(self.coarsest_side_px >= 0, f"coarsest_side_px is {self.coarsest_side_px}")
        _require(self.narrowest_px >= 0, f"narrowest_px is {self.narrowest_px}")


def _require(is_met: bool, received: str) -> None:
    if not is_met:
        raise UsageError(f"{received}; {_EXPECTED[received.split()[0]]}")


_EXPECTED = {
    "network": "expected hrnet18s or hrnet48",
    "patch_px": "expected an even number of pixels, 64 as published",
    "padding_px": "expected 0 or more pixels",
    "input_px": "expected a multiple of 32, 128 or 256 as published",
    "nms_iou": "expected a number from 0 to 1, 0.25 or 0.55 as published",
    "window_px": "expected an odd number from 3 to 15, 3 as published",
    "edge_rule": "expected inside or published",
    "mask_input": "expected binary or soft",
    "coarsest_side_px": "expected 0 (one pass) or a number of pixels",
    "narrowest_px": "expected 0 or more pixels",
}

CITYSCAPES_BEST = BPRConfig(network="hrnet48", input_px=256, nms_iou=0.55)
"""`hrnet48_256`, the best published Cityscapes run (tinyalpha/BPR, README)."""

CITYSCAPES_SMALL = BPRConfig(network="hrnet18s", input_px=128, nms_iou=0.55)
"""`hrnet18s_128` on Cityscapes (tinyalpha/BPR, README)."""

COCO = BPRConfig(network="hrnet18s", input_px=128, nms_iou=0.25)
"""`hrnet18s_128` on COCO (tinyalpha/BPR, README)."""

PRESETS = {
    "bpr_hrnet48_256.cityscapes": CITYSCAPES_BEST,
    "bpr_hrnet18s_128.cityscapes": CITYSCAPES_SMALL,
    "bpr_hrnet18s_128.coco": COCO,
}
"""The published checkpoints by our names."""
