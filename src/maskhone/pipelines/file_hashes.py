"""Hashes of files by content, remembered as long as a file's size and time of change stay."""

import hashlib
import json
from pathlib import Path

from maskhone.data.files import write_text
from maskhone.errors import InputError


class FileHashes:
    """Hashes files; what it knows can be kept in a file, so that large sets are read only once.

    A copied or touched file has the same hash. A change that leaves both size and time of change
    as they were is not seen.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Takes up what an earlier one kept.

        Args:
            path: where hashes are kept; None keeps none. A damaged file counts as none.
        """
        self.path = path
        self._known: dict[str, list[int | str]] = {}
        self._is_changed = False
        if path is not None and path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = {}
            self._known = found if isinstance(found, dict) else {}

    def find(self, path: Path) -> tuple[int, str]:
        """Returns the bytes of a file and the hash of its content.

        Raises:
            InputError: it is missing or cannot be read.
        """
        try:
            facts = path.stat()
            place, mark = str(path.resolve()), [facts.st_size, facts.st_mtime_ns]
            known = self._known.get(place)
            if known is None or known[:2] != mark:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
                known = self._known[place] = [*mark, digest]
                self._is_changed = True
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from error
        return facts.st_size, str(known[2])

    def save(self) -> None:
        """Keeps what was found."""
        if self.path is not None and self._is_changed:
            write_text(self.path, json.dumps(self._known))
            self._is_changed = False
