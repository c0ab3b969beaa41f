"""The three trainings among the stages, by the names of their stages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from maskhone.methods.perimeterfit.train_affinity import PARTS as AFFINITY_PARTS
from maskhone.methods.perimeterfit.train_affinity import prepare_affinity, train_affinity
from maskhone.methods.perimeterfit.train_classifier import PARTS as CLASSIFIER_PARTS
from maskhone.methods.perimeterfit.train_classifier import prepare_classifier, train_classifier
from maskhone.methods.perimeterfit.train_segmenter import PARTS as SEGMENTER_PARTS
from maskhone.methods.perimeterfit.train_segmenter import prepare_segmenter, train_segmenter
from maskhone.methods.perimeterfit.training import Training

SET_BY_PIPELINE = frozenset({
    "images", "tags", "classes", "truths", "train_list", "unlabelled", "labels",
    "name", "licence", "seed", "device",
})  # fmt: skip
"""Lines that no training has of its own here."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the trainings.

    Attributes:
        train: does it.
        prepare: checks it, and makes its network.
        parts: dataclasses whose fields are the lines of its recipe.
        labels: name of the stage whose label maps it learns; empty for labels of pictures.
    """

    train: Callable[..., Path]
    prepare: Callable[..., Training]
    parts: tuple[type, ...]
    labels: str = ""

    @property
    def own_lines(self) -> frozenset[str]:
        """Names the lines that a recipe of the pipeline may give it."""
        lines = {field.name for part in self.parts for field in fields(part)}
        return frozenset(lines - SET_BY_PIPELINE)


TRAININGS: Mapping[str, Kind] = {
    "classify": Kind(
        train=train_classifier,
        prepare=prepare_classifier,
        parts=CLASSIFIER_PARTS,
    ),
    "affinity": Kind(
        train=train_affinity,
        prepare=prepare_affinity,
        parts=AFFINITY_PARTS,
        labels="affinity-labels",
    ),
    "segmenter": Kind(
        train=train_segmenter,
        prepare=prepare_segmenter,
        parts=SEGMENTER_PARTS,
        labels="pseudo-labels",
    ),
}
