"""How well masks agree over videos: region and outline, by frame, sequence and set."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskhone.metrics.boundary import boundary_f
from maskhone.metrics.region import Mask, iou

TOLERANCE = 0.008
"""Share of the diagonal within which outlines agree (Perazzi et al., CVPR 2016)."""


@dataclass(kw_only=True)
class SequenceScores:
    """Runs over the frames of many sequences: J, the IoU, and F, that of the outlines.

    Attributes:
        tolerance: of F, see `boundary_f`.
        frames: one row for each frame: `sequence`, `frame`, `j`, `f`.

    Example:
        >>> scores = SequenceScores()
        >>> mask = np.eye(8, dtype=bool)
        >>> scores.update("dog", "00000", mask, mask)
        >>> scores.compute()["j"]
        1.0
    """

    tolerance: float = TOLERANCE
    frames: list[dict[str, Any]] = field(default_factory=list)

    def reset(self) -> None:
        """Forgets all frames."""
        self.frames.clear()

    def update(self, sequence: str, frame: str, prediction: Mask, target: Mask) -> None:
        """Adds a frame; two empty masks agree fully.

        Raises:
            InputError: the masks differ in shape.
        """
        j = iou(prediction, target)
        f = boundary_f(prediction, target, tolerance=self.tolerance)
        self.frames.append({"sequence": sequence, "frame": frame, "j": j, "f": f})

    def compute(self) -> dict[str, Any]:
        """Returns `j` and `f`, means over sequences, and `sequences`: name to its means and count.

        Every sequence counts alike, however long it is; without frames both are NaN.
        """
        sequences: dict[str, dict[str, float]] = {}
        for name in dict.fromkeys(row["sequence"] for row in self.frames):
            rows = [row for row in self.frames if row["sequence"] == name]
            means = {key: float(np.mean([row[key] for row in rows])) for key in ("j", "f")}
            sequences[name] = {**means, "frames": len(rows)}
        known = list(sequences.values())
        overall = {
            key: float(np.mean([one[key] for one in known])) if known else float("nan")
            for key in ("j", "f")
        }
        return {**overall, "sequences": sequences}
