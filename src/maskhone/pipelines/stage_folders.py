"""Which folder a stage works in: its own, its former one, or a copy of another run's.

A stage's folder holds `manifest.json` when it is done, and `.begun.json` while it is not; both say
its key. `NAME.before` beside it is the former folder, of another key. A run may be killed between
any two steps here; the next one finds its way.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskhone.errors import InputError

MANIFEST = "manifest.json"
"""In the folder of a finished stage: what it depended on, what it wrote, how long it took."""

BEGUN = ".begun.json"
"""In the folder of an unfinished one."""


def find_folder(folder: Path, key: str, others: Sequence[Path] = ()) -> None:
    """Makes `folder` the one to go on in: of the key, or empty.

    Args:
        folder: of the stage; what it holds of another key becomes `NAME.before`.
        key: what the stage depends on.
        others: folders of the same stage of other runs.

    Raises:
        InputError: a folder holds something else, or cannot be copied.
    """
    before, spare = folder.with_name(f"{folder.name}.before"), _hide(folder, "swapped")
    _settle(folder, before, spare)
    if _has_key(folder, key):
        return
    for one in (folder, before):
        if one.exists() and any(one.iterdir()) and not _is_ours(one):
            raise InputError(f"{one}: holds other files; move them away, or name another output")
    if _has_key(before, key):
        if folder.exists():
            folder.rename(spare)
        before.rename(folder)
        if spare.exists():
            spare.rename(before)
        return
    if _is_ours(folder):
        _remove(before)
        folder.rename(before)
    for other in others:
        if other.resolve() != folder.resolve() and _is_done(other, key):
            _copy(other, folder)
            return


def read_facts(path: Path) -> dict[str, Any]:
    """Reads a JSON file of ours; what is missing or damaged says nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def find_damaged(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Finds the files of a manifest that are gone or have another size."""
    return [
        folder / name
        for name, size in manifest.get("files", {}).items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]


def _settle(folder: Path, before: Path, spare: Path) -> None:
    """Ends what a killed run began: an exchange of two folders, a removal, a copy."""
    if spare.exists():
        spare.rename(before if folder.exists() else folder)
    for half in (_hide(before, "removed"), _hide(folder, "copied")):
        if half.exists():
            shutil.rmtree(half)


def _remove(folder: Path) -> None:
    """Removes a folder whole or, for others to see, not at all."""
    if folder.exists():
        half = _hide(folder, "removed")
        folder.rename(half)
        shutil.rmtree(half)


def _copy(source: Path, folder: Path) -> None:
    half = _hide(folder, "copied")
    try:
        shutil.copytree(source, half)
        if folder.exists():
            folder.rmdir()  # an empty one
        half.rename(folder)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(half, ignore_errors=True)
        raise InputError(f"{folder}: cannot copy {source} ({error}); check free space") from error


def _hide(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _has_key(folder: Path, key: str) -> bool:
    return key in (read_facts(folder / name).get("key") for name in (MANIFEST, BEGUN))


def _is_done(folder: Path, key: str) -> bool:
    manifest = read_facts(folder / MANIFEST)
    return manifest.get("key") == key and not find_damaged(folder, manifest)


def _is_ours(folder: Path) -> bool:
    return (folder / MANIFEST).exists() or (folder / BEGUN).exists()
