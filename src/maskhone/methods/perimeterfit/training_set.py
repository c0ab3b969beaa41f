"""What the three networks are trained on: pictures with their classes, or with label maps.

S side of the square that a network sees, C classes without the background. Sample i is a function
of i and the seed; numbers go on without end, so every batch is full and every picture comes equally
often.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import Image, describe_size_mismatch
from maskhone.data.images import read_image
from maskhone.data.splits import read_ids, split_like_published
from maskhone.data.tagged_images import (
    TaggedImage,
    choose_images,
    find_pictures_of,
    find_tagged_images,
    find_truth,
    read_class_names,
)
from maskhone.data.voc import VOC_CLASSES, find_voc_images, read_voc_labels, read_voc_list
from maskhone.errors import InputError, UsageError
from maskhone.methods.perimeterfit.augment import (
    Draws,
    GeneratorDraws,
    LabelMap,
    Views,
    shrink_labels,
    view_at_random,
)


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Which pictures there are, and which classes are in them.

    Attributes:
        images: a folder of VOC's layout; with `tags`, a folder of pictures.
        tags: a CSV with the header `image,labels`, see `find_tagged_images`; empty reads VOC's
            annotations.
        classes: text file of class names, one a line; with VOC's layout objects of other classes
            do not count. Empty takes VOC's twenty.
        truths: folder of label maps of the same names, for `select = "pixels"` only; with VOC's
            layout empty is `SegmentationClass`.
        train_list: ids to train on: a text file, or with VOC's layout the name of a list; empty is
            every line of the CSV, or the folder's own list, see `read_own_list`.
        validation_list: ids that only choose the best weights.
        held_share: without such a list, the share of all pictures that is held back for that.
        unlabelled: what a picture without any class is: all `background`, or an `error`.
    """

    images: str
    tags: str = ""
    classes: str = ""
    truths: str = ""
    train_list: str = ""
    validation_list: str = ""
    held_share: float = 0.1
    unlabelled: Literal["background", "error"] = "background"

    def __post_init__(self) -> None:
        if not 0 < self.held_share < 1:
            raise UsageError(f"held_share is {self.held_share}; expected more than 0, below 1")
        if self.unlabelled not in ("background", "error"):
            raise UsageError(f"unlabelled is {self.unlabelled!r}; expected 'background' or 'error'")


def read_classes(data: ImageSet) -> tuple[str, ...]:
    """Reads the names of the classes."""
    return read_class_names(data.classes) if data.classes else VOC_CLASSES


def find_images(data: ImageSet, list_name: str = "") -> list[TaggedImage]:
    """Finds the pictures of a list, or all of them.

    Raises:
        InputError: something is missing or cannot be used, or a picture without class is one.
    """
    class_names = read_classes(data)
    if data.tags:
        items = find_tagged_images(
            data.tags, data.images, class_names, truths_dir=data.truths or None
        )
        items = choose_images(items, list_name) if list_name else items
    else:
        truths = Path(data.truths).resolve() if data.truths else "SegmentationClass"
        items = find_voc_images(
            data.images,
            list_name,
            class_names=class_names,
            ignores_others=bool(data.classes),
            truths=truths,
        )
    bare = [item.id for item in items if not item.classes]
    if bare and data.unlabelled == "error":
        raise InputError(
            f"{bare[0]}: has no class ({len(bare)} such); add its labels, leave it out, or say "
            'unlabelled = "background"'
        )
    return items


def find_untagged_images(data: ImageSet, list_name: str) -> list[TaggedImage]:
    """Finds the pictures of a list without asking what is in them; none has classes.

    Args:
        data: whose `tags` and `unlabelled` do not matter here.
        list_name: a text file of ids, or with VOC's layout the name of a list.

    Raises:
        InputError: the list or a picture is missing.
    """
    root = Path(data.images)
    if data.tags:
        images, truths = root, Path(data.truths) if data.truths else None
        ids = read_ids(Path(list_name))
    else:
        images, truths = root / "JPEGImages", root / "SegmentationClass"
        truths = Path(data.truths) if data.truths else truths
        ids = read_voc_list(list_name, root=root)
    return find_pictures_of(ids, images, truths_dir=truths, source=list_name)


def split_images(
    data: ImageSet, *, holds_back: bool, keeps_apart: bool, seed: int
) -> tuple[list[TaggedImage], list[TaggedImage]]:
    """Finds the pictures to train on, and those to choose the best weights by.

    Args:
        data: the pictures.
        holds_back: whether any are needed to choose by.
        keeps_apart: pictures that choose are not trained on. As published they may be, where pixels
            choose: VOC's train is a part of its train_aug.
        seed: of the split.

    Raises:
        UsageError: none is left to train on.
        InputError: as `find_images`.
    """
    items = find_images(data, data.train_list)
    if not holds_back:
        return items, []
    if data.validation_list:
        held = find_images(data, data.validation_list)
        names = {item.id for item in held}
        kept = [item for item in items if not (keeps_apart and item.id in names)]
    else:
        stay, back = split_like_published(len(items), share=data.held_share, seed=seed)
        kept, held = [items[i] for i in sorted(stay)], [items[i] for i in sorted(back)]
    if not kept:
        raise UsageError(f"{data.images}: all pictures are held back; shorten validation_list")
    return kept, held


def with_labels(
    items: Sequence[TaggedImage], folder: str | Path, *, coming: Collection[str] = ()
) -> list[TaggedImage]:
    """Gives each picture its label map of a folder, in place of its truth.

    Args:
        items: the pictures.
        folder: of label maps.
        coming: ids of pictures whose label map is made later; it need not be there yet.

    Raises:
        InputError: a picture has none.
    """
    found = [replace(item, truth_path=find_truth(Path(folder), item.id)) for item in items]
    check_truths(
        [item for item in found if item.id not in coming], f"no label map {{id}}.png in {folder}"
    )
    return found


def check_truths(items: Sequence[TaggedImage], said: str) -> None:
    """Refuses pictures without label map; `said` names `{id}`."""
    bare = [item.id for item in items if item.truth_path is None]
    if bare:
        count = f" ({len(bare)} such)" if len(bare) > 1 else ""
        raise InputError(said.format(id=bare[0]) + count)


def read_image_and_labels(item: TaggedImage, n_labels: int) -> tuple[Image, LabelMap]:
    """Reads a picture and its label map.

    Raises:
        InputError: a file cannot be used, a label is beyond the classes, or the sizes differ.
    """
    assert item.truth_path is not None
    image = read_image(item.image_path)
    labels = read_voc_labels(item.truth_path, n_labels=n_labels)
    if labels.shape != image.shape[:2]:
        said = describe_size_mismatch(image.shape[:2], labels.shape)
        raise InputError(f"{item.truth_path} does not fit {item.image_path}: {said}")
    return image, labels


def make_tag_vector(item: TaggedImage, num_classes: int) -> NDArray[np.float32]:
    """Makes `(C,)`: 1 for each class in the picture."""
    tags = np.zeros(num_classes, dtype=np.float32)
    tags[list(item.classes)] = 1
    return tags


class _Shuffled:
    """Pictures without end, each time through all of them in another order."""

    def __init__(self, items: Sequence[TaggedImage], views: Views, *, seed: int) -> None:
        self.items, self.views, self.seed = items, views, seed
        self._order = lru_cache(2)(self._shuffle)

    def take(self, index: int) -> tuple[TaggedImage, Draws]:
        """Returns the picture of a sample number, and the draws for its view."""
        turn, place = divmod(index, len(self.items))
        draws = GeneratorDraws(np.random.default_rng([self.seed, 1, index]))
        return self.items[self._order(turn)[place]], draws

    def _shuffle(self, turn: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, turn]).permutation(len(self.items))


class TagSource(_Shuffled):
    """Gives the number of a sample, `(3, S, S)` and the `(C,)` tags."""

    def __init__(
        self, items: Sequence[TaggedImage], views: Views, num_classes: int, *, seed: int
    ) -> None:
        super().__init__(items, views, seed=seed)
        self.num_classes = num_classes

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        """Makes sample number `index`."""
        item, draws = self.take(index)
        view, _ = view_at_random(read_image(item.image_path), None, draws, self.views)
        return index, view, torch.from_numpy(make_tag_vector(item, self.num_classes))


class LabelSource(_Shuffled):
    """Gives the number of a sample, `(3, S, S)`, and its label map as int64.

    Args:
        grid_px: side to which the label map is shrunk; None keeps S.
    """

    def __init__(
        self,
        items: Sequence[TaggedImage],
        views: Views,
        n_labels: int,
        *,
        grid_px: int | None = None,
        seed: int,
    ) -> None:
        super().__init__(items, views, seed=seed)
        self.n_labels, self.grid_px = n_labels, grid_px

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        """Makes sample number `index`."""
        item, draws = self.take(index)
        image, labels = read_image_and_labels(item, self.n_labels)
        view, seen = view_at_random(image, labels, draws, self.views)
        assert seen is not None
        if self.grid_px is not None:
            seen = shrink_labels(seen, (self.grid_px, self.grid_px))
        return index, view, torch.from_numpy(seen.astype(np.int64))


def collate(samples: Sequence[tuple[int, Tensor, Tensor]]) -> dict[str, Tensor]:
    """Joins samples: their `number`, `images` `(B, 3, S, S)` and `targets`."""
    numbers, images, targets = zip(*samples, strict=True)
    return {
        "number": torch.tensor(numbers),
        "images": torch.stack(images),
        "targets": torch.stack(targets),
    }
