import json
import math
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from maskhone.data.voc import read_voc_labels, write_voc_labels
from maskhone.engine.weights import load_weights, read_header
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.methods.perimeterfit.augment import Views
from maskhone.methods.perimeterfit.train import TRAININGS
from maskhone.methods.perimeterfit.train_affinity import group_heads, prepare_affinity
from maskhone.methods.perimeterfit.train_classifier import (
    Passes,
    make_pixel_validation,
    make_tag_validation,
    parse_classifier_recipe,
)
from maskhone.methods.perimeterfit.train_segmenter import (
    make_segmentation_loss,
    make_segmentation_validation,
    parse_segmenter_recipe,
    prepare_segmenter,
)
from maskhone.methods.perimeterfit.training import group_for_poly
from maskhone.methods.perimeterfit.training_set import (
    ImageSet,
    LabelSource,
    TagSource,
    collate,
    find_images,
    split_images,
)
from maskhone.pipelines.train import train_recipe
from maskhone.segmenters.class_models import ClassModel, describe_tensors
from maskhone.segmenters.classifier import Classifier

CLASSES = ("disc", "box")
SIZES_HW = ((30, 40), (40, 30), (36, 36), (28, 44), (33, 35))
VIEWS = Views(image_px=32, min_image_px=28, max_image_px=40)
TINY = {
    "architecture": "efficientnet_lite0", "image_px": 32, "min_image_px": 28, "max_image_px": 40,
    "batch_size": 2, "workers": 0, "log_every": 1, "checkpoint_every": 1, "learning_rate": 0.001,
}  # fmt: skip
METHODS = ("classifier", "affinitynet", "deeplabv3plus")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Five pictures of discs and boxes with tags and label maps; the last shows neither."""
    root = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    lines = ["image,labels"]
    for number, (height, width) in enumerate(SIZES_HW):
        labels = np.zeros((height, width), dtype=np.uint8)
        y, x = np.ogrid[:height, :width]
        if number in (0, 2, 3):
            labels[(y - 12) ** 2 + (x - 12) ** 2 < 80] = 1
        if number in (1, 2):
            labels[18:28, 16:28] = 2
        labels[-2:] = 255
        image = np.array([[40, 40, 40], [200, 60, 60], [60, 60, 200]])[labels % 255]
        image = image + random.integers(-20, 20, (height, width, 3))
        present = [CLASSES[label - 1] for label in (1, 2) if (labels == label).any()]
        lines.append(f"{number}.png,{';'.join(present)}")
        (root / "images").mkdir(exist_ok=True)
        PIL.Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
            root / "images" / f"{number}.png"
        )
        write_voc_labels(root / "labels" / f"{number}.png", labels)
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


@pytest.fixture
def make_table(world):
    def make(method, **changes):
        table = {
            **TINY,
            "name": f"tiny-{method}.shapes",
            "images": str(world / "images"),
            "tags": str(world / "tags.csv"),
            "classes": str(world / "classes.txt"),
            "iterations": 2,
        }
        if method == "classifier":
            table |= {"select": "last", "pieces": 4}
        else:
            table["labels"] = str(world / "labels")
        if method == "affinitynet":
            table |= {"radius": 3}
        return {k: v for k, v in {**table, **changes}.items() if v is not None}

    return make


def images_of(world, **changes):
    data = ImageSet(
        images=str(world / "images"),
        tags=str(world / "tags.csv"),
        classes=str(world / "classes.txt"),
        truths=str(world / "labels"),
    )
    return replace(data, **changes)


def test_a_folder_of_vocs_layout_goes_by_its_own_list_and_ones_own_classes(tmp_path, save_picture):
    side = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    for id, name in (("a", "hat"), ("b", "cat")):
        save_picture(tmp_path / "JPEGImages" / f"{id}.png", np.zeros((10, 10, 3), dtype=np.uint8))
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{id}.xml").write_text(
            "<annotation><size><width>10</width><height>10</height></size>"
            f"<object><name>{name}</name><bndbox>{side}</bndbox></object></annotation>"
        )
    (tmp_path / "classes.txt").write_text("hat\n")
    data = ImageSet(images=str(tmp_path), classes=str(tmp_path / "classes.txt"))
    assert [(item.id, item.classes) for item in find_images(data)] == [("a", (0,)), ("b", ())]
    with pytest.raises(InputError, match="unknown class"):
        find_images(replace(data, classes=""))


@pytest.mark.parametrize(
    ("held", "select", "is_said"),
    [("0 3", "tags", True), ("2", "tags", True), ("0 1", "tags", False), ("0 4", "tags", False),
     ("0 3", "pixels", False)],
)  # fmt: skip
def test_held_pictures_that_cannot_choose_are_said(
    world, make_table, tmp_path, caplog, held, select, is_said
):
    (tmp_path / "held.txt").write_text(held.replace(" ", "\n"))
    table = make_table("classifier", select=select, validation_list=str(tmp_path / "held.txt"))
    table["truths"] = str(world / "labels")
    TRAININGS["classifier"](table, out_dir=tmp_path / "out", dry_run=True)
    assert ("has the same labels" in caplog.text) == is_said


def test_a_class_that_no_picture_shows_is_said(world, make_table, tmp_path, caplog):
    (tmp_path / "classes.txt").write_text("disc\nbox\nring\n")
    table = make_table("classifier")
    TRAININGS["classifier"](table, out_dir=tmp_path / "out", dry_run=True)
    assert not caplog.text
    table["classes"] = str(tmp_path / "classes.txt")
    TRAININGS["classifier"](table, out_dir=tmp_path / "out", dry_run=True)
    assert "no picture to train on has the class 'ring'; is it written" in caplog.text


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def stop_at(step):
    def on_progress(done, total):
        if done == step:
            raise KeyboardInterrupt

    return on_progress


# the three trainings


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on_to_the_same_weights(make_table, tmp_path, method):
    table, train = make_table(method, iterations=3), TRAININGS[method]
    whole, header = load_weights(train(table, out_dir=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(table, out_dir=tmp_path / "parts", on_progress=stop_at(2))
    resumed, _ = load_weights(train(table, out_dir=tmp_path / "parts", resume=True))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (header["method"], header["images"]["trained_on"]) == (method, 5)
    assert len(read_log(tmp_path / "whole")) == 3
    assert all(math.isfinite(line["loss"]) for line in read_log(tmp_path / "whole"))


def test_the_classifiers_weights_say_what_they_are(make_table, tmp_path):
    table = make_table("classifier", epochs=2, iterations=None, pieces=1, select="pixels")
    table |= {"truths": table["images"].replace("images", "labels"), "held_share": 0.4}
    path = TRAININGS["classifier"](table, out_dir=tmp_path)
    state, header = load_weights(path)
    model = ClassModel(kind=header["method"], **header["config"])
    assert model == describe_tensors(state)
    model.build().load_state_dict(state)
    assert header["classes"] == list(CLASSES)
    assert header["images"] == {"trained_on": 3, "chosen_by": 2}
    scores = [line["validation"] for line in read_log(tmp_path) if "validation" in line]
    assert len(scores) == 2
    assert {"miou", "threshold"} <= scores[0].keys()


def test_the_body_of_affinitynet_stays_and_its_heads_move(make_table, tmp_path):
    short, _ = load_weights(
        TRAININGS["affinitynet"](make_table("affinitynet", iterations=1), out_dir=tmp_path / "a")
    )
    long, _ = load_weights(
        TRAININGS["affinitynet"](make_table("affinitynet", iterations=2), out_dir=tmp_path / "b")
    )
    changed = {key for key in short if not torch.equal(short[key], long[key])}
    assert changed
    assert all(key.startswith("fc_edge") for key in changed)


def test_fixed_norms_of_the_segmenter_keep_their_statistics(make_table, tmp_path):
    table = make_table("deeplabv3plus", select="labels", held_share=0.4, iterations=1)
    state, header = load_weights(TRAININGS["deeplabv3plus"](table, out_dir=tmp_path))
    assert all((v == 0).all() for k, v in state.items() if k.endswith("running_mean"))
    assert header["config"]["num_classes"] == 3
    (validation,) = [line["validation"] for line in read_log(tmp_path) if "validation" in line]
    assert validation["lack"] == pytest.approx(1 - validation["miou"], abs=1e-3)


def test_the_classifier_is_chosen_by_its_ranking_unless_said_otherwise(make_table, tmp_path):
    table = make_table("classifier", select=None, held_share=0.4, pieces=1)
    TRAININGS["classifier"](table, out_dir=tmp_path)
    assert "map" in read_log(tmp_path)[-1]["validation"]


def test_recipes_reach_the_trainings_by_their_method(make_table, tmp_path):
    for method in METHODS:
        lines = [
            f"{key} = {json.dumps(value)}"
            for key, value in {"method": method, **make_table(method)}.items()
        ]
        (tmp_path / "recipe.toml").write_text("\n".join(lines))
        said = train_recipe(tmp_path / "recipe.toml", tmp_path / "out", dry_run=True)
        assert said.endswith("the recipe and its data are in order")
    assert not (tmp_path / "out").exists()


def test_training_goes_on_from_weights_of_the_same_network(make_table, tmp_path):
    first = TRAININGS["affinitynet"](make_table("affinitynet"), out_dir=tmp_path / "first")
    table = make_table("affinitynet", start_from=str(first), iterations=1, learning_rate=1e-9)
    state, _ = load_weights(TRAININGS["affinitynet"](table, out_dir=tmp_path / "second"))
    assert torch.allclose(state["fc_edge6.weight"], load_weights(first)[0]["fc_edge6.weight"])
    with pytest.raises(WeightsError, match="weights of affinitynet, not of classifier"):
        TRAININGS["classifier"](
            make_table("classifier", start_from=str(first)), out_dir=tmp_path / "third"
        )


# bad recipes


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("classifier", {"alhpa": 1.0}, "did you mean alpha"),
        ("classifier", {"epochs": 3}, "epochs and iterations"),
        ("classifier", {"iterations": None, "epochs": 0}, "iterations is left out"),
        ("classifier", {"select": "labels"}, "expected tags, pixels, last"),
        ("classifier", {"pieces": 5}, "expected a square number"),
        ("classifier", {"image_px": 48}, "4 pieces want a multiple of 32"),
        ("classifier", {"batch_size": 1}, "expected 2 or more, or fixes_norms"),
        ("classifier", {"min_image_px": 50}, "expected 1 or more, and the first at most"),
        ("classifier", {"distance": "l3"}, "expected l1, l2"),
        ("classifier", {"select": "last", "validation_list": "x.txt"}, "leave one out"),
        ("classifier", {"held_share": 1.0}, "below 1"),
        ("classifier", {"unlabelled": "ignore"}, "'background' or 'error'"),
        ("affinitynet", {"radius": 8}, "expected 60 or more for the radius 8"),
        ("affinitynet", {"radius": 1}, "expected 2 or more"),
        ("affinitynet", {"validation_list": "x.txt"}, "keeps its last weights"),
        ("affinitynet", {"labels": None}, "lacks labels"),
        ("deeplabv3plus", {"select": "tags"}, "expected labels, pixels, last"),
        ("deeplabv3plus", {"epoch_iterations": -1}, "expected 0 or more"),
        ("deeplabv3plus", {"architecture": "vgg"}, "unknown architecture 'vgg'"),
        (
            "deeplabv3plus",
            {"start_from": "a", "backbone_weights": "b"},
            "leave backbone_weights out",
        ),
    ],
)
def test_bad_recipes_are_refused_in_a_line(make_table, tmp_path, method, changes, said):
    with pytest.raises(UsageError) as caught:
        TRAININGS[method](make_table(method, **changes), out_dir=tmp_path / "out", dry_run=True)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_left_out_is_as_published():
    table = {"name": "a.b", "images": "x", "labels": "y"}
    *_, schedule = parse_segmenter_recipe(table)
    assert (schedule.learning_rate, schedule.momentum, schedule.nesterov) == (0.007, 4e-5, True)
    assert schedule.min_learning_rate == 0
    del table["labels"]
    _, _, views, body, norms, puzzle, selection, course, _ = parse_classifier_recipe(table)
    assert (views.min_image_px, views.max_image_px) == (320, 640)
    assert (body.architecture, norms.fixes_norms, puzzle.alpha) == ("resnest101", False, 4.0)
    assert (selection.select, course.epochs) == ("tags", 15)


@pytest.mark.parametrize(
    ("method", "prepare"), [("affinitynet", prepare_affinity), ("deeplabv3plus", prepare_segmenter)]
)
def test_label_maps_that_are_still_to_come_are_not_missed(make_table, tmp_path, method, prepare):
    table = make_table(method, labels=str(tmp_path / "none"))
    ids = [str(number) for number in range(len(SIZES_HW))]
    assert prepare(table, coming=ids).schedule.iterations == 2
    with pytest.raises(InputError, match=r"no label map 4\.png"):
        prepare(table, coming=ids[:4])


def test_missing_labels_and_truths_are_named(make_table, world, tmp_path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match=r"no label map 0\.png in .* \(5 such\)"):
        TRAININGS["affinitynet"](
            make_table("affinitynet", labels=str(tmp_path / "labels")), out_dir=tmp_path / "out"
        )
    with pytest.raises(InputError, match="has no ground truth, which select = 'pixels' needs"):
        TRAININGS["classifier"](make_table("classifier", select="pixels"), out_dir=tmp_path)


def test_a_picture_without_class_can_be_an_error(world):
    assert find_images(images_of(world))[4].classes == ()
    with pytest.raises(InputError, match=r"4: has no class \(1 such\)"):
        find_images(images_of(world, unlabelled="error"))


def test_labels_that_do_not_fit_are_named(world, tmp_path):
    items = find_images(images_of(world))
    path = write_voc_labels(tmp_path / "0.png", np.zeros((30, 41), dtype=np.uint8))
    with pytest.raises(InputError, match="image is 30x40 but mask is 30x41"):
        _ = LabelSource([replace(items[0], truth_path=path)], VIEWS, 3, seed=0)[0]
    with pytest.raises(InputError, match="has label 2, expected 0 to 1 and 255"):
        _ = LabelSource([items[1]], VIEWS, 2, seed=0)[0]


# the samples


def test_a_sample_is_a_function_of_its_number_and_the_seed(world):
    items = find_images(images_of(world))
    first, again, other = (TagSource(items, VIEWS, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first[7][1], again[7][1])
    assert not torch.equal(first[7][1], other[7][1])


def test_every_picture_comes_once_each_time_through(world):
    items = find_images(images_of(world))
    source = TagSource(items, VIEWS, 2, seed=0)
    for turn in (0, 1):
        taken = [source.take(5 * turn + place)[0].id for place in range(5)]
        assert sorted(taken) == ["0", "1", "2", "3", "4"]


def test_samples_have_the_size_of_the_view_and_of_the_grid(world):
    items = find_images(images_of(world))
    batch = collate([LabelSource(items, VIEWS, 3, grid_px=8, seed=0)[i] for i in (3, 4)])
    assert batch["images"].shape == (2, 3, 32, 32)
    assert batch["targets"].shape == (2, 8, 8)
    assert batch["targets"].dtype == torch.int64
    assert batch["number"].tolist() == [3, 4]
    tags = collate([TagSource(items, VIEWS, 2, seed=0)[i] for i in range(5)])["targets"]
    assert sorted(tags.tolist()) == [[0, 0], [0, 1], [1, 0], [1, 0], [1, 1]]


def test_pictures_that_choose_are_kept_apart_unless_published(world, tmp_path):
    (tmp_path / "held.txt").write_text("1\n3\n")
    data = images_of(world, validation_list=str(tmp_path / "held.txt"))
    kept, held = split_images(data, holds_back=True, keeps_apart=True, seed=0)
    assert ([one.id for one in kept], [one.id for one in held]) == (["0", "2", "4"], ["1", "3"])
    kept, _ = split_images(data, holds_back=True, keeps_apart=False, seed=0)
    assert len(kept) == 5
    (tmp_path / "held.txt").write_text("0\n1\n2\n3\n4\n")
    with pytest.raises(UsageError, match="all pictures are held back"):
        split_images(data, holds_back=True, keeps_apart=True, seed=0)


# groups, losses and scores


def test_new_layers_learn_faster_and_biases_without_decay():
    network = Classifier("efficientnet_lite0", 2)
    for one in (network, Passes(network, 4)):
        groups = group_for_poly(one)
        assert [g.rate_factor for g in groups] == [1, 2, 10, 20]
        assert [g.weight_decay for g in groups] == [None, 0.0, None, 0.0]
        assert [len(g.parameters) for g in groups[2:]] == [1, 0]
        assert sum(len(g.parameters) for g in groups) == len(list(network.parameters()))
    (heads,) = group_heads(network)
    assert [p is network.classifier.weight for p in heads.parameters] == [True]


class Guess(torch.nn.Module):
    """Says the same of every pixel, but for drop-out."""

    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, x):
        field = self.scores[None, :, None, None].expand(len(x), 3, *x.shape[2:])
        return torch.nn.functional.dropout(field, 0.5, self.training)


def test_unknown_pixels_do_not_count_and_none_known_is_no_loss():
    loss_of, network = make_segmentation_loss(seed=0), Guess().eval()
    targets = torch.tensor([[[0, 255], [255, 1]]])
    batch = {"images": torch.zeros(1, 3, 2, 2), "targets": targets, "number": torch.tensor([0])}
    log = math.log(math.e + 2)
    assert loss_of(network, batch)["loss"].item() == pytest.approx((log - 1 + log) / 2)
    unknown = {**batch, "targets": torch.full_like(targets, 255)}
    assert loss_of(network, unknown)["loss"].item() == 0.0


def test_drop_out_goes_by_the_number_of_the_sample_and_leaves_the_global_generator():
    loss_of, network = make_segmentation_loss(seed=0), Guess().train()

    def lose(number):
        targets = torch.arange(64).reshape(1, 8, 8) % 3
        batch = {"images": torch.zeros(1, 3, 8, 8), "targets": targets}
        return loss_of(network, {**batch, "number": torch.tensor([number])})["loss"].item()

    state = torch.random.get_rng_state()
    first = lose(4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert lose(4) == first
    assert lose(5) != first


class Oracle(Classifier):
    """Knows pixels by their colour: class maps of red and blue."""

    def __init__(self, *, is_wrong=False):
        torch.nn.Module.__init__(self)
        sign = torch.tensor(-1.0 if is_wrong else 1.0)
        self.sign = torch.nn.Parameter(sign, requires_grad=False)

    def find_maps(self, x):
        small = torch.nn.functional.avg_pool2d(x, 2)
        red, _, blue = small.split(1, dim=1)
        maps = self.sign * (torch.cat([red - blue, blue - red], dim=1) - 1.0)
        return maps.amax(dim=(2, 3)) if self.sign > 0 else maps.amin(dim=(2, 3)), maps


def test_a_classifier_is_scored_by_its_ranking(world):
    items = find_images(images_of(world))
    validate = make_tag_validation(items, VIEWS, 2)
    assert validate(Passes(Oracle(), 1))["map"] == 1.0
    wrong = validate(Passes(Oracle(is_wrong=True), 1))
    assert wrong["map"] < 0.7
    assert wrong["lack"] == 1 - wrong["map"]


def test_class_maps_are_scored_by_ground_truth(world):
    items = find_images(images_of(world))
    validate = make_pixel_validation(items, VIEWS, 2)
    right, wrong = (validate(Passes(Oracle(is_wrong=w), 1)) for w in (False, True))
    assert right["miou"] > 0.85
    assert 0.1 <= right["threshold"] <= 0.45
    assert wrong["miou"] < 0.5


class Painter(torch.nn.Module):
    """A segmenter that knows pixels by their colour."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, x):
        red, _, blue = x.split(1, dim=1)
        return torch.cat([self.bias.expand_as(red), red - blue, blue - red], dim=1)


def test_a_segmenter_is_scored_over_all_held_pictures(world):
    items = find_images(images_of(world))
    found = make_segmentation_validation(items, VIEWS, 3)(Painter())
    assert found["miou"] == pytest.approx(1.0)
    assert read_voc_labels(items[0].truth_path).max() == 255  # and they have unknown pixels


def test_headers_are_whole(make_table, tmp_path):
    table = make_table("affinitynet", iterations=1)
    header = read_header(TRAININGS["affinitynet"](table, out_dir=tmp_path))
    assert header["config"] == {"architecture": "efficientnet_lite0"}
    assert header["recipe"] == table
