"""What SegRefiner is trained on: objects and patches, their coarse masks stored or made."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import FOREGROUND, Image
from maskhone.data.coco import from_rle, load_results
from maskhone.data.dis import find_coarse_masks, find_thing_items
from maskhone.data.folder import TrainingItem, find_training_items, load_training_item
from maskhone.data.images import read_image, read_mask
from maskhone.errors import InputError, UsageError
from maskhone.methods.segrefiner.coarse import Draws, make_coarse
from maskhone.methods.segrefiner.config import SegRefinerConfig
from maskhone.methods.segrefiner.crops import (
    Box,
    draw_object_crop,
    draw_outline_patch,
    draw_patch_coarse,
    draw_wide_crop,
)
from maskhone.methods.segrefiner.diffusion import draw_steps
from maskhone.ops.collage import paste_into
from maskhone.ops.colours import distort_colours
from maskhone.ops.masks import tight_box
from maskhone.ops.roughen import measure_extent, roughen

_NEEDED = ("id", "segmentation")
_LEAST_AREA_PX = 512  # smaller annotations are left out; SegRefiner section 6.3
_LEAST_SIDE_PX = 32  # pictures with a shorter side are left out; likewise


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Where training pictures come from: folders with truth, or annotated objects.

    Attributes:
        folders: data sets laid out as `images/`, `masks/`, `coarse/` and `<split>.txt`.
        split: name of the list file in each folder (of ThinObject-5K in its `list/`).
        held_out: ids, with `*` for any letters, that are left out.
        images: folder of the images of the annotations.
        annotations: COCO or LVIS ground truth json.
        pictures: data sets laid out as DIS5K (`im/`, `gt/`) or ThinObject-5K (`images/`, `masks/`),
            with `coarse/` and `coarse_expand/` beside them.
    """

    folders: tuple[str, ...] = ()
    split: str = "train"
    held_out: tuple[str, ...] = ()
    images: str = ""
    annotations: str = ""
    pictures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum(map(bool, (self.folders, self.annotations, self.pictures))) != 1:
            raise UsageError("a recipe needs one of folders, annotations with images, or pictures")
        if self.annotations and not self.images:
            raise UsageError("a recipe with annotations also needs images")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a training sample may look like; the defaults are the published recipe.

    Attributes:
        margin_px: by which an object's crop is larger than the object; 40 as published.
        stored_share: probability that a stored coarse mask is used where there is one.
        roughened_share: probability that a mask made on the fly is made by `ops.roughen`, and not
            by the published rule.
        collage_share: probability that the picture is a collage, see `ops.collage`.
        distorts_colours: change colours at random; the original does not.
    """

    margin_px: int = 40
    stored_share: float = 1.0
    roughened_share: float = 0.0
    collage_share: float = 0.0
    distorts_colours: bool = False

    def __post_init__(self) -> None:
        for name in ("stored_share", "roughened_share", "collage_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UsageError(f"{name} is {value}; expected a number from 0 to 1")
        if self.margin_px < 0:
            raise UsageError(f"margin_px is {self.margin_px}; expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Views:
    """What the network sees of one object: V is 1 for objects, 2 for pictures.

    Attributes:
        images: `(V, S, S, 3)` uint8 RGB.
        coarse: `(V, S, S)` bool.
        targets: `(V, S, S)` bool.
        steps: `(V,)` int64 diffusion steps.
        noise_seeds: `(V,)` int64.
    """

    images: Image
    coarse: NDArray[np.bool_]
    targets: NDArray[np.bool_]
    steps: NDArray[np.int64]
    noise_seeds: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with the truth of one object, and its stored coarse masks if it has any."""

    image: Image
    truth: NDArray[np.bool_]
    stored: tuple[NDArray[np.bool_], ...] = ()


class Gallery(Protocol):
    """Pictures by number; `numbers` draws where there is a choice."""

    def __len__(self) -> int:
        """Returns how many there are."""
        ...

    def load(self, index: int, numbers: np.random.RandomState) -> Picture:
        """Reads one."""
        ...


def open_gallery(data: TrainingData) -> Gallery:
    """Opens the pictures that a recipe names."""
    if data.annotations:
        return AnnotatedGallery(Path(data.images), Path(data.annotations))
    if data.pictures:
        return PictureGallery([Path(folder) for folder in data.pictures], data.split)
    items = [i for folder in data.folders for i in find_training_items(Path(folder), data.split)]
    kept = [i for i in items if not any(fnmatchcase(i.id, p) for p in data.held_out)]
    return FolderGallery(kept)


class FolderGallery:
    """Pictures of folders with a list, truth, and one coarse mask each."""

    def __init__(self, items: Sequence[TrainingItem]) -> None:
        if not items:
            raise InputError("no training pictures; check the folders and lists in the recipe")
        self.items = items

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.items)

    def load(self, index: int, numbers: np.random.RandomState) -> Picture:
        """Reads one."""
        sample = load_training_item(self.items[index])
        assert sample.target is not None
        return Picture(
            image=sample.image,
            truth=sample.target[0] > FOREGROUND,
            stored=(sample.masks[0] > FOREGROUND,),
        )


class AnnotatedGallery:
    """Pictures of a COCO or LVIS json; of each, one object drawn at random.

    Source: SegRefiner section 6.3.
    """

    def __init__(self, images: Path, annotations: Path) -> None:
        truth = load_results(annotations)
        self.images, self.rows = images, truth.images
        by_image = defaultdict(list)
        for entry in truth.entries:
            if "area" not in entry or "bbox" not in entry:
                raise InputError(f"{annotations}: an object has no area or bbox; give ground truth")
            if self._is_wanted(entry):
                by_image[entry["image_id"]].append({k: entry.get(k) for k in _NEEDED})
        self.objects = sorted(by_image.items())
        if not self.objects:
            raise InputError(f"{annotations}: no object to train on")

    def _is_wanted(self, entry: Mapping[str, Any]) -> bool:
        row = self.rows.get(entry["image_id"])
        if row is None or entry.get("ignore") or entry.get("iscrowd"):
            return False
        if min(row["height"], row["width"]) < _LEAST_SIDE_PX or entry["area"] <= _LEAST_AREA_PX:
            return False
        x, y, width, height = entry["bbox"]
        seen_width = min(x + width, row["width"]) - max(x, 0)
        seen_height = min(y + height, row["height"]) - max(y, 0)
        return bool(min(width, height) >= 1 and seen_width > 0 and seen_height > 0)

    def __len__(self) -> int:
        """Returns how many pictures there are."""
        return len(self.objects)

    def load(self, index: int, numbers: np.random.RandomState) -> Picture:
        """Reads one; LVIS names files by their address, COCO by `file_name`."""
        image_id, entries = self.objects[index]
        row, entry = self.rows[image_id], entries[numbers.choice(len(entries))]
        url = row.get("coco_url", "").removeprefix("http://images.cocodataset.org/")
        name = row.get("file_name") or url
        size_hw = (int(row["height"]), int(row["width"]))
        said = f"object {entry.get('id')} of image {image_id}"
        return Picture(
            image=read_image(self.images / name),
            truth=from_rle(entry["segmentation"], size_hw=size_hw, name=said),
        )


class PictureGallery:
    """High-resolution pictures with coarse masks made beforehand (`maskhone coarse`).

    Source: SegRefiner section 6.4.
    Differs: files are found by their names; the original needs an index file.
    """

    def __init__(self, folders: Sequence[Path], split: str) -> None:
        items = [item for folder in folders for item in find_thing_items(folder, split)]
        self.items = [(item, find_coarse_masks(item)) for item in items]

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.items)

    def load(self, index: int, numbers: np.random.RandomState) -> Picture:
        """Reads one."""
        item, coarse = self.items[index]
        return Picture(
            image=read_image(item.image_path),
            truth=_read(item.mask_paths[0]),
            stored=tuple(_read(path) for path in coarse),
        )


def _read(path: Path) -> NDArray[np.bool_]:
    is_inside: NDArray[np.bool_] = read_mask(path).scores[0] >= FOREGROUND
    return is_inside


class ViewSource:
    """Random views of the pictures of a gallery. Sample i is a function of i and the seed."""

    def __init__(
        self, gallery: Gallery, config: SegRefinerConfig, mixture: Mixture, *, seed: int
    ) -> None:
        self.gallery, self.config, self.mixture, self.seed = gallery, config, mixture, seed

    def __getitem__(self, index: int) -> Views:
        epoch, position = divmod(index, len(self.gallery))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.gallery))
        draws = Draws(make_seed(self.seed, epoch, position))
        random = np.random.default_rng([self.seed, epoch, position])
        picture = self.gallery.load(int(order[position]), draws.numpy)
        varied = self._vary(picture, random)
        return self._draw_views(varied if varied.truth.any() else picture, draws, random)

    def _vary(self, picture: Picture, random: np.random.Generator) -> Picture:
        """Makes a collage, and other colours, where the mixture asks for them."""
        image, truth, stored = picture.image, picture.truth, picture.stored
        if random.random() < self.mixture.collage_share:
            other = self.gallery.load(int(random.integers(len(self.gallery))), Draws(0).numpy)
            image, truth = paste_into(other.image, image, truth, random)
            stored = ()
        if self.mixture.distorts_colours:
            image = distort_colours(image, random)
        return Picture(image=image, truth=truth, stored=stored)

    def _draw_views(self, picture: Picture, draws: Draws, random: np.random.Generator) -> Views:
        coarse = self._choose_coarse(picture, draws, random)
        size_hw = picture.truth.shape
        box = _object_box(picture.truth)
        if self.config.scope == "objects":
            crop = draw_object_crop(box, size_hw, draws.numpy, margin_px=self.mixture.margin_px)
            boxes, masks = [crop], [_cut(coarse, crop)]
        else:
            whole = draw_wide_crop(box, size_hw, draws.numpy)
            patch = draw_outline_patch(picture.truth, draws.numpy, side_px=self.config.model_px)
            near = draw_patch_coarse(_cut(picture.truth, patch), _cut(coarse, patch), draws)
            boxes, masks = [whole, patch], [_cut(coarse, whole), near]
        is_flipped = draws.numpy.choice(2) == 0
        side = self.config.model_px
        count = len(boxes)
        return Views(
            images=_stack([_cut(picture.image, b) for b in boxes], side, is_flipped),
            coarse=_stack(masks, side, is_flipped),
            targets=_stack([_cut(picture.truth, b) for b in boxes], side, is_flipped),
            steps=draw_steps(draws.numpy, self.config.num_timesteps, count),
            noise_seeds=draws.numpy.randint(0, 2**31 - 1, size=count).astype(np.int64),
        )

    def _choose_coarse(
        self, picture: Picture, draws: Draws, random: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Takes a stored coarse mask, the expanded one at even odds, or makes one."""
        if picture.stored and random.random() < self.mixture.stored_share:
            return picture.stored[-1 if draws.numpy.rand() <= 0.5 else 0]
        if random.random() < self.mixture.roughened_share:
            extent_px = measure_extent(picture.truth)
            rough: NDArray[np.bool_] = (
                roughen(picture.truth, random, extent_px=extent_px) > FOREGROUND
            )
            return rough
        return make_coarse(picture.truth, draws)


def make_seed(*parts: int) -> int:
    """Mixes numbers into a seed of 32 bits."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def collate(samples: list[Views]) -> dict[str, Tensor]:
    """Joins views: rgb `(B, 3, S, S)` uint8, coarse and target `(B, 1, S, S)` float32, ...

    Views of the same kind lie together, first all of the first kind, as in the original.
    """
    kinds = range(len(samples[0].steps))

    def join(name: str) -> NDArray[Any]:
        return np.stack([getattr(one, name)[kind] for kind in kinds for one in samples])

    return {
        "rgb": torch.from_numpy(join("images")).permute(0, 3, 1, 2),
        "coarse": torch.from_numpy(join("coarse")).float().unsqueeze(1),
        "target": torch.from_numpy(join("targets")).float().unsqueeze(1),
        "step": torch.from_numpy(join("steps")),
        "noise_seed": torch.from_numpy(join("noise_seeds")),
    }


def _object_box(mask: NDArray[np.bool_]) -> Box:
    """Returns the tight box, or the whole picture of a mask that is empty."""
    x, y, width, height = tight_box(mask) or (0, 0, mask.shape[1], mask.shape[0])
    return x, y, x + width, y + height


def _cut(array: NDArray[Any], box: Box) -> NDArray[Any]:
    x1, y1, x2, y2 = box
    return array[y1:y2, x1:x2]


def _stack(parts: list[NDArray[Any]], side_px: int, is_flipped: bool) -> NDArray[Any]:
    """Resizes parts to squares, pictures bilinearly and masks by picking pixels, and flips all."""
    resized = [_resize(part, side_px) for part in parts]
    stacked = np.stack([part[:, ::-1] if is_flipped else part for part in resized])
    return np.ascontiguousarray(stacked)


def _resize(part: NDArray[Any], side_px: int) -> NDArray[Any]:
    if part.dtype == np.bool_:
        picked = cv2.resize(
            part.astype(np.uint8), (side_px, side_px), interpolation=cv2.INTER_NEAREST
        )
        return np.asarray(picked > 0)
    return np.asarray(cv2.resize(part, (side_px, side_px), interpolation=cv2.INTER_LINEAR))
