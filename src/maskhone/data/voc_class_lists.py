"""The pictures of PASCAL VOC 2012 that hold a class: 20 lists for training, 20 for validation."""

from importlib import resources

from maskhone.data.voc import VOC_CLASSES
from maskhone.errors import InputError

PREFIX = "voc:"
"""What the name of such a list begins with, where a text file could be named as well."""

SPLITS = ("train", "val")


def read_voc_class_list(name: str) -> list[str]:
    """Reads the ids of the pictures whose label map holds a class, ascending.

    Args:
        name: `voc:CLASS:SPLIT`, such as `voc:car:train`; of the 1,464 and 1,449 pictures of VOC's
            own segmentation lists.

    Raises:
        InputError: another class or split.

    Source: the per-class lists that come with RWS, section 7; they follow from the label maps.

    Example:
        >>> len(read_voc_class_list("voc:car:train")), read_voc_class_list("voc:cow:val")[0]
        (128, '2007_000464')
    """
    class_name, _, split = name.removeprefix(PREFIX).partition(":")
    if class_name not in VOC_CLASSES or split not in SPLITS:
        raise InputError(
            f"{name}: no such list; expected voc:CLASS:train or voc:CLASS:val, with CLASS one of "
            f"{', '.join(VOC_CLASSES)}"
        )
    packed = resources.files("maskhone.data") / "voc_lists" / f"{split}_classes.txt"
    index = str(VOC_CLASSES.index(class_name) + 1)
    rows = (line.split() for line in packed.read_text(encoding="utf-8").splitlines())
    return [id for id, *classes in rows if index in classes]
