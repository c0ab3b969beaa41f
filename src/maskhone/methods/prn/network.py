"""PatchRefineNet: probability maps in, two refined maps out, one decoded whole, one cell by cell.

B batch, C channels, n rows and columns of cells. Module names are those of the published
checkpoints, so that their keys are ours. Written from the description alone (PatchRefineNet
section 3). Blocks: Alom et al., "Recurrent Residual U-Net", 2018; Oktay et al., "Attention U-Net",
2018; Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, instance_norm, interpolate, max_pool2d

_LEAST_SCORE = 1 / 255
_LEVELS = 4  # of the encoder; each is twice as wide as the one above
_POOL_SIDES = (1, 2, 4, 8)
_RECURRENCES = 2
_QUIRK_ROW, _QUIRK_SOURCE = 6, 2  # counted from 0; PatchRefineNet section 3.4


@dataclass(frozen=True, kw_only=True)
class PRNSpec:
    """Which of the published networks.

    Attributes:
        cells: rows and columns of the local branch: 8 for P64, 4 for P4, 0 for P0 without one.
        width: channels of the finest level; 32 as published.
        head_kernel: side of the last convolution: 3, or 1 for P0.
        head_names: of the global and the local head in the checkpoints.
        residual: what the heads say is added to the logits of the map, and is 0 before training.
    """

    cells: int
    width: int = 32
    head_kernel: int = 3
    head_names: tuple[str, ...] = ("out_global", "out_local")
    residual: bool = False

    @property
    def stride(self) -> int:
        """Height and width of the input must be multiples of this."""
        return 8 * max(self.cells, 1)


SPECS = {
    "p64": PRNSpec(cells=8),
    "p4": PRNSpec(cells=4, head_names=("conv_last_global", "conv_last_local")),
    "p0": PRNSpec(cells=0, head_kernel=1, head_names=("out_global",)),
}


class PRN(nn.Module):
    """Returns logits of the global map and of the local map; the latter is None without cells."""

    uses_map_statistics = False

    def __init__(self, spec: PRNSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoding = Encoder(spec.width)
        for branch in ("global", "local")[: len(spec.head_names)]:
            for level in (3, 2, 1):
                self.add_module(f"decode{level}_{branch}", Decoder(spec.width << level))
        for name in spec.head_names:
            padding = spec.head_kernel // 2
            head = nn.Conv2d(spec.width, 1, spec.head_kernel, padding=padding)
            if spec.residual:
                for parameter in head.parameters():
                    nn.init.zeros_(parameter)
            self.add_module(name, nn.Sequential(head))

    def forward(
        self, scores_B1HW: Tensor, *, has_row_quirk: bool = False, needs_local: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Returns `(B, 1, H, W)` logits twice; the local ones only if there are any, and needed.

        Args:
            scores_B1HW: probabilities; H and W are multiples of `spec.stride`.
            has_row_quirk: cut the second-finest features of the seventh row of cells from the
                third row, as the published network does. Its weights were trained so.
            needs_local: run the local branch.
        """
        features = self.encoding(scores_B1HW)
        whole, local = self._decode(features, "global"), None
        if self.spec.cells and needs_local:
            local = self._decode_cells(features, has_row_quirk=has_row_quirk)
        if self.spec.residual:
            given = find_logits(scores_B1HW)
            whole, local = given + whole, None if local is None else given + local
        return whole, local

    def _decode_cells(self, features: list[Tensor], *, has_row_quirk: bool) -> Tensor:
        """Decodes each cell of the features alone and puts them together again."""
        cells = [self._cut(x) for x in features]
        if has_row_quirk and self.spec.cells > _QUIRK_ROW:
            cells[1] = cells[1].clone()
            cells[1][:, _QUIRK_ROW] = cells[1][:, _QUIRK_SOURCE]
        if self.training and not self.uses_map_statistics:
            return self._join(self._decode_in_turn(cells))
        flat = [x.flatten(0, 2) for x in cells]
        local = self._decode(flat, "local")
        count = self.spec.cells
        return self._join(local.reshape(-1, count, count, *local.shape[1:]))

    def _decode(self, features: list[Tensor], branch: str) -> Tensor:
        """Decodes `[finest, ..., coarsest]` features; same height and width as the finest."""
        below = features[3]
        for level in (3, 2, 1):
            below = self.get_submodule(f"decode{level}_{branch}")(features[level - 1], below)
        name = self.spec.head_names[0 if branch == "global" else 1]
        logits: Tensor = self.get_submodule(name)(below)
        return logits

    def _decode_in_turn(self, cells: list[Tensor]) -> Tensor:
        """Decodes one cell after another, so that each has batch statistics of its own."""
        count = self.spec.cells
        rows = [
            [self._decode([x[:, i, j] for x in cells], "local") for j in range(count)]
            for i in range(count)
        ]
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)

    def _cut(self, features: Tensor) -> Tensor:
        """Cuts `(B, C, H, W)` into `(B, n, n, C, H / n, W / n)`."""
        b, c, h, w = features.shape
        count = self.spec.cells
        cut = features.reshape(b, c, count, h // count, count, w // count)
        return cut.permute(0, 2, 4, 1, 3, 5)

    def _join(self, cells: Tensor) -> Tensor:
        """Puts `(B, n, n, 1, h, w)` back together."""
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


class Encoder(nn.Module):
    """Recurrent residual blocks at four sizes; the smallest is also pooled over the whole map."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (1, *(width << level for level in range(_LEVELS)))
        for i in range(_LEVELS):
            self.add_module(f"RRCNN{i + 1}", RecurrentResidual(widths[i], widths[i + 1]))
        self.psp = PyramidPooling(widths[-1], widths[-1])

    def forward(self, scores: Tensor) -> list[Tensor]:
        """Returns features at strides 1, 2, 4 and 8."""
        features = []
        x = scores
        for i in range(_LEVELS):
            x = self.get_submodule(f"RRCNN{i + 1}")(max_pool2d(x, 2) if i else x)
            features.append(x)
        features[3] = self.psp(features[3])
        return features


class Decoder(nn.Module):
    """Enlarges what lies below, weighs the skip by it, and joins both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // 2
        self.Up = Upsample(width, narrow)
        self.Up_Conv = RecurrentResidual(width, narrow)
        self.Attn = AttentionGate(narrow, narrow, narrow // 2)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """Returns half as many channels at twice the size of `below`."""
        enlarged = self.Up(below)
        joined: Tensor = self.Up_Conv(torch.cat([self.Attn(enlarged, skip), enlarged], dim=1))
        return joined


class RecurrentResidual(nn.Module):
    """A 1x1 convolution, and beside it two recurrent units in a row."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.RCNN = nn.Sequential(Recurrent(channels_out), Recurrent(channels_out))
        self.Conv_1x1 = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `channels_out` channels of the same size."""
        x = self.Conv_1x1(x)
        summed: Tensor = x + self.RCNN(x)
        return summed


class Recurrent(nn.Module):
    """One convolution applied three times; its input comes in again each time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), Norm(channels), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        y: Tensor = self.conv(x)
        for _ in range(_RECURRENCES):
            y = self.conv(x + y)
        return y


class Upsample(nn.Module):
    """Doubles the size by repeating pixels, then convolves."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            Norm(channels_out),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns `channels_out` channels at twice the size."""
        enlarged: Tensor = self.up(x)
        return enlarged


class AttentionGate(nn.Module):
    """Weighs each position of a skip connection by what the decoder asks for."""

    def __init__(self, channels_gate: int, channels_skip: int, channels_inner: int) -> None:
        super().__init__()
        self.W_g = _conv_norm(channels_gate, channels_inner)
        self.W_x = _conv_norm(channels_skip, channels_inner)
        self.psi = _conv_norm(channels_inner, 1)

    def forward(self, gate: Tensor, skip: Tensor) -> Tensor:
        """Keeps the shape of the skip."""
        weight = self.psi(torch.relu(self.W_g(gate) + self.W_x(skip))).sigmoid()
        weighed: Tensor = skip * weight
        return weighed


class PyramidPooling(nn.Module):
    """Joins each position with averages over the whole map and its halves, quarters, eighths."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Identity(), nn.Conv2d(channels_in, channels_in, 1, bias=False))
            for _ in _POOL_SIDES
        )
        self.bottleneck = nn.Conv2d(channels_in * (len(_POOL_SIDES) + 1), channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the size."""
        pooled = [
            stage(adaptive_avg_pool2d(x, side))
            for side, stage in zip(_POOL_SIDES, self.stages, strict=True)
        ]
        resized = [
            interpolate(p, size=x.shape[2:], mode="bilinear", align_corners=False) for p in pooled
        ]
        return torch.relu(self.bottleneck(torch.cat([*resized, x], dim=1)))


class Norm(nn.BatchNorm2d):
    """Batch normalisation that can also take the statistics of each map alone.

    Then both modes are what training with one map, or one cell, at a time is, whatever else is in
    the batch. In eval mode it matters: one normalisation serves three recurrences, whose running
    statistics are mixed.
    """

    uses_map_statistics = False

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape."""
        if not self.uses_map_statistics:
            return super().forward(x)
        tracked = (self.running_mean, self.running_var) if self.training else (None, None)
        return instance_norm(
            x, *tracked, self.weight, self.bias, momentum=self.momentum or 0.0, eps=self.eps
        )


def choose_statistics(network: PRN, *, of_each_map: bool) -> None:
    """Sets, in place, what a network normalises with."""
    for module in network.modules():
        if isinstance(module, PRN | Norm):
            module.uses_map_statistics = of_each_map


def find_logits(scores: Tensor) -> Tensor:
    """Returns the logits of probabilities, which count as no surer than 8 bits can say: +-5.5."""
    return torch.logit(scores.clamp(_LEAST_SCORE, 1 - _LEAST_SCORE))


def _conv_norm(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1), Norm(channels_out))
