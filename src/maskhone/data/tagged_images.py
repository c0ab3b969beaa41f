"""Pictures with image-level labels: which classes are in sight, but not where."""

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskhone.data.pictures import PICTURE_SUFFIXES, open_picture, read_stored_size_hw
from maskhone.data.splits import read_ids
from maskhone.errors import InputError

COLUMNS = ("image", "labels")
"""Header of the CSV."""


@dataclass(frozen=True, kw_only=True)
class TaggedImage:
    """A picture and the classes in it; nothing is read yet.

    Attributes:
        id: name without suffix; for subfolders the path within the folder of pictures.
        image_path: the picture.
        classes: indices of the classes in sight, ascending, 0 for the first class of the list. A
            label map has them one higher, and 0 for the background. Empty: none is in sight.
        truth_path: its label map, where there is one.
    """

    id: str
    image_path: Path
    classes: tuple[int, ...]
    truth_path: Path | None = None


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Reads the names of the foreground classes, one a line, in the order of their indices.

    Raises:
        InputError: the file cannot be read, is empty, or names a class twice or the background.
    """
    path = Path(path)
    names = read_ids(path)
    if not names:
        raise InputError(f"{path}: names no class; write one a line, without the background")
    ground = next((name for name in names if name.strip("_").lower() == "background"), None)
    if ground is not None:
        raise InputError(f"{path}: names {ground!r}; label 0 is the background, leave it out")
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if repeated is not None:
        raise InputError(f"{path}: names {repeated!r} twice; keep one")
    if len(names) > 254:
        raise InputError(f"{path}: {len(names)} classes; a label map holds at most 254")
    return tuple(names)


def find_tagged_images(
    csv_path: str | Path,
    images_dir: str | Path,
    class_names: Sequence[str],
    *,
    truths_dir: str | Path | None = None,
) -> list[TaggedImage]:
    """Finds the pictures that a CSV with the header `image,labels` names.

    Labels are separated by `;` or spaces, or by commas in a quoted cell; a class whose name has a
    space needs `;` or commas. A line without labels is a picture of background only. Names of
    pictures may lack the suffix, and may be absolute where they lie in the folder.

    Args:
        csv_path: the list.
        images_dir: folder against which pictures are named.
        class_names: the classes in the order of their indices.
        truths_dir: folder of label maps of the same names; pictures without one have no truth.

    Returns:
        One item per line, in the order of the file.

    Raises:
        InputError: the CSV cannot be read or is empty, a label is not in `class_names`, a picture
            is missing or named twice.
    """
    csv_path, images_dir = Path(csv_path), Path(images_dir)
    items: dict[str, TaggedImage] = {}
    for line, (name, text) in _read_rows(csv_path):
        where = f"{csv_path}: line {line}"
        image_path = find_picture(images_dir, name, where)
        id = image_path.relative_to(images_dir).with_suffix("").as_posix()
        if id in items:
            raise InputError(f"{where}: {name} has a line already; keep one, with all its labels")
        items[id] = TaggedImage(
            id=id,
            image_path=image_path,
            classes=_parse_labels(text, class_names, where),
            truth_path=None if truths_dir is None else find_truth(Path(truths_dir), id),
        )
    if not items:
        raise InputError(f"{csv_path}: has no lines below the header; write one for each picture")
    return list(items.values())


def find_pictures_of(
    ids: Sequence[str], images_dir: str | Path, *, truths_dir: Path | None = None, source: str
) -> list[TaggedImage]:
    """Finds pictures of which nobody says what is in them; they have no classes.

    Args:
        ids: paths within the folder; they may lack the suffix.
        images_dir: folder of pictures.
        truths_dir: folder of label maps of the same names; pictures without one have no truth.
        source: where the ids come from, for messages.

    Raises:
        InputError: no ids, one twice, or a picture is missing.
    """
    images_dir = Path(images_dir)
    check_ids(ids, source=source)
    items = []
    for name in ids:
        image_path = find_picture(images_dir, name, source)
        id = image_path.relative_to(images_dir).with_suffix("").as_posix()
        truth_path = None if truths_dir is None else find_truth(truths_dir, id)
        items.append(TaggedImage(id=id, image_path=image_path, classes=(), truth_path=truth_path))
    return items


def choose_images(items: Sequence[TaggedImage], ids_path: str | Path) -> list[TaggedImage]:
    """Takes the pictures that a text file names, one a line, with or without suffix, in its order.

    Raises:
        InputError: the file cannot be read, is empty, or names what is not there, or one id twice.
    """
    ids_path = Path(ids_path)
    known = {f"{item.id}{item.image_path.suffix}": item for item in items}
    known |= {item.id: item for item in items}
    ids = read_ids(ids_path)
    for id in ids:
        if id not in known:
            raise InputError(f"{ids_path}: {id} has no line in the list of labels; add it there")
    chosen = [known[id] for id in ids]
    check_ids([item.id for item in chosen], source=str(ids_path))
    return chosen


def check_ids(ids: Sequence[str], *, source: str) -> None:
    """Refuses a list without ids, and one with an id twice."""
    if not ids:
        raise InputError(f"{source}: names no picture; write one id a line")
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise InputError(f"{source}: names {id} twice; keep one")
        seen.add(id)


def check_truth_sizes(items: Sequence[TaggedImage]) -> None:
    """Looks at the sizes of pictures and of their truths, mostly without decoding them.

    Raises:
        InputError: a file cannot be read, or a truth is of another size than its picture.
    """
    for item in items:
        paths = [path for path in (item.image_path, item.truth_path) if path is not None]
        try:
            sizes = [read_stored_size_hw(path) for path in paths]
        except (OSError, SyntaxError, ValueError):
            sizes = [(0, 0), (1, 1)]
        if len(set(sizes)) == 1:
            continue
        upright = [open_picture(path) for path in paths]  # also says what is wrong with a file
        sizes = [(picture.height, picture.width) for picture in upright]
        if len(set(sizes)) > 1:
            raise InputError(
                f"{item.truth_path} is {sizes[1]}, but {item.image_path} is {sizes[0]}; "
                "both must be of one size"
            )


def find_truth(truths_dir: Path, id: str) -> Path | None:
    """Returns the label map of a picture, or None where there is none."""
    path = truths_dir / f"{id}.png"
    return path if path.is_file() else None


def get_class_index(name: str, class_names: Sequence[str], *, where: str) -> int:
    """Returns the index of a class.

    Raises:
        InputError: there is no such class; the nearest one is named.

    Example:
        >>> get_class_index("cat", ("bird", "cat"), where="line 1")
        1
    """
    if name in class_names:
        return class_names.index(name)
    near = difflib.get_close_matches(name, class_names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(class_names)}"
    raise InputError(f"{where}: unknown class {name!r}; {hint}")


def _read_rows(path: Path) -> list[tuple[int, tuple[str, str]]]:
    """Reads line numbers, names and labels; empty lines are passed by."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = tuple(reader.fieldnames or ())
            if not set(COLUMNS) <= set(header):
                raise InputError(
                    f"{path}: the first line is {','.join(header)!r}; expected {','.join(COLUMNS)}"
                )
            found = []
            for row in reader:
                if row.get(None):  # more cells than the header has
                    raise InputError(
                        f"{path}: line {reader.line_num}: has too many cells; separate labels by ;"
                    )
                name, text = ((row[column] or "").strip() for column in COLUMNS)
                if name or text:
                    found.append((reader.line_num, (name, text)))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it should have the lines image,labels") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read the list ({error}); save it as UTF-8") from error
    for line, (name, _) in found:
        if not name:
            raise InputError(f"{path}: line {line}: names no picture")
    return found


def find_picture(folder: Path, name: str, where: str) -> Path:
    """Finds a picture by its path within a folder, which may lack the suffix.

    Args:
        folder: of pictures.
        name: of the picture; it may be absolute where it lies in the folder.
        where: the name comes from, for messages.

    Raises:
        InputError: it is not there, lies elsewhere, or several go by this name.
    """
    given = Path(name)
    if given.is_absolute():
        inside, root = given.parent.resolve() / given.name, folder.resolve()
        given = inside.relative_to(root) if inside.is_relative_to(root) else given
    if given.is_absolute() or ".." in given.parts:
        raise InputError(f"{where}: {name} lies outside {folder}; name pictures within it")
    path = folder / given
    if path.is_file():
        return path
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        endings = sorted(PICTURE_SUFFIXES | {ending.upper() for ending in PICTURE_SUFFIXES})
        found = [p for p in (Path(f"{path}{ending}") for ending in endings) if p.is_file()]
        if len(found) > 1 and not all(p.samefile(found[0]) for p in found):
            said = ", ".join(p.name for p in found)
            raise InputError(f"{where}: {name} may be any of {said}; write the suffix, too")
        if found:
            return found[0]
    raise InputError(f"{where}: no picture {name} in {folder}; add it, or remove the line")


def _parse_labels(text: str, class_names: Sequence[str], where: str) -> tuple[int, ...]:
    names: list[str] = []
    for part in (part.strip() for part in text.replace(",", ";").split(";")):
        names.extend([part] if part in class_names else part.split())
    return tuple(sorted({get_class_index(name, class_names, where=where) for name in names}))
