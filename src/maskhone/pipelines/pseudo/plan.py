"""What the pipeline from image labels to masks is asked for: its recipe, and where results lie."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, Literal

from maskhone.data.tagged_images import TaggedImage
from maskhone.engine.recipe import check_keys, split_recipe
from maskhone.errors import UsageError
from maskhone.methods.perimeterfit.training_set import (
    ImageSet,
    find_images,
    find_untagged_images,
    read_classes,
)
from maskhone.pipelines.pseudo.trainings import SET_BY_PIPELINE, TRAININGS

Progress = Callable[[int, int], None]

_OF_TRAININGS = ("held_share", "validation_list", "train_list")  # fields of `ImageSet`


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """How image labels become masks; the defaults are the published ones unless said.

    Keys of a recipe that begin with `classify_`, `affinity_` or `segmenter_` are lines of that
    training's recipe, see `train_classifier`, `train_affinity` and `train_segmenter` of
    `maskhone.methods.perimeterfit`.

    Attributes:
        name: of the weights that are made. Another name or licence is written into them without
            training anew.
        licence: of them.
        train_list: the pictures that masks are made for, see `ImageSet`.
        test_list: pictures that only the segmenter is scored on; nobody needs to say what is in
            them. Empty scores none.
        architecture: body of the three networks; a training may have another one, with a line of
            its own.
        backbone_weights: file of an ImageNet start for them, likewise; empty starts from nothing.
        classifier: weights of a classifier that is there already; no other one is trained.
        affinity_net: likewise of an AffinityNet.
        cam_scales: of the pictures, for the class maps.
        uses_perimeterfit: fit the class maps to the pictures' segments; without it the stages
            segments, perimeters, fit and combine are left out, and the thresholds default to
            Puzzle-CAM's.
        segments_iterations: steps of learning the segments of a picture, at most.
        segments_min_labels: learning stops when fewer labels are left.
        segments_side_px: longer side of the picture in which segments are learnt; 0 = its own, as
            published. Time grows with its square.
        segments_seed: of the learning.
        fit_form: `lossless`, or `published` on JPEG pictures, slow and speckled.
        slic_support: a class's support is where its map lies above this, for slic segments.
        quick_support: the same for quickshift.
        fg_threshold: what a class map has to exceed to teach AffinityNet. None: 0.60 with
            PerimeterFit, 0.40 without.
        bg_threshold: below this is background; between both is unknown. None: 0.40, or 0.10.
        labels_crf_iterations: of the CRF on these labels.
        walk_cam: the maps that walk: `combined` ones, those after PerimeterFit, or the plain `cam`,
            as the original's README has it. Which of both the paper took is not known.
        walk_radius: in cells of 4 px.
        walk_beta: power of the affinities.
        walk_exp_times: the walk takes 2 to this power steps.
        walk_canvas_px: pictures are filled up to this side when edges are found.
        pseudo_threshold: what a map has to exceed after the walk.
        pseudo_crf_iterations: of the CRF on the pseudo labels; 0 leaves it out.
        trains_segmenter: train DeepLabv3+ on the pseudo labels, and make masks with it.
        segment_scales: of the pictures, for its scores.
        segment_crf_iterations: of the CRF on its scores; 0 leaves it out.
        seed: of the three trainings.
        device: of networks: `auto`, `cpu`, `cuda`, `mps`.
        dtype: of inference: `auto`, `fp32`, `bf16`, `fp16`.
        processes: that work on pictures at once; 0: one on each core.
        take_from: output folders of other runs; a stage that one of them has done with the same
            settings, pictures and earlier stages is copied.
        first_stage: stages before it are taken as they are.
        last_stage: the pipeline stops after it.
    """

    name: str
    licence: str = "unknown"
    train_list: str = ""
    test_list: str = ""
    architecture: str = "resnest101"
    backbone_weights: str = ""
    classifier: str = ""
    affinity_net: str = ""
    cam_scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    uses_perimeterfit: bool = True
    segments_iterations: int = 64
    segments_min_labels: int = 20
    segments_side_px: int = 0
    segments_seed: int = 43
    fit_form: Literal["lossless", "published"] = "lossless"
    slic_support: float = 0.05
    quick_support: float = 0.0
    fg_threshold: float | None = None
    bg_threshold: float | None = None
    labels_crf_iterations: int = 10
    walk_cam: Literal["combined", "cam"] = "combined"
    walk_radius: int = 5
    walk_beta: float = 10.0
    walk_exp_times: int = 8
    walk_canvas_px: int = 512
    pseudo_threshold: float = 0.35
    pseudo_crf_iterations: int = 1
    trains_segmenter: bool = True
    segment_scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    segment_crf_iterations: int = 10
    seed: int = 0
    device: str = "auto"
    dtype: str = "fp32"
    processes: int = 0
    take_from: tuple[str, ...] = ()
    first_stage: str = ""
    last_stage: str = ""

    def __post_init__(self) -> None:
        for name, known in (
            ("fit_form", ("lossless", "published")),
            ("walk_cam", ("combined", "cam")),
        ):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected {', '.join(known)}")
        least = {
            "segments_iterations": 1, "segments_min_labels": 0, "segments_side_px": 0,
            "segments_seed": 0, "labels_crf_iterations": 0, "walk_radius": 2, "walk_exp_times": 0,
            "walk_canvas_px": 16, "pseudo_crf_iterations": 0, "segment_crf_iterations": 0,
            "processes": 0, "seed": 0,
        }  # fmt: skip
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise UsageError(f"{name} is {getattr(self, name)}; expected {lowest} or more")
        if 0 < self.segments_side_px < 16:
            raise UsageError(f"segments_side_px is {self.segments_side_px}; expected 0, or 16 up")
        if self.segments_min_labels > 32:
            raise UsageError(f"segments_min_labels is {self.segments_min_labels}; expected 0 to 32")
        for name in ("slic_support", "quick_support"):
            if not 0 <= getattr(self, name) < 1:
                said = f"{name} is {getattr(self, name)}"
                raise UsageError(f"{said}; expected 0 or more, below 1")
        if not 0 < self.walk_beta < inf:
            raise UsageError(f"walk_beta is {self.walk_beta}; expected more than 0")
        self._check_thresholds()
        if self.sure_above < self.maybe_above:
            raise UsageError(
                f"fg_threshold is {self.sure_above}, below bg_threshold, {self.maybe_above}; "
                "expected it the other way round"
            )
        for name in ("cam_scales", "segment_scales"):
            if not getattr(self, name) or not all(0 < one < inf for one in getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)}; expected numbers above 0")

    def _check_thresholds(self) -> None:
        """Refuses what no map exceeds: plain and walked ones reach 1, combined ones 2."""
        highest = 2 if self.taught_cam == "combine" else 1
        for name, value, limit in (
            ("fg_threshold", self.sure_above, highest),
            ("bg_threshold", self.maybe_above, highest),
            ("pseudo_threshold", self.pseudo_threshold, 1),
        ):
            if not 0 <= value < limit:
                raise UsageError(f"{name} is {value}; expected 0 or more, below {limit}")

    @property
    def sure_above(self) -> float:
        """What a map has to exceed for its class to be sure."""
        default = 0.6 if self.uses_perimeterfit else 0.4
        return default if self.fg_threshold is None else self.fg_threshold

    @property
    def maybe_above(self) -> float:
        """What a map has to exceed for background not to be sure."""
        default = 0.4 if self.uses_perimeterfit else 0.1
        return default if self.bg_threshold is None else self.bg_threshold

    @property
    def walking_cam(self) -> str:
        """Name of the stage whose maps walk."""
        return "combine" if self.uses_perimeterfit and self.walk_cam == "combined" else "cam"

    @property
    def taught_cam(self) -> str:
        """Name of the stage whose maps teach AffinityNet."""
        return "combine" if self.uses_perimeterfit else "cam"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the stages share."""

    plan: PseudoLabels
    data: ImageSet
    trainings: Mapping[str, Mapping[str, Any]]
    out_dir: Path
    on_progress: Progress | None = field(default=None, repr=False)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; the background is not one of them."""
        return read_classes(self.data)

    @cached_property
    def items(self) -> list[TaggedImage]:
        """The pictures that masks are made for."""
        return find_images(self.data, self.plan.train_list)

    @cached_property
    def test_items(self) -> list[TaggedImage]:
        """The pictures that only the segmenter sees; what is in them is not asked."""
        name = self.plan.test_list
        return find_untagged_images(self.data, name) if name else []

    def recipe_of(self, training: str) -> dict[str, Any]:
        """Completes the recipe of a training with the lines that the pipeline sets."""
        plan, own = self.plan, self.trainings[training]
        data = {k: v for k, v in asdict(self.data).items() if k not in _OF_TRAININGS}
        labels = TRAININGS[training].labels
        return {
            **data,
            "train_list": plan.train_list,
            "name": f"{plan.name}.{training}",
            "licence": plan.licence,
            "seed": plan.seed,
            "device": plan.device,
            "architecture": plan.architecture,
            "backbone_weights": "" if own.get("start_from") else plan.backbone_weights,
            **({"labels": str(self.out_dir / labels)} if labels else {}),
            **own,
        }

    @property
    def n_labels(self) -> int:
        """Background and classes."""
        return 1 + len(self.class_names)

    def path(self, stage: str, item: TaggedImage, suffix: str) -> Path:
        """Says where a stage's result for a picture lies."""
        return self.out_dir / stage / f"{item.id}{suffix}"


def parse_recipe(
    recipe: Mapping[str, Any], out_dir: Path, on_progress: Progress | None = None
) -> Job:
    """Splits a flat table into the plan, its pictures, and the lines of the three trainings.

    Raises:
        UsageError: an unknown key, or keys that contradict each other.
    """
    given = {k: v for k, v in recipe.items() if k != "method"}
    own = {field.name for field in fields(PseudoLabels)}
    shared = {field.name for field in fields(ImageSet)} - set(_OF_TRAININGS)
    lines = {f"{name}_{line}" for name, kind in TRAININGS.items() for line in kind.own_lines}
    for key in given.keys() - own:
        name, _, line = key.partition("_")
        if name in TRAININGS and line in SET_BY_PIPELINE:
            raise UsageError(f"{key}: the pipeline itself sets this; leave it out")
    check_keys(given, own | shared | lines)
    (plan,) = split_recipe({k: v for k, v in given.items() if k in own}, [PseudoLabels])
    (data,) = split_recipe({k: v for k, v in given.items() if k in shared}, [ImageSet])
    trainings = {
        name: {
            key.removeprefix(f"{name}_"): value
            for key, value in given.items()
            if key in lines and key.startswith(f"{name}_")
        }
        for name in TRAININGS
    }
    return Job(plan=plan, data=data, trainings=trainings, out_dir=out_dir, on_progress=on_progress)
