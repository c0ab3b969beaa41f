"""One stage of RWS: a network learns from pictures or slices, from the common start.

Source: RWS sections 5.3 and 6.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskhone.data.files import replace_when_done
from maskhone.engine.train import Batch, ParameterGroup, Schedule, Validate, fit
from maskhone.errors import InputError
from maskhone.methods.rws.config import HostIdentity, RWSConfig, StageConfig
from maskhone.methods.rws.fusion import mix_into
from maskhone.methods.rws.host import build_host, load_matching, measure_outputs, read_tensors
from maskhone.methods.rws.loss import (
    AUXILIARY_RATE,
    published_rate_factor,
    segmentation_loss,
)
from maskhone.methods.rws.rounds import Measures, Sight, predict
from maskhone.methods.rws.slices import Slice, SliceConfig
from maskhone.methods.rws.store import MixStore
from maskhone.methods.rws.training_set import (
    LabelledData,
    LabelledItem,
    Mixing,
    StageSource,
    collate,
    load_item,
    take_cells,
)
from maskhone.metrics.region import ClassScores

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(kw_only=True)
class Run:
    """Everything that the stages of one training share.

    Attributes:
        items: to train on.
        held: to score.
        layers: names of the stages of the network.
        start: tensors that every stage starts from.
        done: steps of finished stages.
        report: what `report.json` will say.
    """

    identity: HostIdentity
    config: RWSConfig
    slicing: SliceConfig
    data: LabelledData
    stage: StageConfig
    schedule: Schedule
    out_dir: Path
    device: torch.device
    on_progress: Progress | None
    items: list[LabelledItem]
    held: list[LabelledItem]
    layers: tuple[str, ...]
    start: dict[str, Tensor]
    done: int
    report: dict[str, Any]

    @property
    def sight(self) -> Sight:
        """How pictures are looked at."""
        return Sight(
            config=self.config,
            slicing=self.slicing,
            data=self.data,
            layers=self.layers,
            num_classes=self.identity.num_classes,
            device=self.device,
            seed=self.schedule.seed,
        )

    def note(self, **facts: Any) -> None:
        """Adds to the report on disk."""
        self.report |= facts
        with replace_when_done(self.out_dir / "report.json") as unfinished:
            unfinished.write_text(json.dumps(self.report, indent=1) + "\n", encoding="utf-8")


def train_stage(
    run: Run,
    number: int,
    items: Sequence[tuple[LabelledItem, Slice | None]],
    *,
    store: MixStore | None = None,
    all_classes: bool = False,
) -> nn.Module:
    """Trains one stage from the common start, or takes up what a stopped run has of it.

    Odd stages, which see whole pictures, see the same ones in the same order, changed alike.

    Args:
        run: the training.
        number: of the stage; 0 makes the start, even ones see slices.
        items: pictures or windows of them.
        store: what is mixed in.
        all_classes: see the classes of the pre-training.
    """
    folder = run.out_dir / f"stage-{number}"
    network = start_network(run.identity, seed=run.schedule.seed, tensors=run.start)
    if run.config.stage_start == "previous" and number > 1:
        network.load_state_dict(load_tensors(run.out_dir / f"stage-{number - 1}" / "network.pt"))
    epochs = run.stage.epochs if number else run.stage.pretrain_epochs
    source = StageSource(
        items,
        run.data,
        run.stage,
        num_classes=run.identity.num_classes,
        batch_size=run.schedule.batch_size,
        seed=[run.schedule.seed, min(number, 1) if number % 2 or not number else 2],
        all_classes=all_classes,
        mixing=_make_mixing(run, network, store),
    )
    steps = source.steps_per_epoch
    total = steps * epochs
    if (folder / "network.pt").exists():
        network.load_state_dict(load_tensors(folder / "network.pt"))
        run.done += total
        return network.to(run.device).eval()

    def report(done: int, planned: int) -> None:
        if run.on_progress is not None:
            run.on_progress(run.done + done, run.done + planned)

    measures = Measures(folder / "scores.json")
    measures.keep(_count_steps(folder / "checkpoint.pt") // steps)
    with torch.random.fork_rng():
        torch.manual_seed(run.schedule.seed)
        fit(
            network,
            make_loss(run.layers),
            source,
            collate,
            schedule=replace(
                run.schedule, iterations=total, validate_every=steps, checkpoint_every=steps
            ),
            out_dir=folder,
            resume=True,
            validate=make_validation(run, measures, all_classes=all_classes),
            groups=group_parameters,
            rate_of=_make_rate(run, total, steps),
            on_progress=report,
        )
    run.done += total
    stages = {**run.report.get("stages", {}), str(number): {"steps": total, **measures.last()}}
    run.note(stages=stages)  # before the network, which says that the stage is done
    tensors = copy_tensors(network)
    with replace_when_done(folder / "network.pt") as unfinished:
        torch.save(tensors, unfinished)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    # a network that was trained in bf16 would go on in it; one that is read again would not
    ready = start_network(run.identity, seed=run.schedule.seed, tensors=tensors)
    return ready.to(run.device).eval()


def make_loss(layers: Sequence[str]) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """Returns the loss of a batch, with the features of its cells mixed in where it has some."""

    def loss_of(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        cells = take_cells(batch)
        if not cells:
            return {"loss": segmentation_loss(network(batch["inputs"]), batch["target"])}
        with mix_into(network, layers, cells):
            output = network(batch["inputs"])
        mixed = torch.tensor(float(sum(len(keep) for _, keep, _ in cells)))
        return {"loss": segmentation_loss(output, batch["target"]), "mixed_cells": mixed}

    return loss_of


def group_parameters(network: nn.Module) -> list[ParameterGroup]:
    """Gives a second head ten times the rate of the rest, as published."""
    named = list(network.named_parameters())
    of_head = tuple(p for name, p in named if name.startswith("aux_classifier."))
    others = tuple(p for name, p in named if not name.startswith("aux_classifier."))
    return [
        ParameterGroup(parameters=others),
        ParameterGroup(parameters=of_head, rate_factor=AUXILIARY_RATE),
    ]


def make_validation(run: Run, measures: Measures, *, all_classes: bool) -> Validate | None:
    """Returns what scores the network plainly on the pictures held for that, at their own size."""
    if not run.held:
        return None

    def validate(network: nn.Module) -> dict[str, float]:
        scores = ClassScores(run.identity.num_classes)
        for item in run.held:
            image, label = load_item(
                item, run.data, run.identity.num_classes, all_classes=all_classes
            )
            prediction = predict(network, image, side_px=run.stage.base_px)
            scores.update(prediction, label)
        return measures.add(scores, network)

    return validate


def start_network(
    identity: HostIdentity, *, seed: int, tensors: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Builds the network with the weights that every stage starts from."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_host(identity.network, identity.num_classes)
    source = identity.init_from or identity.start_from
    if tensors is not None:
        network.load_state_dict(dict(tensors))
    elif source:
        fresh = load_matching(
            network, read_tensors(Path(source)), num_classes=identity.num_classes, source=source
        )
        if fresh:
            logger.warning("%s: %d tensors start fresh, such as %s", source, len(fresh), fresh[0])
    return network


def _make_mixing(run: Run, network: nn.Module, store: MixStore | None) -> Mixing | None:
    if store is None:
        return None
    ids = store.ids
    if run.config.assignment == "shuffled" and len(ids) == 1:
        logger.warning(
            "%s is the only picture into which anything is mixed: there is no other whose maps it "
            "could get (assignment is shuffled), so nothing is mixed",
            ids[0],
        )
        return None
    turned = dict(zip(ids, [*ids[1:], *ids[:1]], strict=True))
    return Mixing(
        store=store,
        shapes=measure_outputs(network, run.layers, run.stage.crop_px),
        layers=run.config.mixed_layers or range(len(run.layers)),
        probability=run.config.mix_probability,
        ids=turned if run.config.assignment == "shuffled" else {},
    )


def _make_rate(run: Run, steps: int, per_epoch: int) -> Callable[[int], float] | None:
    if run.stage.rate != "published":
        return None
    rate = run.schedule.learning_rate
    return lambda step: rate * published_rate_factor(step, steps=steps, warmup_steps=per_epoch)


def copy_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Copies the tensors of a network to the CPU."""
    return {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}


def _count_steps(path: Path) -> int:
    """Reads how many steps a checkpoint has behind it."""
    if not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True)["done"])


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what a stage has saved.

    Raises:
        InputError: it cannot be read.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove the stage's folder") from error
    return state
