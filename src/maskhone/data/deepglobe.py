"""DeepGlobe roads: `train/ID_sat.jpg` and `train_labels/ID_mask.png`, 6226 pairs of 1024 x 1024.

Source: DeepGlobe 2018 road challenge, its training part; laid out as in PatchRefineNet section 7.
"""

from pathlib import Path

from maskhone.data.folder import FolderItem
from maskhone.data.splits import Split, split_like_published
from maskhone.data.truth_pairs import Pairs, choose_pairs, list_names, make_items

_PICTURE, _MASK = "_sat.jpg", "_mask.png"


def find_deepglobe_items(root: str | Path, split: Split) -> list[FolderItem]:
    """Finds the pairs of a split; read them with `load_truth_pair`.

    With `train.csv`, `val.csv` and `test.csv` in `root` these say which. Otherwise all pictures,
    sorted by name, are split like published into 80, 16 and 4 %.

    Args:
        root: folder with `train` and `train_labels`.
        split: `train`, `val` (for PatchRefineNet to train on) or `test`.

    Raises:
        UsageError: the split has another name.
        InputError: a folder, a list or a file of a pair is missing.
    """
    root = Path(root)
    images_dir, masks_dir = root / "train", root / "train_labels"

    def split_all() -> Pairs:
        names = list_names(images_dir, _PICTURE)
        train, held = split_like_published(len(names))
        if split != "train":
            val, test = split_like_published(len(held))
            chosen = held[val if split == "val" else test]
        else:
            chosen = train
        return [(names[i], names[i].removesuffix(_PICTURE) + _MASK) for i in chosen.tolist()]

    pairs, source = choose_pairs(root, split, split_all)
    return make_items(pairs, images_dir, masks_dir, source=source, ending=_PICTURE)
