"""The three trainings of the pipeline by the names of the networks, as recipes give them.

The classifier learns from image labels, plainly or with the puzzle; AffinityNet from affinity
labels; DeepLabv3+ from pseudo labels.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from maskhone.methods.perimeterfit.train_affinity import train_affinity
from maskhone.methods.perimeterfit.train_classifier import train_classifier
from maskhone.methods.perimeterfit.train_segmenter import train_segmenter

Train = Callable[..., Path]

TRAININGS: Mapping[str, Train] = {
    "classifier": train_classifier,
    "affinitynet": train_affinity,
    "deeplabv3plus": train_segmenter,
}
"""What `method` of a recipe may name."""
