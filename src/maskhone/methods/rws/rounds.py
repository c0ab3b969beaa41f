"""What happens between two stages: looking for weak slices, and making the mixing maps.

L layers, H, W the picture. Source: RWS sections 4, 5 and 6.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from maskhone.contracts import Image
from maskhone.data.files import replace_when_done
from maskhone.methods.rws.attention import (
    Heat,
    eval_mode,
    explain,
    keep_inside,
    look,
    observe,
    pick_logits,
)
from maskhone.methods.rws.config import RWSConfig
from maskhone.methods.rws.fusion import (
    NO_SLICE,
    MixingMaps,
    list_needed_cells,
    make_mixing_maps,
)
from maskhone.methods.rws.slices import Slice, SliceConfig, count_coverage, find_weak_slices
from maskhone.methods.rws.store import MixWriter
from maskhone.methods.rws.training_set import (
    LabelledData,
    LabelledItem,
    LabelMap,
    list_classes,
    load_item,
)
from maskhone.metrics.region import ClassScores
from maskhone.segmenters.deeplabv3 import prepare_image


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How pictures are read and looked at.

    Attributes:
        layers: names of the network's stages.
        num_classes: outputs of the network.
        device: where the networks are.
        seed: of random slices.
    """

    config: RWSConfig
    slicing: SliceConfig
    data: LabelledData
    layers: tuple[str, ...]
    num_classes: int
    device: torch.device
    seed: int

    def read(self, item: LabelledItem) -> tuple[Image, LabelMap]:
        """Reads a picture and its label map."""
        return load_item(item, self.data, self.num_classes)

    def prepare(self, image: Image) -> Tensor:
        """Makes the network's input `(1, 3, H, W)`, at the picture's own size."""
        return torch.from_numpy(prepare_image(np.ascontiguousarray(image)))[None].to(self.device)


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassHeat:
    """Where a network attends to the classes of one label map.

    Attributes:
        heat: by class, `(L, H, W)`, 0 outside its label.
        prediction: `(H, W)`.
    """

    heat: dict[int, Heat]
    prediction: NDArray[np.int64]


def find_class_heat(
    sight: Sight, network: nn.Module, image: Image, label: LabelMap, classes: Sequence[int]
) -> ClassHeat:
    """Makes the heat maps of some classes of one picture; one forward pass serves them all."""
    seen = observe(network, sight.prepare(image), sight.layers)
    prediction, heat = seen.prediction, {}
    for index in classes:
        is_class = label == index
        mask = {
            "pred": prediction == index,
            "label": is_class,
            "union": (prediction == index) | is_class,
        }[sight.config.heat_mask]
        found = explain(seen, index, mask=mask, method=sight.config.heat_method)
        heat[index] = keep_inside(found, is_class)
    return ClassHeat(heat=heat, prediction=prediction)


def find_all_slices(
    sight: Sight,
    network: nn.Module,
    items: Sequence[LabelledItem],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Slice]:
    """Finds the weak slices of each picture and class, in the order of the pictures.

    Pictures too small for windows have none. `on_progress` gets finished and planned pictures.
    """
    slices: list[Slice] = []
    for number, item in enumerate(items):
        if on_progress is not None:
            on_progress(number + 1, len(items))
        image, label = sight.read(item)
        if min(label.shape) * sight.slicing.slice_step_share < 1:
            continue
        classes = list_classes(label)
        if not classes:
            continue
        found = find_class_heat(sight, network, image, label, classes)
        for index, heat in found.heat.items():
            slices += find_weak_slices(
                item.id,
                index,
                heat[-1],
                label == index,
                sight.slicing,
                is_predicted=found.prediction == index,
                random=np.random.default_rng([sight.seed, 3, number, index]),
            )
    return slices


def group_slices(
    items: Sequence[LabelledItem], slices: Sequence[Slice]
) -> Iterator[tuple[LabelledItem, list[Slice]]]:
    """Yields each picture that has slices, with them."""
    by_id = defaultdict(list)
    for one in slices:
        by_id[one.id].append(one)
    yield from ((item, by_id[item.id]) for item in items if item.id in by_id)


def write_mixing(
    sight: Sight,
    network: nn.Module,
    second: nn.Module,
    items: Sequence[LabelledItem],
    slices: Sequence[Slice],
    folder: Path,
) -> dict[str, Any]:
    """Makes the mixing maps of each picture with slices and stores what they need.

    Args:
        sight: how pictures are looked at.
        network: trained on whole pictures; its heat is what slices are held against.
        second: trained on slices; its heat and features are mixed in.
        items: all pictures.
        slices: of all pictures.
        folder: to write to.

    Returns:
        `mixed_share` of each layer: mixed pixels over label pixels of the pictures with slices; and
        `pictures`, the number of those where anything is mixed.
    """
    mixed, labelled, count = np.zeros(len(sight.layers)), 0, 0
    with MixWriter(folder, layers=len(sight.layers)) as writer:
        for item, own in group_slices(items, slices):
            image, label = sight.read(item)
            maps = make_picture_maps(sight, network, second, image, label, own)
            is_mixed = maps.winners != NO_SLICE
            mixed += is_mixed.sum(axis=(1, 2))
            labelled += int(np.isin(label, [one.class_index for one in own]).sum())
            if is_mixed.any():
                count += 1
                features = find_features(sight, second, image, maps, own)
                writer.add(item.id, maps, [one.box for one in own], features)
    share = (mixed / max(labelled, 1)).round(5).tolist()
    return {"mixed_share": share, "pictures": count}


def make_picture_maps(
    sight: Sight,
    network: nn.Module,
    second: nn.Module,
    image: Image,
    label: LabelMap,
    slices: Sequence[Slice],
) -> MixingMaps:
    """Holds the heat of a picture's slices, seen alone, against that of the picture."""
    classes = sorted({one.class_index for one in slices})
    large = find_class_heat(sight, network, image, label, classes).heat
    smalls: dict[tuple[int, int], Heat] = {}
    for number in sorted({one.number for one in slices}):
        of_window = [one for one in slices if one.number == number]
        part = np.ascontiguousarray(of_window[0].crop(label))
        indices = [one.class_index for one in of_window]
        size_hw = label.shape if sight.config.slice_input == "image" else part.shape
        view = _resize(of_window[0].crop(image), size_hw)
        grown = _resize_label(part, size_hw)
        found = find_class_heat(sight, second, view, grown, indices)
        for index in indices:
            heat = np.stack([_resize(one, part.shape) for one in found.heat[index]])
            smalls[number, index] = keep_inside(heat, part == index)
    return make_mixing_maps(
        large[classes[0]],
        [smalls[one.number, one.class_index] for one in slices],
        [one.box for one in slices],
        larges=[large[one.class_index] for one in slices],
        form=sight.config.share_form,
    )


def find_features(
    sight: Sight, second: nn.Module, image: Image, maps: MixingMaps, slices: Sequence[Slice]
) -> dict[int, list[tuple[NDArray[np.int64], NDArray[np.float32], tuple[int, int]]]]:
    """Computes the features of the slices that win anywhere, at the cells that are needed."""
    found = {}
    for j in np.unique(maps.winners[maps.winners != NO_SLICE]).tolist():
        crop = slices[j].crop(image)
        size_hw = image.shape[:2] if sight.config.slice_input == "image" else crop.shape[:2]
        features, _ = look(second, sight.prepare(_resize(crop, size_hw)), sight.layers)
        entries = []
        for layer, feature in enumerate(features):
            grid_hw = (int(feature.shape[1]), int(feature.shape[2]))
            cells = list_needed_cells(maps.winners[layer], j, slices[j].box, grid_hw)
            values = feature.flatten(1)[:, torch.from_numpy(cells).to(feature.device)].T
            entries.append((cells, values.float().cpu().numpy(), grid_hw))
        found[j] = entries
    return found


def measure_foreground(
    sight: Sight, second: nn.Module, items: Sequence[LabelledItem], slices: Sequence[Slice]
) -> float:
    """Returns the share of slices with any pixel predicted to be of their class."""
    hits, looked = 0, 0
    for item, own in group_slices(items, slices):
        image, _ = sight.read(item)
        predictions: dict[int, NDArray[np.int64]] = {}
        for one in own:
            if one.number not in predictions:
                inputs = sight.prepare(one.crop(image))
                predictions[one.number] = look(second, inputs, sight.layers)[1]
            hits += bool((predictions[one.number] == one.class_index).any())
            looked += 1
    return hits / max(looked, 1)


def describe_slices(slices: Sequence[Slice]) -> dict[str, Any]:
    """Sums up slices: how many, in how many pictures, of which classes, how well covered."""
    return {
        "slices": len(slices),
        "pictures": len({one.id for one in slices}),
        "classes": {str(k): v for k, v in sorted(Counter(s.class_index for s in slices).items())},
        "coverage_in_tenths": count_coverage(slices),
    }


def predict(network: nn.Module, image: Image, *, side_px: int) -> NDArray[np.int64]:
    """Labels a picture plainly: `(H, W)`, the class of the highest logit at the picture's size.

    Args:
        network: a segmenter; put into eval mode for the while.
        image: `(H, W, 3)` uint8 RGB.
        side_px: shorter side that the network sees; 0 takes the picture as it is.
    """
    device = next(network.parameters()).device
    inputs = torch.from_numpy(prepare_image(image, side_px))[None].to(device)
    with eval_mode(network), torch.no_grad():
        logits = pick_logits(network(inputs)).float()
        sized = interpolate(logits, size=image.shape[:2], mode="bilinear", align_corners=False)
    found: NDArray[np.int64] = sized[0].argmax(dim=0).cpu().numpy()
    return found


class Measures:
    """The scores of a stage after each epoch, and the weights at its best, on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        )

    def add(self, scores: ClassScores, network: nn.Module) -> dict[str, float]:
        """Takes the scores of an epoch; returns the figures for the log.

        The mean is over the classes that are in the ground truth.
        """
        found, (_, true, _) = scores.compute(), scores.count()
        iou = np.where(true > 0, found["iou"], np.nan)
        miou = float(np.nanmean(iou)) if (true > 0).any() else 0.0
        known = self.best()
        each = [None if np.isnan(value) else round(float(value), 5) for value in iou]
        self.rows.append({"accuracy": float(found["aAcc"]), "miou": miou, "iou": each})
        if known is None or miou > known:
            state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            with replace_when_done(self.path.with_name("best.pt")) as unfinished:
                torch.save(state, unfinished)
        with replace_when_done(self.path) as unfinished:
            unfinished.write_text(json.dumps(self.rows), encoding="utf-8")
        return {"accuracy": float(found["aAcc"]), "miou": miou}

    def keep(self, count: int) -> None:
        """Forgets the epochs that a stopped run scored after its last checkpoint."""
        del self.rows[count:]

    def best(self) -> float | None:
        """Returns the highest mean IoU so far."""
        return max((row["miou"] for row in self.rows), default=None)

    def last(self) -> dict[str, Any]:
        """Returns the last row; nothing without one."""
        return self.rows[-1] if self.rows else {}


def _resize(array: NDArray[Any], size_hw: Sequence[int]) -> NDArray[Any]:
    if array.shape[:2] == tuple(size_hw[:2]):
        return array
    size_wh = (size_hw[1], size_hw[0])
    sized = cv2.resize(np.ascontiguousarray(array), size_wh, interpolation=cv2.INTER_LINEAR)
    return np.asarray(sized, dtype=array.dtype)


def _resize_label(label: LabelMap, size_hw: Sequence[int]) -> LabelMap:
    if label.shape == tuple(size_hw):
        return label
    size_wh = (size_hw[1], size_hw[0])
    return np.asarray(
        cv2.resize(label, size_wh, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8
    )
