"""Long work in stages: each fills a folder of its own, and is done anew only when it has to be.

A stage depends on its parameters, on files from outside, and on earlier stages. All three together
make its key, which `manifest.json` in its folder keeps. Where the key is still the same and the
files are still there, the stage is skipped; where a run was stopped in the middle, it goes on;
otherwise the folder is put aside as `NAME.before` and the stage begins anew, and so do those after
it.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from maskhone.data.files import replace_when_done
from maskhone.errors import InputError, UsageError

MANIFEST = "manifest.json"
"""In the folder of a finished stage: what it depended on, what it wrote, how long it took."""

_BEGUN = ".begun.json"  # in the folder of an unfinished one

Inputs = Mapping[str, Sequence[Path]]


def no_inputs() -> Inputs:
    """Says that a stage reads nothing from outside."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of the work.

    Attributes:
        name: of the stage and its folder.
        make: fills the folder. What a stopped run of the same key left there may be taken up;
            finished files must appear whole or not at all.
        parameters: JSON-able; all that decides the result and is not in a file. What only decides
            how fast it comes, such as loader processes, is left out.
        find_inputs: names the files from outside; called only when the stage is looked at. They
            are told apart by name, size and time of change, wherever they lie.
        after: names of earlier stages whose results it reads.
        results: patterns of the files that must stay for the stage to count as done.
    """

    name: str
    make: Callable[[Path], None]
    parameters: Mapping[str, Any]
    find_inputs: Callable[[], Inputs] = no_inputs
    after: tuple[str, ...] = ()
    results: tuple[str, ...] = ("**/*",)


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What became of a stage.

    Attributes:
        name: of the stage.
        is_new: it was done, wholly or in part; otherwise it was found done.
        seconds: that this took, now.
    """

    name: str
    is_new: bool
    seconds: float

    def describe(self) -> str:
        """Says it in a few words."""
        return f"{self.name}: " + (f"{self.seconds:.1f} s" if self.is_new else "done before")


def run_stages(
    stages: Sequence[Stage], out_dir: Path, *, first: str = "", last: str = ""
) -> list[StageReport]:
    """Does the stages that are not done yet, in order.

    Args:
        stages: those that another comes `after` stand before it.
        out_dir: holds one folder for each.
        first: the stages before this one are taken as they are, whatever changed; they must be
            done. Empty for the first of all.
        last: stop after this one; empty for all.

    Returns:
        One report for each stage that was looked at.

    Raises:
        UsageError: no such stage, one before `first` is not done, or several processes.
        InputError: a file is missing, or a stage's folder holds something else.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "work in stages runs in one process; train on several with the stages' own recipes"
        )
    names = [stage.name for stage in stages]
    start, end = _find(names, first, default=0), _find(names, last, default=len(names) - 1)
    if start > end:
        raise UsageError(f"first stage {first}, last stage {last}: expected them in order")
    keys = {name: _read_key(out_dir / name, first) for name in names[:start]}
    reports = []
    for stage in stages[start : end + 1]:
        inputs = {name: describe_files(files) for name, files in stage.find_inputs().items()}
        facts = {
            "stage": stage.name,
            "parameters": dict(stage.parameters),
            "inputs": inputs,
            "after": {name: keys[name] for name in stage.after},
        }
        keys[stage.name] = _hash(facts)
        reports.append(_run_one(stage, out_dir / stage.name, keys[stage.name], facts))
    return reports


def describe_files(files: Sequence[Path]) -> dict[str, Any]:
    """Describes files so that a change of any shows: number, bytes, and a hash.

    The hash is over names, sizes and times of change, not over the contents.

    Raises:
        InputError: one of them is missing.
    """
    facts = []
    for path in files:
        try:
            found = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check it") from error
        facts.append([path.name, found.st_size, found.st_mtime_ns])
    return {"files": len(facts), "bytes": sum(size for _, size, _ in facts), "hash": _hash(facts)}


def _run_one(stage: Stage, folder: Path, key: str, facts: Mapping[str, Any]) -> StageReport:
    before = _read_json(folder / MANIFEST)
    if before.get("key") == key and not _find_damaged(folder, before):
        return StageReport(name=stage.name, is_new=False, seconds=0.0)
    if key not in (before.get("key"), _read_json(folder / _BEGUN).get("key")):
        _put_aside(folder)
    for path in _find_damaged(folder, before):
        path.unlink(missing_ok=True)
    _write_json(folder / _BEGUN, {"key": key})
    (folder / MANIFEST).unlink(missing_ok=True)
    began = time.monotonic()
    stage.make(folder)
    seconds = round(time.monotonic() - began, 1)
    manifest = {
        **facts,
        "key": key,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("maskhone", "torch", "numpy")},
        },
        "seconds": seconds,
        "files": _list_results(folder, stage.results),
    }
    _write_json(folder / MANIFEST, manifest)
    (folder / _BEGUN).unlink()
    return StageReport(name=stage.name, is_new=True, seconds=seconds)


def _find(names: list[str], name: str, *, default: int) -> int:
    if not name:
        return default
    if name not in names:
        raise UsageError(f"no stage is called {name!r}; they are {', '.join(names)}")
    return names.index(name)


def _read_key(folder: Path, first: str) -> str:
    manifest = _read_json(folder / MANIFEST)
    if "key" not in manifest:
        raise UsageError(f"{folder}: is not done yet; begin before {first}")
    return str(manifest["key"])


def _list_results(folder: Path, patterns: tuple[str, ...]) -> dict[str, int]:
    """Lists name and size of the visible files that match."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(found)
        if path.is_file() and not path.name.startswith(".")
    }
    return {name: size for name, size in sizes.items() if name != MANIFEST}


def _find_damaged(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Finds the files of a manifest that are gone or have another size."""
    return [
        folder / name
        for name, size in manifest.get("files", {}).items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != size
    ]


def _put_aside(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not _is_ours(folder):
        raise InputError(f"{folder}: holds other files; name another output folder")
    aside = folder.with_name(f"{folder.name}.before")
    if aside.exists():
        if not _is_ours(aside):
            raise InputError(f"{aside}: holds other files; move them away")
        shutil.rmtree(aside)
    folder.rename(aside)


def _is_ours(folder: Path) -> bool:
    return (folder / MANIFEST).exists() or (folder / _BEGUN).exists()


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read_json(path: Path) -> dict[str, Any]:
    """Reads one of our files; what is missing or damaged says nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    with replace_when_done(path) as unfinished:
        unfinished.write_text(json.dumps(facts, indent=2), encoding="utf-8")
