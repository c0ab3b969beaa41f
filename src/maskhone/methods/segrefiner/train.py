"""Trains a SegRefiner network from a recipe and packs it as weights."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskhone.engine.recipe import Identity, split_recipe
from maskhone.engine.train import Batch, LossFunction, Schedule, fit
from maskhone.engine.weights import open_weights, save_weights
from maskhone.methods.segrefiner.config import SegRefinerConfig
from maskhone.methods.segrefiner.diffusion import DiffusionSchedule, SeededNoise, draw_mask
from maskhone.methods.segrefiner.loss import batch_iou, mask_loss, texture_loss
from maskhone.methods.segrefiner.refine import fill_network, make_network
from maskhone.methods.segrefiner.training_set import (
    Mixture,
    TrainingData,
    ViewSource,
    collate,
    open_gallery,
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
        recipe: keys are the fields of `Identity`, `SegRefinerConfig`, `TrainingData`, `Mixture`
            and `Schedule`.
        out_dir: receives the checkpoint, the log and the weights.
        resume: go on from the checkpoint in `out_dir`.
        dry_run: open the data and the weights to start from, then stop.
        on_progress: called with finished and planned steps.
    """
    identity, config, data, mixture, schedule = parse_recipe(recipe)
    source = ViewSource(open_gallery(data), config, mixture, seed=schedule.seed)
    path = out_dir / f"{identity.name}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        network = make_network(config)
    if identity.start_from:
        start, state, _ = open_weights(identity.start_from, "segrefiner")
        fill_network(network, state, config, source=str(start))
    if dry_run:
        return path
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(
        network,
        make_loss(config.schedule),
        source,
        collate,
        schedule=schedule,
        out_dir=out_dir,
        resume=resume,
        on_progress=on_progress,
    )
    header = {
        "name": identity.name,
        "method": "segrefiner",
        "licence": identity.licence,
        "config": asdict(config),
        "recipe": dict(recipe),
    }
    return save_weights(path, network.state_dict(), header)


def parse_recipe(
    recipe: Mapping[str, Any],
) -> tuple[Identity, SegRefinerConfig, TrainingData, Mixture, Schedule]:
    """Splits a flat table into what it sets; unknown keys are refused by name."""
    table = {k: v for k, v in recipe.items() if k != "method"}
    parts = split_recipe(table, [Identity, SegRefinerConfig, TrainingData, Mixture, Schedule])
    identity, config, data, mixture, schedule = parts
    return identity, config, data, mixture, schedule


def make_loss(diffusion: DiffusionSchedule) -> LossFunction:
    """Returns the loss of one batch: cross entropy and edges of the mask predicted at step t.

    The log also holds the mean IoU of the predictions. Where it falls to 0 and stays there, the
    training has collapsed to background.

    Source: SegRefiner section 6.1.
    """

    def loss_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        bare: Any = getattr(network, "module", network)  # DistributedDataParallel wraps it
        noise = SeededNoise(batch["noise_seed"].tolist(), batch["target"].device)
        mask = draw_mask(batch["target"], batch["coarse"], batch["step"], diffusion, noise)
        rgb = bare.normalise(batch["rgb"].float())
        logits = network(torch.cat([rgb, mask], dim=1), batch["step"])
        with torch.autocast(logits.device.type, enabled=False):  # edges need float32
            logits, target = logits.float(), batch["target"]
            loss = mask_loss(logits, target) + texture_loss(logits, target)
            return {"loss": loss, "iou": batch_iou(logits, target).mean()}

    return loss_of
