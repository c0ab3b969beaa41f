"""`--method auto` through every door: what was chosen is done, guarded as asked, and said."""

import json

import numpy as np
import PIL.Image
import pytest

import maskhone
from maskhone.methods.auto.refine import AutoRefiner
from maskhone.methods.classic.grabcut import GrabCutRefiner
from maskhone.methods.classic.guided import GuidedRefiner
from maskhone.pipelines.arrays import refine_scores

TWO = {"methods": "guided,grabcut"}


@pytest.fixture
def one(folders):
    return [folders.images / "a.png", folders.masks / "a.png", "-o", folders.out / "o.png"]


@pytest.fixture
def ruinous(monkeypatch):
    """Makes both methods ones that return empty masks."""
    for method in (GuidedRefiner, GrabCutRefiner):
        monkeypatch.setattr(method, "refine", lambda self, image, masks: masks * 0)


def test_arrays_come_back_as_they_went_in(photo, disc):
    coarse = np.roll(disc, 2, axis=1)
    refined = maskhone.refine(photo, coarse, method="auto", **TWO)
    assert (refined.dtype, refined.shape) == (coarse.dtype, coarse.shape)
    assert np.count_nonzero(refined != disc) < np.count_nonzero(coarse != disc)


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
def test_the_guard_reaches_the_committee(photo, disc, ruinous, guard):
    coarse = disc.astype(np.float32)[None]
    refined = refine_scores(maskhone.load("auto", **TWO), photo, coarse, guard=guard)
    assert refined.scores.any() == (guard != "off")
    assert refined.kept is None if guard == "off" else refined.kept[0] > 0.9


def test_a_band_limits_what_was_chosen(photo, disc, ruinous):
    coarse = disc.astype(np.float32)[None]
    refiner = maskhone.load("auto", **TWO)
    refined = refine_scores(refiner, photo, coarse, guard="off", band_px=2)
    assert 0 < np.count_nonzero(refined.scores) < np.count_nonzero(coarse)


def test_no_masks_give_no_masks(photo):
    nothing = np.zeros((0, *photo.shape[:2]), dtype=np.float32)
    refined = refine_scores(maskhone.load("auto", **TWO), photo, nothing)
    assert (refined.scores.shape, refined.kept.shape, refined.notes) == (nothing.shape, (0,), ())


def test_a_single_picture_prints_what_was_chosen(run_cli, one):
    options = ["--method", "auto", "--option", "methods=guided,grabcut", "--option", "seconds=60"]
    said = run_cli("refine", *one, *options)
    assert said.code == 0, said.err
    first, second = said.out.strip().splitlines()
    assert first.startswith("wrote")
    assert second.startswith("a.png: ")
    assert "guided" in second
    assert "grabcut" in second
    assert set(np.unique(PIL.Image.open(one[-1]))) == {0, 255}


def test_a_report_holds_the_notes_of_all_masks(run_cli, folders, tmp_path):
    said = run_cli(
        "refine", folders.images, folders.masks, "-o", folders.out, "--method", "auto",
        "--option", "methods=guided,grabcut", "--report", tmp_path / "r.html",
    )  # fmt: skip
    assert said.code == 0, said.err
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if 'class="mask">' in line]
    notes = [json.loads(line.split(">", 1)[1].removesuffix("</script>"))["facts"] for line in lines]
    assert [("grabcut" in each["note"], each["kept"] is None) for each in notes] == [
        (True, False)
    ] * 3


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--weights", "w.safetensors"], "auto takes no weights"),
        (["--option", "seconds=-1"], "seconds is -1"),
        (["--option", "methods=nope"], "nope"),
        (["--max-patches", 3], "max_patches"),
    ],
    ids=str,
)
def test_misuse_is_told_in_one_line(run_cli, one, options, word):
    said = run_cli("refine", *one, "--method", "auto", *options)
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
    assert word in said.err


def test_it_needs_the_picture(run_cli, folders):
    said = run_cli("refine", folders.masks, "-o", folders.out, "--method", "auto")
    assert said.code == 2
    assert "auto looks at the picture" in said.err


def test_a_loaded_one_is_guarded_too(photo, disc, ruinous):
    refiner = maskhone.load("auto", **TWO)
    assert isinstance(refiner, AutoRefiner)
    coarse = disc.astype(np.float32)[None]
    changed = (refiner.refine(photo, coarse) > 0.5) != disc
    assert np.count_nonzero(changed) < 0.1 * np.count_nonzero(disc)
