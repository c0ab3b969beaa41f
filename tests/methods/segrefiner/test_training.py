import json
from pathlib import Path

import numpy as np
import pytest
import torch

from maskhone.data.coco import to_rle
from maskhone.engine.weights import load_weights
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.methods.catalogue import load
from maskhone.methods.segrefiner.coarse import Draws
from maskhone.methods.segrefiner.config import SegRefinerConfig
from maskhone.methods.segrefiner.crops import draw_outline_patch
from maskhone.methods.segrefiner.diffusion import DiffusionSchedule
from maskhone.methods.segrefiner.train import make_loss, train
from maskhone.methods.segrefiner.training_set import (
    Mixture,
    TrainingData,
    ViewSource,
    collate,
    open_gallery,
)

OBJECTS = SegRefinerConfig(network="lite", model_px=32)
PICTURES = SegRefinerConfig(network="lite", model_px=32, scope="picture")
TABLE = {
    "method": "segrefiner-lite", "name": "tiny.discs", "network": "lite", "model_px": 32,
    "iterations": 2, "batch_size": 2, "checkpoint_every": 1, "workers": 0, "optimizer": "adamw",
}  # fmt: skip


@pytest.fixture
def listed(tmp_path, photo, disc, save_picture):
    """Two pictures in folders with a list."""
    folder = tmp_path / "discs"
    for name in ("a", "b"):
        save_picture(folder / "images" / f"{name}.png", photo)
        save_picture(folder / "masks" / f"{name}.png", disc.astype(np.uint8) * 255)
        coarse = np.roll(disc, 2, axis=1).astype(np.uint8) * 255
        save_picture(folder / "coarse" / f"{name}.png", coarse)
    (folder / "train.txt").write_text("a\nb\n")
    return TrainingData(folders=(str(folder),))


@pytest.fixture
def annotated(tmp_path, photo, disc, save_picture):
    """One picture of an LVIS json: a large object, a small one and a crowd."""
    save_picture(tmp_path / "train2017" / "1.png", photo)
    big = {"id": 1, "image_id": 1, "area": 600, "bbox": [14, 10, 21, 21], "category_id": 3}
    objects = [
        {**big, "segmentation": to_rle(disc)},
        {**big, "id": 2, "area": 9, "segmentation": to_rle(~disc)},
        {**big, "id": 3, "iscrowd": 1, "segmentation": to_rle(~disc)},
    ]
    image = {"id": 1, "height": 40, "width": 48}
    image["coco_url"] = "http://images.cocodataset.org/train2017/1.png"
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps({"images": [image], "annotations": objects, "categories": []}))
    return TrainingData(images=str(tmp_path), annotations=str(path))


@pytest.fixture
def collection(tmp_path, photo, disc, save_picture):
    """One picture laid out as DIS5K, with its two coarse masks."""
    folder = tmp_path / "DIS-TR"
    save_picture(folder / "im" / "a.jpg", photo)
    for kind in ("gt", "coarse", "coarse_expand"):
        save_picture(folder / kind / "a.png", disc.astype(np.uint8) * 255)
    return TrainingData(pictures=(str(folder),))


def draw(data, config=OBJECTS, index=0, seed=0, **mixture):
    return ViewSource(open_gallery(data), config, Mixture(**mixture), seed=seed)[index]


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("images", "coarse", "targets", "steps", "noise_seeds")
    )


@pytest.mark.parametrize("kind", ["listed", "annotated", "collection"])
@pytest.mark.parametrize(("config", "count"), [(OBJECTS, 1), (PICTURES, 2)])
def test_views_have_the_size_of_the_network(request, kind, config, count):
    views = draw(request.getfixturevalue(kind), config)
    assert views.images.shape == (count, 32, 32, 3)
    assert views.coarse.shape == views.targets.shape == (count, 32, 32)
    assert views.targets.any()
    assert ((views.steps >= 0) & (views.steps < 6)).all()


def test_a_sample_is_a_function_of_its_number_and_the_seed(listed):
    assert same(draw(listed, index=5), draw(listed, index=5))
    assert not same(draw(listed, index=5), draw(listed, index=6))
    assert not same(draw(listed, index=5), draw(listed, index=5, seed=1))


def test_the_target_lies_over_the_bright_disc(listed):
    views = draw(listed, distorts_colours=False)
    bright = views.images[0].mean(axis=-1) > 120
    assert np.mean(bright != views.targets[0]) < 0.05


def test_stored_masks_are_used_as_often_as_asked(listed, disc):
    always = [draw(listed, index=i, stored_share=1.0) for i in range(4)]
    never = [draw(listed, index=i, stored_share=0.0) for i in range(4)]
    areas = [abs(int(v.coarse.sum()) - int(v.targets.sum())) for v in always]
    assert max(areas) < 0.1 * always[0].targets.sum()
    assert not any(same(a, n) for a, n in zip(always, never, strict=True))


def test_small_objects_and_crowds_are_left_out(annotated):
    gallery = open_gallery(annotated)
    assert len(gallery) == 1
    assert [entry["id"] for entry in gallery.objects[0][1]] == [1]


def test_held_out_pictures_are_not_trained_on(listed):
    kept = open_gallery(TrainingData(folders=listed.folders, held_out=("a*",)))
    assert [item.id for item in kept.items] == ["b"]


def test_pictures_without_coarse_masks_say_how_to_make_them(collection, tmp_path):
    (tmp_path / "DIS-TR" / "coarse_expand" / "a.png").unlink()
    with pytest.raises(InputError, match="maskhone coarse"):
        open_gallery(collection)


@pytest.mark.parametrize(
    "options", [{}, {"folders": ("a",), "pictures": ("b",)}, {"annotations": "a"}]
)
def test_training_data_comes_from_one_place(options):
    with pytest.raises(UsageError, match="recipe"):
        TrainingData(**options)


def test_a_patch_of_a_full_mask_is_given_up_on():
    box = draw_outline_patch(np.ones((50, 50), dtype=bool), Draws(0).numpy, side_px=32)
    assert box[2] - box[0] == 32


def test_views_of_a_kind_lie_together(listed):
    batch = collate([draw(listed, PICTURES, index=i) for i in range(3)])
    assert batch["rgb"].shape == (6, 3, 32, 32)
    whole = draw(listed, PICTURES, index=2).targets[0]
    np.testing.assert_array_equal(batch["target"][2, 0].numpy() > 0, whole)


def test_the_loss_falls_when_the_answer_is_right(listed):
    batch = collate([draw(listed, index=i) for i in range(2)])

    class Says(torch.nn.Module):
        def __init__(self, target):
            super().__init__()
            self.target = target

        def normalise(self, rgb):
            return rgb

        def forward(self, inputs, step):
            return 20 * (self.target - 0.5)

    loss_of = make_loss(DiffusionSchedule())
    right, wrong = (loss_of(Says(t), batch) for t in (batch["target"], 1 - batch["target"]))
    assert right["loss"] < 0.1 < wrong["loss"]
    assert right["iou"] > 0.99
    assert wrong["iou"] == 0


def test_a_stopped_training_ends_with_the_same_weights(listed, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    table = {**TABLE, "iterations": 3, "folders": list(listed.folders)}
    whole = train(table, out_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train({**table}, out_dir=tmp_path / "parts", on_progress=stop)
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    parts = train(table, out_dir=tmp_path / "parts", resume=True)
    one, other = load_weights(whole)[0], load_weights(parts)[0]
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_start_from_other_weights_is_refused(listed, tmp_path, bpr_weights, dry_run):
    table = {**TABLE, "folders": list(listed.folders), "start_from": str(bpr_weights)}
    with pytest.raises(WeightsError, match="weights of bpr"):
        train(table, out_dir=tmp_path, dry_run=dry_run)


def test_objects_without_a_box_are_refused(annotated):
    path = Path(annotated.annotations)
    truth = json.loads(path.read_text())
    del truth["annotations"][0]["bbox"]
    path.write_text(json.dumps(truth))
    with pytest.raises(InputError, match="no area or bbox"):
        open_gallery(annotated)


@pytest.mark.parametrize(
    "options", [{"stored_share": 1.5}, {"collage_share": -0.1}, {"margin_px": -1}]
)
def test_mixtures_out_of_range_are_refused_by_name(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Mixture(**options)


def test_training_makes_weights_that_refine(listed, tmp_path, photo, disc):
    table = {**TABLE, "folders": list(listed.folders), "least_area_px": 1}
    refiner = load("segrefiner-lr", weights=train(table, out_dir=tmp_path / "run"), device="cpu")
    masks = disc[None].astype(np.float32)
    assert refiner.refine(photo, masks).shape == masks.shape
