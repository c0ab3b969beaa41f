"""The pipeline around PatchRefineNet, on networks and pictures that are as small as they can be."""

import json
import os
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from maskhone.data.images import read_mask
from maskhone.data.score_maps import index_maps
from maskhone.data.score_stacks import write_stack
from maskhone.errors import InputError, MaskhoneError, UsageError
from maskhone.methods.prn.thresholds import find_thresholds
from maskhone.pipelines.prn_report import label_by_patches
from maskhone.pipelines.stage_folders import MANIFEST
from maskhone.pipelines.tables import format_table
from maskhone.pipelines.train import train_recipe
from maskhone.segmenters import catalogue
from maskhone.segmenters.catalogue import SEGMENTERS

STAGES = ["base", "scores", "thresholds", "prn", "refine", "evaluate"]
N_PICTURES = 20  # of which 16 train, 3 validate and 1 tests

BASE = """
method = "resunetpp"
name = "tiny-base"
images = "{world}/images"
targets = "{world}/truths"
side_px = 32
epochs = 2
batch_size = 4
checkpoint_every = 2
workers = 0
"""
PRN = """
method = "prn"
name = "tiny-prn"
scores = "made by the pipeline"
targets = "made by the pipeline"
network = "grid"
cells = 2
width = 4
map_px = 32
held_share = 0.3
optimizer = "adamw"
learning_rate = 1e-3
weight_decay = 0.0
iterations = 4
batch_size = 1
checkpoint_every = 1
workers = 0
"""
WHOLE = """
method = "prn-pipeline"
name = "tiny"
base = "base.toml"
prn = "prn.toml"
sides_px = [16, 8]
device = "cpu"
"""
OWN = """
method = "prn-pipeline"
name = "tiny"
prn = "prn.toml"
sides_px = [16]
device = "cpu"
"""


class Small(torch.nn.Module):
    """Stands in for the published base model."""

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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, recipes, and what an undisturbed run made of them: `out` moved to `reference`."""
    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    rows, columns = np.ogrid[:40, :48]
    for i in range(N_PICTURES):
        y, x = random.integers(10, 30, 2)
        disc = (rows - y) ** 2 + (columns - x) ** 2 <= 64
        photo = random.integers(0, 90, (40, 48, 3)) + 120 * disc[..., None]
        for kind, array in (("images", photo.astype(np.uint8)), ("truths", disc)):
            (folder / kind).mkdir(exist_ok=True)
            PIL.Image.fromarray(array).save(folder / kind / f"p{i:02d}.png")
    for name, text in (("base", BASE), ("prn", PRN), ("whole", WHOLE), ("own", OWN)):
        (folder / f"{name}.toml").write_text(text.format(world=folder))
    with pytest.MonkeyPatch.context() as patch:
        for name, build in (("resunetpp", Small), ("pfanet", SmallWithAttention)):
            small = catalogue.BaseModel(**{**vars(SEGMENTERS[name]), "build": build})
            patch.setitem(SEGMENTERS, name, small)
        said = train_recipe(folder / "whole.toml", folder / "out")
        (folder / "out").rename(folder / "reference")
        yield SimpleNamespace(
            path=folder,
            recipe=folder / "whole.toml",
            own=folder / "own.toml",
            out=folder / "out",
            reference=folder / "reference",
            said=said,
        )


@pytest.fixture
def fresh(world):
    """The world without results."""
    shutil.rmtree(world.out, ignore_errors=True)
    return world


@pytest.fixture
def done(fresh):
    """The world with all results."""
    shutil.copytree(fresh.reference, fresh.out)
    return fresh


@pytest.fixture
def maps(tmp_path):
    """Ten maps that are too high on the left and too low on the right, with their truths."""
    random = np.random.default_rng(1)
    scores = np.zeros((10, 32, 32), np.float32)
    truths = np.zeros((10, 32, 32), np.uint8)
    for i in range(10):
        truths[i, 8:24, 4 + i : 20 + i] = 1
        noise = random.uniform(-0.1, 0.1, (32, 32))
        bias = np.linspace(0.3, -0.3, 32)
        scores[i] = np.clip(0.25 + 0.5 * truths[i] + bias + noise, 0, 1)
        for kind in ("scores", "truths"):
            (tmp_path / kind).mkdir(exist_ok=True)
        np.save(tmp_path / "scores" / f"m{i}.npy", scores[i])
        PIL.Image.fromarray(truths[i] * 3).save(tmp_path / "truths" / f"m{i}.png")
    return SimpleNamespace(
        path=tmp_path,
        arrays=scores,
        truths=truths,
        options={
            "scores": str(tmp_path / "scores"),
            "targets": str(tmp_path / "truths"),
            "target_value": 3,
        },
    )


def list_stages_done(said):
    """Reads from the report which stages were done, and not found done."""
    heads = said.split("\n\n")[0].splitlines()
    return [line.split(":")[0] for line in heads if not line.endswith("done before")]


@contextmanager
def replaced(path, content):
    """Gives a file another content for a while."""
    before, times = path.read_bytes(), path.stat()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def read_results(folder):
    """Reads all that must not depend on stops: all files but clocks and checkpoints."""
    skipped = (MANIFEST, "log.jsonl", "checkpoint.pt")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in skipped
    }


def test_the_stages_leave_what_they_made(world):
    made = set(read_results(world.reference))
    assert list_stages_done(world.said) == STAGES
    assert {"base/tiny-base.safetensors", "prn/tiny.safetensors"} <= made
    assert {"thresholds/ceiling.json", "evaluate/report.json"} <= made
    for use, count in (("fit", 3), ("test", 1)):
        ids = (world.reference / "scores" / f"{use}.txt").read_text().split()
        assert len(ids) == count
        for folder in (f"scores/{use}", f"scores/{use}-targets", f"thresholds/{use}"):
            assert {f"{folder}/{name}.png" for name in ids} <= made
    assert f"refine/{ids[0]}.png" in made
    for stage in STAGES:
        manifest = json.loads((world.reference / stage / MANIFEST).read_text())
        assert manifest["stage"] == stage
        assert manifest["parameters"] or stage == "evaluate"


def test_the_report_compares_base_ceiling_and_refined(world):
    report = json.loads((world.reference / "evaluate" / "report.json").read_text())
    names = [row["masks"] for row in report["rows"]]
    assert [name.split()[0] for name in names] == [
        "base", "base", "ceiling:", "ceiling:", "ceiling:", "PatchRefineNet"
    ]  # fmt: skip
    assert {"iou_acc", "iou", "mba", "mae"} <= report["rows"][0].keys()
    assert report["n"] == len(report["images"]) == 1
    for name in names:
        assert name in world.said
        assert name in report["images"][0]


def test_maps_and_truths_are_squares_as_the_base_model_sees_them(world):
    for use in ("fit", "fit-targets", "test", "test-targets"):
        for path in index_maps(world.reference / "scores" / use).values():
            assert read_mask(path).scores.shape == (1, 32, 32)


def test_a_second_run_does_nothing(done):
    before = read_results(done.out)
    assert list_stages_done(train_recipe(done.recipe, done.out)) == []
    assert read_results(done.out) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_stopped_in_a_stage_ends_as_an_undisturbed_one(stage, fresh):
    def stop(done, total):
        if (fresh.out / stage / ".begun.json").exists() and done == min(3, total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(fresh.recipe, fresh.out, on_progress=stop)
    assert not (fresh.out / stage / MANIFEST).exists()
    said = train_recipe(fresh.recipe, fresh.out, resume=True)
    assert list_stages_done(said) == STAGES[STAGES.index(stage) :]
    assert read_results(fresh.out) == read_results(fresh.reference)


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"base_seed": 5}, "base"),
        ({"form": "npy"}, "scores"),
        ({"sides_px": [8]}, "thresholds"),
        ({"prn_seed": 5}, "prn"),
        ({"refine_merge": "mean"}, "refine"),
    ],
)
def test_a_changed_parameter_does_the_later_stages_anew(options, first, done):
    said = train_recipe(done.recipe, done.out, options=options)
    assert list_stages_done(said) == STAGES[STAGES.index(first) :]


def test_what_only_decides_the_speed_changes_nothing(done):
    options = {"base_workers": 1, "prn_log_every": 7, "base_checkpoint_every": 5}
    assert list_stages_done(train_recipe(done.recipe, done.out, options=options)) == []


def test_another_truth_is_seen(done):
    name = (done.out / "scores" / "test.txt").read_text().split()[0]
    other = next(p for p in (done.path / "truths").iterdir() if p.stem != name)
    with replaced(done.path / "truths" / f"{name}.png", other.read_bytes()):
        assert list_stages_done(train_recipe(done.recipe, done.out)) == STAGES[1:]


def test_stages_can_be_chosen(fresh):
    said = train_recipe(fresh.recipe, fresh.out, options={"last_stage": "scores"})
    assert list_stages_done(said) == ["base", "scores"]
    options = {"first_stage": "thresholds", "last_stage": "thresholds"}
    assert list_stages_done(train_recipe(fresh.recipe, fresh.out, options=options)) == [
        "thresholds"
    ]
    with pytest.raises(UsageError, match="no stage is called 'score'"):
        train_recipe(fresh.recipe, fresh.out, options={"last_stage": "score"})


def test_weights_of_both_networks_can_be_given(fresh):
    options = {
        "base": str(fresh.reference / "base" / "tiny-base.safetensors"),
        "prn": str(fresh.reference / "prn" / "tiny.safetensors"),
        "images": str(fresh.path / "images"),
        "targets": str(fresh.path / "truths"),
    }
    said = train_recipe(fresh.recipe, fresh.out, options=options)
    assert list_stages_done(said) == ["scores", "thresholds", "refine", "evaluate"]
    found = (fresh.out / "evaluate" / "report.json").read_text()
    assert found == (fresh.reference / "evaluate" / "report.json").read_text()


def test_maps_can_have_the_size_of_the_pictures(fresh):
    options = {
        "base": str(fresh.reference / "base" / "tiny-base.safetensors"),
        "images": str(fresh.path / "images"),
        "targets": str(fresh.path / "truths"),
        "squares": False,
    }
    train_recipe(fresh.recipe, fresh.out, options=options)
    for folder in ("scores/test", "scores/test-targets", "thresholds/test", "refine"):
        (path,) = index_maps(fresh.out / folder).values()
        assert read_mask(path).scores.shape == (1, 40, 48)


def test_maps_of_pfanet_are_padded_and_doubled_and_so_are_their_truths(fresh):
    options = {"base_method": "pfanet", "last_stage": "scores"}
    train_recipe(fresh.recipe, fresh.out, options=options)
    for folder in ("scores/test", "scores/test-targets"):
        (path,) = index_maps(fresh.out / folder).values()
        square = read_mask(path).scores[0]
        assert square.shape == (64, 64)
        np.testing.assert_array_equal(square[::2, ::2], square[1::2, 1::2])
    assert square.any()
    assert not square[:5].any()  # 40 x 48 leaves a margin of 4 of 48 above and below


def test_own_scores_stay_where_they_are(world, maps):
    out = maps.path / "out"
    said = train_recipe(world.own, out, options=maps.options)
    assert list_stages_done(said) == STAGES[1:]
    assert {p.name for p in (out / "scores").iterdir()} == {MANIFEST, "fit.txt", "test.txt"}
    fit, test = ((out / "scores" / f"{use}.txt").read_text().split() for use in ("fit", "test"))
    assert (len(fit), len(test)) == (8, 2)
    assert not set(fit) & set(test)
    assert list(index_maps(out / "refine")) == test
    assert list_stages_done(train_recipe(world.own, out, options=maps.options)) == []


def test_the_ceiling_of_biased_maps_is_above_the_base(world, maps):
    train_recipe(world.own, maps.path / "out", options=maps.options)
    report = json.loads((maps.path / "out" / "evaluate" / "report.json").read_text())
    base, _, _, per_image, per_patch, _ = (row["iou_acc"] for row in report["rows"])
    assert base <= per_image < per_patch


def test_lists_say_which_of_the_own_scores_do_what(world, maps):
    for name, ids in (("train", "012345"), ("held", "6"), ("test", "78")):
        (maps.path / f"{name}.txt").write_text("".join(f"m{i}\n" for i in ids))
    options = {
        **maps.options,
        "train_list": str(maps.path / "train.txt"),
        "validation_list": str(maps.path / "held.txt"),
        "test_list": str(maps.path / "test.txt"),
    }
    out = maps.path / "out"
    train_recipe(world.own, out, options=options)
    assert (out / "scores" / "fit.txt").read_text().split() == [f"m{i}" for i in range(6)]
    assert list(index_maps(out / "refine")) == ["m7", "m8"]
    (maps.path / "test.txt").write_text("m0\n")
    with pytest.raises(UsageError, match="m0 is to be trained on and scored on"):
        train_recipe(world.own, out, options=options)


def test_maps_to_score_on_may_lie_elsewhere(world, maps):
    options = {
        **maps.options,
        "test_scores": maps.options["scores"],
        "test_targets": maps.options["targets"],
    }
    train_recipe(world.own, maps.path / "out", options=options)
    assert len(index_maps(maps.path / "out" / "refine")) == 10


def test_logits_become_scores(world, maps):
    for i, scores in enumerate(maps.arrays.clip(0.001, 0.999)):
        logits = np.log(scores / (1 - scores))
        np.save(maps.path / "scores" / f"m{i}.npy", logits.astype(np.float32))
    options = {**maps.options, "logits": True, "last_stage": "thresholds"}
    train_recipe(world.own, maps.path / "out", options=options)
    for name, path in index_maps(maps.path / "out" / "scores" / "fit").items():
        expected = maps.arrays[int(name[1])].clip(0.001, 0.999)
        np.testing.assert_allclose(read_mask(path).scores[0], expected, atol=1e-4)


@pytest.mark.parametrize("form", ["png", "npy"])
def test_published_stacks_can_be_given(form, world, maps):
    stacks = {"scores": maps.arrays, "targets": maps.truths.astype(np.float32)}
    options = {"form": form}
    for name, arrays in stacks.items():
        path = write_stack(maps.path / f"{name}.npy", arrays, count=10, size_hw=(32, 32))
        options[name] = str(path)
    out = maps.path / "out"
    said = train_recipe(world.own, out, options=options)
    assert list_stages_done(said) == STAGES[1:]
    found = index_maps(out / "scores" / "fit")
    assert len(found) == 8
    for name, path in found.items():
        scores = read_mask(path).scores[0]
        np.testing.assert_allclose(scores, maps.arrays[int(name)], atol=1e-5)
        truth = read_mask(out / "scores" / "fit-targets" / f"{name}.png").scores[0]
        np.testing.assert_array_equal(truth, maps.truths[int(name)])
    both = {**options, "test_scores": options["scores"], "test_targets": options["targets"]}
    train_recipe(world.own, out, options={**both, "last_stage": "scores"})
    assert len(index_maps(out / "scores" / "test")) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": "x.toml"}, "either base"),
        ({"scores": ""}, "either base"),
        ({"targets": ""}, "scores need targets"),
        ({"scores": "{0}/gone"}, "no such folder"),
        ({"scores": "{0}/gone.npy", "target_value": None}, "no such file"),
        ({"targets": "{0}/one"}, "has no m1"),
        ({"root": "x"}, "root: goes with base"),
        ({"test_scores": "x"}, "go together"),
        ({"test_share": 1.5}, "test_share is 1.5"),
        ({"form": "jpg"}, "expected png or npy"),
        ({"prn": "gone.toml"}, "no such file"),
        ({"prn": "gone.safetensors"}, "neither a weight file"),
        ({"prn": "tiny.safetensors", "prn_seed": 3}, "no PatchRefineNet to train"),
        ({"prn_widht": 3}, "did you mean width"),
        ({"naem": 3}, "did you mean name"),
        ({"prn_train_list": "x"}, "the pipeline itself sets this"),
        ({"base_seed": 3}, "no base model to train"),
        ({"train_list": "{0}/list.txt"}, "has no ghost"),
        ({"sides_px": [0]}, "patch sides"),
    ],
)
def test_bad_recipes_are_refused_in_a_line(options, said, world, maps):
    (maps.path / "one").mkdir()
    shutil.copy(maps.path / "truths" / "m0.png", maps.path / "one")
    (maps.path / "list.txt").write_text("ghost\n")
    options = {
        k: v.format(maps.path) if isinstance(v, str) else v
        for k, v in {**maps.options, **options}.items()
    }
    with pytest.raises(MaskhoneError, match=said) as refused:
        train_recipe(world.own, maps.path / "out", options=options)
    assert "\n" not in str(refused.value)


def test_a_broken_picture_is_named(fresh):
    name = (fresh.reference / "scores" / "test.txt").read_text().split()[0]
    path = fresh.path / "images" / f"{name}.png"
    options = {
        "base": str(fresh.reference / "base" / "tiny-base.safetensors"),
        "images": str(fresh.path / "images"),
        "targets": str(fresh.path / "truths"),
    }
    with replaced(path, b"no picture"), pytest.raises(InputError, match=path.name):
        train_recipe(fresh.recipe, fresh.out, options=options)
    train_recipe(fresh.recipe, fresh.out, options={**options, "last_stage": "scores"})


def test_a_dry_run_checks_and_writes_nothing(fresh, maps):
    assert "in order" in train_recipe(fresh.recipe, fresh.out, dry_run=True)
    assert not fresh.out.exists()
    options = {**maps.options, "targets": str(maps.path / "gone")}
    with pytest.raises(InputError, match="no such folder"):
        train_recipe(fresh.own, fresh.out, options=options, dry_run=True)


def test_the_command_prints_stages_and_table(done, run_cli):
    found = run_cli("train", done.recipe, "-o", done.out)
    assert found.code == 0
    assert found.out.count("done before") == 6
    assert "PatchRefineNet" in found.out


def test_labels_by_patches_agree_with_the_published_search():
    random = np.random.default_rng(0)
    scores = random.random((32, 32), dtype=np.float32)
    truth = random.random((32, 32)) < scores
    expected = find_thresholds(scores, truth, 8).labels
    np.testing.assert_array_equal(label_by_patches(scores, truth, cells=4), expected)
    np.testing.assert_array_equal(label_by_patches(scores, truth, cells=2, tile_px=16), expected)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 2), (33, 20)])
def test_labels_of_maps_that_do_not_divide_cover_all(size_hw):
    scores = np.full(size_hw, 0.3, np.float32)
    truth = np.ones(size_hw, bool)
    assert label_by_patches(scores, truth, cells=4).all()


def test_tables_are_aligned():
    rows = [{"masks": "a", "iou": 0.5}, {"masks": "longer", "iou": None}]
    assert format_table(rows) == ["masks      iou", "a       0.5000", "longer       -"]
