"""What can be set about PatchRefineNet, and the configurations that were published."""

from dataclasses import dataclass, replace
from typing import Literal

from maskhone.errors import UsageError
from maskhone.methods.prn.merge import MERGES
from maskhone.methods.prn.network import SPECS, PRNSpec

NETWORKS = (*SPECS, "grid")
RESIZES = ("area", "linear", "nearest")
_LEAST_MAP_PX = 16  # smaller maps leave batch normalisation a single position
_LABEL_CELLS = {"p64": 8, "p4": 2, "p0": 1}


@dataclass(frozen=True, kw_only=True)
class PRNConfig:
    """How PatchRefineNet refines. The defaults are the published P64, mended.

    Attributes:
        network: `p64` (8 x 8 cells), `p4` (4 x 4 cells, in spite of its name), `p0` (no local
            branch), or `grid` for `cells` and `width` of your own.
        cells: rows and columns of the local branch of `grid`.
        width: channels of the finest level of `grid`; 32 as published. 8 suits a CPU.
        map_px: side of the square that the network sees; 512 as published. A smaller map with
            the same grid costs less.
        bn: normalise with the running statistics (`eval`), or with those of each map and each cell
            alone (`batch`). Which of them made the published scores is not known. In training
            `eval` takes the statistics of the batch, one cell after another, as published; `batch`
            is the same for batches of one map, but for larger ones too, and all cells at once.
        merge: how both branches are joined, see `merge_scores`.
        has_row_quirk: of p64: repeat the published slip in the seventh row of cells.
            Differs: only weights that were trained with it have it; new training does not.
        resize: how maps of another size become `map_px`: averaging `area`s as the published
            loaders, `linear` or `nearest`. The way back is bilinear.
        residual: the network says by how much the logits of the map change; it starts by changing
            nothing, and a change seen at `map_px` is brought to the map's own size, whose detail
            stays. Differs: the original predicts a new map, at its own size.
        tile: see maps in overlapping squares of `map_px` at full size, and not resized as a whole.
            Differs: the original sees nothing but 512 x 512.
    """

    network: Literal["p64", "p4", "p0", "grid"] = "p64"
    cells: int = 0
    width: int = 32
    map_px: int = 512
    bn: Literal["eval", "batch"] = "eval"
    merge: Literal["published", "global", "local", "mean", "and", "or"] = "published"
    has_row_quirk: bool = False
    resize: Literal["area", "linear", "nearest"] = "area"
    residual: bool = False
    tile: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("network", NETWORKS),
            ("bn", ("eval", "batch")),
            ("merge", MERGES),
            ("resize", RESIZES),
        ):
            value = getattr(self, name)
            _require(value in known, name, value, f"one of {', '.join(known)}")
        if self.network == "grid":
            _require(self.cells >= 1, "cells", self.cells, "1 or more with network grid")
            _require(self.width >= 4, "width", self.width, "4 or more")
        else:
            _require(self.cells == 0, "cells", self.cells, "none: they belong to network grid")
            _require(self.width == 32, "width", self.width, "32: another one needs network grid")
        stride = self.spec.stride
        is_fit = self.map_px >= _LEAST_MAP_PX and self.map_px % stride == 0
        expected = f"a multiple of {stride}, {_LEAST_MAP_PX} or more"
        _require(is_fit, "map_px", self.map_px, expected)
        if self.network == "p0":
            _require(self.merge in ("published", "global"), "merge", self.merge, "global for p0")
        if self.residual and self.network != "p0":
            _require(self.merge != "published", "merge", self.merge, _NO_RIM)
        is_whole = self.network == "p64" or not self.has_row_quirk
        _require(is_whole, "has_row_quirk", self.has_row_quirk, "false: only p64 has it")

    @property
    def spec(self) -> PRNSpec:
        """The network."""
        known = SPECS.get(self.network) or PRNSpec(cells=self.cells, width=self.width)
        return replace(known, residual=self.residual)

    @property
    def label_cells(self) -> int:
        """Rows and columns of patches with a best threshold each; of p4 half its cells' number.

        Source: PatchRefineNet section 2.2.
        """
        return self.cells if self.network == "grid" else _LABEL_CELLS[self.network]


_NO_RIM = "another one with residual: the published merge adds a rim to what did not change"


def _require(is_met: bool, name: str, received: object, expected: str) -> None:
    if not is_met:
        raise UsageError(f"{name} is {received!r}; expected {expected}")


PRESETS = {
    f"prn_p64.{data}": PRNConfig(has_row_quirk=True) for data in ("deepglobe", "duts", "kvasir")
}
"""The published checkpoints by our names."""
