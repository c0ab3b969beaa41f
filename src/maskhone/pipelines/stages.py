"""Long work in stages: each fills a folder of its own, and is done anew only when it has to be.

A stage depends on its parameters, on files from outside, and on earlier stages. All three together
make its key, which `manifest.json` in its folder keeps. Where the key is still the same and the
files are still there, the stage is skipped; where a run was stopped in the middle, it goes on;
otherwise the folder is put aside as `NAME.before` and the stage begins anew, and so do those after
it. Where `NAME.before`, or the folder of another run, has the key, it is taken instead.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from maskhone.data.files import UNFINISHED, write_text
from maskhone.errors import InputError, UsageError
from maskhone.pipelines.file_hashes import FileHashes
from maskhone.pipelines.stage_folders import (
    BEGUN,
    MANIFEST,
    find_damaged,
    find_folder,
    read_facts,
)

_HASHES = ".hashes.json"  # of files from outside, in the output folder

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
            It may return how many items it made now.
        parameters: JSON-able; all that decides the result and is not in a file. What only decides
            how fast it comes, such as loader processes, is left out.
        find_inputs: names the files from outside; called only when the stage is looked at. They
            are told apart by name and content, wherever they lie.
        after: names of earlier stages whose results it reads.
        results: patterns of the files that must stay for the stage to count as done.
        notes: JSON-able; what is only written into the results, such as a licence. When nothing but
            this changed the results are written again, out of what the stage had left besides, and
            later stages stay.
    """

    name: str
    make: Callable[[Path], int | None]
    parameters: Mapping[str, Any]
    find_inputs: Callable[[], Inputs] = no_inputs
    after: tuple[str, ...] = ()
    results: tuple[str, ...] = ("**/*",)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What became of a stage.

    Attributes:
        name: of the stage.
        is_new: it was done, wholly or in part; otherwise it was found done.
        seconds: that this took, now.
        made: items that were made now, where the stage counts them; what an earlier, stopped run
            made is not among them.
    """

    name: str
    is_new: bool
    seconds: float
    made: int | None = None

    def describe(self) -> str:
        """Says it in a few words."""
        if not self.is_new:
            return f"{self.name}: done before"
        said = f"{self.name}: {self.seconds:.1f} s"
        if self.made and self.seconds:
            said += f" for {self.made}, {60 * self.made / self.seconds:.0f} a minute"
        return said


def run_stages(
    stages: Sequence[Stage],
    out_dir: Path,
    *,
    first: str = "",
    last: str = "",
    others: Sequence[Path] = (),
    on_stage: Callable[[str], None] | None = None,
) -> list[StageReport]:
    """Does the stages that are not done yet, in order.

    Args:
        stages: those that another comes `after` stand before it.
        out_dir: holds one folder for each.
        first: the stages before this one are taken as they are, whatever changed; they must be
            done. Empty for the first of all.
        last: stop after this one; empty for all.
        others: output folders of other runs; what they have done with the same key is copied.
        on_stage: called with the name of each stage that is begun or gone on with.

    Returns:
        One report for each stage that was looked at.

    Raises:
        UsageError: no such stage, one before `first` is not done, or several processes.
        InputError: a file is missing or cannot be written, or a stage's folder holds something
            else. Stages that are done stay.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "work in stages runs in one process; train on several with the stages' own recipes"
        )
    chosen = choose_stages(stages, first=first, last=last)
    before = stages[: stages.index(chosen[0])]
    keys = {stage.name: _read_key(out_dir / stage.name, first) for stage in before}
    hashes = FileHashes(out_dir / _HASHES)
    reports = []
    for stage in chosen:
        inputs = stage.find_inputs().items()
        facts = {
            "stage": stage.name,
            "parameters": dict(stage.parameters),
            "inputs": {name: describe_files(files, hashes) for name, files in inputs},
            "after": {name: keys[name] for name in stage.after},
        }
        hashes.save()
        keys[stage.name] = hash_facts(facts)
        folder = out_dir / stage.name
        find_folder(folder, keys[stage.name], [other / stage.name for other in others])
        reports.append(_run_one(stage, folder, keys[stage.name], facts, on_stage))
    return reports


def choose_stages(stages: Sequence[Stage], *, first: str = "", last: str = "") -> Sequence[Stage]:
    """Takes the stages from one to another, both included; empty for the first or last of all.

    Raises:
        UsageError: no such stage, or they are the wrong way round.
    """
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name and name not in names:
            raise UsageError(f"no stage is called {name!r}; they are {', '.join(names)}")
    start = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    if start > end:
        raise UsageError(f"first stage {first}, last stage {last}: expected them in order")
    return stages[start : end + 1]


def describe_files(files: Sequence[Path], hashes: FileHashes | None = None) -> dict[str, Any]:
    """Describes files so that a change of any shows: number, bytes, and a hash.

    The hash is over names and contents, in order, wherever the files lie.

    Args:
        files: to read.
        hashes: those that are known.

    Raises:
        InputError: one of them is missing.
    """
    hashes = hashes or FileHashes()
    found = [(path.name, *hashes.find(path)) for path in files]
    total = sum(size for _, size, _ in found)
    return {"files": len(found), "bytes": total, "hash": hash_facts(found)}


def _run_one(
    stage: Stage,
    folder: Path,
    key: str,
    facts: Mapping[str, Any],
    on_stage: Callable[[str], None] | None,
) -> StageReport:
    before = read_facts(folder / MANIFEST)
    damaged = find_damaged(folder, before)
    if before and before.get("notes", {}) != json.loads(json.dumps(stage.notes)):
        damaged = [folder / name for name in before["files"]]
    if before.get("key") == key and not damaged:
        return StageReport(name=stage.name, is_new=False, seconds=0.0)
    if on_stage is not None:
        on_stage(stage.name)
    _write_json(folder / BEGUN, {"key": key})
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in [*damaged, *folder.rglob(f"{UNFINISHED}*")]:
        path.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        made = stage.make(folder)
    except OSError as error:
        raise InputError(
            f"{folder}: the stage {stage.name} stopped ({error.strerror or error}); what is done "
            "stays, and the same command goes on; check the folder and free space"
        ) from error
    seconds = round(time.monotonic() - began, 2)
    manifest = {
        **facts,
        "notes": dict(stage.notes),
        "key": key,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("maskhone", "torch", "numpy")},
        },
        "seconds": seconds,
        **({} if made is None else {"made": made}),
        "files": _list_results(folder, stage.results),
    }
    _write_json(folder / MANIFEST, manifest)
    (folder / BEGUN).unlink()
    return StageReport(name=stage.name, is_new=True, seconds=seconds, made=made)


def _read_key(folder: Path, first: str) -> str:
    manifest = read_facts(folder / MANIFEST)
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


def hash_facts(facts: Any) -> str:
    """Computes a short hash of what JSON can say."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(facts, indent=2))
