"""Files that appear whole or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maskhone.errors import InputError

UNFINISHED = ".unfinished-"
"""Names of half-written files begin so; a killed program leaves them behind."""


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with replace_when_done(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def replace_when_done(path: str | Path) -> Iterator[Path]:
    """Lends an unfinished file that takes the place of `path` when the block ends well.

    The unfinished file lies beside `path`, is hidden, and has the same suffix. When the block
    fails or is interrupted it is removed, and an older file at `path` stays as it was. Parent
    folders are made.

    Raises:
        InputError: the file cannot be written; said before the block runs where possible.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replace_when_done(folder / "new" / "a.txt") as unfinished:
        ...     _ = unfinished.write_text("whole")
        >>> (folder / "new" / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    unfinished = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:12]}{path.suffix}")
    if path.is_dir():
        raise InputError(f"{path}: cannot write, this is a folder; give a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch(exist_ok=False)
        yield unfinished
        unfinished.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path}: cannot write ({reason}); check the folder, its permissions and free space"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
