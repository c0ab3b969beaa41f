"""A batch normalisation whose statistics stay as they are."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import batch_norm

MakeNorm = Callable[[int], nn.Module]
"""Makes a normalisation of a number of channels."""


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Always normalises by the running statistics, in training too; scale and shift are trained.

    Its state dict is that of `nn.BatchNorm2d`, and so is its result in eval mode.

    Source: OFRIN/PuzzleCAM:core/networks.py, mode `fix` (PerimeterFit section 1.1).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape `(B, C, H, W)`."""
        return batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def choose_norm(*, fixes_norms: bool) -> type[nn.BatchNorm2d]:
    """Chooses the batch normalisation of a network by whether its statistics are fixed."""
    return FixedBatchNorm2d if fixes_norms else nn.BatchNorm2d
