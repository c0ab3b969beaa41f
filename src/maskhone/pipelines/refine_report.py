"""Refining with a report of what changed: where it may lie, and what it says of the run."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from maskhone.errors import UsageError
from maskhone.pipelines.arrays import find_usual_guard
from maskhone.pipelines.refine_run import RefineReport, Run
from maskhone.pipelines.report_html import ReportWriter

_SUFFIXES = (".html", ".htm")
_UNSAID: tuple[Any, ...] = (None, False, 0, "auto", {})  # values that a command need not name
_FLAGS = {"band_px": "band", "options": "option"}
_USUAL_BATCH = 32


def check_report_path(run: Run, path: Path) -> None:
    """Refuses a report that is no HTML file or would touch an input or another output.

    Raises:
        UsageError: see above.
    """
    if path.suffix.lower() not in _SUFFIXES or path.is_dir():
        raise UsageError(f"{path}: the report is one page; name a file that ends with .html")
    others = [run.images, run.masks, run.output, run.compare, run.image_list]
    if run.settings.weights is not None:
        others.append(Path(run.settings.weights))
    taken = [other.resolve() for other in others if other is not None]
    if path.resolve() in taken or any(
        path.exists() and p.exists() and path.samefile(p) for p in taken
    ):
        raise UsageError(f"{path}: the report would overwrite another file of the run; rename it")
    if any(folder.is_dir() and folder in path.resolve().parents for folder in taken[:2]):
        raise UsageError(f"{path}: the report lies inside an input folder; name another place")


def run_with_report(run: Run, path: Path, refine: Callable[[Run], RefineReport]) -> RefineReport:
    """Runs a form of refining and writes the report of it; a dry run only says so."""
    if run.dry_run:
        done = refine(run)
        return replace(done, lines=(*done.lines, f"would write the report {path}"))
    settings = asdict(run.settings)
    about = {
        "command": write_command(run, path),
        "settings": settings,
        "output": str(run.output),
        "version": run.settings.version,
    }
    same = {
        "settings": settings,
        "masks": str(run.masks.resolve()),
        "output": str(run.output.resolve()),
    }
    with ReportWriter(path, about=about, same=same, resume=run.resume) as report:
        done = refine(replace(run, report=report))
        report.finish(skipped=done.skipped, problems=done.problems)
    return replace(done, lines=(*done.lines, f"wrote {path}"))


def write_command(run: Run, report: Path | None = None) -> str:
    """Writes the command line that asks for the same run; usual values are left out."""
    guard = run.settings.guard
    inputs = [run.images] if run.images == run.masks else [run.images, run.masks]
    values: dict[str, Any] = {
        **asdict(run.settings),
        "guard": None if guard == find_usual_guard(run.settings.method) else guard,
        "format": run.format,
        "image_list": run.image_list,
        "recompute_boxes": run.recompute_boxes,
        "compare": run.compare,
        "report": report,
        "device": run.device,
        "batch_size": None if run.batch_size == _USUAL_BATCH else run.batch_size,
        "resume": run.resume,
    }
    del values["version"]
    words = ["maskhone", "refine", *map(str, inputs), "-o", str(run.output)]
    for name, value in values.items():
        words += _write_flag(_FLAGS.get(name, name.replace("_", "-")), value)
    return shlex.join(words)


def _write_flag(flag: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from (f"--{flag}", f"{name}={each}")
    elif value is True:
        yield f"--{flag}"
    elif value not in _UNSAID:
        yield from (f"--{flag}", str(value))
