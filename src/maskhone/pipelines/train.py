"""Training from a recipe file."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskhone.errors import InputError, UsageError
from maskhone.methods.catalogue import METHODS


def train_recipe(
    recipe: Path,
    output: Path,
    *,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Trains as a TOML recipe says; returns one line that says what was made.

    Args:
        recipe: flat TOML; `method` names the method, the other keys are fields of its
            configuration, data and schedule.
        output: folder for the checkpoint, the log and the weights.
        options: replace lines of the recipe.
        resume: go on from the checkpoint in `output`.
        dry_run: check the recipe and that its data is there, then stop.
        on_progress: called with finished and planned steps.

    Raises:
        UsageError: unknown method or key, or the output folder holds another run.
    """
    table = {**read_recipe(recipe), **(options or {})}
    method = METHODS.get(table.get("method", ""))
    if method is None or method.train is None:
        known = ", ".join(name for name, m in METHODS.items() if m.train is not None)
        raise UsageError(f"{recipe}: method is {table.get('method')!r}; can be trained: {known}")
    if not resume and not dry_run and (output / "checkpoint.pt").exists():
        raise UsageError(f"{output}: holds a run already; go on with --resume or name another")
    weights = method.train(
        table, out_dir=output, resume=resume, dry_run=dry_run, on_progress=on_progress
    )
    return f"{recipe}: the recipe and its data are in order" if dry_run else f"wrote {weights}"


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a flat TOML recipe."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; recipes lie in recipes/") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from error
    nested = [key for key, value in table.items() if isinstance(value, dict)]
    if nested:
        raise InputError(f"{path}: recipes are flat, but it has the table [{nested[0]}]")
    return table
