"""Training from a recipe file."""

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from maskhone.errors import InputError, UsageError
from maskhone.methods.catalogue import METHODS
from maskhone.segmenters.catalogue import SEGMENTERS

PIPELINES = ("prn-pipeline", "prn-few-shot")
"""Methods that are several trainings in a row."""

HOST_TRAININGS = ("rws",)
"""Ways to train a network that is given; see `methods.rws.train`."""

CLASS_NETWORKS = ("classifier", "affinitynet", "deeplabv3plus")
"""The networks on the way from image labels to masks; see `methods.perimeterfit.train`."""


def train_recipe(
    recipe: Path,
    output: Path,
    *,
    options: Mapping[str, Any] | None = None,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Trains as a TOML recipe says; returns what was made, in a line, or in several for stages.

    Args:
        recipe: flat TOML; `method` names the method, base model or pipeline, the other keys are
            fields of its configuration, data and schedule.
        output: folder for the checkpoint, the log and the weights.
        options: replace lines of the recipe.
        resume: go on from the checkpoint in `output`.
        dry_run: check the recipe and that its data is there, then stop.
        on_progress: called with finished and planned steps.

    Raises:
        UsageError: unknown method or key, or the output folder holds another run.
    """
    table = {**read_recipe(recipe), **(options or {})}
    method = table.get("method")
    if method in PIPELINES:
        lines = _train_pipeline(table, recipe, output, dry_run=dry_run, on_progress=on_progress)
        return lines if not dry_run else _say_in_order(recipe)
    train = _find_trainer(method, recipe)
    if not resume and not dry_run and (output / "checkpoint.pt").exists():
        raise UsageError(f"{output}: holds a run already; go on with --resume or name another")
    weights = train(table, out_dir=output, resume=resume, dry_run=dry_run, on_progress=on_progress)
    if dry_run:
        return _say_in_order(recipe)
    return f"wrote {weights}" + (_say_ending(output) if method in HOST_TRAININGS else "")


def _train_pipeline(
    table: Mapping[str, Any],
    recipe: Path,
    output: Path,
    *,
    dry_run: bool,
    on_progress: Callable[[int, int], None] | None,
) -> str:
    if table["method"] == "prn-few-shot":
        from maskhone.pipelines.prn_few_shot import train as train_few_shot

        return train_few_shot(table, out_dir=output, dry_run=dry_run, on_progress=on_progress)
    from maskhone.pipelines.prn import train as train_stages

    return train_stages(
        table,
        out_dir=output,
        read_recipe=lambda named: read_named_recipe(named, beside=recipe),
        dry_run=dry_run,
        on_progress=on_progress,
    )


def list_trainable() -> list[str]:
    """Lists what `method` of a recipe may name.

    Example:
        >>> [name for name in list_trainable() if "net" in name]
        ['dlinknet34', 'pfanet', 'resunetpp', 'affinitynet']
    """
    refiners = [name for name, method in METHODS.items() if method.train is not None]
    return [*refiners, *SEGMENTERS, *CLASS_NETWORKS, *HOST_TRAININGS, *PIPELINES]


def read_named_recipe(name: str, *, beside: Path) -> dict[str, Any]:
    """Reads a recipe that another one names: beside it, or from the working directory."""
    path = beside.parent / name
    return read_recipe(path if path.is_file() else Path(name))


def _find_trainer(method: Any, recipe: Path) -> Callable[..., Path]:
    if method in SEGMENTERS:
        from maskhone.pipelines.train_segmenter import train

        return train
    if method in CLASS_NETWORKS:
        from maskhone.methods.perimeterfit.train import TRAININGS

        return TRAININGS[method]
    if method in HOST_TRAININGS:
        from maskhone.methods.rws.train import train as train_host

        return train_host
    found = METHODS.get(method or "")
    if found is None or found.train is None:
        raise UsageError(
            f"{recipe}: method is {method!r}; can be trained: {', '.join(list_trainable())}"
        )
    return found.train


def _say_ending(output: Path) -> str:
    """Says why the rounds of a training ended."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return f"; rounds ended: {report['ended']}"


def _say_in_order(recipe: Path) -> str:
    return f"{recipe}: the recipe and its data are in order"


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
