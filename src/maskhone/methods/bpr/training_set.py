"""Patches to train on: image, coarse mask and ground truth, cut along the coarse boundary."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import FOREGROUND, Boxes, Image
from maskhone.data.coco import find_coco_items, from_rle, load_results
from maskhone.data.folder import TrainingItem, find_training_items, load_training_item
from maskhone.data.images import read_image
from maskhone.errors import InputError, UsageError
from maskhone.methods.bpr.boundary import plan_boundary_patches
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.matching import keep_good, match_detections, sample_detections
from maskhone.methods.bpr.passes import count_halvings
from maskhone.methods.bpr.patches import cut_image_patches, cut_mask_patches
from maskhone.ops.collage import paste_into
from maskhone.ops.colours import distort_colours, shuffle_colours
from maskhone.ops.masks import mean_width
from maskhone.ops.roughen import is_thin, measure_extent, misread_strands, roughen


@dataclass(frozen=True, kw_only=True)
class PatchGroup:
    """Patches of one object, at the network's size S.

    Attributes:
        images: `(K, S, S, 3)` uint8 RGB.
        masks: `(K, S, S)` float32 scores of the coarse mask.
        targets: `(K, S, S)` bool.
    """

    images: Image
    masks: NDArray[np.float32]
    targets: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a training patch may look like, beyond the published recipe.

    Attributes:
        patches_per_image: patches drawn from one rescaled image.
        real_share: probability that the coarse mask is the stored one and not a roughened truth.
        binary_share: probability that a soft coarse mask is cut at one half.
        scale_jitter: half-width, in octaves, of the random scale around each pass of inference.
        inverted_share: probability that object and background change places, so that the network
            learns to follow the mask it is given and not to look for one kind of object.
        strange_colours_share: probability that the colour channels are shuffled and, every other
            time, made negative; to the same end.
        collage_share: probability that the picture is a collage with exact truth, see
            `collage.paste_into`; its coarse mask is always roughened truth.
        drawn_share: probability that what a collage shows is a drawn shape.
        shaded_share: probability that a drawn shape is the ground, only darker, lighter or of
            another tint, and mostly strands, as cracks and vessels are.
        misread_share: probability that the coarse mask of strands, where it is not the stored one,
            is as a small network would say it: too wide, with gaps and specks.
        exact_share: probability that a mask that would be roughened is right already, so that the
            network learns to leave it alone.
    """

    patches_per_image: int = 4
    real_share: float = 0.5
    binary_share: float = 0.4
    scale_jitter: float = 0.5
    inverted_share: float = 0.0
    strange_colours_share: float = 0.0
    collage_share: float = 0.0
    drawn_share: float = 0.5
    shaded_share: float = 0.0
    misread_share: float = 0.0
    exact_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Where training patches come from: either folders of pictures, or detections of a segmenter.

    Attributes:
        folders: data sets laid out as `images/`, `masks/`, `coarse/` and `<split>.txt`.
        split: name of the list file in each folder.
        validation_split: the list of the pictures to validate on; empty for no validation.
        held_out: ids, with `*` for any letters, that are taken out of the training list to
            validate on instead.
        images: folder of images of the detections.
        detections: COCO results json of the segmenter on its own training images.
        annotations: COCO ground truth json of those images.
        validation_images, validation_detections, validation_annotations: the same for validation.
        training_nms_iou: NMS threshold for the training patches of detections; published: 0.25 on
            Cityscapes, 0.15 on COCO.
        sample_instances: train on this many detections, drawn at random; -1 takes all. Published
            for COCO: 70000.
        samples_with_replacement: draw as the original does.
            Differs: the default draws without replacement.
    """

    folders: tuple[str, ...] = ()
    split: str = "train"
    validation_split: str = ""
    held_out: tuple[str, ...] = ()
    images: str = ""
    detections: str = ""
    annotations: str = ""
    validation_images: str = ""
    validation_detections: str = ""
    validation_annotations: str = ""
    training_nms_iou: float = 0.25
    sample_instances: int = -1
    samples_with_replacement: bool = False

    def __post_init__(self) -> None:
        if bool(self.folders) == bool(self.detections):
            raise UsageError(
                "a recipe needs either folders, or detections with images and annotations"
            )
        if self.detections and not (self.images and self.annotations):
            raise UsageError("a recipe with detections also needs images and annotations")
        if self.held_out and (self.validation_split or self.detections):
            raise UsageError("held_out goes with folders, and not with validation_split")

    def find_items(self, *, held_out: bool) -> list[TrainingItem]:
        """Lists the pictures of all folders, either to train on or held out."""
        listed = [
            item
            for folder in self.folders
            for item in find_training_items(Path(folder), self.split)
        ]
        return [
            item
            for item in listed
            if any(fnmatchcase(item.id, pattern) for pattern in self.held_out) == held_out
        ]


def make_patch_source(
    data: TrainingData, config: BPRConfig, mixture: Mixture, *, seed: int
) -> "FolderPatches | DetectionPatches":
    """Opens the training data that a recipe names."""
    if data.detections:
        return DetectionPatches(data, config, seed=seed)
    return FolderPatches(data.find_items(held_out=False), config, mixture, seed=seed)


def make_validation_source(
    data: TrainingData, config: BPRConfig, mixture: Mixture, *, seed: int
) -> "FolderPatches | DetectionPatches | None":
    """Opens the data that a recipe sets aside for validation, or returns None.

    Pictures are shown with their stored coarse masks, unaltered in shape, and never as collages.
    """
    if data.validation_detections:
        held_out = replace(
            data,
            images=data.validation_images,
            detections=data.validation_detections,
            annotations=data.validation_annotations,
            sample_instances=-1,
        )
        return DetectionPatches(held_out, config, seed=seed)
    if data.held_out:
        items = data.find_items(held_out=True)
    elif data.validation_split:
        items = replace(data, split=data.validation_split).find_items(held_out=False)
    else:
        return None
    plain = replace(
        mixture, real_share=1.0, inverted_share=0.0, strange_colours_share=0.0, collage_share=0.0
    )
    return FolderPatches(items, config, plain, seed=seed)


class FolderPatches:
    """Random patches at random scale from folders of pictures, truth and coarse masks.

    Sample i is a pure function of i and the seed. The image is shrunk as one of the passes of
    coarse-to-fine inference would, jittered; its coarse mask is the stored one or the truth
    roughened on the fly.
    """

    def __init__(
        self, items: Sequence[TrainingItem], config: BPRConfig, mixture: Mixture, *, seed: int
    ) -> None:
        if not items:
            raise InputError("no training pictures; check the folders and lists in the recipe")
        self.items, self.config, self.mixture, self.seed = items, config, mixture, seed

    def __len__(self) -> int:
        """Returns how many samples make an epoch."""
        return len(self.items)

    def __getitem__(self, index: int) -> PatchGroup:
        epoch, position = divmod(index, len(self.items))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.items))
        random = np.random.default_rng([self.seed, epoch, position])
        return self._draw(self.items[order[position]], random)

    def _draw(self, item: TrainingItem, random: np.random.Generator) -> PatchGroup:
        mixture = self.mixture
        image, truth, stored = self._draw_picture(item, random)
        extent_px = measure_extent(truth)
        halvings = count_halvings(truth, self.config)
        scale = self._draw_scale(halvings, random)
        image, coarse = _rescale(image, scale), _rescale(stored, scale)
        truth = _rescale(truth.astype(np.float32), scale) > FOREGROUND
        if random.random() >= mixture.real_share or not _has_boundary(coarse):
            coarse = self._draw_coarse(truth, random, extent_px * scale)
        if random.random() < mixture.binary_share:
            coarse = (coarse > FOREGROUND).astype(np.float32)
        if random.random() < mixture.inverted_share:
            coarse, truth = 1 - coarse, ~truth
        if random.random() < mixture.strange_colours_share:
            image = shuffle_colours(image, random)
        boxes = self._draw_boxes(coarse, random)
        return cut_group(image, coarse, truth, boxes, self.config, random)

    def _draw_coarse(
        self, truth: NDArray[np.bool_], random: np.random.Generator, extent_px: float
    ) -> NDArray[np.float32]:
        mixture = self.mixture
        if mixture.exact_share and random.random() < mixture.exact_share:
            return truth.astype(np.float32)
        if mixture.misread_share and is_thin(truth) and random.random() < mixture.misread_share:
            coarse = misread_strands(truth, random, width_px=mean_width(truth))
            if _has_boundary(coarse):
                return coarse
        return roughen(truth, random, extent_px=extent_px)

    def _draw_picture(
        self, item: TrainingItem, random: np.random.Generator
    ) -> tuple[Image, NDArray[np.bool_], NDArray[np.float32]]:
        """Returns image, truth and stored coarse mask; a collage has none, hence an empty one."""
        sample = load_training_item(item)
        assert sample.target is not None
        truth = sample.target[0] > FOREGROUND
        if random.random() >= self.mixture.collage_share:
            return sample.image, truth, sample.masks[0]
        ground = read_image(self.items[int(random.integers(len(self.items)))].image_path)
        collage, pasted = paste_into(
            ground,
            sample.image,
            truth,
            random,
            drawn_share=self.mixture.drawn_share,
            shaded_share=self.mixture.shaded_share,
        )
        return collage, pasted, np.zeros_like(sample.masks[0])

    def _draw_scale(self, halvings: int, random: np.random.Generator) -> float:
        jitter = random.uniform(-self.mixture.scale_jitter, self.mixture.scale_jitter)
        return float(2.0 ** min(jitter - random.integers(halvings + 1), 0.5))

    def _draw_boxes(self, coarse: NDArray[np.float32], random: np.random.Generator) -> Boxes:
        config = self.config
        boxes, _ = plan_boundary_patches(
            coarse > FOREGROUND, patch_px=config.patch_px, nms_iou=config.nms_iou
        )
        if len(boxes) == 0:  # the coarse mask lost the object: anywhere will do
            corner = random.integers(0, np.maximum(np.array(coarse.shape) - config.patch_px, 0) + 1)
            start = np.array([[corner[1], corner[0]]])
            boxes = np.concatenate([start, start + config.patch_px], axis=1)
        chosen = random.choice(len(boxes), self.mixture.patches_per_image, replace=True)
        return boxes[chosen]


@dataclass(frozen=True, kw_only=True)
class _Instance:
    """One detection to train on: all its patches and its ground truth."""

    image: Path
    size_hw: tuple[int, int]
    coarse: Any  # COCO segmentation
    truth: Any  # COCO segmentation
    boxes_xyxy: Boxes


class DetectionPatches:
    """The published training set: every boundary patch of every good detection of a segmenter.

    Sample i is one patch, a pure function of i and the seed; each epoch visits all in a new order.

    Source: BPR section 5; tinyalpha/BPR:scripts/prepare_dataset.sh.
    Differs: patches are cut when they are needed; nothing is written to disk.
    """

    def __init__(self, data: TrainingData, config: BPRConfig, *, seed: int) -> None:
        self.config, self.seed = config, seed
        kept = list(_good_instances(data, config))
        chosen = sample_detections(
            len(kept), data.sample_instances, with_replacement=data.samples_with_replacement
        )
        self.instances = [kept[i] for i in chosen]
        self.patches = [
            (i, k) for i, one in enumerate(self.instances) for k in range(len(one.boxes_xyxy))
        ]
        if not self.patches:
            raise InputError(f"{data.detections}: no detection overlaps its truth by more than 0.5")

    def __len__(self) -> int:
        """Returns how many samples make an epoch."""
        return len(self.patches)

    def __getitem__(self, index: int) -> PatchGroup:
        epoch, position = divmod(index, len(self.patches))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.patches))
        random = np.random.default_rng([self.seed, epoch, position])
        number, k = self.patches[order[position]]
        one = self.instances[number]
        coarse = from_rle(one.coarse, size_hw=one.size_hw)
        truth = from_rle(one.truth, size_hw=one.size_hw)
        box = one.boxes_xyxy[k : k + 1]
        image = read_image(one.image)
        return cut_group(image, coarse.astype(np.float32), truth, box, self.config, random)


def _good_instances(data: TrainingData, config: BPRConfig) -> Iterator[_Instance]:
    """Yields the detections that overlap their truth by more than one half, in order."""
    results, truths = load_results(Path(data.detections)), load_results(Path(data.annotations))
    items, problems = find_coco_items(results, Path(data.images), Path(data.annotations))
    if problems:
        raise InputError(problems[0])
    by_image = defaultdict(list)
    for annotation in truths.entries:
        by_image[annotation["image_id"]].append(annotation)
    found: dict[int, _Instance] = {}
    for item in items:
        row = truths.images[item.image_id]
        size_hw = (int(row["height"]), int(row["width"]))
        entries = [results.entries[i] for i in item.entry_indices]
        matches = match_detections(entries, by_image[item.image_id], size_hw)
        for k in keep_good(matches):
            annotation = by_image[item.image_id][matches[k].annotation or 0]
            mask = from_rle(entries[k]["segmentation"], size_hw=size_hw)
            boxes, _ = plan_boundary_patches(
                mask,
                patch_px=config.patch_px,
                nms_iou=data.training_nms_iou,
                window_px=config.window_px,
                edge_rule=config.edge_rule,
            )
            found[item.entry_indices[k]] = _Instance(
                image=item.image_path,
                size_hw=size_hw,
                coarse=entries[k]["segmentation"],
                truth=annotation["segmentation"],
                boxes_xyxy=boxes,
            )
    yield from (found[i] for i in sorted(found))


def cut_group(
    image: Image,
    coarse: NDArray[np.float32],
    truth: NDArray[np.bool_],
    boxes_xyxy: Boxes,
    config: BPRConfig,
    random: np.random.Generator,
) -> PatchGroup:
    """Cuts patches with their truth, each flipped with probability 1/2 and its colours distorted.

    Source: BPR section 6.
    """
    images = cut_image_patches(image, boxes_xyxy, config)
    masks = cut_mask_patches(coarse, boxes_xyxy, config)
    binary = replace(config, mask_input="binary")
    targets = cut_mask_patches(truth.astype(np.float32), boxes_xyxy, binary)
    for k in range(len(boxes_xyxy)):
        images[k] = distort_colours(images[k], random)
        if random.random() < 0.5:
            images[k], masks[k], targets[k] = (
                images[k, :, ::-1],
                masks[k, :, ::-1],
                targets[k, :, ::-1],
            )
    return PatchGroup(images=images, masks=masks, targets=targets > FOREGROUND)


def collate(groups: list[PatchGroup]) -> dict[str, Tensor]:
    """Joins groups: rgb `(B, 3, S, S)` uint8, score `(B, 1, S, S)` float32, target int64."""
    return {
        "rgb": torch.from_numpy(np.concatenate([g.images for g in groups])).permute(0, 3, 1, 2),
        "score": torch.from_numpy(np.concatenate([g.masks for g in groups])).unsqueeze(1),
        "target": torch.from_numpy(np.concatenate([g.targets for g in groups])).long(),
    }


def _has_boundary(scores: NDArray[np.float32]) -> bool:
    return bool((scores > FOREGROUND).any() and not (scores > FOREGROUND).all())


def _rescale(array: NDArray[Any], scale: float) -> NDArray[Any]:
    """Resizes an image or mask: by area averages when shrinking, bilinearly when enlarging."""
    size_wh = [max(1, round(n * scale)) for n in array.shape[1::-1]]
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(array, size_wh, interpolation=mode)
