"""PatchRefineNet on classes that it was not trained on: a few maps of support, the rest to score.

    ROOT/CLASS/support/scores/ID.png    maps of a class, and
    ROOT/CLASS/support/targets/ID.png   their truths: what it may learn from
    ROOT/CLASS/query/scores/ID.png      maps that are refined, and
    ROOT/CLASS/query/targets/ID.png     their truths, to score by

The weights are those of the training classes. Every class is refined with them as they are, and
with what a few more steps on its support make of them. Source: PatchRefineNet section 14, which
asks for no more than that the weights are used on new classes; the second way is ours.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.contracts import FOREGROUND, Refiner
from maskhone.data.files import write_text
from maskhone.data.score_maps import find_map_items, make_blank_image, read_map_pair
from maskhone.engine.recipe import split_recipe
from maskhone.engine.weights import open_weights
from maskhone.errors import InputError, UsageError
from maskhone.methods.catalogue import load
from maskhone.methods.prn.train import train as train_prn
from maskhone.metrics.region import ForegroundScores
from maskhone.pipelines.stages import describe_files
from maskhone.pipelines.tables import format_table

REPORT = "report.json"

_FOLDERS = tuple(f"{use}/{kind}" for use in ("support", "query") for kind in ("scores", "targets"))


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """What is learnt from, and what is scored.

    Attributes:
        name: of the run.
        root: folder of classes.
        weights: PatchRefineNet weights of the training classes.
        shots: maps of support that are learnt from, the first by name; 0 learns nothing.
        iterations: steps on the support of a class.
        batch_size: maps per step.
        learning_rate: of these steps.
        loss: see `prn`.
        target_value: the object is where the truth has this number.
        logits: float arrays hold logits.
        seed: of what is drawn.
        device: for refining.
    """

    name: str
    root: str
    weights: str
    shots: int = 5
    iterations: int = 40
    batch_size: int = 4
    learning_rate: float = 3e-4
    loss: str = "overlap"
    target_value: int | None = None
    logits: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise UsageError(f"shots is {self.shots}; expected 0 or more")


def train(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Learns from and scores every class; returns a table, and writes it as `report.json`.

    Classes that are in the report already are not done again.

    Args:
        recipe: keys are the fields of `FewShot`.
        out_dir: receives the report, and a folder of weights for each class.
        dry_run: check the folders and the weights, then stop.
        on_progress: called with finished and planned classes.

    Raises:
        UsageError: unknown keys, or a report of other settings.
        InputError: folders, maps or truths are missing or cannot be used.
    """
    (plan,) = split_recipe({k: v for k, v in recipe.items() if k != "method"}, [FewShot])
    names = _find_classes(Path(plan.root))
    path, _, header = open_weights(plan.weights, "prn")
    if dry_run:
        return ""
    maps = [p for name in names for p in sorted((Path(plan.root) / name).rglob("*")) if p.is_file()]
    settings = {
        **{k: v for k, v in recipe.items() if k != "device"},
        "files": describe_files([path, *maps])["hash"],
    }
    known = _read_report(out_dir / REPORT, settings)
    for done, name in enumerate(names, start=1):
        if name not in known:
            known[name] = _try_class(plan, name, path, header["config"], out_dir / name)
            text = json.dumps({"settings": settings, "classes": known}, indent=2)
            write_text(out_dir / REPORT, text)
        if on_progress is not None:
            on_progress(done, len(names))
    return "\n".join(format_table(_list_rows(known)))


def _find_classes(root: Path) -> list[str]:
    """Lists the classes of a folder; each has its four folders."""
    names = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    if not names:
        raise InputError(f"{root}: no folders of classes; expected CLASS/support and CLASS/query")
    for name in names:
        for inner in _FOLDERS:
            if not (root / name / inner).is_dir():
                raise InputError(f"{root / name}: has no folder {inner}")
    return names


def _read_report(path: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    if not path.exists():
        return {}
    report = json.loads(path.read_text(encoding="utf-8"))
    if report["settings"] != json.loads(json.dumps(settings)):
        raise UsageError(f"{path}: is of other settings; name another output folder")
    return dict(report["classes"])


def _try_class(
    plan: FewShot, name: str, weights: Path, config: Mapping[str, Any], out_dir: Path
) -> dict[str, float]:
    """Returns the mean IoU over the query maps: before, refined as is, refined after support."""
    folder = Path(plan.root) / name
    found = {"PRN as it is": load("prn", weights=weights, device=plan.device)}
    if plan.shots:
        learnt = _learn_support(plan, folder / "support", weights, config, out_dir)
        found["PRN after support"] = load("prn", weights=learnt, device=plan.device)
    return _score_query(plan, folder / "query", found)


def _learn_support(
    plan: FewShot, folder: Path, weights: Path, config: Mapping[str, Any], out_dir: Path
) -> Path:
    """Takes a few steps on the support of a class."""
    items = find_map_items(folder / "scores", folder / "targets")[: plan.shots]
    listed = out_dir / "support.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    write_text(listed, "".join(f"{item.id}\n" for item in items))
    recipe = {
        **config,
        "name": f"{plan.name}.{out_dir.name}",
        "scores": str(folder / "scores"),
        "targets": str(folder / "targets"),
        "train_list": str(listed),
        "held_share": 0.0,
        "start_from": str(weights),
        "target_value": plan.target_value,
        "logits": plan.logits,
        "watch": "training",
        "rate": "polynomial",
        "loss": plan.loss,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "learning_rate": plan.learning_rate,
        "min_learning_rate": plan.learning_rate / 10,
        "iterations": plan.iterations,
        "epoch_iterations": plan.iterations,
        "batch_size": plan.batch_size,
        "checkpoint_every": plan.iterations,
        "workers": 0,
        "seed": plan.seed,
    }
    return train_prn(recipe, out_dir=out_dir)


def _score_query(plan: FewShot, folder: Path, refiners: Mapping[str, Refiner]) -> dict[str, float]:
    tallies = {name: ForegroundScores(FOREGROUND) for name in ("base", *refiners)}
    for item in find_map_items(folder / "scores", folder / "targets"):
        scores, truth, _ = read_map_pair(
            item, target_value=plan.target_value, is_logits=plan.logits
        )
        image = make_blank_image(scores.shape)
        tallies["base"].update(scores, truth > FOREGROUND)
        for name, refiner in refiners.items():
            refined = refiner.refine(image, scores[np.newaxis])[0]
            tallies[name].update(refined, truth > FOREGROUND)
    return {name: float(tally.compute()["iou"]) for name, tally in tallies.items()}


def _list_rows(known: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Lists a row per class, and their mean."""
    columns = list(next(iter(known.values())))
    rows = [{"class": name, **scores} for name, scores in known.items()]
    means = {k: float(np.mean([scores[k] for scores in known.values()])) for k in columns}
    return [*rows, {"class": "mean of classes", **means}]
