"""Training pictures: `images/ID.jpg`, `masks/ID.png` and `coarse/ID.png`, listed in `<split>.txt`."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from maskhone.contracts import Sample
from maskhone.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainingItem:
    """The three files of one training picture; nothing is read yet."""

    id: str
    image: Path
    mask: Path
    coarse: Path


def find_training_items(root: Path, split: str) -> list[TrainingItem]:
    """Lists the pictures that `root/<split>.txt` names, one id a line, in its order."""
    return [
        TrainingItem(
            id=name,
            image=root / "images" / f"{name}.jpg",
            mask=root / "masks" / f"{name}.png",
            coarse=root / "coarse" / f"{name}.png",
        )
        for name in (root / f"{split}.txt").read_text().split()
    ]


def load_training_item(item: TrainingItem) -> Sample:
    """Reads one picture with its coarse mask and its truth, one object each."""
    image = cv2.cvtColor(cv2.imread(str(item.image)), cv2.COLOR_BGR2RGB)
    coarse = cv2.imread(str(item.coarse), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    mask = cv2.imread(str(item.mask), cv2.IMREAD_GRAYSCALE)
    return Sample(
        id=item.id, image=image, masks=coarse[None], target=(mask > 127).astype(np.float32)[None]
    )
