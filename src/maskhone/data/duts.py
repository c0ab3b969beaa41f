"""DUTS saliency: `DUTS-TR` (10553 pairs) to train, `DUTS-TE` (5019) to validate and test.

Each part holds `PART-Image/NAME.jpg` and `PART-Mask/NAME.png`, directly or one folder deeper, as
the archives unpack. Source: Wang et al., CVPR 2017; PatchRefineNet section 7.
"""

from pathlib import Path

from maskhone.data.folder import FolderItem
from maskhone.data.splits import Split, split_like_published
from maskhone.data.truth_pairs import Pairs, choose_pairs, find_folder, list_names, make_items

_PICTURE, _MASK = ".jpg", ".png"


def find_duts_items(root: str | Path, split: Split) -> list[FolderItem]:
    """Finds the pairs of a split; read them with `load_truth_pair`.

    With `train.csv`, `val.csv` and `test.csv` in `root` these say which. Otherwise train is all of
    DUTS-TR, sorted by name, and DUTS-TE, sorted too, is split like published: 80 % val, 20 % test.

    Args:
        root: folder with `DUTS-TR` and `DUTS-TE`; only the part that is asked for need be there.
        split: `train`, `val` (for PatchRefineNet to train on) or `test`.

    Raises:
        UsageError: the split has another name.
        InputError: a folder, a list or a file of a pair is missing.
    """
    root = Path(root)
    part = "DUTS-TR" if split == "train" else "DUTS-TE"

    def find_part(kind: str) -> Path:
        folder = f"{part}-{kind}"
        return find_folder([root / part / folder, root / part / part / folder])

    def split_part() -> Pairs:
        names = list_names(find_part("Image"), _PICTURE)
        if split != "train":
            val, test = split_like_published(len(names))
            names = [names[i] for i in (val if split == "val" else test).tolist()]
        return [(name, name.removesuffix(_PICTURE) + _MASK) for name in names]

    pairs, source = choose_pairs(root, split, split_part)
    return make_items(pairs, find_part("Image"), find_part("Mask"), source=source, ending=_PICTURE)
