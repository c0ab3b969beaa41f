import json
import logging
import pickle
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from tests.methods.rws.hosts import LAYERS, DictHost, PooledHost, TinyHost, make_seeded

from maskhone.engine.weights import load_weights
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.methods.rws.attention import observe
from maskhone.methods.rws.config import StageConfig
from maskhone.methods.rws.host import build_host, load_matching
from maskhone.methods.rws.loss import segmentation_loss
from maskhone.methods.rws.stages import group_parameters
from maskhone.methods.rws.store import load_slices
from maskhone.methods.rws.train import parse_recipe, train
from maskhone.methods.rws.training_set import (
    LabelledData,
    StageSource,
    find_items,
    load_item,
)
from maskhone.pipelines.train import train_recipe


def read_report(out_dir):
    return json.loads((out_dir / "report.json").read_text())


def read_weights(path):
    return load_weights(path)[0]


def stop_at(step):
    def on_progress(done, planned):
        if done >= step:
            raise KeyboardInterrupt

    return on_progress


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_all_rounds_run_with_mixing_and_leave_the_data_alone(recipe, pictures, list_files):
    before = {f: (pictures / f).read_bytes() for f in list_files(pictures)}
    out = pictures / "run"
    path = train(recipe, out_dir=out)
    assert {f: (pictures / f).read_bytes() for f in before} == before
    report = read_report(out)
    assert set(report["stages"]) == {"0", "1", "2", "3"}
    assert report["slices-1"]["slices"] > 0
    assert report["mixing-1"]["pictures"] > 0
    assert max(report["mixing-1"]["mixed_share"]) > 0
    assert report["ended"]
    log = (out / "stage-3" / "log.jsonl").read_text()
    assert json.loads(log.splitlines()[-2])["mixed_cells"] > 0
    plain = torch.load(out / "stage-1" / "network.pt", weights_only=True)
    assert not same(read_weights(path), plain)
    assert set(read_weights(path.with_suffix(".best.safetensors"))) == set(plain)


@pytest.mark.parametrize("step", [7, 18, 24])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(recipe, pictures, step):
    whole = train(recipe, out_dir=pictures / "whole")
    planned = sum(s["steps"] for s in read_report(pictures / "whole")["stages"].values())
    assert step < planned
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out_dir=pictures / "parts", on_progress=stop_at(step))
    resumed = train(recipe, out_dir=pictures / "parts", resume=True)
    assert same(read_weights(whole), read_weights(resumed))
    assert read_report(pictures / "whole") == read_report(pictures / "parts")


DONE = ("stage-0/network.pt", "stage-1/network.pt", "cycle-1/slices.jsonl", "stage-2/network.pt",
        "cycle-1/maps/index.json", "stage-3/network.pt", "cycle-2/slices.jsonl")  # fmt: skip


def test_a_run_goes_on_after_each_of_its_parts(recipe, pictures):
    """As a run that was killed right after it had written one of them leaves its folder."""
    whole = pictures / "whole"
    path = train(recipe, out_dir=whole)
    for place, last in enumerate(DONE):
        parts = pictures / f"after-{place}"
        shutil.copytree(whole, parts, ignore=shutil.ignore_patterns("*.safetensors"))
        for later in DONE[place + 1 :]:
            shutil.rmtree((parts / later).parent, ignore_errors=True)
        written = (parts / last).stat().st_mtime_ns
        resumed = train(recipe, out_dir=parts, resume=True)
        assert (parts / last).stat().st_mtime_ns == written
        assert same(read_weights(path), read_weights(resumed)), last
        assert read_report(whole) == read_report(parts), last


def test_heat_is_that_of_the_saved_weights_whatever_precision_they_were_trained_in(
    recipe, pictures
):
    table = {**recipe, "precision": "bf16", "pretrain_epochs": 3, "epochs": 1}
    whole, parts = pictures / "whole", pictures / "parts"
    path = train(table, out_dir=whole)
    left_out = shutil.ignore_patterns("*.safetensors", "cycle-*", "stage-2", "stage-3")
    shutil.copytree(whole, parts, ignore=left_out)
    assert same(read_weights(path), read_weights(train(table, out_dir=parts, resume=True)))
    for name in ("cycle-1/slices.jsonl", "cycle-2/slices.jsonl"):
        assert (whole / name).read_text() == (parts / name).read_text()


def test_the_same_seed_gives_the_same_run_and_another_one_another(recipe, pictures):
    one, same_seed, other = (
        train({**recipe, "seed": seed}, out_dir=pictures / name)
        for seed, name in ((1, "one"), (1, "two"), (2, "three"))
    )
    assert same(read_weights(one), read_weights(same_seed))
    assert read_report(one.parent) == read_report(same_seed.parent)
    assert not same(read_weights(one), read_weights(other))


def test_without_rounds_it_is_the_first_stage_of_one_with_rounds(recipe, pictures):
    plain = train({**recipe, "cycles": 0}, out_dir=pictures / "plain")
    train(recipe, out_dir=pictures / "rws")
    first = torch.load(pictures / "rws" / "stage-1" / "network.pt", weights_only=True)
    assert same(read_weights(plain), first)


def test_with_nothing_mixed_the_third_stage_is_the_first(recipe, pictures):
    table = {**recipe, "share_form": "const:0.5", "mixed_layers": [0], "mix_probability": 0.0}
    train(table, out_dir=pictures / "never")
    one, three = (
        torch.load(pictures / "never" / f"stage-{n}" / "network.pt", weights_only=True)
        for n in (1, 3)
    )
    assert same(one, three)  # the same pictures in the same order, changed alike


def test_a_network_that_sees_nothing_mixes_nothing_and_a_warning_says_so(recipe, pictures, caplog):
    blind = {**recipe, "network": "tests.methods.rws.hosts:make_blind"}
    train(blind, out_dir=pictures / "none")
    assert "attends to all" in read_report(pictures / "none")["ended"]
    with caplog.at_level(logging.WARNING):
        train({**blind, "slice_least_coverage": -1}, out_dir=pictures / "blind")
    report = read_report(pictures / "blind")
    assert report["slices-1"]["slices"] > 0
    assert report["mixing-1"] == {
        "slices_with_foreground": 0.0, "mixed_share": [0.0, 0.0, 0.0], "pictures": 0
    }  # fmt: skip
    assert "nothing gets mixed; of the slices 0 %" in caplog.text
    one, three = (
        torch.load(pictures / "blind" / f"stage-{n}" / "network.pt", weights_only=True)
        for n in (1, 3)
    )
    assert same(one, three)


def test_one_class_of_many_makes_all_else_background(recipe, pictures):
    train({**recipe, "classes": [2], "pretrain_epochs": 0}, out_dir=pictures / "run")
    slices = load_slices(pictures / "run" / "cycle-1" / "slices.jsonl")
    assert {one.class_index for one in slices} <= {2}
    assert "p3" not in {one.id for one in slices}
    data = LabelledData(images="", labels=str(pictures / "labels"), classes=(2,))
    item = find_items(
        LabelledData(images=str(pictures / "images"), labels=str(pictures / "labels")), ""
    )[0]
    assert set(np.unique(load_item(item, data, 3)[1])) == {0, 2}
    kept = LabelledData(images="", labels="", classes=(2,), void_as="ignore")
    assert set(np.unique(load_item(item, kept, 3)[1])) == {0, 2, 255}


def test_the_start_can_learn_a_background(recipe, pictures):
    """Where every pixel has a class, those left out of `pretrain_classes` are background."""
    data = LabelledData(
        images=recipe["images"], labels=recipe["labels"], classes=(1,), pretrain_classes=(2,)
    )
    item = find_items(data, "")[0]
    assert set(np.unique(load_item(item, data, 3, all_classes=True)[1])) == {0, 2, 255}
    assert set(np.unique(load_item(item, data, 3)[1])) == {0, 1}
    few = {**recipe, "cycles": 0, "epochs": 1, "pretrain_epochs": 1}
    train(few, out_dir=pictures / "all")
    train({**few, "pretrain_classes": [1]}, out_dir=pictures / "some")
    starts = [
        torch.load(pictures / name / "stage-0" / "network.pt", weights_only=True)
        for name in ("all", "some")
    ]
    assert not same(*starts)


def test_slices_of_another_run_can_be_pictures_of_their_own(recipe, pictures):
    train(recipe, out_dir=pictures / "run")
    path = pictures / "run" / "cycle-1" / "slices.jsonl"
    count = len(load_slices(path))
    start = {"pretrain_epochs": 0, "init_from": str(pictures / "run" / "stage-0" / "network.pt")}
    table = {**recipe, **start, "cycles": 0, "extra_slices": str(path)}
    train(table, out_dir=pictures / "more")
    steps = read_report(pictures / "more")["stages"]["1"]["steps"]
    assert steps == recipe["epochs"] * -(-(5 + count) // recipe["batch_size"])
    (pictures / "last.txt").write_text("p4\n")
    with pytest.raises(InputError, match=r"slices\.jsonl: p\d is no picture to train on"):
        train({**table, "train_list": str(pictures / "last.txt")}, out_dir=pictures / "other")


def test_shuffled_maps_are_those_of_other_pictures(recipe, pictures):
    own = train(recipe, out_dir=pictures / "own")
    other = train({**recipe, "assignment": "shuffled"}, out_dir=pictures / "other")
    assert not same(read_weights(own), read_weights(other))


def test_maps_of_one_picture_alone_are_not_shuffled_but_left_out(recipe, pictures, caplog):
    """Else the placebo would be the picture's own maps."""
    (pictures / "one.txt").write_text("p0\n")
    table = {**recipe, "train_list": str(pictures / "one.txt"), "share_form": "const:0.5"}
    with caplog.at_level(logging.WARNING):
        train({**table, "assignment": "shuffled"}, out_dir=pictures / "other")
    assert read_report(pictures / "other")["mixing-1"]["pictures"] == 1
    assert "p0 is the only picture into which anything is mixed" in caplog.text
    one, three = (
        torch.load(pictures / "other" / f"stage-{n}" / "network.pt", weights_only=True)
        for n in (1, 3)
    )
    assert same(one, three)


@pytest.mark.parametrize("id", ["p3", "p5"])  # to train on, to score
@pytest.mark.parametrize("dry_run", [True, False])
def test_labels_of_other_classes_are_found_before_anything_is_trained(
    recipe, pictures, id, dry_run
):
    label = np.array(PIL.Image.open(pictures / "labels" / f"{id}.png"))
    label[30, 40] = 3
    PIL.Image.fromarray(label).save(pictures / "labels" / f"{id}.png")
    with pytest.raises(InputError, match=rf"{id}\.png: has label 3, but num_classes is 3"):
        train(recipe, out_dir=pictures / "run", dry_run=dry_run)
    assert not (pictures / "run").exists()


def test_the_search_for_slices_counts_pictures(recipe, pictures):
    told = []
    train(recipe, out_dir=pictures / "run", on_progress=lambda *counts: told.append(counts))
    search = [(n, 5) for n in range(1, 6)]
    assert sum(told[i : i + 5] == search for i in range(len(told))) == 2


def test_the_command_says_why_the_rounds_ended(recipe, pictures):
    path = pictures / "own.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in recipe.items()))
    said = train_recipe(path, pictures / "run", options={"pretrain_epochs": 2, "epochs": 1})
    ended = read_report(pictures / "run")["ended"]
    assert said == f"wrote {pictures / 'run' / 'tiny.rws.safetensors'}; rounds ended: {ended}"


def test_the_previous_stage_can_be_the_start(recipe, pictures):
    train({**recipe, "stage_start": "previous"}, out_dir=pictures / "run")
    assert read_report(pictures / "run")["ended"]


def test_slices_can_be_seen_at_the_size_of_the_picture(recipe, pictures):
    train({**recipe, "slice_input": "image"}, out_dir=pictures / "run")
    assert read_report(pictures / "run")["mixing-1"]["pictures"] >= 0


def test_a_last_picture_alone_does_not_stop_batch_normalisation(recipe, pictures):
    with pytest.raises(ValueError, match="more than 1 value"):
        make_seeded(PooledHost)(torch.zeros(1, 3, 16, 16))
    host = "tests.methods.rws.hosts:make_pooled"
    train({**recipe, "network": host, "epochs": 1}, out_dir=pictures / "run")  # 5 pictures by 4
    assert read_report(pictures / "run")["stages"]["1"]["steps"] == 2
    (pictures / "one.txt").write_text("p0\n")
    table = {**recipe, "network": host, "cycles": 0, "train_list": str(pictures / "one.txt")}
    train(table, out_dir=pictures / "one")


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_every_epoch_has_every_picture_and_whole_batches_only(pictures, count):
    data = LabelledData(images=str(pictures / "images"), labels=str(pictures / "labels"))
    items = (find_items(data, "") * 2)[:count]
    source = StageSource(
        [(item, None) for item in items],
        data,
        StageConfig(base_px=40, crop_px=16),
        num_classes=3,
        batch_size=4,
        seed=[0, 1],
    )
    assert source.per_epoch % 4 == 0
    assert source.per_epoch - count < 4
    for epoch in range(2):
        order = source._order(epoch)
        places = [order[i % count] for i in range(source.per_epoch)]
        assert set(places) == set(range(count))
    first, again = source[3], source[3]
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.inputs.shape == (3, 16, 16)


def test_samples_pass_to_processes_that_are_not_forked(recipe, pictures):
    data = LabelledData(images=recipe["images"], labels=recipe["labels"])
    items = [(item, None) for item in find_items(data, "")]
    config = StageConfig(base_px=40, crop_px=16)
    source = StageSource(items, data, config, num_classes=3, batch_size=4, seed=[0, 1])
    passed = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(passed[9].inputs, source[9].inputs)


def test_the_loss_counts_a_second_head_half_and_no_void():
    x = torch.randn(2, 3, 16, 16)
    network = make_seeded(DictHost).eval()
    target = torch.zeros(2, 16, 16, dtype=torch.long)
    target[0] = 255
    output = network(x)
    alone = segmentation_loss({"out": output["out"]}, target)
    assert segmentation_loss(output, target).item() == pytest.approx(1.5 * alone.item())
    assert segmentation_loss(output, torch.full_like(target, 255)) == 0
    entropy = torch.nn.functional.cross_entropy(output["out"], target, ignore_index=255)
    assert alone.item() == pytest.approx(entropy.item())
    small = make_seeded(TinyHost).eval()(x)
    assert small.shape[-1] == 4
    assert segmentation_loss(small, target) > 0


def test_a_second_head_of_one_channel_is_a_class_against_a_background():
    logits, target = torch.randn(2, 1, 4, 4), torch.ones(2, 4, 4, dtype=torch.long)
    alone = segmentation_loss(logits, target)
    both = segmentation_loss({"out": logits, "aux": logits}, target)
    assert both.item() == pytest.approx(1.5 * alone.item())


def test_the_second_head_learns_ten_times_as_fast():
    network = build_host("deeplabv3_resnet50", 2)
    others, head = group_parameters(network)
    assert head.rate_factor == 10
    assert {p.shape[0] for p in head.parameters} == {256, 2}
    assert len(others.parameters) + len(head.parameters) == len(list(network.parameters()))


def test_figures_that_a_stop_kept_from_the_report_are_made_again(recipe, pictures):
    train(recipe, out_dir=pictures / "run")
    path = pictures / "run" / "report.json"
    whole = read_report(pictures / "run")
    path.write_text(json.dumps({k: v for k, v in whole.items() if not k.startswith("mixing")}))
    train(recipe, out_dir=pictures / "run", resume=True)
    assert read_report(pictures / "run") == whole


def test_weights_of_other_classes_leave_the_last_layer_fresh():
    network, other = make_seeded(TinyHost, 3), make_seeded(TinyHost, 7, seed=1)
    fresh = load_matching(network, other.state_dict(), num_classes=3)
    assert fresh == ["head.weight", "head.bias"]
    assert torch.equal(network.one[0].weight, other.one[0].weight)
    lacking = {k: v for k, v in other.state_dict().items() if not k.startswith("two")}
    with pytest.raises(WeightsError, match=r"there: lacks 6 tensors of the network \(two\.0"):
        load_matching(network, lacking, num_classes=3, source="there")


def test_heat_and_features_of_slices_come_from_one_pass():
    network = make_seeded()
    x = torch.randn(1, 3, 20, 20)
    seen = observe(network, x, LAYERS)
    assert [tuple(f.shape) for f in seen.features] == [(8, 10, 10), (12, 5, 5), (12, 5, 5)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lerning_rate": 1}, "did you mean learning_rate"),
        ({"iterations": 5}, "leave iterations out"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"network": "resnet"}, "resnet"),
        ({"network": "nowhere.at:all"}, "cannot import nowhere.at"),
        ({"network": "tests.methods.rws.hosts:nothing"}, "no function or class nothing"),
        ({"network": "tests.methods.rws.hosts:make_tyni"}, "did you mean make_tiny"),
        ({"network": "tests.methods.rws.hosts:make_without_classes"}, "with num_classes=3"),
        ({"network": "tests.methods.rws.hosts:make_number"}, "returns int"),
        ({"layers": ["one", "tree"]}, "nearest: three"),
        ({"layers": []}, "name its stages"),
        ({"mixed_layers": [3]}, "expected 0 to 2"),
        ({"classes": [3]}, "num_classes is 3"),
        ({"classes": [0]}, "background is 0"),
        ({"pretrain_classes": [0]}, "background is 0"),
        ({"pretrain_classes": [3]}, "class 3 asked for"),
        ({"heat_mask": "truth"}, "heat_mask"),
        ({"share_form": "sum"}, "share_form"),
        ({"cycles": -1}, "cycles"),
        ({"scale_range": [1.0]}, "scale_range"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"void_as": "nothing"}, "void_as"),
        ({"start_from": "a", "init_from": "b"}, "leave one"),
        ({"epochs": 0}, "epochs is 0"),
        ({"device": "gpu"}, "device 'gpu' is not available"),
    ],
)
def test_what_cannot_be_is_refused_before_training(recipe, pictures, changes, said):
    with pytest.raises(UsageError, match=said):
        train({**recipe, **changes}, out_dir=pictures / "run", dry_run=True)


def test_data_that_does_not_fit_is_refused_with_the_reason(recipe, pictures):
    def attempt(**changes):
        return train({**recipe, **changes}, out_dir=pictures / "run")

    (pictures / "three.txt").write_text("p3\n")
    (pictures / "nine.txt").write_text("p0\np9\n")
    PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pictures / "images" / "p9.png")
    with pytest.raises(InputError, match="class 2 is in none of the 1 label maps"):
        attempt(train_list=str(pictures / "three.txt"), classes=[2], pretrain_epochs=0)
    with pytest.raises(InputError, match=r"labels: has no label map p9"):
        attempt(train_list=str(pictures / "nine.txt"))
    (pictures / "empty.txt").write_text("\n")
    for name in ("train_list", "validation_list"):
        with pytest.raises(InputError, match=r"empty\.txt"):
            attempt(**{name: str(pictures / "empty.txt")})
    with pytest.raises(InputError, match="voc:CLASS:train"):
        attempt(train_list="voc:carr:train")
    with pytest.raises(InputError, match=r"p0.png: has label 2, but num_classes is 2"):
        attempt(num_classes=2)
    with pytest.raises(InputError, match="no such folder"):
        attempt(images=str(pictures / "none"))
    with pytest.raises(WeightsError, match="no such file"):
        attempt(init_from=str(pictures / "none.pth"))


def test_pictures_without_label_map_are_said_where_no_list_chooses(recipe, pictures, caplog):
    PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pictures / "images" / "p9.png")
    data = LabelledData(images=recipe["images"], labels=recipe["labels"])
    with caplog.at_level(logging.WARNING):
        assert len(find_items(data, "")) == 6
    assert "1 of 7 pictures have no label map and are left out, such as p9" in caplog.text


def test_a_folder_with_a_run_is_not_used_for_another(recipe, pictures):
    table = {**recipe, "cycles": 0, "pretrain_epochs": 0, "epochs": 1}
    train(table, out_dir=pictures / "run")
    with pytest.raises(UsageError, match="--resume"):
        train(table, out_dir=pictures / "run")
    train({**table, "device": "cpu"}, out_dir=pictures / "run", resume=True)
    with pytest.raises(UsageError, match="another epochs"):
        train({**table, "epochs": 2}, out_dir=pictures / "run", resume=True)


def test_many_processes_are_refused(recipe, pictures, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        train(recipe, out_dir=pictures / "run")


def test_a_dry_run_writes_nothing(recipe, pictures):
    train(recipe, out_dir=pictures / "run", dry_run=True)
    assert not (pictures / "run").exists()
    assert parse_recipe(recipe)[0].name == "tiny.rws"
