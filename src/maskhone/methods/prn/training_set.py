"""What PatchRefineNet is trained on: a base model's maps, their truth, and pseudo-labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskhone.contracts import FOREGROUND
from maskhone.data.score_maps import MapItem, choose_items, find_map_items, read_map_pair
from maskhone.data.splits import read_ids, split_like_published
from maskhone.errors import UsageError
from maskhone.methods.prn.config import PRNConfig
from maskhone.methods.prn.refine import resize_map
from maskhone.methods.prn.thresholds import find_thresholds
from maskhone.ops.patches import crop
from maskhone.segmenters.augment import flip_and_turn
from maskhone.segmenters.squares import make_square_truth

Maps = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Scores, pseudo-label and truth: `(S, S)` each."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Where the maps come from. They must not be of pictures that the base model was trained on.

    Attributes:
        scores: folder of probability maps: PNG of 8 or 16 bits, `.npy`, `.npz`.
        targets: folder of truths of the same names and sizes.
        target_value: the object is where the truth has this number; left out: as any mask.
        pseudo_labels: folder of pseudo-labels (maskhone diagnose thresholds --labels); empty makes
            them on the fly, at the network's size.
        label_cells: rows and columns of patches with a best threshold each; 0 takes the network's.
        logits: the maps are float arrays of logits.
        train_list: text file of names without suffix, one a line; empty trains on all but the rest.
        validation_list: likewise, of maps that only choose the best weights.
        held_share: without such a list, the share of all maps that is held back for that.
            Differs: the original trains on all maps and chooses by the training loss.
        shuffles: visit the maps in another order each time.
        augments: flip and turn at random.
    """

    scores: str
    targets: str
    target_value: int | None = None
    pseudo_labels: str = ""
    label_cells: int = 0
    logits: bool = False
    train_list: str = ""
    validation_list: str = ""
    held_share: float = 0.2
    shuffles: bool = True
    augments: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.held_share < 1:
            raise UsageError(f"held_share is {self.held_share}; expected 0 or more, below 1")
        if self.label_cells < 0:
            raise UsageError(f"label_cells is {self.label_cells}; expected 0 or more")


def split_items(data: TrainingData, *, seed: int) -> tuple[list[MapItem], list[MapItem]]:
    """Finds the maps to train on and those to choose the best weights by.

    Raises:
        UsageError: a map is in both lists, or none is left to train on.
        InputError: a map has no truth, or a list names what is not there.
    """
    lists = [Path(path) for path in (data.train_list, data.validation_list) if path]
    wanted = {name for path in lists for name in read_ids(path)} if data.train_list else None
    items = find_map_items(data.scores, data.targets, data.pseudo_labels or None, wanted=wanted)
    given = choose_items(items, Path(data.train_list)) if data.train_list else None
    pool = items if given is None else given
    if data.validation_list:
        held = choose_items(items, Path(data.validation_list))
        names = {item.id for item in held}
        if given is not None and any(item.id in names for item in given):
            both = next(item.id for item in given if item.id in names)
            raise UsageError(
                f"{both} is in {data.train_list} and in {data.validation_list}; keep it in one"
            )
        kept = [item for item in pool if item.id not in names]
    elif data.held_share > 0:
        stay, back = split_like_published(len(pool), share=data.held_share, seed=seed)
        kept, held = [pool[i] for i in sorted(stay)], [pool[i] for i in sorted(back)]
    else:
        kept, held = list(pool), []
    if not kept:
        raise UsageError(f"{data.scores}: no map is left to train on; shorten the validation list")
    return kept, held


class MapSource:
    """Samples without an end: each time through the maps in another order, each changed anew.

    Sample i is a function of i and the seed.
    """

    def __init__(
        self, items: Sequence[MapItem], config: PRNConfig, data: TrainingData, *, seed: int
    ) -> None:
        self.items, self.config, self.data, self.seed = items, config, data, seed
        check_label_cells(config, data)

    def __getitem__(self, index: int) -> Maps:
        """Makes sample number `index`."""
        turn, place = divmod(index, len(self.items))
        if self.data.shuffles:
            place = int(
                np.random.default_rng([self.seed, 0, turn]).permutation(len(self.items))[place]
            )
        random = np.random.default_rng([self.seed, 1, index])
        maps = load_maps(self.items[place], self.config, self.data, random=random)
        if not self.data.augments:
            return maps
        scores, label, truth = flip_and_turn(maps, random)
        return scores, label, truth


def load_maps(
    item: MapItem,
    config: PRNConfig,
    data: TrainingData,
    *,
    random: np.random.Generator | None = None,
) -> Maps:
    """Reads a map as the network sees it, its pseudo-label and its truth.

    With `config.tile` that is a square of the map at full size, anywhere; without a generator the
    one in the middle.

    Raises:
        InputError: a file cannot be used, or the sizes differ.
    """
    scores, truth, label = read_map_pair(
        item, target_value=data.target_value, is_logits=data.logits
    )
    side = config.map_px
    if config.tile:
        box = _place_tile(scores.shape, side, random)
        scores, truth = crop(scores, box)[0], crop(truth, box)[0]
        label = None if label is None else crop(label, box)[0]
    scores = resize_map(scores, (side, side), config.resize)
    truth = make_square_truth(truth, side)[0]
    if label is not None:
        return scores, make_square_truth(label, side)[0], truth
    cells = data.label_cells or config.label_cells
    found = find_thresholds(scores, truth > FOREGROUND, side // cells)
    return scores, found.labels.astype(np.float32), truth


def check_label_cells(config: PRNConfig, data: TrainingData) -> None:
    """Refuses patches that do not fill the map."""
    cells = data.label_cells or config.label_cells
    if config.map_px % cells:
        raise UsageError(
            f"label_cells is {cells}; expected a divisor of map_px, which is {config.map_px}"
        )


def collate(samples: Sequence[Maps]) -> dict[str, Tensor]:
    """Stacks samples: `(B, 1, S, S)` float32 each."""
    names = ("scores", "label", "truth")
    parts = zip(names, zip(*samples, strict=True), strict=True)
    return {name: torch.from_numpy(np.stack(maps)[:, np.newaxis]) for name, maps in parts}


def _place_tile(
    size_hw: tuple[int, ...], side_px: int, random: np.random.Generator | None
) -> NDArray[np.int64]:
    room = [max(length - side_px, 0) for length in size_hw]
    y, x = (r // 2 if random is None else int(random.integers(r + 1)) for r in room)
    return np.array([[x, y, x + side_px, y + side_px]], dtype=np.int64)
