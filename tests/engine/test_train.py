import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from maskhone.engine.epochs import Epochs
from maskhone.engine.plateau import PlateauRule
from maskhone.engine.train import ParameterGroup, Schedule, fit, poly_learning_rate
from maskhone.errors import InputError, UsageError


class Numbers:
    """Sample i is the number i; remembers what was asked for."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, index):
        self.asked.append(index)
        return float(index % 7)


def collate(numbers):
    return {"x": torch.tensor(numbers).unsqueeze(1)}


def loss_of(network, batch):
    difference = network(batch["x"]) - 2 * batch["x"]
    return {"loss": difference.square().mean(), "largest": difference.abs().max()}


def make_network(features=1):
    torch.manual_seed(0)
    return nn.Linear(features, 1)


SCHEDULE = Schedule(
    iterations=6, batch_size=2, learning_rate=0.01, checkpoint_every=3, log_every=2, workers=0
)


def train(out_dir, *, schedule=SCHEDULE, samples=None, network=None, **options):
    samples, network = samples or Numbers(), network or make_network()
    return fit(network, loss_of, samples, collate, schedule=schedule, out_dir=out_dir, **options)


def read_log(out_dir):
    return [json.loads(line) for line in (out_dir / "log.jsonl").read_text().splitlines()]


def stop_at(step):
    def on_progress(done, total):
        if done == step:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stopped_at", [2, 5])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, optimizer, stopped_at
):
    schedule = Schedule(
        iterations=6, batch_size=2, optimizer=optimizer, checkpoint_every=3, workers=0
    )
    whole = train(tmp_path / "whole", schedule=schedule)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", schedule=schedule, on_progress=stop_at(stopped_at))
    resumed = train(tmp_path / "parts", schedule=schedule, resume=True)
    assert not torch.equal(whole.weight, make_network().weight)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_a_resumed_run_drops_out_what_the_uninterrupted_one_does(tmp_path):
    def run(folder, **options):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        return train(tmp_path / folder, network=network, **options)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", on_progress=stop_at(4))
    resumed = run("parts", resume=True)
    assert torch.equal(resumed[0].weight, whole[0].weight)


class Damaged(Numbers):
    def __getitem__(self, index):
        raise InputError(f"p{index}.png: cannot be read")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_said_in_a_line(tmp_path, workers):
    schedule = replace(SCHEDULE, workers=workers)
    with pytest.raises(InputError) as caught:
        train(tmp_path, schedule=schedule, samples=Damaged())
    assert str(caught.value) == "p0.png: cannot be read"


def test_a_resumed_run_asks_for_the_samples_that_follow_the_checkpoint(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_progress=stop_at(5))
    samples = Numbers()
    train(tmp_path, samples=samples, resume=True)
    assert samples.asked == [6, 7, 8, 9, 10, 11]


def test_samples_are_used_in_order(tmp_path):
    samples = Numbers()
    train(tmp_path, samples=samples)
    assert samples.asked == list(range(12))


def test_training_lowers_the_loss(tmp_path):
    train(tmp_path)
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]


def test_a_resumed_log_has_each_step_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_progress=stop_at(5))
    train(tmp_path, resume=True)
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6]


@pytest.mark.parametrize("half", ['{"step": 4, "lo', '{"step": 4, "validation": {"miou": 0.5}'])
def test_a_line_that_a_full_disk_cut_is_dropped_from_the_log(tmp_path, half):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, on_progress=stop_at(4))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(half)
    train(tmp_path, resume=True)
    assert [line["step"] for line in read_log(tmp_path)] == [2, 4, 6]


def test_resuming_without_a_checkpoint_begins(tmp_path):
    samples = Numbers()
    train(tmp_path, samples=samples, resume=True)
    assert samples.asked[0] == 0


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(InputError, match="another network"):
        train(tmp_path, network=make_network(features=3), resume=True)


def test_one_process_can_train_twice_with_other_precisions(tmp_path):
    for precision in ("fp32", "bf16", "fp32"):
        schedule = Schedule(iterations=1, batch_size=2, precision=precision, workers=0)
        train(tmp_path / precision, schedule=schedule)


def test_progress_counts_the_steps(tmp_path):
    seen = []
    train(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_clipping_bounds_the_step(tmp_path):
    schedule = Schedule(
        iterations=1, batch_size=2, learning_rate=1.0, clip_norm=0.1, weight_decay=0.0, workers=0
    )
    trained, before = train(tmp_path, schedule=schedule), make_network()
    moved = torch.stack([trained.weight - before.weight, (trained.bias - before.bias).view(1, 1)])
    assert moved.norm().item() == pytest.approx(0.1, rel=1e-3)


def test_the_learning_rate_falls_from_start_to_end():
    rates = [
        poly_learning_rate(i, iterations=10, start=1.0, end=0.1, power=1.0) for i in (0, 5, 10)
    ]
    assert rates == pytest.approx([1.0, 0.55, 0.1])


def test_the_warm_up_rises_from_above_zero():
    rates = [
        poly_learning_rate(i, iterations=1000, start=1, end=1, power=1, warmup_iterations=4)
        for i in range(5)
    ]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("optimizer", "lion"),
        ("precision", "fp8"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=name):
        Schedule(**{"iterations": 1, "batch_size": 1, name: value})


def test_validation_runs_in_eval_mode_and_its_figures_go_to_the_log(tmp_path):
    modes = []

    def validate(network):
        modes.append((network.training, torch.is_grad_enabled()))
        return {"score": len(modes) / 2}

    schedule = Schedule(
        iterations=5, batch_size=2, log_every=5, validate_every=2, checkpoint_every=5, workers=0
    )
    network = train(tmp_path, schedule=schedule, validate=validate)
    assert modes == [(False, False)] * 3
    assert not network.training
    noted = [(one["step"], one["validation"]) for one in read_log(tmp_path) if "validation" in one]
    assert noted == [(2, {"score": 0.5}), (4, {"score": 1.0}), (5, {"score": 1.5})]


def test_validation_does_not_change_the_weights(tmp_path):
    schedule = Schedule(iterations=6, batch_size=2, validate_every=1, checkpoint_every=6, workers=0)
    watched = train(tmp_path / "a", schedule=schedule, validate=lambda _: {"score": 1.0})
    assert torch.equal(watched.weight, train(tmp_path / "b", schedule=schedule).weight)


def report_in_turn(figures):
    """A validation that says these numbers, one an epoch."""
    figures = iter(figures)
    return lambda _: {"loss": next(figures)}


BY_EPOCHS = Schedule(
    iterations=12, batch_size=2, optimizer="adam", learning_rate=0.1, weight_decay=0.0,
    checkpoint_every=3, log_every=2, workers=0,
)  # fmt: skip
RULE = PlateauRule(patience=0, limit=2, factor=0.5, least_rate=0.0)


def train_by_epochs(out_dir, figures, *, watched="loss", iterations=2, **options):
    return train(
        out_dir,
        schedule=BY_EPOCHS,
        epochs=Epochs(iterations=iterations, rule=RULE, watched=watched),
        validate=report_in_turn(figures),
        **options,
    )


def test_the_best_weights_come_back_and_the_rate_falls(tmp_path):
    best = train(
        tmp_path / "best",
        schedule=Schedule(**{**vars(BY_EPOCHS), "iterations": 2, "milestones": (9,)}),
    )
    network = train_by_epochs(tmp_path / "run", [1.0, 2.0, 2.0, 2.0])
    assert torch.equal(network.weight, best.weight)
    log = read_log(tmp_path / "run")
    assert [one["learning_rate"] for one in log if "loss" in one] == [0.1, 0.1, 0.05, 0.025]
    assert [one["step"] for one in log if "validation" in one] == [2, 4, 6, 8]  # then it stops


def test_going_back_keeps_the_moments_of_the_optimiser(tmp_path):
    reloaded = train_by_epochs(tmp_path / "a", [1.0, 2.0, 0.5, 2.0, 2.0, 2.0])
    straight = train_by_epochs(tmp_path / "b", [1.0, 0.9, 0.5, 2.0, 2.0, 2.0])
    assert not torch.equal(reloaded.weight, straight.weight)


@pytest.mark.parametrize("watched", ["loss", ""])
@pytest.mark.parametrize("stopped_at", [4, 7, 8, 10])
def test_a_resumed_run_by_epochs_is_the_uninterrupted_one(tmp_path, watched, stopped_at):
    """With checkpoints at steps 3, 6, 9 and epochs of 4 that begin between them."""
    figures = [1.0, 2.0, 0.5]
    options = {"watched": watched, "iterations": 4}
    whole = train_by_epochs(tmp_path / "whole", figures, **options)
    with pytest.raises(KeyboardInterrupt):
        train_by_epochs(tmp_path / "parts", figures, on_progress=stop_at(stopped_at), **options)
    n_done = stopped_at // 3 * 3 // 4
    parts = train_by_epochs(tmp_path / "parts", figures[n_done:], resume=True, **options)
    assert torch.equal(parts.weight, whole.weight)
    assert torch.equal(parts.bias, whole.bias)
    one, other = (read_log(tmp_path / name) for name in ("whole", "parts"))
    validations = [[line for line in log if "validation" in line] for log in (one, other)]
    assert validations[0] == validations[1]


def test_a_run_that_stopped_early_is_not_gone_on_with(tmp_path):
    whole = train_by_epochs(tmp_path, [1.0, 2.0, 2.0, 2.0])
    samples = Numbers()
    again = train_by_epochs(tmp_path, [], samples=samples, resume=True)
    assert samples.asked == []
    assert torch.equal(again.weight, whole.weight)


def test_a_run_without_epochs_cannot_go_on_by_epochs(tmp_path):
    train(tmp_path, schedule=BY_EPOCHS)
    with pytest.raises(InputError, match="without epochs"):
        train_by_epochs(tmp_path, [1.0], resume=True)


def test_an_epoch_has_steps():
    with pytest.raises(UsageError, match="an epoch has 0 steps"):
        Epochs(iterations=0, rule=RULE)


def make_groups(network):
    return [
        ParameterGroup(parameters=(network.weight,), weight_decay=0.5),
        ParameterGroup(parameters=(network.bias,), rate_factor=2.0, weight_decay=0.0),
        ParameterGroup(parameters=()),
    ]


def test_groups_have_rates_and_decays_of_their_own(tmp_path):
    network = make_network()
    weight, bias = network.weight.item(), network.bias.item()
    error = bias + weight - 2  # of the sample 1, whose right answer is 2
    schedule = Schedule(
        iterations=1, batch_size=1, learning_rate=0.01, momentum=0.0, weight_decay=9.0, workers=0
    )
    train(tmp_path, schedule=schedule, network=network, samples={0: 1.0}, groups=make_groups)
    assert network.weight.item() == pytest.approx(weight - 0.01 * (2 * error + 0.5 * weight))
    assert network.bias.item() == pytest.approx(bias - 0.02 * 2 * error)


def test_a_resumed_run_keeps_the_rates_of_its_groups(tmp_path):
    schedule = Schedule(
        iterations=6, batch_size=2, checkpoint_every=3, momentum=0.3, nesterov=True, workers=0
    )
    whole = train(tmp_path / "whole", schedule=schedule, groups=make_groups)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", schedule=schedule, groups=make_groups, on_progress=stop_at(5))
    resumed = train(tmp_path / "parts", schedule=schedule, groups=make_groups, resume=True)
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_parameters_without_a_group_are_not_trained(tmp_path):
    network = train(tmp_path, groups=lambda network: [ParameterGroup(parameters=(network.weight,))])
    assert torch.equal(network.bias, make_network().bias)
    assert not torch.equal(network.weight, make_network().weight)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 1.0},
        {"nesterov": True, "momentum": 0.0},
        {"nesterov": True, "optimizer": "adam"},
    ],
)
def test_momentum_that_cannot_be_is_refused(options):
    with pytest.raises(UsageError, match=r"momentum|nesterov"):
        Schedule(iterations=1, batch_size=1, **options)


def test_a_rate_of_ones_own_is_followed(tmp_path):
    schedule = Schedule(iterations=2, batch_size=2, momentum=0.0, weight_decay=0.0, workers=0)
    rates = {0: 0.5, 1: 0.0}
    trained = train(tmp_path, schedule=schedule, rate_of=rates.__getitem__)
    network = make_network()
    loss_of(network, collate([0.0, 1.0]))["loss"].backward()
    torch.testing.assert_close(trained.weight, network.weight - 0.5 * network.weight.grad)


def test_the_device_of_one_training_does_not_bind_the_next(tmp_path):
    seen = []

    def look(network, batch):
        seen.append(next(network.parameters()).device.type)
        return loss_of(network, batch)

    def fit_on(device):
        schedule = Schedule(iterations=1, batch_size=2, workers=0, device=device)
        fit(make_network(), look, Numbers(), collate, schedule=schedule, out_dir=tmp_path / device)

    for device in ("cpu", "auto"):
        fit_on(device)
    assert seen[0] == "cpu"
    with pytest.raises(UsageError, match="'cuda:77' is not available"):
        fit_on("cuda:77")


def test_a_device_is_not_for_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    schedule = Schedule(iterations=1, batch_size=2, workers=0, device="cpu")
    with pytest.raises(UsageError, match="several processes"):
        train(tmp_path, schedule=schedule)
