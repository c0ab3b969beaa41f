"""Image labels to masks, whole, on made-up pictures of two classes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from maskhone.data.class_maps import read_cams
from maskhone.data.images import read_label_map
from maskhone.engine.weights import load_weights
from maskhone.pipelines.pseudo.pictures import read_fits
from maskhone.pipelines.pseudo.plan import parse_recipe
from maskhone.pipelines.pseudo.stages import list_stages
from maskhone.pipelines.stages import describe_files
from maskhone.pipelines.train import read_recipe

MISUSED = 2
STAGES = (
    "classify", "cam", "segments", "perimeters", "fit", "combine", "affinity-labels", "affinity",
    "walk", "pseudo-labels", "segmenter", "masks", "evaluate",
)  # fmt: skip
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


@pytest.fixture
def recipe(tmp_path, save_picture):
    """Six pictures to learn from, one of them without a class, and two to test on."""
    random = np.random.default_rng(0)
    lines = ["image,labels"]
    for i, labels in enumerate(("red", "blue", "red blue", "red", "", "blue", "red", "blue")):
        picture = random.integers(90, 130, (40, 52, 3), dtype=np.uint8)
        truth = np.zeros((40, 52), dtype=np.uint8)
        for place, name in enumerate(labels.split()):
            y, x = 8 + 2 * i % 9, 6 + 24 * place
            picture[y : y + 20, x : x + 18] = COLOURS[name]
            truth[y : y + 20, x : x + 18] = 1 + list(COLOURS).index(name)
        save_picture(tmp_path / "images" / f"{i}.png", picture)
        save_picture(tmp_path / "truths" / f"{i}.png", truth)
        if i < 6:  # of test pictures nobody needs to say what is in them
            lines.append(f"{i}.png,{labels}")
    (tmp_path / "tags.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    (tmp_path / "train.txt").write_text("".join(f"{i}\n" for i in range(6)))
    (tmp_path / "test.txt").write_text("6\n7\n")
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
method = "pseudo-labels"
name = "tiny"
images = "{tmp_path}/images"
tags = "{tmp_path}/tags.csv"
classes = "{tmp_path}/classes.txt"
truths = "{tmp_path}/truths"
train_list = "{tmp_path}/train.txt"
test_list = "{tmp_path}/test.txt"
architecture = "efficientnet_lite0"
cam_scales = [1.0]
segments_iterations = 3
labels_crf_iterations = 1
walk_radius = 2
walk_exp_times = 2
walk_canvas_px = 64
segment_scales = [1.0]
segment_crf_iterations = 1
device = "cpu"
processes = 1
"""
        + "".join(
            f"{name}_{line}\n"
            for name, extra in (
                ("classify", ['select = "last"', "pieces = 4"]),
                ("affinity", ["radius = 2"]),
                ("segmenter", []),
            )
            for line in (
                "image_px = 64", "min_image_px = 40", "max_image_px = 64", "epochs = 1",
                "batch_size = 2", "workers = 0", *extra,
            )
        )
    )  # fmt: skip
    return path


@pytest.fixture
def run(run_cli, recipe, tmp_path):
    def run(*flags, out="out"):
        return run_cli("pseudo-labels", recipe, "-o", tmp_path / out, *flags)

    return run


def find_done(said):
    """Returns the stages that were done, not only looked at."""
    return re.findall(r"^([a-z-]+): [0-9.]+ s", said.out, re.M)


def test_the_whole_pipeline(run, tmp_path):
    said = run()
    assert said.code == 0, said.err
    assert find_done(said) == list(STAGES)
    out = tmp_path / "out"
    cams = read_cams(out / "combine" / "2.npz", size_hw=(40, 52))
    assert cams.keys.tolist() == [0, 1, 2]
    plain = read_cams(out / "cam" / "2.npz").hr_cam
    fits = read_fits(out / "fit" / "2.npz")
    np.testing.assert_allclose(cams.hr_cam, plain * (1 + (fits["slic"] & fits["quick"])))
    labels = read_label_map(out / "pseudo-labels" / "2.png")
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert not read_label_map(out / "pseudo-labels" / "4.png").any()  # the one without a class
    masks = sorted(path.stem for path in (out / "masks").glob("*.png"))
    assert masks == [str(i) for i in range(8)]
    report = json.loads((out / "evaluate" / "report.json").read_text())
    assert (report["train"], report["test"]) == (6, 2)
    assert [row["masks"] for row in report["rows"]] == [
        "cam", "combine", "walk", "pseudo labels", "segmenter, the pictures trained on",
        "segmenter, test",
    ]  # fmt: skip
    assert all(0 <= row["miou"] <= 1 for row in report["rows"])
    assert "segmenter, test" in said.out

    again = run()
    assert find_done(again) == []
    before = {path: path.read_bytes() for path in (out / "masks").glob("[1-4].png")}
    for path in before:
        path.unlink()
    lost = run("--option", "processes=2")
    assert find_done(lost) == ["masks"]
    assert " for 4, " in lost.out  # only these count when it says how fast it was
    assert {path: path.read_bytes() for path in before} == before
    seen = run("--option", "segment_crf_iterations=0")
    assert find_done(seen) == ["masks", "evaluate"]
    changed = run("--option", "pseudo_threshold=0.2")
    assert find_done(changed) == ["pseudo-labels", "segmenter", "masks", "evaluate"]
    assert find_done(run("--to", "segmenter")) == []  # what was there before is taken back
    other = ("--option", "uses_perimeterfit=false", "--option", f"take_from=['{out}']")
    assert find_done(run(*other, "--to", "affinity-labels", out="other")) == ["affinity-labels"]
    tags = tmp_path / "tags.csv"
    tags.write_text(tags.read_text().replace("3.png,red", "3.png,blue"))
    relabelled = run("--to", "combine")
    assert find_done(relabelled) == ["classify", "cam", "fit", "combine"]


def list_keys(path, **changes):
    """Returns what each stage depends on, itself."""
    stages = list_stages(parse_recipe({**read_recipe(path), **changes}, Path("out")))
    return {
        stage.name: (
            stage.parameters,
            {kind: describe_files(files) for kind, files in stage.find_inputs().items()},
            stage.after,
        )
        for stage in stages
    }


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"segment_scales": [0.5]}, {"masks"}),
        ({"segment_crf_iterations": 3}, {"masks"}),
        ({"licence": "MIT", "name": "other"}, set()),
        ({"device": "auto", "processes": 2, "classify_workers": 1}, set()),
        ({"unlabelled": "background", "train_list": "again.txt"}, set()),
        ({"images": "copied/images", "tags": "copied/tags.csv"}, set()),
        ({"truths": "copied/images"}, {"evaluate"}),  # of other content
        ({"truths": "copied/truths"}, set()),
        ({"test_list": ""}, {"masks", "evaluate"}),
        ({"slic_support": 0.1}, {"fit"}),
        ({"segments_seed": 1}, {"segments"}),
        ({"segments_seed": 1, "fit_form": "published"}, {"segments", "perimeters", "fit"}),
        ({"cam_scales": [0.5]}, {"cam"}),
        ({"dtype": "bf16"}, {"cam", "walk", "masks"}),
        ({"walk_beta": 5.0}, {"walk"}),
        ({"seed": 1}, {"classify", "affinity", "segmenter"}),
        ({"classify_epochs": 2}, {"classify"}),
        ({"fg_threshold": 0.7}, {"affinity-labels"}),
    ],
)
def test_a_stage_depends_on_what_it_uses_and_on_nothing_else(
    recipe, tmp_path, monkeypatch, changes, names
):
    monkeypatch.chdir(tmp_path)
    for name in ("images", "truths"):
        shutil.copytree(name, f"copied/{name}")
    shutil.copy("tags.csv", "copied/tags.csv")
    shutil.copy("train.txt", "again.txt")
    before, after = list_keys(recipe), list_keys(recipe, **changes)
    assert {name for name in before if before[name] != after[name]} == names


def test_truths_that_choose_weights_count(recipe, save_picture, tmp_path):
    before = list_keys(recipe, segmenter_select="pixels")
    save_picture(tmp_path / "truths" / "1.png", np.zeros((40, 52), dtype=np.uint8))
    after = list_keys(recipe, segmenter_select="pixels")
    assert {n for n in before if before[n] != after[n]} == {"segmenter", "evaluate"}


def test_another_licence_is_written_without_training_anew(run, tmp_path):
    run("--to", "cam")
    path = tmp_path / "out" / "classify" / "tiny.classify.safetensors"
    before, _ = load_weights(path)
    log = (tmp_path / "out" / "classify" / "log.jsonl").stat().st_size
    said = run("--to", "cam", "--option", "licence=MIT")
    assert find_done(said) == ["classify"]
    after, header = load_weights(path)
    assert header["licence"] == "MIT"
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert (tmp_path / "out" / "classify" / "log.jsonl").stat().st_size == log
    assert find_done(run("--to", "cam", "--option", "name=other")) == ["classify"]
    assert [p.name for p in path.parent.glob("*.safetensors")] == ["other.classify.safetensors"]


def test_the_device_reaches_segments_and_trainings(recipe, tmp_path, monkeypatch):
    seen = []

    def part(image, kind, *, device, **_):
        seen.append(device)
        return np.zeros(image.shape[:2], dtype=np.uint8)

    monkeypatch.setattr("maskhone.pipelines.pseudo.pictures.part_picture", part)
    job = parse_recipe({**read_recipe(recipe), "device": "meta"}, tmp_path / "out")
    (stage,) = [stage for stage in list_stages(job) if stage.name == "segments"]
    stage.make(tmp_path / "out" / "segments")
    assert set(seen) == {torch.device("meta")}
    for name in ("classify", "affinity", "segmenter"):
        assert job.recipe_of(name)["device"] == "meta"


def test_single_stages_and_a_stop_in_the_middle(run, tmp_path):
    out = tmp_path / "out"
    said = run("--to", "segments")
    assert find_done(said) == ["classify", "cam", "segments"]
    kept = out / "segments" / "1.slic.png"
    lost = out / "segments" / "2.quick.png"
    written = kept.stat().st_mtime_ns
    lost.unlink()  # as if it had been stopped there
    said = run("--only", "segments")
    assert find_done(said) == ["segments"]
    assert lost.exists()
    assert kept.stat().st_mtime_ns == written
    assert find_done(run("--from", "perimeters", "--to", "perimeters")) == ["perimeters"]
    late = run("--only", "walk")
    assert (late.code, "is not done yet" in late.err) == (MISUSED, True)
    both = run("--only", "walk", "--to", "cam")
    assert (both.code, "give either" in both.err) == (MISUSED, True)


def test_without_perimeterfit_and_with_a_given_classifier(run, tmp_path):
    run("--to", "classify")
    given = tmp_path / "out" / "classify" / "tiny.classify.safetensors"
    flags = [
        "--option", f"classifier={given}", "--option", "uses_perimeterfit=false",
        "--option", "trains_segmenter=false",
    ]  # fmt: skip
    said = run(*flags, out="other")
    assert said.code == 0, said.err
    assert find_done(said) == [
        "cam", "affinity-labels", "affinity", "walk", "pseudo-labels", "evaluate"
    ]  # fmt: skip


def test_a_classifier_of_other_classes_and_a_truth_of_another_size_are_refused(
    run, tmp_path, save_picture
):
    run("--to", "classify")
    given = tmp_path / "out" / "classify" / "tiny.classify.safetensors"
    (tmp_path / "classes.txt").write_text("blue\nred\n")
    said = run("--option", f"classifier={given}", "--to", "cam", out="other")
    assert said.code != 0
    assert "red, blue" in said.err
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    save_picture(tmp_path / "truths" / "2.png", np.zeros((10, 12), dtype=np.uint8))
    said = run("--option", "trains_segmenter=false")
    assert said.code != 0
    assert "2.png is (10, 12)" in said.err
    assert (tmp_path / "out" / "pseudo-labels" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["walk_cam=best"], "walk_cam"),
        (["walk_radius=1"], "2 or more"),
        (["fg_threshold=0.1"], "below bg_threshold"),
        (["fg_threshold=2"], "fg_threshold is 2; expected 0 or more, below 2"),
        (["fg_threshold=1.2", "uses_perimeterfit=false"], "0 or more, below 1"),
        (["bg_threshold=-0.1"], "bg_threshold is -0.1; expected 0 or more, below 2"),
        (["pseudo_threshold=35"], "pseudo_threshold is 35; expected 0 or more, below 1"),
        (["pseudo_threshold=nan"], "pseudo_threshold is nan"),
        (["cam_scales=[]"], "above 0"),
        (["cam_scales=[inf]"], "above 0"),
        (["classify_seed=3"], "classify_seed"),
        (["classify_pices=4"], "'classify_pices'; did you mean classify_pieces?"),
        (["clases='x'"], "did you mean classes?"),
        (["image='x'"], "did you mean images?"),
        (["cam_scales=1.0"], "cam_scales is 1.0; expected a list, each a number"),
        (["uses_perimeterfit='no'"], "uses_perimeterfit is 'no'; expected true or false"),
        (["classify_pieces=5"], "classify: pieces"),
        (["classify_pieces=9"], "classify: image_px is 64; 9 pieces want a multiple of 48"),
        (["classify_learning_rate='fast'"], "classify: learning_rate is 'fast'"),
        (["affinity_radius=10"], "affinity: image_px is 64"),
        (["affinity_validation_list=TMP/test.txt"], "has no line in the list of labels"),
        (["affinity_validation_list=TMP/train.txt"], "leave validation_list out"),
        (["segmenter_validation_list=TMP/train.txt"], "segmenter: validation_list chooses"),
        (["segmenter_select=labels", "segmenter_validation_list=none.txt"], "none.txt"),
        (
            [
                "segmenter_select=labels",
                "train_list=TMP/some.txt",
                "segmenter_validation_list=TMP/held.txt",
            ],
            "segmenter: no label map 3.png",
        ),
        (["classify_select=pixels", "truths=''"], "has no ground truth"),
        (["slic_support=-0.1"], "slic_support"),
        (["quick_support=1"], "quick_support"),
        (["segments_side_px=4"], "segments_side_px"),
        (["segments_min_labels=40"], "0 to 32"),
        (["device=cuda:77"], "not available"),
        (["dtype=fp8"], "dtype"),
        (["last_stage=shop"], "no stage is called 'shop'"),
        (["first_stage=walk", "last_stage=cam"], "in order"),
        (["classifier=none.safetensors"], "none.safetensors"),
        (["backbone_weights=none.pth"], "none.pth"),
        (["segmenter_architecture=vgg"], "segmenter: unknown architecture 'vgg'"),
        (["unlabelled=error"], "has no class"),
        (["pseudo_treshold=0.3"], "pseudo_threshold"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_anything_is_done(run, tmp_path, options, word):
    (tmp_path / "some.txt").write_text("0\n1\n2\n")
    (tmp_path / "held.txt").write_text("3\n4\n")
    given = [option.replace("TMP", str(tmp_path)) for option in options]
    said = run("--dry-run", *(part for option in given for part in ("--option", option)))
    assert said.code != 0
    assert "Traceback" not in said.err
    assert word in said.err
    assert not (tmp_path / "out").exists()


def test_the_dry_run_looks_at_sizes_and_at_given_weights(run, tmp_path, save_picture, prn_weights):
    said = run("--dry-run", "--option", f"affinity_net={prn_weights}")
    assert (said.code, "has weights of prn, not of affinitynet" in said.err) == (1, True)
    save_picture(tmp_path / "truths" / "7.png", np.zeros((52, 40), dtype=np.uint8))
    said = run("--dry-run")
    assert (said.code, "7.png is (52, 40)" in said.err) == (1, True)
    (tmp_path / "images" / "3.png").write_bytes(b"no picture")
    said = run("--dry-run")
    assert (said.code, "3.png: not a picture" in said.err) == (1, True)


def test_the_dry_run_says_what_cannot_choose(run, tmp_path, caplog):
    (tmp_path / "held.txt").write_text("0\n3\n")
    given = ("classify_select=tags", f"classify_validation_list={tmp_path}/held.txt")
    said = run("--dry-run", *(part for line in given for part in ("--option", line)))
    assert said.code == 0
    assert caplog.text.count("has the same labels (red)") == 1


def test_the_dry_run_of_one_stage_asks_for_no_others_needs(run):
    assert run("--dry-run", "--only", "walk", "--option", "classify_pieces=9").code == 0


def test_the_dry_run_finds_all_in_order(run, tmp_path):
    said = run("--dry-run")
    assert (said.code, "in order" in said.out) == (0, True)
    assert not (tmp_path / "out").exists()
