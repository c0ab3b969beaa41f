import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskhone.data.folder import find_training_items
from maskhone.engine.weights import load_weights
from maskhone.errors import InputError, UsageError
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.network import HRNETS, BPRNetwork
from maskhone.methods.bpr.train import parse_recipe, patch_loss, train
from maskhone.methods.bpr.training_set import (
    FolderPatches,
    Mixture,
    TrainingData,
    collate,
    cut_group,
    make_patch_source,
    make_validation_source,
)
from maskhone.methods.catalogue import load
from maskhone.ops.colours import distort_colours
from maskhone.ops.roughen import roughen
from maskhone.pipelines.train import train_recipe

CONFIG = BPRConfig(patch_px=16, input_px=32, mask_input="soft", coarsest_side_px=10, narrowest_px=2)
TABLE = {
    "method": "bpr", "name": "tiny.discs", "patch_px": 16, "input_px": 32,
    "iterations": 2, "batch_size": 2, "checkpoint_every": 1, "workers": 0,
}  # fmt: skip


@pytest.fixture
def data_dir(tmp_path, photo, disc, save_picture):
    """A training set of two pictures."""
    folder = tmp_path / "discs"
    for name in ("a", "b"):
        save_picture(folder / "images" / f"{name}.png", photo)
        save_picture(folder / "masks" / f"{name}.png", disc.astype(np.uint8) * 255)
        coarse = np.roll(disc, 2, axis=1).astype(np.uint8) * 255
        save_picture(folder / "coarse" / f"{name}.png", coarse)
    (folder / "train.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def patches(data_dir):
    return FolderPatches(find_training_items(data_dir), CONFIG, Mixture(), seed=3)


@pytest.fixture
def recipe(data_dir, tmp_path):
    """A recipe file of two steps."""
    lines = [f"{k} = {v!r}" for k, v in {**TABLE, "folders": [str(data_dir)]}.items()]
    path = tmp_path / "tiny.toml"
    path.write_text("\n".join(lines))
    return path


def assert_same(one, other):
    for field in ("images", "masks", "targets"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_a_sample_is_a_function_of_its_number_and_the_seed(data_dir, patches):
    again = FolderPatches(find_training_items(data_dir), CONFIG, Mixture(), seed=3)
    other = FolderPatches(find_training_items(data_dir), CONFIG, Mixture(), seed=4)
    assert_same(patches[5], again[5])
    assert not np.array_equal(patches[5].images, patches[6].images)
    assert not np.array_equal(patches[5].images, other[5].images)


def test_samples_have_the_size_of_the_network(patches):
    group = patches[0]
    assert group.images.shape == (4, 32, 32, 3)
    assert group.masks.shape == group.targets.shape == (4, 32, 32)
    assert (group.images.dtype, group.targets.dtype) == (np.uint8, np.bool_)


def test_each_pass_over_the_data_uses_every_picture_once(data_dir, monkeypatch):
    drawn = []
    monkeypatch.setattr(FolderPatches, "_draw", lambda self, item, random: drawn.append(item.id))
    patches = FolderPatches(find_training_items(data_dir), CONFIG, Mixture(), seed=0)
    for index in range(8):
        patches[index]
    assert [sorted(drawn[i : i + 2]) for i in (0, 2, 4, 6)] == [["a", "b"]] * 4


def test_image_mask_and_truth_are_flipped_together(disc):
    image = np.repeat(disc[..., None] * np.uint8(255), 3, axis=2)
    boxes = np.array([[10, 8, 26, 24]] * 8)
    config = replace(CONFIG, mask_input="binary")
    scores = disc.astype(np.float32)
    group = cut_group(image, scores, disc, boxes, config, np.random.default_rng(0))
    np.testing.assert_array_equal(group.masks > 0.5, group.targets)
    mirrored = [np.array_equal(t, group.targets[0, :, ::-1]) for t in group.targets]
    assert 0 < sum(mirrored) < 8
    for rgb, target in zip(group.images.astype(int), group.targets, strict=True):
        assert rgb[target].mean() > rgb[~target].mean() + 50


def test_collating_joins_groups_along_the_batch(patches):
    batch = collate([patches[0], patches[1]])
    assert batch["rgb"].shape == (8, 3, 32, 32)
    assert batch["score"].shape == (8, 1, 32, 32)
    assert (batch["target"].shape, batch["target"].dtype) == ((8, 32, 32), torch.int64)


def test_distorted_colours_stay_colours(photo):
    random = np.random.default_rng(0)
    distorted = [distort_colours(photo, random) for _ in range(8)]
    assert all(d.dtype == np.uint8 and d.shape == photo.shape for d in distorted)
    assert len({d.tobytes() for d in distorted}) > 4


def test_roughened_masks_are_wrong_but_not_much(disc):
    for seed in range(20):
        rough = roughen(disc, np.random.default_rng(seed), extent_px=20)
        assert rough.dtype == np.float32
        assert ((rough >= 0) & (rough <= 1)).all()
        both = np.count_nonzero((rough > 0.5) & disc) / np.count_nonzero((rough > 0.5) | disc)
        assert both > 0.6
    assert not np.array_equal(rough, disc)


def test_no_pictures_are_refused():
    with pytest.raises(InputError, match="no training pictures"):
        FolderPatches([], CONFIG, Mixture(), seed=0)


@pytest.mark.parametrize(
    "options",
    [{}, {"folders": ("a",), "detections": "b"}, {"detections": "b", "images": "c"}],
    ids=["nothing", "both", "half"],
)
def test_training_data_is_folders_or_detections(options):
    with pytest.raises(UsageError, match="recipe"):
        TrainingData(**options)


def test_the_loss_is_that_of_a_coin_for_a_network_that_knows_nothing():
    network = BPRNetwork(HRNETS["hrnet18s"])
    torch.nn.init.zeros_(network.decode_head.conv_seg.weight)
    torch.nn.init.zeros_(network.decode_head.conv_seg.bias)
    batch = {
        "rgb": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        "score": torch.zeros(2, 1, 32, 32),
        "target": torch.ones(2, 32, 32, dtype=torch.int64),
    }
    assert patch_loss(network, batch)["loss"].item() == pytest.approx(np.log(2))


def test_a_recipe_is_split_into_what_it_sets():
    table = {**TABLE, "folders": ["x"], "patches_per_image": 9}
    identity, config, data, mixture, schedule = parse_recipe(table)
    assert identity.name == "tiny.discs"
    assert (config.input_px, data.folders, mixture.patches_per_image) == (32, ("x",), 9)
    assert schedule.iterations == 2


def test_training_makes_weights_that_refine(recipe, tmp_path, photo, disc):
    said = train_recipe(recipe, tmp_path / "run")
    path = tmp_path / "run" / "tiny.discs.safetensors"
    assert said == f"wrote {path}"
    _, header = load_weights(path)
    assert header["recipe"]["iterations"] == 2
    masks = disc[None].astype(np.float32)
    assert load("bpr", weights=path, device="cpu").refine(photo, masks).shape == masks.shape


def test_a_stopped_training_ends_with_the_same_weights(recipe, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    train_recipe(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe, tmp_path / "parts", on_progress=stop)
    train_recipe(recipe, tmp_path / "parts", resume=True)
    whole, parts = (
        load_weights(tmp_path / kind / "tiny.discs.safetensors")[0] for kind in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_run_is_not_begun_over_another(recipe, tmp_path):
    train_recipe(recipe, tmp_path / "run")
    with pytest.raises(UsageError, match="--resume"):
        train_recipe(recipe, tmp_path / "run")


def test_a_dry_run_of_training_writes_nothing(recipe, tmp_path):
    assert "in order" in train_recipe(recipe, tmp_path / "run", dry_run=True)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_finds_missing_data(recipe, tmp_path, data_dir):
    (data_dir / "coarse" / "b.png").unlink()
    with pytest.raises(InputError, match="lists b"):
        train_recipe(recipe, tmp_path / "run", dry_run=True)


def test_options_replace_lines_of_the_recipe(recipe, tmp_path):
    with pytest.raises(UsageError, match="iterations is 0"):
        train_recipe(recipe, tmp_path / "run", options={"iterations": 0})


@pytest.mark.parametrize(
    ("text", "error", "word"),
    [
        ('method = "guided"', UsageError, "can be trained: bpr"),
        ("", UsageError, "None"),
        ("method = ", InputError, "not valid TOML"),
        ("[table]\na = 1", InputError, "flat"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, text, error, word):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(error, match=word):
        train_recipe(tmp_path / "r.toml", tmp_path / "run")


def test_a_recipe_with_detections_is_opened_or_refused_in_words(tmp_path):
    table = {**TABLE, "detections": "d.json", "images": "i", "annotations": "a.json"}
    with pytest.raises(InputError, match=r"d\.json|a\.json|detections"):
        train(table, out_dir=tmp_path, dry_run=True)


def test_training_is_validated_on_a_list_of_its_own(recipe, tmp_path, data_dir):
    (data_dir / "val.txt").write_text("b\n")
    train_recipe(recipe, tmp_path / "run", options={"validation_split": "val"})
    lines = [json.loads(one) for one in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (noted,) = [one["validation"] for one in lines if "validation" in one]
    assert set(noted) == {"mIoU", "mAcc", "aAcc"}
    assert all(0 <= value <= 1 for value in noted.values())


def test_held_out_pictures_are_validated_on_and_not_trained_on(data_dir):
    data = TrainingData(folders=(str(data_dir),), held_out=("b*",))
    trained = make_patch_source(data, CONFIG, Mixture(), seed=0)
    validated = make_validation_source(data, CONFIG, Mixture(), seed=0)
    assert [item.id for item in trained.items] == ["a"]
    assert [item.id for item in validated.items] == ["b"]


def test_without_pictures_set_aside_there_is_no_validation(data_dir):
    data = TrainingData(folders=(str(data_dir),))
    assert make_validation_source(data, CONFIG, Mixture(), seed=0) is None


def test_pictures_are_set_aside_in_one_way(data_dir):
    with pytest.raises(UsageError, match="held_out"):
        TrainingData(folders=(str(data_dir),), held_out=("b",), validation_split="val")


def test_detections_are_validated_on_detections_of_their_own(tmp_path):
    data = TrainingData(
        detections="d.json",
        images="i",
        annotations="a.json",
        validation_images=str(tmp_path),
        validation_detections=str(tmp_path / "v.json"),
        validation_annotations=str(tmp_path / "w.json"),
    )
    with pytest.raises(InputError, match=r"v\.json"):
        make_validation_source(data, CONFIG, Mixture(), seed=0)


def test_collages_come_with_roughened_truth(data_dir):
    items = find_training_items(data_dir, "train")
    source = FolderPatches(items, CONFIG, Mixture(collage_share=1.0, real_share=1.0), seed=0)
    group = source[0]
    assert group.targets.any()
    assert not np.array_equal(
        group.targets, FolderPatches(items, CONFIG, Mixture(), seed=0)[0].targets
    )
