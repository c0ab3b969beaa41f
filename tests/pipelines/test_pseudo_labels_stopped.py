"""The pipeline on a folder of VOC's layout: whole, killed in its stages, on full disks."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from maskhone.data.images import read_label_map
from maskhone.data.voc import VOC_CLASSES, write_voc_labels

STAGES = (
    "classify", "cam", "segments", "perimeters", "fit", "combine", "affinity-labels", "affinity",
    "walk", "pseudo-labels", "segmenter", "masks", "evaluate",
)  # fmt: skip


def find_done(said):
    """Returns the stages that were done, not only looked at."""
    return re.findall(r"^([a-z-]+): [0-9.]+ s", said.out, re.M)


@pytest.fixture
def voc(tmp_path, save_picture):
    """A folder of VOC's layout: four pictures to learn from, and one that nobody says anything of.

    Returns the lines of a recipe.
    """
    random = np.random.default_rng(1)
    root = tmp_path / "VOC2012"
    for i, labels in enumerate((["cat"], ["sheep"], ["cat", "sheep"], [], ["cat"])):
        picture = random.integers(90, 130, (33, 41, 3), dtype=np.uint8)
        truth = np.zeros((33, 41), dtype=np.uint8)
        boxes = ""
        for place, name in enumerate(labels):
            x = 3 + 19 * place
            picture[6:26, x : x + 16] = (200, 30, 30) if name == "cat" else (30, 30, 200)
            truth[6:26, x : x + 16] = 1 + VOC_CLASSES.index(name)
            sides = f"<xmin>{x}</xmin><ymin>6</ymin><xmax>{x + 16}</xmax><ymax>26</ymax>"
            boxes += f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"
        truth[:2] = 255
        save_picture(root / "JPEGImages" / f"p{i}.jpg", picture)
        write_voc_labels(root / "SegmentationClass" / f"p{i}.png", truth)
        size = "<size><width>41</width><height>33</height><depth>3</depth></size>"
        (root / "Annotations").mkdir(exist_ok=True)
        if i < 4:
            text = f"<annotation>{size}{boxes}</annotation>"
            (root / "Annotations" / f"p{i}.xml").write_text(text)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "mine.txt").write_text("p0\np1\np2\np3\n")
    (lists / "held.txt").write_text("p4\n")
    return f"""
method = "pseudo-labels"
name = "tiny.voc"
images = "{root}"
train_list = "mine"
test_list = "held"
architecture = "efficientnet_lite0"
cam_scales = [1.0]
segments_iterations = 2
labels_crf_iterations = 1
walk_radius = 2
walk_exp_times = 2
walk_canvas_px = 48
segment_scales = [1.0]
segment_crf_iterations = 1
device = "cpu"
processes = 1
""" + "".join(
        f"{name}_{line}\n"
        for name, extra in (
            ("classify", ['select = "last"', "pieces = 1"]),
            ("affinity", ["radius = 2"]),
            ("segmenter", []),
        )
        for line in (
            "image_px = 32", "min_image_px = 32", "max_image_px = 40", "epochs = 0",
            "iterations = 2", "batch_size = 2", "workers = 0", "checkpoint_every = 1", *extra,
        )
    )  # fmt: skip


def read_all(folder):
    """Reads what a run made, but not how long it took."""
    skipped = ("manifest.json", ".hashes.json", "log.jsonl", "checkpoint.pt")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


KILLS = (
    "classify:3", "segments:4", "combine:6", "affinity:5", "walk:4", "segmenter:3", "masks:4",
    "evaluate:2",
)  # fmt: skip


def test_one_command_on_a_folder_of_vocs_layout_and_the_same_result_after_many_kills(
    voc, run_cli, tmp_path, monkeypatch
):
    """In every stage a process is really killed, just before a file of it is whole."""
    (tmp_path / "recipe.toml").write_text(voc)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    count = torch.get_num_threads()
    torch.set_num_threads(1)  # as the killed ones; two threads add up in another order
    said = run_cli("pseudo-labels", tmp_path / "recipe.toml", "-o", "out")
    torch.set_num_threads(count)
    assert said.code == 0, said.err
    assert find_done(said) == list(STAGES)
    assert re.search(r"^segmenter, test +- +[01]\.\d{4}", said.out, re.M)
    out = tmp_path / "whole" / "out"
    assert sorted(p.stem for p in (out / "masks").glob("*.png")) == ["p0", "p1", "p2", "p3", "p4"]
    assert {p.stem for p in (out / "pseudo-labels").glob("*.png")} == {"p0", "p1", "p2", "p3"}
    assert set(np.unique(read_label_map(out / "pseudo-labels" / "p2.png"))) <= {0, 8, 17}

    script = Path(__file__).with_name("killed.py")
    again = subprocess.run(
        [sys.executable, script, tmp_path / "recipe.toml", "out", *KILLS],
        cwd=tmp_path / "parts",
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert read_all(tmp_path / "parts" / "out") == read_all(out)
    table = said.out[said.out.index("masks  ") :].split()
    assert again.stdout.split()[-len(table) :] == table


def test_a_full_disk_in_the_middle_of_a_stage(voc, run_cli, tmp_path, monkeypatch):
    (tmp_path / "recipe.toml").write_text(voc)
    arguments = ("pseudo-labels", tmp_path / "recipe.toml", "-o", tmp_path / "out")
    saved, save = [], PIL.Image.Image.save

    def fill(self, path, *args, **kwargs):
        if "pseudo-labels" in Path(path).parts:
            saved.append(path)
            if len(saved) > 2:
                Path(path).write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image.Image, "save", fill)
        said = run_cli(*arguments, "--to", "pseudo-labels")
    assert said.code == 1
    assert re.search(r"error: .*p2\.png: cannot write \(No space left on device\)", said.err)
    assert "Traceback" not in said.err
    out = tmp_path / "out"
    assert (out / "walk" / "manifest.json").exists()
    assert {p.name for p in (out / "pseudo-labels").iterdir()} == {
        ".begun.json", "p0.png", "p1.png"
    }  # fmt: skip
    said = run_cli(*arguments, "--to", "pseudo-labels")
    assert find_done(said) == ["pseudo-labels"]


def test_a_checkpoint_that_does_not_fit_is_a_clear_error(voc, run_cli, tmp_path):
    (tmp_path / "recipe.toml").write_text(voc)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # its weights have 14 MB
    try:
        said = run_cli("pseudo-labels", tmp_path / "recipe.toml", "-o", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (said.code, "checkpoint.pt: cannot write" in said.err) == (1, True)
    assert "Traceback" not in said.err
