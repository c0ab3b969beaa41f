"""Kvasir-SEG polyps: `train/ID.jpg` and `train_labels/ID.jpg`, 1000 pairs; the masks are JPEG.

`train.txt` (880) and `test.txt` (120) list the ids of the usual split, one a line.
Source: Jha et al., MMM 2020; PatchRefineNet section 7.
"""

from pathlib import Path

from maskhone.data.folder import FolderItem
from maskhone.data.splits import Split, read_ids, split_like_published
from maskhone.data.truth_pairs import Pairs, choose_pairs, make_items

_PICTURE = ".jpg"


def find_kvasir_items(root: str | Path, split: Split) -> list[FolderItem]:
    """Finds the pairs of a split; read them with `load_truth_pair`.

    With `train.csv`, `val.csv` and `test.csv` in `root` these say which. Otherwise train is all of
    `train.txt`, and `test.txt`, in its order, is split like published: 80 % val, 20 % test.

    Args:
        root: folder with `train`, `train_labels` and the lists.
        split: `train`, `val` (for PatchRefineNet to train on) or `test`.

    Raises:
        UsageError: the split has another name.
        InputError: a folder, a list or a file of a pair is missing.
    """
    root = Path(root)

    def split_lists() -> Pairs:
        ids = read_ids(root / ("train.txt" if split == "train" else "test.txt"))
        if split != "train":
            val, test = split_like_published(len(ids))
            ids = [ids[i] for i in (val if split == "val" else test).tolist()]
        return [(f"{name}{_PICTURE}", f"{name}{_PICTURE}") for name in ids]

    pairs, source = choose_pairs(root, split, split_lists)
    return make_items(pairs, root / "train", root / "train_labels", source=source, ending=_PICTURE)
