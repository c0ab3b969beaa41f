import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskhone.engine.weights import load_weights, read_header
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.methods.catalogue import load
from maskhone.methods.prn.config import PRNConfig
from maskhone.methods.prn.thresholds import find_thresholds
from maskhone.methods.prn.train import make_loss, parse_recipe, train
from maskhone.methods.prn.training_set import (
    MapSource,
    TrainingData,
    collate,
    load_maps,
    split_items,
)
from maskhone.metrics.region import count_overlap

CONFIG = PRNConfig(network="grid", cells=2, width=4, map_px=32)
TABLE = {
    "method": "prn", "name": "tiny.maps", "network": "grid", "cells": 2, "width": 4, "map_px": 16,
    "optimizer": "adam", "learning_rate": 8e-3, "weight_decay": 0.0, "batch_size": 2, "workers": 0,
    "iterations": 4, "checkpoint_every": 1,
}  # fmt: skip


def draw_biased_map(random, side=64):
    """Draws discs; each quarter of the scores is too low or too high for any one threshold."""
    rows, columns = np.ogrid[:side, :side]
    truth = np.zeros((side, side), dtype=bool)
    for _ in range(3):
        x, y, radius = random.integers(8, side - 8), random.integers(8, side - 8), 8
        truth |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    bias = random.choice([0.05, 0.55], (2, 2)).repeat(side // 2, 0).repeat(side // 2, 1)
    scores = bias + 0.35 * truth + random.normal(0, 0.03, truth.shape)
    return scores.clip(0, 1).astype(np.float32), truth


@pytest.fixture
def make_maps(tmp_path, save_picture):
    """Writes biased maps and their truth as files 00, 01, ...; returns recipe keys."""

    def make(count, *, folder="own", seed=0, side=64):
        random = np.random.default_rng(seed)
        for i in range(count):
            scores, truth = draw_biased_map(random, side)
            deep = np.rint(scores * 65535).astype(np.uint16)
            save_picture(tmp_path / folder / "scores" / f"{i:02}.png", deep)
            save_picture(
                tmp_path / folder / "targets" / f"{i:02}.png", truth.astype(np.uint8) * 255
            )
        return {k: str(tmp_path / folder / k) for k in ("scores", "targets")}

    return make


@pytest.fixture
def maps(make_maps):
    return make_maps(5, side=32)


@pytest.fixture
def write_list(tmp_path):
    def write(name, *ids):
        (tmp_path / name).write_text("".join(f"{one}\n" for one in ids))
        return str(tmp_path / name)

    return write


def ids(items):
    return [item.id for item in items]


def test_training_beats_the_base_model_on_held_out_maps(make_maps, tmp_path):
    table = {
        **TABLE, **make_maps(20), "width": 8, "map_px": 64, "bn": "batch", "merge": "local",
        "batch_size": 2, "learning_rate": 8e-3, "watch": "iou", "iterations": 40,
        "epoch_iterations": 10, "log_every": 10, "checkpoint_every": 40,
    }  # fmt: skip
    weights = train(table, out_dir=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    refiner = load("prn", weights=weights, device="cpu", dtype="fp32")
    random = np.random.default_rng(1)
    before, after = [], []
    for _ in range(6):
        scores, truth = draw_biased_map(random)
        refined = refiner.refine(np.zeros((64, 64, 3), np.uint8), scores[None])[0]
        for found, kept in ((scores, before), (refined, after)):
            shared, either = count_overlap(found > 0.5, truth)
            kept.append(shared / either)
    assert np.mean(after) > np.mean(before) + 0.2


def read_validations(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["validation"] for line in lines if "validation" in line}


SMALL_RECIPE = {
    "width": 8, "map_px": 64, "bn": "batch", "residual": True, "loss": "overlap", "watch": "iou",
    "rate": "polynomial", "merge": "global", "epoch_iterations": 10,
}  # fmt: skip


def test_a_residual_training_begins_with_the_base_model_and_gets_better(make_maps, tmp_path):
    table = {**TABLE, **SMALL_RECIPE, **make_maps(12), "iterations": 30, "checkpoint_every": 30}
    train(table, out_dir=tmp_path / "run")
    found = read_validations(tmp_path / "run")
    assert found[0]["iou"] == pytest.approx(found[0]["iou_before"])
    assert found[30]["iou"] > found[0]["iou"] + 0.05


def test_a_training_that_only_harms_gives_back_the_base_model(make_maps, tmp_path):
    maps = make_maps(4)
    table = {**TABLE, **SMALL_RECIPE, **maps, "scores": maps["targets"], "learning_rate": 10.0,
             "min_learning_rate": 10.0, "iterations": 6, "epoch_iterations": 3}  # fmt: skip
    refiner = load("prn", weights=train(table, out_dir=tmp_path / "run"), device="cpu")
    found = read_validations(tmp_path / "run")
    assert max(found[step]["iou"] for step in (3, 6)) < found[0]["iou"] == 1
    maps = np.random.default_rng(0).uniform(0.02, 0.98, (1, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(refiner.refine(None, maps), maps, atol=1e-5)


@pytest.mark.parametrize("extra", [{}, SMALL_RECIPE])
def test_the_first_weights_compete_only_where_they_mean_something(maps, tmp_path, extra):
    table = {**TABLE, **maps, **extra, "iterations": 1, "epoch_iterations": 1}
    train(table, out_dir=tmp_path / "run")
    assert (0 in read_validations(tmp_path / "run")) == bool(extra)


@pytest.mark.parametrize("watch", ["iou", "training"])
def test_a_stopped_training_ends_with_the_same_weights(maps, tmp_path, watch):
    """At a rate that makes bad epochs: it goes back to the best weights before and after."""

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    table = {
        **TABLE, **maps, "iterations": 9, "watch": watch, "patience": 0, "limit": 9,
        "epoch_iterations": 1,
        "learning_rate": 0.2, "checkpoint_every": 3, "log_every": 1,
    }  # fmt: skip
    whole = train(table, out_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(table, out_dir=tmp_path / "parts", on_progress=stop)
    parts = train(table, out_dir=tmp_path / "parts", resume=True)
    one, other = load_weights(whole)[0], load_weights(parts)[0]
    assert all(torch.equal(one[key], other[key]) for key in one)
    lines = [
        json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().split("\n")[:-1]
    ]
    assert len({line["learning_rate"] for line in lines if "loss" in line}) > 1


def test_the_header_says_what_the_weights_are(maps, tmp_path):
    table = {**TABLE, **maps, "licence": "mine", "merge": "global"}
    header = read_header(train(table, out_dir=tmp_path / "run"))
    assert (header["method"], header["name"], header["licence"]) == ("prn", "tiny.maps", "mine")
    assert header["config"]["merge"] == "global"
    assert header["config"]["has_row_quirk"] is False
    assert header["recipe"]["iterations"] == 4
    assert header["maps"] == {"trained_on": 4, "held_out": 1}


def test_training_goes_on_from_weights(maps, tmp_path, bpr_weights):
    first = train({**TABLE, **maps}, out_dir=tmp_path / "a")
    table = {**TABLE, **maps, "start_from": str(first), "learning_rate": 1e-12, "iterations": 1}
    again = train(table, out_dir=tmp_path / "b")
    one, other = (
        load_weights(path)[0]["encoding.RRCNN1.Conv_1x1.weight"] for path in (first, again)
    )
    torch.testing.assert_close(one, other)
    with pytest.raises(WeightsError, match="weights of bpr, not of prn"):
        train({**table, "start_from": str(bpr_weights)}, out_dir=tmp_path / "c", dry_run=True)


def test_epochs_count_passes_through_the_maps(maps, tmp_path):
    seen = []
    table = {**TABLE, **maps, "epochs": 3, "batch_size": 1, "held_share": 0.4}
    del table["iterations"]
    train(table, out_dir=tmp_path / "run", on_progress=lambda done, total: seen.append(total))
    assert set(seen) == {9}
    with pytest.raises(UsageError, match="leave one of them out"):
        parse_recipe({**table, "iterations": 3})


def test_the_command_trains_and_the_weights_refine(run_cli, maps, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in {**TABLE, **maps}.items()))
    assert run_cli("train", recipe, "-o", tmp_path / "run", "--dry-run").code == 0
    assert run_cli("train", recipe, "-o", tmp_path / "run").code == 0
    weights = ["--method", "prn", "--weights", tmp_path / "run" / "tiny.maps.safetensors"]
    assert run_cli("refine", maps["scores"], "-o", tmp_path / "out", *weights).code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 5


# samples


def make_source(maps, config=CONFIG, *, seed=0, **options):
    data = TrainingData(**maps, **options)
    return MapSource(split_items(data, seed=0)[0], config, data, seed=seed)


def test_a_sample_is_a_function_of_its_number_and_the_seed(maps):
    first, again, other = (make_source(maps, seed=seed)[7] for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_every_map_is_seen_once_in_each_turn(maps):
    source = make_source(maps, held_share=0, augments=False)
    turns = [[source[i][0].tobytes() for i in range(n, n + 5)] for n in (0, 5, 10)]
    assert all(len(set(turn)) == 5 for turn in turns)
    assert not turns[0] == turns[1] == turns[2]
    straight = make_source(maps, held_share=0, augments=False, shuffles=False)
    assert [straight[i][0].tobytes() for i in range(5)] == sorted(
        turns[0], key=[straight[i][0].tobytes() for i in range(5)].index
    )


def test_scores_label_and_truth_are_changed_alike(maps):
    source = make_source(maps)
    for index in range(6):
        scores, label, truth = source[index]
        assert scores.shape == label.shape == truth.shape == (32, 32)
        found = find_thresholds(scores, truth > 0, 16).labels
        np.testing.assert_array_equal(label > 0, found)
    assert collate([source[0], source[1]])["label"].shape == (2, 1, 32, 32)


def test_stored_pseudo_labels_are_used(maps, tmp_path, save_picture):
    stored = np.zeros((32, 32), np.uint8)
    stored[3, 4] = 255
    for i in range(5):
        save_picture(tmp_path / "labels" / f"{i:02}.png", stored)
    source = make_source(maps, pseudo_labels=str(tmp_path / "labels"), augments=False)
    np.testing.assert_array_equal(source[0][1], stored / 255)


def test_the_published_labels_of_p4_have_half_its_cells():
    assert PRNConfig(network="p4").label_cells == 2
    assert PRNConfig(network="p4").spec.cells == 4


def test_tiles_are_cut_at_full_size(make_maps):
    maps = make_maps(2, side=64)
    data = TrainingData(**maps)
    (item, _), _ = split_items(replace(data, held_share=0), seed=0)
    config = replace(CONFIG, tile=True)
    middle = load_maps(item, config, data)
    whole = load_maps(item, replace(CONFIG, map_px=64), data)
    np.testing.assert_array_equal(middle[0], whole[0][16:48, 16:48])
    np.testing.assert_array_equal(middle[2], whole[2][16:48, 16:48])
    drawn = [load_maps(item, config, data, random=np.random.default_rng(i))[0] for i in range(2)]
    assert not np.array_equal(*drawn)


def test_an_object_number_and_logits_are_read(tmp_path, save_picture):
    random = np.random.default_rng(0)
    scores, truth = draw_biased_map(random, 32)
    scores = scores.clip(0.01, 0.99)
    for name, array in (("p", scores), ("l", np.log(scores / (1 - scores)))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", array)
    save_picture(tmp_path / "t" / "a.png", np.where(truth, 7, 3).astype(np.uint8))
    read = []
    for name in "pl":
        data = TrainingData(
            scores=str(tmp_path / name), targets=str(tmp_path / "t"), target_value=7,
            logits=name == "l", held_share=0,
        )  # fmt: skip
        read.append(load_maps(split_items(data, seed=0)[0][0], CONFIG, data))
    np.testing.assert_allclose(read[0][0], read[1][0], atol=1e-5)
    np.testing.assert_array_equal(read[0][2] > 0, truth)


# which maps


def test_a_share_is_held_back_by_the_seed(maps):
    data = TrainingData(**maps, held_share=0.4)
    kept, held = split_items(data, seed=0)
    assert (len(kept), len(held)) == (3, 2)
    assert sorted(ids(kept) + ids(held)) == [f"{i:02}" for i in range(5)]
    assert ids(split_items(data, seed=0)[1]) == ids(held)
    assert len({tuple(ids(split_items(data, seed=seed)[1])) for seed in range(9)}) > 1


def test_lists_say_which_maps(maps, write_list):
    train_list, held_list = write_list("t.txt", "03", "01"), write_list("v.txt", "04")
    data = TrainingData(**maps, validation_list=held_list)
    kept, held = split_items(data, seed=0)
    assert (ids(kept), ids(held)) == (["00", "01", "02", "03"], ["04"])
    kept, held = split_items(replace(data, train_list=train_list), seed=0)
    assert (ids(kept), ids(held)) == (["03", "01"], ["04"])
    kept, held = split_items(TrainingData(**maps, train_list=train_list, held_share=0), seed=0)
    assert (ids(kept), ids(held)) == (["03", "01"], [])


def test_maps_that_no_list_names_need_no_truth(maps, write_list):
    (Path(maps["targets"]) / "00.png").unlink()
    with pytest.raises(InputError, match="has no 00"):
        split_items(TrainingData(**maps), seed=0)
    lists = {"train_list": write_list("t.txt", "03"), "validation_list": write_list("v.txt", "04")}
    kept, held = split_items(TrainingData(**maps, **lists), seed=0)
    assert (ids(kept), ids(held)) == (["03"], ["04"])


def test_a_map_in_both_lists_is_refused(maps, write_list):
    lists = {k: write_list(f"{k}.txt", "00", "01") for k in ("train_list", "validation_list")}
    with pytest.raises(UsageError, match="00 is in"):
        split_items(TrainingData(**maps, **lists), seed=0)


def test_a_list_that_names_what_is_not_there_is_refused(maps, write_list, tmp_path):
    for key in ("train_list", "validation_list"):
        with pytest.raises(InputError, match=r"l.txt: names 99"):
            train(
                {**TABLE, **maps, key: write_list("l.txt", "00", "99")},
                out_dir=tmp_path / "run",
                dry_run=True,
            )


# bad recipes and bad input


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"held_share": 1.0}, "held_share"),
        ({"held_share": 0.0}, "no maps are held back"),
        ({"watch": "loss"}, "expected validation, iou, training"),
        ({"patience": 9}, "patience"),
        ({"epoch_iterations": -1}, "epoch_iterations"),
        ({"epochs": -1}, "epochs"),
        ({"label_cells": 3}, "divisor of map_px"),
        ({"label_cells": -1}, "label_cells"),
        ({"batch_size": 9}, "an epoch has 0 steps"),
        ({"map_px": 20}, "map_px"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"scoers": "x"}, "did you mean scores"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(maps, tmp_path, options, word):
    with pytest.raises(UsageError, match=word):
        train({**TABLE, **maps, **options}, out_dir=tmp_path / "run", dry_run=True)


def write_bad(path, kind, save_picture):
    """Makes something wrong with the map 02 of five; returns what the message has to name."""
    scores, target = path / "scores" / "02.png", path / "targets" / "02.png"
    if kind == "no truth":
        target.unlink()
        return "targets: has no 02"
    if kind == "another size":
        save_picture(target, np.zeros((32, 30), np.uint8))
        return "map is 32x32 but target is 32x30"
    if kind == "in colours":
        save_picture(scores, np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
        return "in colours"
    scores.unlink()
    values = {"NaN": np.nan, "logits": 5.0, "several": 0.5}
    shape = (2, 32, 32) if kind == "several" else (32, 32)
    np.save(scores.with_suffix(".npy"), np.full(shape, values[kind], np.float32))
    return {"NaN": "NaN", "logits": "sigmoid", "several": "holds 2 maps"}[kind]


@pytest.mark.parametrize(
    "kind", ["no truth", "another size", "in colours", "NaN", "logits", "several"]
)
def test_a_map_that_cannot_be_used_is_named(maps, tmp_path, save_picture, kind):
    said = write_bad(tmp_path / "own", kind, save_picture)
    data = TrainingData(**maps, held_share=0, augments=False, shuffles=False)
    with pytest.raises(InputError, match=r"02|targets") as refused:
        load_maps(split_items(data, seed=0)[0][2], CONFIG, data)
    assert said in str(refused.value)


def test_two_maps_of_one_name_and_no_maps_are_refused(maps, tmp_path):
    np.save(tmp_path / "own" / "scores" / "02.npy", np.zeros((32, 32), np.float32))
    with pytest.raises(InputError, match="same name"):
        split_items(TrainingData(**maps), seed=0)
    (tmp_path / "none").mkdir()
    for folder, word in (("none", "holds no probability maps"), ("nope", "no such folder")):
        with pytest.raises(InputError, match=word):
            split_items(TrainingData(**{**maps, "scores": str(tmp_path / folder)}), seed=0)


@pytest.mark.parametrize("loss", ["published", "overlap"])
def test_the_loss_is_that_of_prediction_against_label(loss):
    """The other way round, as in the shipped program, gradients are infinite."""

    class Says(torch.nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = torch.nn.Parameter(logits)

        def forward(self, scores, *, has_row_quirk):
            return self.logits, None

    truth = torch.from_numpy(draw_biased_map(np.random.default_rng(0), 32)[1]).float()[None, None]
    batch = {"scores": truth, "label": truth, "truth": truth}
    right, wrong = (Says(sign * 8 * (truth - 0.5)) for sign in (1, -1))
    found = [make_loss(CONFIG, loss)(network, batch) for network in (right, wrong)]
    assert found[0]["loss"] < 0.2 < found[1]["loss"]
    assert (found[0]["iou_truth"], found[0]["iou_label"]) == (1, 1)
    found[1]["loss"].backward()
    assert torch.isfinite(wrong.logits.grad).all()
    assert (wrong.logits.grad[truth > 0] < 0).all()
