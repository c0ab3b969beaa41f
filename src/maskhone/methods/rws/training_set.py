"""Pictures with label maps, and what a stage of training sees of them.

Source: RWS sections 6 and 7.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import Image, describe_size_mismatch
from maskhone.data.images import read_image
from maskhone.data.pictures import PICTURE_SUFFIXES
from maskhone.data.voc import read_voc_labels, read_voc_list
from maskhone.data.voc_class_lists import PREFIX, read_voc_class_list
from maskhone.errors import InputError, UsageError
from maskhone.methods.rws.config import StageConfig
from maskhone.methods.rws.fusion import Cells, View
from maskhone.methods.rws.slices import Slice
from maskhone.methods.rws.store import MixStore
from maskhone.ops.masks import IGNORE_LABEL
from maskhone.segmenters.deeplabv3 import prepare_image

logger = logging.getLogger(__name__)

BACKGROUND = 0

LabelMap = NDArray[np.uint8]  # (H, W)


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Where pictures and label maps are, and how the maps are read.

    Attributes:
        images: folder of pictures.
        labels: folder of label maps of the same names: grey or palette PNGs that hold numbers.
        train_list: text file of the ids to train on, one a line; or a list that comes with the
            package: `train`, `train_aug`, `val` of VOC, `voc:car:train`. Empty takes all maps.
        validation_list: likewise, of those to score; empty scores none.
        classes: labels to learn; others become background. Empty takes all. As published: one.
        needs_classes: with `classes`, train on pictures that hold one of them only.
        pretrain_classes: with `pretrain_epochs`, the labels that are learnt there; others become
            background. Empty takes all. Where every pixel has a class, as in street scenes, and
            `classes` are few, what all stages start from has to know a background: leave out some.
        void_as: with `classes`, whether 255 becomes background, as published, or is ignored.
            Without `classes` it is ignored.
        label_shift: added to every label but 255; 1 for maps whose 0 is a class.
        picture_px: shorter side to which pictures are made smaller when they are read; 0 leaves
            them as they are.
    """

    images: str
    labels: str
    train_list: str = ""
    validation_list: str = ""
    classes: tuple[int, ...] = ()
    needs_classes: bool = True
    pretrain_classes: tuple[int, ...] = ()
    void_as: str = "background"
    label_shift: int = 0
    picture_px: int = 0

    def __post_init__(self) -> None:
        if self.void_as not in ("background", "ignore"):
            raise UsageError(f"void_as is {self.void_as!r}; expected background or ignore")
        if self.label_shift < 0 or self.picture_px < 0:
            raise UsageError("label_shift and picture_px are 0 or more")
        for name in ("classes", "pretrain_classes"):
            found = list(getattr(self, name))
            if any(not 0 < index < IGNORE_LABEL for index in found):
                raise UsageError(f"{name} are {found}; expected labels from 1, the background is 0")


@dataclass(frozen=True, kw_only=True)
class LabelledItem:
    """A picture and its label map; nothing is read yet."""

    id: str
    image_path: Path
    label_path: Path


def find_items(data: LabelledData, list_path: str) -> list[LabelledItem]:
    """Finds the pictures and label maps of a list, or all of them.

    Raises:
        InputError: a folder, picture or label map is missing, or there is none.
    """
    folders = {"images": Path(data.images), "labels": Path(data.labels)}
    found = {}
    for name, folder in folders.items():
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; set {name} to where they are")
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
        found[name] = {p.stem: p for p in files}
    ids = _read_list(list_path) if list_path else sorted(found["labels"])
    unlabelled = [] if list_path else sorted(found["images"].keys() - found["labels"].keys())
    if unlabelled:
        logger.warning(
            "%s: %d of %d pictures have no label map and are left out, such as %s; a list of ids "
            "says which are meant",
            data.images,
            len(unlabelled),
            len(found["images"]),
            unlabelled[0],
        )
    if not ids:
        raise InputError(f"{list_path or data.labels}: names no pictures")
    for id in ids:
        for name, noun in (("images", "picture"), ("labels", "label map")):
            if id not in found[name]:
                raise InputError(f"{folders[name]}: has no {noun} {id}; add it, or mend the list")
    return [
        LabelledItem(id=id, image_path=found["images"][id], label_path=found["labels"][id])
        for id in ids
    ]


def _read_list(name: str) -> list[str]:
    if name.startswith(PREFIX) and not Path(name).exists():
        return read_voc_class_list(name)
    return read_voc_list(name)


def load_item(
    item: LabelledItem, data: LabelledData, num_classes: int, *, all_classes: bool = False
) -> tuple[Image, LabelMap]:
    """Reads a picture and its label map, as the data set wants to see it.

    Args:
        item: from `find_items`.
        data: how labels are read.
        num_classes: higher labels are refused, but 255.
        all_classes: see those of the pre-training, whatever `data.classes` says; void is ignored.

    Raises:
        InputError: a file cannot be read, sizes differ, or a label is too high.
    """
    image, label = read_image(item.image_path), _read_labels(item.label_path, data, num_classes)
    if label.shape != image.shape[:2]:
        said = describe_size_mismatch(image.shape[:2], label.shape)
        raise InputError(f"{item.label_path} does not fit {item.image_path}: {said}")
    if data.picture_px and min(label.shape) > data.picture_px:
        scale = data.picture_px / min(label.shape)
        size_hw = tuple(max(round(side * scale), 1) for side in label.shape)
        image, label = resize_pair(image, label, size_hw)
    if all_classes:
        return image, _keep_classes(label, data.pretrain_classes, ignores_void=True)
    return image, choose_classes(label, data)


def check_labels(items: Sequence[LabelledItem], data: LabelledData, num_classes: int) -> None:
    """Reads all label maps once, so that no training stops in mid-epoch for one of them.

    Raises:
        InputError: one cannot be read, or has a label that the network does not.
    """
    for path in dict.fromkeys(item.label_path for item in items):
        _read_labels(path, data, num_classes)


def _read_labels(path: Path, data: LabelledData, num_classes: int) -> LabelMap:
    label = read_voc_labels(path)
    is_void = label == IGNORE_LABEL
    highest = int(label[~is_void].max(initial=0)) + data.label_shift
    if highest >= num_classes:
        raise InputError(
            f"{path}: has label {highest}, but num_classes is {num_classes}, so labels are 0 to "
            f"{num_classes - 1}, and 255 for void; set num_classes, or mend the map"
        )
    return np.where(is_void, label, label + np.uint8(data.label_shift)).astype(np.uint8)


def choose_classes(label: LabelMap, data: LabelledData) -> LabelMap:
    """Makes everything background but the classes to learn.

    Example:
        >>> data = LabelledData(images="", labels="", classes=(7,))
        >>> choose_classes(np.array([[0, 3, 7, 255]], dtype=np.uint8), data).tolist()
        [[0, 0, 7, 0]]
    """
    return _keep_classes(label, data.classes, ignores_void=data.void_as == "ignore")


def _keep_classes(label: LabelMap, classes: Sequence[int], *, ignores_void: bool) -> LabelMap:
    if not classes:
        return label
    is_kept = np.isin(label, classes)
    if ignores_void:
        is_kept |= label == IGNORE_LABEL
    return np.where(is_kept, label, np.uint8(BACKGROUND))


def list_classes(label: LabelMap) -> list[int]:
    """Lists the classes in a label map: all but background and void."""
    return [int(v) for v in np.unique(label) if v not in (BACKGROUND, IGNORE_LABEL)]


def keep_items_with_classes(
    items: Sequence[LabelledItem], data: LabelledData, num_classes: int
) -> list[LabelledItem]:
    """Keeps the pictures that hold a class to learn, as the published lists for each class do.

    Raises:
        InputError: a class is in no picture at all.
    """
    if not data.classes:
        return list(items)
    held = [set(list_classes(load_item(item, data, num_classes)[1])) for item in items]
    seen = set().union(*held)
    absent = [index for index in data.classes if index not in seen]
    if absent:
        raise InputError(
            f"class {absent[0]} is in none of the {len(items)} label maps to train on; "
            f"of classes {list(data.classes)} they hold {sorted(seen) or 'none'}"
        )
    if not data.needs_classes:
        return list(items)
    return [item for item, classes in zip(items, held, strict=True) if classes]


def resize_pair(image: Image, label: LabelMap, size_hw: Sequence[int]) -> tuple[Image, LabelMap]:
    """Resizes both: the picture smoothly, the label by the nearest pixel centre."""
    size_wh = (size_hw[1], size_hw[0])
    shrinks = size_hw[0] < image.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return (
        np.asarray(cv2.resize(image, size_wh, interpolation=how), dtype=np.uint8),
        np.asarray(
            cv2.resize(label, size_wh, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8
        ),
    )


def draw_view(size_hw: Sequence[int], config: StageConfig, random: np.random.Generator) -> View:
    """Draws how a picture is changed: scaled, mirrored at even odds, cropped.

    Source: RWS section 6, augmentation.
    """
    shorter = config.base_px * random.uniform(*config.scale_range)
    scale = max(round(shorter), 1) / min(size_hw)
    height, width = (max(round(side * scale), 1) for side in size_hw)
    is_mirrored = bool(random.random() < 0.5) and config.mirrors
    top, left = (
        int(random.integers(max(side - config.crop_px, 0) + 1)) for side in (height, width)
    )
    return View(
        size_hw=(int(size_hw[0]), int(size_hw[1])),
        resized_hw=(height, width),
        is_mirrored=is_mirrored,
        crop_yxhw=(top, left, config.crop_px, config.crop_px),
    )


def apply_view(image: Image, label: LabelMap, view: View) -> tuple[Image, LabelMap]:
    """Changes a picture and its label map; beyond the picture it is black and void."""
    image, label = resize_pair(image, label, view.resized_hw)
    if view.is_mirrored:
        image, label = image[:, ::-1], label[:, ::-1]
    top, left, height, width = view.crop_yxhw
    image = image[top : top + height, left : left + width]
    label = label[top : top + height, left : left + width]
    missing = [(0, height - label.shape[0]), (0, width - label.shape[1])]
    return (
        np.pad(image, [*missing, (0, 0)]),
        np.pad(label, missing, constant_values=IGNORE_LABEL),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingSample:
    """One changed picture, and what is mixed into each layer.

    Attributes:
        inputs: `(3, S, S)`.
        target: `(S, S)` int64.
        cells: of each layer; empty without mixing.
    """

    inputs: NDArray[np.float32]
    target: NDArray[np.int64]
    cells: tuple[Cells, ...] = ()


class StageSource:
    """Gives the samples of one epoch after another, each epoch in an order of its own.

    An epoch is filled up to whole batches with its own first pictures, changed anew: none is left
    out, and no batch is too small for batch normalisation.

    Attributes:
        steps_per_epoch: batches.
    """

    def __init__(
        self,
        items: Sequence[tuple[LabelledItem, Slice | None]],
        data: LabelledData,
        config: StageConfig,
        *,
        num_classes: int,
        batch_size: int,
        seed: Sequence[int],
        all_classes: bool = False,
        mixing: "Mixing | None" = None,
    ) -> None:
        self.items, self.data, self.config, self.mixing = list(items), data, config, mixing
        self.num_classes, self.seed, self.all_classes = num_classes, list(seed), all_classes
        self.steps_per_epoch = -(-len(self.items) // batch_size)
        self.per_epoch = self.steps_per_epoch * batch_size
        self._order = lru_cache(2)(self._shuffle)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_order"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._order = lru_cache(2)(self._shuffle)

    def __getitem__(self, index: int) -> TrainingSample:
        """Returns sample number `index`, counted on through all epochs."""
        epoch, place = divmod(index, self.per_epoch)
        number = self._order(epoch)[place % len(self.items)]
        item, window = self.items[number]
        image, label = load_item(item, self.data, self.num_classes, all_classes=self.all_classes)
        if window is not None:
            image, label = window.crop(image), window.crop(label)
        random = np.random.default_rng([*self.seed, 1, index])
        view = draw_view(label.shape, self.config, random)
        seen, target = apply_view(np.ascontiguousarray(image), np.ascontiguousarray(label), view)
        cells = self.mixing.sample(item.id, view, [*self.seed, 2, index]) if self.mixing else ()
        return TrainingSample(
            inputs=prepare_image(seen), target=target.astype(np.int64), cells=cells
        )

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([*self.seed, 0, epoch]).permutation(len(self.items))


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """What of the stored maps goes into a sample.

    Attributes:
        store: maps and features by picture.
        shapes: channels, height and width of each layer's output for a crop.
        layers: numbers of the layers that are mixed.
        probability: of a picture being mixed.
        ids: which picture's maps each picture gets.
    """

    store: MixStore
    shapes: Sequence[tuple[int, int, int]]
    layers: Sequence[int]
    probability: float
    ids: Mapping[str, str]

    def sample(self, id: str, view: View, seed: Sequence[int]) -> tuple[Cells, ...]:
        """Brings a picture's maps onto the layers' grids."""
        of_picture = self.ids.get(id, id)
        is_mixed = (
            of_picture in self.store and np.random.default_rng(seed).random() < self.probability
        )
        return tuple(
            self.store.sample(of_picture, layer, view, grid_hw)
            if is_mixed and layer in self.layers
            else _no_cells(channels)
            for layer, (channels, *grid_hw) in enumerate(self.shapes)
        )


def _no_cells(channels: int) -> Cells:
    return Cells(
        places=np.zeros((0, 3), dtype=np.int64),
        keep=np.zeros(0, dtype=np.float32),
        add=np.zeros((0, channels), dtype=np.float32),
    )


def collate(samples: list[TrainingSample]) -> dict[str, Tensor]:
    """Joins samples: `inputs`, `target`, and for each layer L `places-L`, `keep-L` and `add-L`."""
    batch = {
        "inputs": torch.from_numpy(np.stack([one.inputs for one in samples])),
        "target": torch.from_numpy(np.stack([one.target for one in samples])),
    }
    for layer in range(len(samples[0].cells)):
        cells = [one.cells[layer] for one in samples]
        places = [
            np.concatenate([np.full((len(one.places), 1), b), one.places[:, 1:]], axis=1)
            for b, one in enumerate(cells)
        ]
        parts: dict[str, Any] = {
            "places": np.concatenate(places),
            "keep": np.concatenate([one.keep for one in cells]),
            "add": np.concatenate([one.add for one in cells]),
        }
        batch |= {f"{name}-{layer}": torch.from_numpy(part) for name, part in parts.items()}
    return batch


def take_cells(batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Returns what `collate` made of each layer's cells."""
    layers = sum(name.startswith("places-") for name in batch)
    return [
        (batch[f"places-{layer}"], batch[f"keep-{layer}"], batch[f"add-{layer}"])
        for layer in range(layers)
    ]
