"""Trains a BPR network from a recipe and packs it as weights."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from maskhone.engine.recipe import Identity, split_recipe
from maskhone.engine.train import Batch, Schedule, Validate, fit
from maskhone.engine.weights import open_weights, save_weights
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.convert import load_imagenet_backbone
from maskhone.methods.bpr.network import HRNETS, BPRNetwork, initialise, resize
from maskhone.methods.bpr.refine import fill_network
from maskhone.methods.bpr.training_set import (
    Mixture,
    TrainingData,
    collate,
    make_patch_source,
    make_validation_source,
)
from maskhone.metrics.region import ClassScores


@dataclass(frozen=True, kw_only=True)
class PretrainedIdentity(Identity):
    """What the weights are called and come from, a pretrained part among that.

    Attributes:
        init_from: an ImageNet HRNetV2 checkpoint for the backbone; empty for fresh weights.
    """

    init_from: str = ""


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
        recipe: keys are the fields of `PretrainedIdentity`, `BPRConfig`, `TrainingData`,
            `Mixture` and `Schedule`.
        out_dir: receives the checkpoint, the log and the weights.
        resume: go on from the checkpoint in `out_dir`.
        dry_run: open the data and the weights to start from, then stop.
        on_progress: called with finished and planned steps.
    """
    identity, config, data, mixture, schedule = parse_recipe(recipe)
    source = make_patch_source(data, config, mixture, seed=schedule.seed)
    path = out_dir / f"{identity.name}.safetensors"
    network = BPRNetwork(HRNETS[config.network])
    initialise(network, torch.Generator().manual_seed(schedule.seed))
    if identity.start_from:
        start, state, _ = open_weights(identity.start_from, "bpr")
        fill_network(network, state, config, source=str(start))
    if identity.init_from:
        load_imagenet_backbone(network, Path(identity.init_from))
    if dry_run:
        return path
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(
        network,
        patch_loss,
        source,
        collate,
        schedule=schedule,
        out_dir=out_dir,
        resume=resume,
        validate=make_validation(data, config, mixture, schedule),
        on_progress=on_progress,
    )
    return save_weights(
        path,
        network.state_dict(),
        {
            "name": identity.name,
            "method": "bpr",
            "licence": identity.licence,
            "config": asdict(config),
            "recipe": dict(recipe),
        },
    )


def parse_recipe(
    recipe: Mapping[str, Any],
) -> tuple[PretrainedIdentity, BPRConfig, TrainingData, Mixture, Schedule]:
    """Splits a flat table into what it sets; unknown keys are refused by name."""
    table = {k: v for k, v in recipe.items() if k != "method"}
    parts = split_recipe(table, [PretrainedIdentity, BPRConfig, TrainingData, Mixture, Schedule])
    identity, config, data, mixture, schedule = parts
    return identity, config, data, mixture, schedule


def make_validation(
    data: TrainingData, config: BPRConfig, mixture: Mixture, schedule: Schedule
) -> Validate | None:
    """Returns what scores a network on the validation patches, or None without such data.

    The figures are `mIoU`, `mAcc` and `aAcc` of the patches' label maps, as published.

    Source: BPR section 6; open-mmlab/mmsegmentation 0.7 `mean_iou`.
    """
    source = make_validation_source(data, config, mixture, seed=schedule.seed)
    if source is None:
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        bare: Any = network
        scores = ClassScores(2)
        for start in range(0, len(source), schedule.batch_size):
            numbers = range(start, min(start + schedule.batch_size, len(source)))
            batch = collate([source[i] for i in numbers])
            device = next(network.parameters()).device
            rgb, score = batch["rgb"].to(device), batch["score"].to(device)
            logits = network(bare.prepare(rgb.float(), score)).float()
            target = batch["target"].numpy()
            scores.update(resize(logits, target.shape[1:]).argmax(dim=1).cpu().numpy(), target)
        found = scores.compute()
        return {name: float(found[name]) for name in ("mIoU", "mAcc", "aAcc")}

    return validate


def patch_loss(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Computes the mean cross entropy over all pixels of all patches, logits enlarged to S.

    Source: BPR section 6.
    """
    bare: Any = getattr(network, "module", network)  # DistributedDataParallel wraps it
    inputs = bare.prepare(batch["rgb"].float(), batch["score"])
    logits = network(inputs)
    target = batch["target"]
    return {"loss": cross_entropy(resize(logits.float(), target.shape[1:]), target)}
