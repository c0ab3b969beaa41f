"""Trains a PatchRefineNet from a recipe and packs it as weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from maskhone.contracts import FOREGROUND
from maskhone.data.score_maps import MapItem
from maskhone.engine.epochs import Epochs
from maskhone.engine.plateau import PUBLISHED_RULES, PlateauRule
from maskhone.engine.recipe import Identity, split_recipe
from maskhone.engine.train import Batch, LossFunction, Schedule, Validate, fit
from maskhone.engine.weights import open_weights, save_weights
from maskhone.errors import UsageError
from maskhone.methods.prn.config import PRNConfig
from maskhone.methods.prn.loss import LOSSES
from maskhone.methods.prn.merge import merge_scores
from maskhone.methods.prn.network import PRN, choose_statistics
from maskhone.methods.prn.refine import build_network
from maskhone.methods.prn.training_set import (
    MapSource,
    TrainingData,
    collate,
    load_maps,
    split_items,
)

_RULE = PUBLISHED_RULES["prn"]
_WATCHED = {"validation": "loss", "iou": "lack", "training": ""}
"""What can be watched, and the figure of the validation that is to fall."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How training goes from epoch to epoch; the numbers are the published ones.

    Attributes:
        epochs: at most; 300 as published. 0 goes by the `iterations` of the recipe.
        watch: what has to get better: the loss on the held-out maps (`validation`), their mean
            `iou` once merged, or the `training` loss. The loss of maps that never reach one half
            can be low. Differs: the original watches the training loss.
        patience: after more bad epochs in a row, each further one goes back to the best weights
            and lowers the rate.
        limit: after more bad epochs in a row training stops.
        factor: the rate is multiplied by it.
        least_rate: training stops instead of lowering a rate below this.
        epoch_iterations: steps of an epoch; 0: once through the maps.
        rate: `plateau` follows what is watched; `polynomial` follows `Schedule`, and what is
            watched only chooses the best weights.
        loss: `published`, or `overlap`, see `overlap_loss`.
    """

    epochs: int = 0
    watch: Literal["validation", "iou", "training"] = "validation"
    patience: int = _RULE.patience
    limit: int = _RULE.limit
    factor: float = _RULE.factor
    least_rate: float = _RULE.least_rate
    epoch_iterations: int = 0
    rate: Literal["plateau", "polynomial"] = "plateau"
    loss: Literal["published", "overlap"] = "published"

    def __post_init__(self) -> None:
        for name, known in (
            ("watch", _WATCHED),
            ("rate", ("plateau", "polynomial")),
            ("loss", LOSSES),
        ):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected {', '.join(known)}")
        for name in ("epochs", "epoch_iterations"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 or more")
        _ = self.rule

    @property
    def rule(self) -> PlateauRule | None:
        """When to go back, and when to stop."""
        if self.rate == "polynomial":
            return None
        return PlateauRule(
            patience=self.patience,
            limit=self.limit,
            factor=self.factor,
            least_rate=self.least_rate,
        )


def train(
    recipe: Mapping[str, Any],
    *,
    out_dir: Path,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Trains as the recipe says; returns the weight file `out_dir/<name>.safetensors`.

    Args:
        recipe: keys are the fields of `Identity`, `PRNConfig`, `TrainingData`, `Course` and
            `Schedule`.
        out_dir: receives the checkpoint, the log and the weights.
        resume: go on from the checkpoint in `out_dir`.
        dry_run: find the maps, read one, and the weights to start from; then stop.
        on_progress: called with finished and planned steps.

    Raises:
        UsageError: an unknown key, or keys that contradict each other.
        InputError: maps, truths or lists are missing or cannot be used.
    """
    identity, config, data, course, schedule = parse_recipe(recipe)
    kept, held = split_items(data, seed=schedule.seed)
    if _WATCHED[course.watch] and not held:
        raise UsageError(
            f"watch is {course.watch!r}, but no maps are held back; give held_share or a "
            'validation_list, or watch = "training" as published'
        )
    source = MapSource(kept, config, data, seed=schedule.seed)
    network = make_network(identity, config, seed=schedule.seed)
    epochs = Epochs(
        iterations=course.epoch_iterations or len(kept) // schedule.batch_size,
        rule=course.rule,
        watched=_WATCHED[course.watch],
        scores_start=bool(config.residual or identity.start_from) and bool(_WATCHED[course.watch]),
    )
    if course.epochs:
        schedule = replace(schedule, iterations=course.epochs * epochs.iterations)
    path = out_dir / f"{identity.name}.safetensors"
    if dry_run:
        _ = source[0]
        return path
    fit(
        network,
        make_loss(config, course.loss),
        source,
        collate,
        schedule=schedule,
        out_dir=out_dir,
        resume=resume,
        validate=make_validation(
            held, config, data, loss=course.loss, batch_size=schedule.batch_size
        ),
        epochs=epochs,
        syncs_norms=config.bn == "eval",
        on_progress=on_progress,
    )
    header = {
        "name": identity.name,
        "method": "prn",
        "licence": identity.licence,
        "config": asdict(config),
        "recipe": dict(recipe),
        "maps": {"trained_on": len(kept), "held_out": len(held)},
    }
    return save_weights(path, network.state_dict(), header)


def parse_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, PRNConfig, TrainingData, Course, Schedule]:
    """Splits a flat table into what it sets; unknown keys are refused by name.

    With `epochs` the number of steps is known only once the maps are; until then it is 1.
    """
    table = {k: v for k, v in recipe.items() if k != "method"}
    if table.get("epochs"):
        if "iterations" in table:
            raise UsageError("the recipe has epochs and iterations; leave one of them out")
        table["iterations"] = 1
    parts = split_recipe(table, [Identity, PRNConfig, TrainingData, Course, Schedule])
    identity, config, data, course, schedule = parts
    return identity, config, data, course, schedule


def make_network(identity: Identity, config: PRNConfig, *, seed: int) -> PRN:
    """Makes the network to train: new, or of the weights to start from.

    Raises:
        WeightsError: those are of another method or network.
    """
    if identity.start_from:
        path, state, _ = open_weights(identity.start_from, "prn")
        return build_network(state, config, source=str(path))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PRN(config.spec)
    choose_statistics(network, of_each_map=config.bn == "batch")
    return network


def make_loss(config: PRNConfig, loss: str = "published") -> LossFunction:
    """Returns the loss of a batch; the log also holds the IoU with pseudo-label and truth.

    Source: PatchRefineNet sections 5 and 6; the arguments in the intended order.
    """

    def loss_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found = network(batch["scores"], has_row_quirk=config.has_row_quirk)
        with torch.autocast(batch["scores"].device.type, enabled=False):
            branches = [x.float().sigmoid() for x in found if x is not None]
            return {
                "loss": LOSSES[loss](branches, batch["label"], batch["truth"]),
                "iou_label": _smoothed_iou(branches[0].detach(), batch["label"]),
                "iou_truth": _smoothed_iou(branches[0].detach(), batch["truth"]),
            }

    return loss_of


def make_validation(
    items: Sequence[MapItem],
    config: PRNConfig,
    data: TrainingData,
    *,
    loss: str = "published",
    batch_size: int,
) -> Validate | None:
    """Returns what scores the network on held-out maps; None where there are none.

    It says the mean `loss` of a map, and the mean IoU over maps of the merged mask and, as
    `iou_before`, of the base model's own at one half, both at the network's size; `lack` is what
    `iou` lacks to 1.
    """
    if not items:
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        rows = []
        for start in range(0, len(items), batch_size):
            maps = [load_maps(item, config, data) for item in items[start : start + batch_size]]
            batch = {name: values.to(device) for name, values in collate(maps).items()}
            found = network(batch["scores"], has_row_quirk=config.has_row_quirk)
            branches = [x.float().sigmoid() for x in found if x is not None]
            for i, (scores, _, truth) in enumerate(maps):
                one = [branch[i : i + 1] for branch in branches]
                with torch.autocast(device.type, enabled=False):
                    lost = LOSSES[loss](one, batch["label"][i : i + 1], batch["truth"][i : i + 1])
                arrays = [branch[0, 0].cpu().numpy() for branch in one]
                merged = merge_scores(
                    arrays[0], arrays[1] if len(arrays) > 1 else None, config.merge
                )
                rows.append((float(lost), _iou(merged, truth), _iou(scores, truth)))
        lost, after, before = np.mean(rows, axis=0).tolist()
        return {"loss": lost, "iou": after, "lack": 1 - after, "iou_before": before}

    return validate


def _smoothed_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """Computes the IoU of a batch as logged by the original: 0.5 is inside, smoothed by 1."""
    inside, truth = prediction >= FOREGROUND, target >= FOREGROUND
    return ((inside & truth).sum() + 1) / ((inside | truth).sum() + 1)


def _iou(scores: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    inside, is_object = scores > FOREGROUND, truth > FOREGROUND
    either = int(np.count_nonzero(inside | is_object))
    return int(np.count_nonzero(inside & is_object)) / either if either else 1.0
