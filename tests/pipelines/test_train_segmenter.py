import json

import numpy as np
import pytest
import torch

from maskhone.engine.weights import load_weights, read_header
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.pipelines import train_segmenter
from maskhone.pipelines.segmenters import load_imagenet_start, load_segmenter
from maskhone.pipelines.train import train_recipe
from maskhone.pipelines.train_segmenter import (
    LESSONS,
    PairSource,
    collate,
    make_loss,
    parse_recipe,
    train,
)
from maskhone.pipelines.truth_sets import find_items
from maskhone.segmenters import catalogue
from maskhone.segmenters.catalogue import SEGMENTERS, build_network

NAMES = list(SEGMENTERS)


class Small(torch.nn.Module):
    """Stands in for the published networks, which have tens of megabytes."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(self.conv(x))


class SmallWithAttention(Small):
    def forward(self, x):
        logits = super().forward(x)
        return logits, logits.sigmoid().mean()


@pytest.fixture
def small_networks(monkeypatch):
    for name, model in SEGMENTERS.items():
        build = SmallWithAttention if name == "pfanet" else Small
        small = catalogue.BaseModel(**{**vars(model), "build": build})
        monkeypatch.setitem(SEGMENTERS, name, small)


@pytest.fixture
def pictures(tmp_path, photo, disc, save_picture):
    """Six pictures of a disc in different places, and their truths; the roads have number 3."""
    for i in range(6):
        name = f"{i}.png"
        save_picture(tmp_path / "images" / name, np.roll(photo, 3 * i, axis=1))
        truth = np.roll(disc, 3 * i, axis=1)
        save_picture(tmp_path / "truths" / name, truth.astype(np.uint8) * 255)
        save_picture(tmp_path / "numbers" / name, truth.astype(np.uint8) * 3)
    return tmp_path


@pytest.fixture
def make_recipe(pictures):
    def make(method="dlinknet34", **changes):
        return {
            "method": method,
            "name": "tiny",
            "images": str(pictures / "images"),
            "targets": str(pictures / "truths"),
            "side_px": 32,
            "epochs": 3,
            "batch_size": 2,
            "checkpoint_every": 1,
            "log_every": 1,
            "workers": 0,
            **changes,
        }

    return make


def read_validations(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["validation"] for line in lines if "validation" in line]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small_networks")
def test_the_weights_that_come_out_segment(name, make_recipe, tmp_path, photo):
    path = train(make_recipe(name), out_dir=tmp_path / "run")
    header = read_header(path)
    assert header["method"] == name
    assert header["config"] == {"side_px": 32}
    scores = load_segmenter(path, device="cpu", dtype="fp32").segment(photo)
    assert scores.shape == (1, *photo.shape[:2])
    found = read_validations(tmp_path / "run")
    assert len(found) == 3
    assert {"loss", "mae"} <= found[0].keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stopped_at", [1, 3])
@pytest.mark.usefixtures("small_networks")
def test_a_resumed_run_ends_with_the_same_weights(name, stopped_at, make_recipe, tmp_path):
    def stop(done, total):
        assert total == 6
        if done == stopped_at:
            raise KeyboardInterrupt

    recipe = make_recipe(name, checkpoint_every=2, learning_rate=0.05)
    whole = train(recipe, out_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out_dir=tmp_path / "parts", on_progress=stop)
    parts = train(recipe, out_dir=tmp_path / "parts", resume=True)
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("small_networks")
def test_training_makes_the_loss_fall(make_recipe, tmp_path):
    train(make_recipe(epochs=12, learning_rate=0.02), out_dir=tmp_path / "run")
    losses = [found["training_loss"] for found in read_validations(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.usefixtures("small_networks")
def test_a_plateau_ends_the_training(make_recipe, tmp_path):
    recipe = make_recipe(epochs=50, learning_rate=1e-12, patience=0, limit=1, augments=False)
    train(recipe, out_dir=tmp_path / "run")
    assert len(read_validations(tmp_path / "run")) < 12


@pytest.mark.parametrize("name", NAMES)
def test_every_published_network_can_learn(name, make_recipe):
    recipe = make_recipe(name)
    _, data, course, _, schedule = parse_recipe(recipe)
    source = PairSource(data, find_items(data, "train"), name, course, schedule)
    torch.manual_seed(0)
    network = build_network(name).train()
    found = make_loss(name)(network, collate([source[0], source[1]]))
    found["loss"].backward()
    unreached = [key for key, p in network.named_parameters() if p.grad is None]
    assert torch.isfinite(found["loss"])
    assert unreached == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_a_function_of_its_number_and_the_seed(name, make_recipe):
    def make_source(**changes):
        _, data, course, _, schedule = parse_recipe(make_recipe(name, **changes))
        return PairSource(data, find_items(data, "train"), name, course, schedule)

    first, again, other = make_source(), make_source(), make_source(seed=1)
    for number in (5, 0):
        inputs, target = first[number]
        assert inputs.shape == (3, 32, 32)
        assert target.shape == (1, 32, 32)
        np.testing.assert_array_equal(inputs, again[number][0])
        np.testing.assert_array_equal(target, again[number][1])
    assert any((first[i][0] != other[i][0]).any() for i in range(4))


def test_each_epoch_shows_each_picture_once_in_another_order(make_recipe, monkeypatch):
    _, data, course, _, schedule = parse_recipe(make_recipe(augments=False))
    source = PairSource(data, find_items(data, "train"), "dlinknet34", course, schedule)
    shown = []
    load = train_segmenter.load_pair
    monkeypatch.setattr(
        train_segmenter, "load_pair", lambda item, data: shown.append(item.id) or load(item, data)
    )
    for number in range(5 * source.per_epoch):
        source[number]
    epochs = [tuple(shown[i : i + 4]) for i in range(0, len(shown), 4)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert len(set(epochs)) > 1


def test_numbers_in_the_truth_can_be_the_object(make_recipe, pictures):
    recipe = make_recipe(targets=str(pictures / "numbers"), target_value=3, augments=False)
    _, data, course, _, schedule = parse_recipe(recipe)
    source = PairSource(data, find_items(data, "train"), "dlinknet34", course, schedule)
    _, plain, course, _, schedule = parse_recipe(make_recipe(augments=False))
    same = PairSource(plain, find_items(plain, "train"), "dlinknet34", course, schedule)
    np.testing.assert_array_equal(source[0][1], same[0][1])
    assert source[0][1].any()


@pytest.mark.usefixtures("small_networks")
def test_a_published_data_set_is_read_by_its_splits(
    make_recipe, pictures, photo, disc, save_picture
):
    root = pictures / "kvasir"
    for i in range(9):
        save_picture(root / "train" / f"{i}.jpg", photo)
        save_picture(root / "train_labels" / f"{i}.jpg", disc.astype(np.uint8) * 255)
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "test.txt").write_text("4\n5\n6\n7\n8\n")
    recipe = make_recipe("resunetpp", dataset="kvasir", root=str(root), epochs=1)
    del recipe["images"], recipe["targets"]
    _, data, _, _, _ = parse_recipe(recipe)
    counts = {split: len(find_items(data, split)) for split in ("train", "val", "test")}
    assert counts == {"train": 4, "val": 4, "test": 1}
    train(recipe, out_dir=pictures / "run")
    assert len(read_validations(pictures / "run")) == 1


def test_lists_choose_the_pictures(make_recipe, pictures):
    for split, ids in (("train", "30"), ("validation", "4")):
        (pictures / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
    lists = {f"{s}_list": str(pictures / f"{s}.txt") for s in ("train", "validation")}
    _, data, _, _, _ = parse_recipe(make_recipe(**lists))
    assert [item.id for item in find_items(data, "train")] == ["3", "0"]
    assert [item.id for item in find_items(data, "val")] == ["4"]
    with pytest.raises(UsageError, match="no test_list"):
        find_items(data, "test")


@pytest.mark.parametrize("name", NAMES)
def test_left_out_keys_are_as_published(name):
    recipe = {"method": name, "name": "a", "dataset": "kvasir", "root": "r"}
    _, _, course, rule, schedule = parse_recipe(recipe)
    assert course.side_px == LESSONS[name].side_px
    assert (schedule.optimizer, schedule.weight_decay) == ("adam", 0.0)
    assert schedule.learning_rate == (4e-4 if name == "pfanet" else 2e-4)
    assert schedule.batch_size == (2 if name == "resunetpp" else 4)
    assert course.epochs == (391 if name == "pfanet" else 300)
    assert rule.limit == {"dlinknet34": 6, "pfanet": 8, "resunetpp": 12}[name]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"side_px": 40}, "multiples of 32"),
        ({"epochs": 0}, "epochs is 0"),
        ({"iterations": 5}, "set epochs"),
        ({"learnign_rate": 1}, "did you mean learning_rate"),
        ({"dataset": "imagenet"}, "dataset is 'imagenet'"),
        ({"dataset": "kvasir"}, "needs root and takes no images, targets"),
        ({"images": ""}, "needs images"),
        ({"train_list": "some.txt"}, "no such file"),
        ({"train_list": "{0}/list.txt"}, "no validation_list"),
        ({"train_list": "{0}/wrong.txt"}, "names ghost, but"),
        ({"batch_size": 9}, "4 pictures to train on, but batch_size is 9"),
        ({"images": "{0}/few"}, "holds 1 pictures"),
        ({"init_from": "{0}/list.txt", "method": "resunetpp"}, "starts from fresh weights"),
    ],
)
def test_bad_recipes_are_refused_in_a_line(changes, said, make_recipe, pictures, save_picture):
    (pictures / "list.txt").write_text("0\n1\n2\n3\n")
    (pictures / "wrong.txt").write_text("ghost\n")
    save_picture(pictures / "few" / "1.png", np.zeros((8, 8, 3), np.uint8))
    changes = {k: v.format(pictures) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises((UsageError, InputError), match=said) as refused:
        train(make_recipe(**changes), out_dir=pictures / "run")
    assert "\n" not in str(refused.value)
    assert not (pictures / "run").exists()


@pytest.mark.usefixtures("small_networks")
def test_training_goes_on_from_weights(make_recipe, tmp_path):
    first = train(make_recipe(), out_dir=tmp_path / "first")
    recipe = make_recipe(start_from=str(first), learning_rate=1e-12, epochs=1)
    state = load_weights(train(recipe, out_dir=tmp_path / "second"))[0]
    torch.testing.assert_close(state["conv.weight"], load_weights(first)[0]["conv.weight"])
    with pytest.raises(WeightsError, match="not of resunetpp"):
        train(make_recipe("resunetpp", start_from=str(first)), out_dir=tmp_path / "third")


@pytest.mark.usefixtures("small_networks")
def test_the_command_trains_a_base_model(make_recipe, tmp_path, run_cli):
    path = tmp_path / "tiny.toml"
    path.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in make_recipe().items()))
    assert "in order" in train_recipe(path, tmp_path / "run", dry_run=True)
    assert not (tmp_path / "run").exists()
    found = run_cli("train", path, "-o", tmp_path / "run", "--option", "epochs=1")
    assert found.code == 0
    assert "tiny.safetensors" in found.out
    again = run_cli("train", path, "-o", tmp_path / "run")
    assert again.code == 2
    assert "--resume" in again.err


def make_torchvision_state(name, *, has_counters=True):
    """Makes a state dict with torchvision's keys out of our network's, values all 0.5."""
    own = build_network(name).state_dict()
    theirs = {}
    for key, value in own.items():
        for ours, names in (
            ("firstconv.", "conv1."), ("firstbn.", "bn1."), ("vgg16.", "features."),
            *((f"encoder{i}.", f"layer{i}.") for i in range(1, 5)),
        ):  # fmt: skip
            if key.startswith(ours) and (has_counters or "num_batches" not in key):
                theirs[names + key.removeprefix(ours)] = torch.full_like(
                    value, 0.5 if value.is_floating_point() else 7
                )
    head = "fc" if name == "dlinknet34" else "classifier.0"
    return {**theirs, f"{head}.weight": torch.zeros(2, 2), f"{head}.bias": torch.zeros(2)}


@pytest.mark.parametrize("has_counters", [True, False])
@pytest.mark.parametrize("name", ["dlinknet34", "pfanet"])
def test_the_encoder_starts_from_imagenet(name, has_counters, tmp_path):
    state = make_torchvision_state(name, has_counters=has_counters)
    torch.save(state, tmp_path / "start.pth")
    network = build_network(name)
    load_imagenet_start(network, name, tmp_path / "start.pth")
    parts = ("first", "encoder") if name == "dlinknet34" else ("vgg16",)
    for key, value in network.named_parameters():
        assert bool((value == 0.5).all()) == key.startswith(parts), key


def test_an_incomplete_or_strange_start_is_refused(tmp_path):
    state = make_torchvision_state("dlinknet34")
    del state["layer3.2.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "start.pth")
    with pytest.raises(WeightsError, match=r"1 missing \(encoder3.2.conv1.weight\); 1 extra"):
        load_imagenet_start(build_network("dlinknet34"), "dlinknet34", tmp_path / "start.pth")
