"""Trains a network in rounds: plainly, on its weak slices, and with their features mixed in.

Source: RWS sections 5.4 and 6.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from maskhone.data.files import replace_when_done
from maskhone.engine.infer import choose_device
from maskhone.engine.recipe import split_recipe
from maskhone.engine.train import Schedule
from maskhone.engine.weights import save_weights
from maskhone.errors import InputError, UsageError
from maskhone.methods.rws.config import PUBLISHED_SCHEDULE, HostIdentity, RWSConfig, StageConfig
from maskhone.methods.rws.host import choose_layers, measure_outputs
from maskhone.methods.rws.rounds import (
    Measures,
    describe_slices,
    find_all_slices,
    measure_foreground,
    write_mixing,
)
from maskhone.methods.rws.slices import Slice, SliceConfig
from maskhone.methods.rws.stages import (
    Progress,
    Run,
    copy_tensors,
    load_tensors,
    start_network,
    train_stage,
)
from maskhone.methods.rws.store import MixStore, is_finished, load_slices, save_slices
from maskhone.methods.rws.training_set import (
    LabelledData,
    LabelledItem,
    check_labels,
    find_items,
    keep_items_with_classes,
    load_item,
)

logger = logging.getLogger(__name__)

Parts = tuple[HostIdentity, RWSConfig, SliceConfig, LabelledData, StageConfig, Schedule]
Seen = tuple[LabelledItem, Slice | None]  # a whole picture, or a window of it

_OWN_STEPS = ("iterations", "validate_every", "checkpoint_every")
_FREE = {"workers", "device"}  # may differ when a stopped run goes on


def train(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """Trains as the recipe says; returns the weight file `out_dir/<name>.safetensors`.

    Beside it are `<name>.best.safetensors`, the best stage on the pictures to score, `report.json`,
    and a folder for each stage and each round of slices.

    Args:
        recipe: keys are the fields of `HostIdentity`, `RWSConfig`, `SliceConfig`, `LabelledData`,
            `StageConfig` and `Schedule`. What is left out is as published.
        out_dir: receives all of it.
        resume: go on where a stopped run in `out_dir` was.
        dry_run: find the data, read one picture and all label maps, build the network, look for
            its layers; then stop.
        on_progress: called with finished and planned steps; in the search for weak slices, with
            pictures.

    Raises:
        UsageError: an unknown key, keys that contradict each other, an unknown layer, or `out_dir`
            holds another run.
        InputError: pictures, label maps or lists are missing or cannot be used.
        WeightsError: weights to start from are missing or of another network.
    """
    identity, config, slicing, data, stage, schedule = parse_recipe(recipe)
    _refuse_many_processes()
    items = find_items(data, data.train_list)
    held = find_items(data, data.validation_list) if data.validation_list else []
    path = out_dir / f"{identity.name}.safetensors"
    layers = choose_layers(identity.network, identity.layers)
    network = start_network(identity, seed=schedule.seed)
    measure_outputs(network.eval(), layers, stage.crop_px)
    load_item(items[0], data, identity.num_classes)
    check_labels([*items, *held], data, identity.num_classes)
    device = choose_device(schedule.device)
    if dry_run:
        return path
    _claim(out_dir, recipe, resume=resume)
    run = Run(
        identity=identity,
        config=config,
        slicing=slicing,
        data=data,
        stage=stage,
        schedule=schedule,
        out_dir=out_dir,
        device=device,
        on_progress=on_progress,
        items=keep_items_with_classes(items, data, identity.num_classes),
        held=held,
        layers=layers,
        start={k: v.clone() for k, v in network.state_dict().items()},
        done=0,
        report=_read_report(out_dir / "report.json"),
    )
    if stage.pretrain_epochs:
        first = train_stage(run, 0, [(item, None) for item in items], all_classes=True)
        run.start = copy_tensors(first)
    elif not (identity.init_from or identity.start_from):
        logger.warning(
            "all stages start from fresh weights: what the channels of one learn, those of another "
            "do not mean. Give init_from, or pretrain_epochs"
        )
    last = improve(run)
    _save(run, path, last.state_dict())
    best = pick_best(run)
    if best is not None:
        _save(run, path.with_suffix(".best.safetensors"), best)
    return path


def improve(run: Run) -> nn.Module:
    """Runs the rounds and returns the last network.

    Source: RWS section 6, "aligned trainer, step by step".
    """
    by_id = {item.id: item for item in run.items}
    whole: list[Seen] = [(item, None) for item in run.items] + _list_extra(run, by_id)
    network = train_stage(run, 1, whole)
    slices = find_slices(run, network, 1) if run.config.cycles else []
    for cycle in range(1, run.config.cycles + 1):
        if not slices:
            said = "already attends to all of its labels" if cycle == 1 else "no weak slice is left"
            run.note(ended=said)
            return network
        crops: list[Seen] = [(by_id[one.id], one) for one in slices]
        second = train_stage(run, 2 * cycle, _draw_some(crops, run, cycle))
        store = mix(run, network, second, slices, cycle)
        network = train_stage(run, 2 * cycle + 1, whole, store=store)
        previous, slices = len(slices), find_slices(run, network, cycle + 1)
        if abs(previous - len(slices)) < run.config.settled:
            run.note(ended=f"the number of slices settled: {previous}, then {len(slices)}")
            return network
    run.note(ended=f"all rounds done: {run.config.cycles}")
    return network


def find_slices(run: Run, network: nn.Module, cycle: int) -> list[Slice]:
    """Finds the weak slices of all pictures, or reads those that a stopped run has found."""
    path = run.out_dir / f"cycle-{cycle}" / "slices.jsonl"
    if not path.exists():
        save_slices(path, find_all_slices(run.sight, network, run.items, run.on_progress))
    slices = load_slices(path)
    run.note(**{f"slices-{cycle}": describe_slices(slices)})
    logger.info("round %d: %d weak slices", cycle, len(slices))
    return slices


def mix(
    run: Run, network: nn.Module, second: nn.Module, slices: Sequence[Slice], cycle: int
) -> MixStore:
    """Makes the mixing maps of all pictures with slices; says so when nothing gets mixed."""
    folder = run.out_dir / f"cycle-{cycle}" / "maps"
    if not is_finished(folder) or f"mixing-{cycle}" not in run.report:
        shares = write_mixing(run.sight, network, second, run.items, slices, folder)
        found = measure_foreground(run.sight, second, run.items, slices)
        run.note(**{f"mixing-{cycle}": {"slices_with_foreground": found, **shares}})
    store = MixStore(folder)
    if not len(store):
        logger.warning(
            "round %d: nothing gets mixed; of the slices %.0f %% have any pixel that the second "
            "stage predicts to be of their class. Train it longer, or raise slice_heat",
            cycle,
            100 * run.report.get(f"mixing-{cycle}", {}).get("slices_with_foreground", 0.0),
        )
    return store


def pick_best(run: Run) -> dict[str, Tensor] | None:
    """Returns the tensors of the plain or mixed stage that scored best, at its best epoch."""
    folders = sorted(run.out_dir.glob("stage-*"), key=lambda p: int(p.name.partition("-")[2]))
    odd = [folder for folder in folders if int(folder.name.partition("-")[2]) % 2]
    scored = [(Measures(folder / "scores.json").best(), folder) for folder in odd]
    known = [(score, folder) for score, folder in scored if score is not None]
    if not known:
        return None
    score, folder = max(known, key=lambda pair: pair[0])
    run.note(best={"stage": folder.name, "miou": score})
    return load_tensors(folder / "best.pt")


def parse_recipe(recipe: Mapping[str, Any]) -> Parts:
    """Splits a flat table into what it sets; unknown keys are refused by name."""
    for name in _OWN_STEPS:
        if name in recipe:
            raise UsageError(f"RWS goes by epochs, scores and saves after each; leave {name} out")
    table = {**PUBLISHED_SCHEDULE, **recipe, "iterations": 1}
    table.pop("method", None)
    kinds = [HostIdentity, RWSConfig, SliceConfig, LabelledData, StageConfig, Schedule]
    identity, config, slicing, data, stage, schedule = split_recipe(table, kinds)
    if schedule.batch_size < 2:
        raise UsageError("batch_size is 1; batch normalisation needs 2 or more pictures")
    layers = choose_layers(identity.network, identity.layers)
    wrong = [n for n in config.mixed_layers if not 0 <= n < len(layers)]
    if wrong:
        raise UsageError(f"mixed_layers names {wrong[0]}; expected 0 to {len(layers) - 1}")
    asked = (*data.classes, *data.pretrain_classes)
    high = [index for index in asked if index >= identity.num_classes]
    if high:
        raise UsageError(f"class {high[0]} asked for, but num_classes is {identity.num_classes}")
    return identity, config, slicing, data, stage, schedule


def _list_extra(run: Run, by_id: Mapping[str, LabelledItem]) -> list[Seen]:
    """Lists the slices of another run that whole stages see, too."""
    if not run.config.extra_slices:
        return []
    slices = load_slices(Path(run.config.extra_slices))
    unknown = [one.id for one in slices if one.id not in by_id]
    if unknown:
        raise InputError(f"{run.config.extra_slices}: {unknown[0]} is no picture to train on")
    return [(by_id[one.id], one) for one in slices]


def _draw_some(crops: list[Seen], run: Run, cycle: int) -> list[Seen]:
    """Draws what one stage can take, in the old order."""
    most = run.config.most_slices_trained
    if not most or len(crops) <= most:
        return crops
    random = np.random.default_rng([run.schedule.seed, 4, cycle])
    return [crops[k] for k in np.sort(random.choice(len(crops), size=most, replace=False))]


def _read_report(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _refuse_many_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("RWS trains in one process; start it without accelerate launch")


def _claim(out_dir: Path, recipe: Mapping[str, Any], *, resume: bool) -> None:
    """Marks a folder as that of this recipe's run.

    Raises:
        UsageError: it holds a run, and that is not to go on, or is of another recipe.
    """
    path = out_dir / "recipe.json"
    text = json.dumps(dict(recipe), indent=1, sort_keys=True) + "\n"
    if path.exists():
        if not resume:
            raise UsageError(f"{out_dir}: holds a run already; go on with --resume or name another")
        known, new = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        changed = {k for k in {**known, **new} if known.get(k) != new.get(k)} - _FREE
        if changed:
            raise UsageError(
                f"{out_dir}: the run there has another {min(changed)}; set it back, or name "
                "another folder"
            )
    with replace_when_done(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _save(run: Run, path: Path, state: Mapping[str, Tensor]) -> None:
    header = {
        "name": path.stem,
        "method": run.identity.network,
        "licence": run.identity.licence,
        "config": {
            "num_classes": run.identity.num_classes,
            "side_px": run.stage.base_px,
            "layers": list(run.layers),
        },
        "report": run.report,
    }
    save_weights(path, dict(state), header, half=False)
