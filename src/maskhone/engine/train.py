"""One training loop, on top of Accelerate; it knows nothing of methods.

A data set is indexed by the running number of the sample: item i is a pure function of i and the
seed. So a stopped run goes on with exactly the samples it would have seen, whatever the number of
loader processes.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from maskhone.data.files import replace_when_done
from maskhone.engine.epochs import Epochs, EpochWatch
from maskhone.engine.infer import choose_device
from maskhone.engine.randomness import get_random_state, set_random_state
from maskhone.errors import InputError, MissingExtraError, UsageError, WeightsError

logger = logging.getLogger(__name__)

Batch = Mapping[str, Tensor]
LossFunction = Callable[[nn.Module, Batch], Mapping[str, Tensor]]
"""Gives `loss`, the scalar to make small, and what else is to be logged."""
Collate = Callable[[list[Any]], Batch]
Validate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that are trained in one way.

    Attributes:
        parameters: of the network.
        rate_factor: by which the schedule's rate is multiplied.
        weight_decay: None takes the schedule's.
    """

    parameters: tuple[nn.Parameter, ...]
    rate_factor: float = 1.0
    weight_decay: float | None = None


Groups = Callable[[nn.Module], Sequence[ParameterGroup]]


class SampleSource(Protocol):
    """A data set without an end: any index gives a sample, and always the same one."""

    def __getitem__(self, index: int) -> Any:
        """Returns sample number `index`."""
        ...


_RATE_FACTOR = "rate_factor"

_POSITIVE = (
    "iterations",
    "batch_size",
    "learning_rate",
    "checkpoint_every",
    "log_every",
    "validate_every",
)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How to optimise.

    Attributes:
        iterations: optimiser steps.
        batch_size: items of the data set per step, over all processes.
        optimizer: `sgd`, `adam` or `adamw`.
        momentum: of `sgd`.
        nesterov: look ahead along the momentum, with `sgd`.
        learning_rate: at the start, after the warm-up.
        min_learning_rate: at the end.
        power: of the polynomial decay.
        milestones: when given, the rate is multiplied by `milestone_factor` at each of these steps
            and does not fall otherwise.
        milestone_factor: see `milestones`.
        warmup_iterations: steps over which the rate rises linearly from zero.
        weight_decay: on all parameters, unless their group has its own.
        clip_norm: largest gradient norm; 0 does not clip.
        precision: `fp32` or `bf16` autocast.
        seed: of the weights and of the data.
        checkpoint_every: steps between checkpoints.
        log_every: steps between log lines.
        validate_every: steps between validations, when there is data for them.
        workers: loader processes.
        device: `auto`, `cpu`, `cuda`, `mps`; several processes each have their own with `auto`.
    """

    iterations: int
    batch_size: int
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    learning_rate: float = 0.01
    min_learning_rate: float = 1e-4
    power: float = 0.9
    milestones: tuple[int, ...] = ()
    milestone_factor: float = 0.5
    warmup_iterations: int = 0
    weight_decay: float = 5e-4
    clip_norm: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    checkpoint_every: int = 1000
    log_every: int = 50
    validate_every: int = 1000
    workers: int = 2
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise UsageError(f"optimizer is {self.optimizer!r}; expected sgd, adam or adamw")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum is {self.momentum}; expected 0 or more, below 1")
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise UsageError('nesterov goes with optimizer = "sgd" and a momentum above 0')
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"precision is {self.precision!r}; expected fp32 or bf16")


def poly_learning_rate(
    iteration: int,
    *,
    iterations: int,
    start: float,
    end: float,
    power: float,
    warmup_iterations: int = 0,
) -> float:
    """Returns the rate of one step of the polynomial schedule with a floor.

    Source: open-mmlab/mmcv 1.1.6 `PolyLrUpdaterHook`; BPR section 6.

    Example:
        >>> poly_learning_rate(0, iterations=100, start=0.01, end=1e-4, power=0.9)
        0.01
    """
    rate: float = (start - end) * (1 - iteration / iterations) ** power + end
    if iteration < warmup_iterations:
        rate *= (iteration + 1) / warmup_iterations
    return rate


def fit(
    network: nn.Module,
    loss_of: LossFunction,
    samples: SampleSource,
    collate: Collate,
    *,
    schedule: Schedule,
    out_dir: Path,
    resume: bool = False,
    validate: Validate | None = None,
    epochs: Epochs | None = None,
    syncs_norms: bool = True,
    groups: Groups | None = None,
    rate_of: Callable[[int], float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Trains a network in place and returns it; checkpoints and a log go to `out_dir`.

    Args:
        network: parameters to train.
        loss_of: gives the scalar `loss` of a batch, and other scalars for the log.
        samples: any index gives a sample; sample numbers 0, 1, 2, ... are used in order.
        collate: joins samples into a batch.
        schedule: how to optimise.
        out_dir: receives `checkpoint.pt` (the last) and `log.jsonl`.
        resume: go on from `checkpoint.pt` when there is one.
        validate: scores the network, in eval mode; its figures go to the log.
        epochs: when given, `validate` runs at the end of each epoch, the best weights are returned,
            and a rule may set the rate and stop early.
        syncs_norms: with several processes, batch normalisation sees the batches of all.
        groups: which parameters are trained, and how; None trains all alike.
        rate_of: when given, the rate of each step, in place of the schedule's.
        on_progress: called with finished and planned steps.

    Under `accelerate launch` every process takes its share of each batch.
    """
    accelerator = _make_accelerator(schedule)
    if accelerator.num_processes > 1 and syncs_norms:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    optimizer = _make_optimizer(network, schedule, groups)
    network, optimizer = accelerator.prepare(network, optimizer)
    bare: nn.Module = accelerator.unwrap_model(network)
    out_dir.mkdir(parents=True, exist_ok=True)
    watch = EpochWatch(epochs, schedule.learning_rate, bare) if epochs else None
    start, random = _load_checkpoint(out_dir, bare, optimizer, watch) if resume else (0, {})
    log = _Log(out_dir / "log.jsonl", start=start, is_main=accelerator.is_main_process)
    if watch and watch.epochs.scores_start and not start:
        _finish_epoch(watch, validate, bare, accelerator, log, 0)
    network.train()
    batches = _batches(samples, collate, schedule, start, accelerator)
    for step, batch in enumerate(() if watch and watch.is_stopped else batches, start=start):
        if step == start and accelerator.is_main_process:  # after the loader has drawn its seed
            set_random_state(random)
        if watch and watch.epochs.rule:
            rate = watch.plateau.learning_rate
        else:
            rate = rate_of(step) if rate_of else learning_rate(schedule, step)
        _set_learning_rate(optimizer, rate)
        with accelerator.autocast():
            found = loss_of(network, batch)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(found["loss"])
        if schedule.clip_norm > 0:
            accelerator.clip_grad_norm_(network.parameters(), schedule.clip_norm)
        optimizer.step()
        done = step + 1
        is_last = done == schedule.iterations
        log.add(found)
        if done % schedule.log_every == 0 or is_last:
            log.write(done, rate)
        if watch:
            watch.add(found["loss"])
            if done % watch.epochs.iterations == 0 or is_last:
                _finish_epoch(watch, validate, bare, accelerator, log, done)
                is_last = is_last or watch.is_stopped
        elif validate and (done % schedule.validate_every == 0 or is_last):
            log.note(done, _run_validation(validate, bare, accelerator))
        if on_progress is not None:
            on_progress(done, schedule.iterations)
        if done % schedule.checkpoint_every == 0 or is_last:
            if accelerator.is_main_process:
                _save_checkpoint(out_dir, bare, optimizer, watch, done)
            accelerator.wait_for_everyone()
        if is_last:
            break
    if watch:
        bare.load_state_dict(watch.best)
    return bare.eval()


def _finish_epoch(
    watch: EpochWatch,
    validate: Validate | None,
    network: nn.Module,
    accelerator: Any,
    log: "_Log",
    done: int,
) -> None:
    """Scores the network and lets the rule decide, alike on every process."""
    figures = (
        {"training_loss": float(accelerator.reduce(watch.mean_loss(), "mean"))} if done else {}
    )
    scores = dict(_run_validation(validate, network, accelerator)) if validate else {}
    if watch.epochs.watched:
        found = torch.tensor(scores.get(watch.epochs.watched, 0.0), device=accelerator.device)
        score = float(accelerator.reduce(found, "sum"))  # the others hold 0
    else:
        score = figures["training_loss"]
    advice = watch.finish(network, score)
    log.note(done, {**figures, **scores})
    logger.info("step %d, %s", done, advice)


def _run_validation(
    validate: Validate, network: nn.Module, accelerator: Any
) -> Mapping[str, float]:
    """Scores on the first process; the others wait."""
    scores: Mapping[str, float] = {}
    if accelerator.is_main_process:
        network.eval()
        with torch.inference_mode(), accelerator.autocast():
            scores = validate(network)
        network.train()
    accelerator.wait_for_everyone()
    return scores


def _make_accelerator(schedule: Schedule) -> Any:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, PartialState
    except ImportError as error:
        raise MissingExtraError("accelerate", extra="train") from error
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    # The precision and the device of one training would bind the next, too.
    AcceleratorState._reset_state(reset_partial_state=is_alone)
    if schedule.device != "auto":
        if not is_alone:
            raise UsageError(
                f"device is {schedule.device!r}, but there are several processes, each with a "
                'device of its own; leave it out, or say device = "auto"'
            )
        PartialState().device = choose_device(schedule.device)
    return Accelerator(mixed_precision="bf16" if schedule.precision == "bf16" else "no")


def _make_optimizer(
    network: nn.Module, schedule: Schedule, groups: Groups | None
) -> torch.optim.Optimizer:
    parameters = network.parameters() if groups is None else _list_groups(groups(network))
    rate, decay = schedule.learning_rate, schedule.weight_decay
    if schedule.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=rate,
            momentum=schedule.momentum,
            nesterov=schedule.nesterov,
            weight_decay=decay,
        )
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


def _list_groups(groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    """Lists what a torch optimizer takes; the factor of the rate is kept in the groups."""
    listed = []
    for group in groups:
        own = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
        if group.parameters:
            named = {"params": list(group.parameters), _RATE_FACTOR: group.rate_factor}
            listed.append({**named, **own})
    return listed


def learning_rate(schedule: Schedule, step: int) -> float:
    """Returns the rate of one step.

    Example:
        >>> schedule = Schedule(iterations=9, batch_size=1, learning_rate=0.4, milestones=(3, 6))
        >>> [learning_rate(schedule, step) for step in (2, 3, 6)]
        [0.4, 0.2, 0.1]
    """
    if schedule.milestones:
        passed = sum(step >= milestone for milestone in schedule.milestones)
        warm = min((step + 1) / max(schedule.warmup_iterations, 1), 1.0)
        return schedule.learning_rate * schedule.milestone_factor**passed * warm
    return poly_learning_rate(
        step,
        iterations=schedule.iterations,
        start=schedule.learning_rate,
        end=schedule.min_learning_rate,
        power=schedule.power,
        warmup_iterations=schedule.warmup_iterations,
    )


def _set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_RATE_FACTOR, 1.0)


class _Numbered(Dataset[Any]):
    """Gives a SampleSource the type a DataLoader asks for."""

    def __init__(self, samples: SampleSource) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def _batches(
    samples: SampleSource, collate: Collate, schedule: Schedule, start: int, accelerator: Any
) -> Iterator[Batch]:
    """Yields the batches of the steps from `start` on, this process's share of each."""
    share, remainder = divmod(schedule.batch_size, accelerator.num_processes)
    if remainder:
        raise UsageError(
            f"batch_size is {schedule.batch_size}; expected a multiple of the "
            f"{accelerator.num_processes} processes"
        )
    first = accelerator.process_index * share
    numbers = [
        [step * schedule.batch_size + first + i for i in range(share)]
        for step in range(start, schedule.iterations)
    ]
    loader = DataLoader(
        _Numbered(samples),
        batch_sampler=numbers,
        collate_fn=collate,
        num_workers=schedule.workers,
        pin_memory=accelerator.device.type == "cuda",
        prefetch_factor=4 if schedule.workers else None,
        worker_init_fn=_use_one_thread,
    )
    try:
        for batch in loader:
            yield {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
    except (InputError, UsageError, WeightsError) as error:
        raise type(error)(_strip_traceback(error)) from error


def _strip_traceback(error: Exception) -> str:
    """Returns the message alone, where a loader process has put its traceback before it."""
    kind = type(error)
    return str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")[2].strip()


def _use_one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _save_checkpoint(
    out_dir: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: EpochWatch | None,
    done: int,
) -> None:
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "done": done,
        "random": get_random_state(next(network.parameters()).device),
    }
    if watch:
        state["epochs"] = watch.get_state()
    with replace_when_done(out_dir / "checkpoint.pt") as path, path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # why the file could not be written
                raise error.__context__ from error
            raise


def _load_checkpoint(
    out_dir: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: EpochWatch | None,
) -> tuple[int, dict[str, Tensor]]:
    """Returns the finished steps, and what `get_random_state` gave after them."""
    path = out_dir / "checkpoint.pt"
    if not path.exists():
        return 0, {}
    state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"{path}: this checkpoint is of another network; use another output folder"
        ) from error
    if watch:
        watch.set_state(state.get("epochs"), source=str(path))
    return int(state["done"]), state.get("random", {})


class _Log:
    """Appends one JSON line per report: step, mean losses since the last, rate, seconds."""

    def __init__(self, path: Path, *, start: int, is_main: bool) -> None:
        self.path, self.is_main = path, is_main
        self.found: list[dict[str, Tensor]] = []
        self.began = time.monotonic()
        if is_main:
            self._keep_until(start)

    def _keep_until(self, start: int) -> None:
        """Drops what a stopped run wrote after its last checkpoint, and a half-written line."""
        lines = self.path.read_text().splitlines() if start and self.path.exists() else []
        kept = [line for line in lines if _is_json(line) and json.loads(line)["step"] <= start]
        self.path.write_text("".join(f"{line}\n" for line in kept))

    def add(self, found: Mapping[str, Tensor]) -> None:
        self.found.append({name: value.detach() for name, value in found.items()})

    def write(self, step: int, rate: float) -> None:
        means = {
            name: round(torch.stack([one[name] for one in self.found]).mean().item(), 5)
            for name in self.found[0]
        }
        self.found.clear()
        line = {
            "step": step,
            **means,
            "learning_rate": float(f"{rate:.4g}"),
            "seconds": round(time.monotonic() - self.began, 1),
        }
        self._append(line)
        logger.info("step %d, loss %.4f", step, means["loss"])

    def note(self, step: int, scores: Mapping[str, float]) -> None:
        """Appends the figures of a validation."""
        self._append({"step": step, "validation": {k: round(v, 4) for k, v in scores.items()}})
        logger.info("step %d, validation %s", step, dict(scores))

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.is_main:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
