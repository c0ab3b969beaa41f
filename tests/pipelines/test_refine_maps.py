"""Probability maps without their pictures: `maskhone refine SCORES -o OUT --method prn`."""

import numpy as np
import PIL.Image
import pytest

FAILED, MISUSED = 1, 2


@pytest.fixture
def scores():
    return np.random.default_rng(0).random((24, 30), dtype=np.float32)


@pytest.fixture
def maps(tmp_path, scores, save_picture):
    """One map in every kind of file."""
    folder = tmp_path / "maps"
    save_picture(folder / "a8.png", np.rint(scores * 255).astype(np.uint8))
    save_picture(folder / "sub" / "a16.png", np.rint(scores * 65535).astype(np.uint16))
    np.save(folder / "one.npy", scores)
    np.savez(folder / "two.npz", scores=np.stack([scores, scores]), ids=np.arange(2))
    return folder


@pytest.fixture
def refine(run_cli, prn_weights):
    def run(*paths, method="prn", **options):
        weights = ["--weights", prn_weights] if method == "prn" else []
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        flags = [flag for flag in flags if flag is not True]
        *inputs, output = paths
        return run_cli(
            "refine", *inputs, "-o", output, "--method", method, *weights, "--device", "cpu",
            "--dtype", "fp32", *flags,
        )  # fmt: skip

    return run


def read(path):
    return np.asarray(PIL.Image.open(path)) if path.suffix == ".png" else np.load(path)


def test_every_kind_of_file_of_a_folder_is_refined_to_the_same_kind(refine, maps, tmp_path):
    out = tmp_path / "out"
    said = refine(maps, out)
    assert said.code == 0, said.err
    refined = read(out / "one.npy")
    assert refined.dtype == np.float32
    assert not np.allclose(refined, read(maps / "one.npy"))
    deep, shallow = (read(out / n) for n in ("sub/a16.png", "a8.png"))
    assert deep.dtype == np.uint16
    np.testing.assert_allclose(deep / 65535, refined, atol=1e-3)
    np.testing.assert_allclose(shallow / 255, refined, atol=0.02)
    with np.load(out / "two.npz") as stack:
        np.testing.assert_allclose(stack["scores"], np.stack([refined, refined]), atol=1e-5)
        assert stack["ids"].tolist() == [0, 1]


def test_one_file_is_refined_as_in_a_folder_and_as_with_its_picture(
    refine, maps, tmp_path, save_picture
):
    picture = save_picture(tmp_path / "one.png", np.zeros((24, 30, 3), np.uint8))
    assert refine(maps / "one.npy", tmp_path / "alone.npy").code == 0
    assert refine(picture, maps / "one.npy", tmp_path / "with.npy").code == 0
    assert refine(maps, tmp_path / "out").code == 0
    alone = np.load(tmp_path / "alone.npy")
    np.testing.assert_array_equal(alone, np.load(tmp_path / "with.npy"))
    np.testing.assert_array_equal(alone, np.load(tmp_path / "out" / "one.npy"))


@pytest.mark.parametrize("form", ["file", "folder", "with picture", "folder with pictures"])
def test_logits_become_scores(refine, tmp_path, scores, save_picture, form):
    clipped = scores.clip(0.01, 0.99)
    for name, array in (("p", clipped), ("l", np.log(clipped / (1 - clipped)))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", array)
    picture = save_picture(tmp_path / "i" / "a.png", np.zeros((24, 30, 3), np.uint8))
    before = [picture.parent if "pictures" in form else picture] if "picture" in form else []
    ends = "" if "folder" in form else "a.npy"
    for name, options in (("p", {}), ("l", {"logits": True})):
        said = refine(*before, tmp_path / name / ends, tmp_path / f"{name}-out" / ends, **options)
        assert said.code == 0, said.err
    one, other = (np.load(tmp_path / f"{name}-out" / "a.npy") for name in "pl")
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_logits_far_out_become_0_and_1(refine, tmp_path):
    np.save(tmp_path / "l.npy", np.array([[-1e4, 1e4], [0, np.inf]], np.float32))
    assert refine(tmp_path / "l.npy", tmp_path / "o.npy", logits=True).code == 0


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.full((4, 4), 7.5, np.float32), {}, ["sigmoid"]),
        (np.full((4, 4), np.nan, np.float32), {}, ["NaN"]),
        (np.full((4, 4), np.nan, np.float32), {"logits": True}, ["NaN"]),
        (np.ones((4, 4), np.uint8), {"logits": True}, ["uint8", "logits"]),
        (np.zeros((4,), np.float32), {}, ["height"]),
    ],
    ids=["logits", "NaN", "NaN logits", "whole numbers", "one axis"],
)
def test_what_is_no_map_is_refused_in_one_line(refine, tmp_path, array, options, words):
    np.save(tmp_path / "a.npy", array)
    said = refine(tmp_path / "a.npy", tmp_path / "o.npy", **options)
    assert said.code == FAILED
    assert len(said.err.strip().splitlines()) == 1
    for word in ("a.npy", *words):
        assert word in said.err
    assert not (tmp_path / "o.npy").exists()


def test_a_picture_holds_no_logits(refine, maps, tmp_path):
    said = refine(maps / "a8.png", tmp_path / "o.png", logits=True)
    assert said.code == FAILED
    assert "no logits" in said.err


def test_a_bad_map_in_a_folder_is_told_and_the_rest_is_done(refine, maps, tmp_path):
    np.save(maps / "bad.npy", np.full((4, 4), np.nan))
    said = refine(maps, tmp_path / "out")
    assert said.code == FAILED
    assert "bad.npy" in said.err
    assert (tmp_path / "out" / "one.npy").exists()


def test_a_method_that_looks_at_pictures_says_so(refine, maps, tmp_path):
    said = refine(maps, tmp_path / "out", method="guided")
    assert said.code == MISUSED
    assert len(said.err.strip().splitlines()) == 1
    assert "guided looks at the picture" in said.err
    assert "prn" in said.err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"format": "cityscapes"}, "without pictures"),
        ({"compare": "x.png"}, "picture"),
        ({"method": "nope"}, "nope"),
        ({"guard": "safe"}, "prn does not mend outlines"),
    ],
)
def test_misuse_without_pictures_is_told(refine, maps, tmp_path, options, word):
    said = refine(maps, tmp_path / "out", **options)
    assert said.code == MISUSED
    assert word in said.err


def test_logits_are_not_read_from_json(refine, results, tmp_path):
    said = refine(results.images, results.masks, tmp_path / "o.json", logits=True)
    assert said.code == MISUSED
    assert "logits" in said.err


def test_the_maps_are_never_overwritten(refine, maps):
    assert "overwrite" in refine(maps, maps).err
    assert "inside" in refine(maps, maps / "out").err


def test_scores_resume_and_dry_run_work_without_pictures(refine, maps, tmp_path, list_files):
    out = tmp_path / "out"
    assert "would refine the masks of 4" in refine(maps, out, **{"dry-run": True}).out
    assert not out.exists()
    assert refine(maps, out, scores=True).code == 0
    assert "a8.png" in list_files(tmp_path / "out-scores")
    (out / "one.npy").unlink()
    said = refine(maps, out, scores=True, resume=True)
    assert "1 pictures refined, 3 done before" in said.out
    single = refine(maps / "a8.png", tmp_path / "o.png", binary=True, **{"dry-run": True})
    assert "would refine" in single.out


def test_the_highest_class_is_written_too(refine, tmp_path):
    scores = np.random.default_rng(0).random((3, 24, 30), dtype=np.float32)
    softmax = scores / scores.sum(axis=0)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", softmax)
    np.save(tmp_path / "in" / "one.npy", softmax[0])
    said = refine(tmp_path / "in", tmp_path / "out", classes=True)
    assert said.code == 0, said.err
    classes, refined = read(tmp_path / "out-classes" / "a.png"), read(tmp_path / "out" / "a.npy")
    is_found = refined.max(axis=0) > 0.5
    np.testing.assert_array_equal(
        classes, np.where(is_found, refined.argmax(axis=0), softmax.argmax(axis=0))
    )
    assert not (tmp_path / "out-classes" / "one.png").exists()
    said = refine(tmp_path / "in" / "a.npy", tmp_path / "b.npy", classes=True)
    assert said.code == 0, said.err
    np.testing.assert_array_equal(read(tmp_path / "b-classes" / "b.png"), classes)


def test_classes_of_a_folder_of_pictures_are_refused(run_cli, tmp_path, save_picture):
    for folder in ("images", "masks"):
        save_picture(tmp_path / folder / "a.png", np.zeros((8, 8), dtype=np.uint8))
    said = run_cli(
        "refine", tmp_path / "images", tmp_path / "masks", "-o", tmp_path / "o", "--method",
        "guided", "--classes",
    )  # fmt: skip
    assert (said.code, "not in folder" in said.err) == (MISUSED, True)
