"""Bad input ends in one clear line and an exit code, never in a traceback or half a file."""

import argparse
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch

from maskhone.methods.classic.guided import GuidedRefiner

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
TURNED_BY_90 = 6  # EXIF


@pytest.fixture
def refine(run_cli):
    """Runs `maskhone refine` with a method that needs no weights."""

    def run(images, masks, out, *options):
        return run_cli("refine", images, masks, "-o", out, "--method", "guided", *options)

    return run


@pytest.fixture
def pair(folders):
    """One picture and its mask."""
    return folders.images / "a.png", folders.masks / "a.png"


def assert_one_line(result, *words, code=FAILED):
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    assert len(result.err.strip().splitlines()) == 1
    for word in words:
        assert word in result.err


def break_after(monkeypatch, n_images):
    """Presses ctrl-C in the refinement that follows n_images finished ones."""
    original, calls = GuidedRefiner.refine, []

    def refine(self, image, masks):
        calls.append(1)
        if len(calls) > 3 * n_images:  # with a guard a mask is looked at three times
            raise KeyboardInterrupt
        return original(self, image, masks)

    monkeypatch.setattr(GuidedRefiner, "refine", refine)


# one picture


def test_a_missing_image_is_named(refine, pair, tmp_path):
    assert_one_line(refine(tmp_path / "no.png", pair[1], tmp_path / "o.png"), "no.png", "no such")


def test_a_missing_mask_is_named(refine, pair, tmp_path):
    assert_one_line(refine(pair[0], tmp_path / "no.png", tmp_path / "o.png"), "no.png", "no such")


@pytest.mark.parametrize("which", [0, 1], ids=["image", "mask"])
def test_a_truncated_picture_is_named(refine, pair, tmp_path, which):
    pair[which].write_bytes(pair[which].read_bytes()[:60])
    assert_one_line(refine(*pair, tmp_path / "o.png"), str(pair[which]), "cannot read")


def test_a_text_file_is_no_picture(refine, pair, tmp_path):
    pair[0].write_text("hello")
    assert_one_line(refine(*pair, tmp_path / "o.png"), "not a picture")


def test_a_mask_of_another_size_is_refused(refine, pair, tmp_path, save_picture):
    save_picture(pair[1], np.zeros((10, 10), np.uint8))
    assert_one_line(refine(*pair, tmp_path / "o.png"), "40x48", "10x10")


def test_a_transposed_mask_is_recognised(refine, pair, tmp_path, save_picture, disc):
    save_picture(pair[1], disc.T.astype(np.uint8))
    assert_one_line(refine(*pair, tmp_path / "o.png"), "transpose the mask")


def test_a_mask_made_before_exif_rotation_is_recognised(refine, pair, tmp_path, photo):
    exif = PIL.Image.Exif()
    exif[0x0112] = TURNED_BY_90
    turned = tmp_path / "turned.jpg"
    PIL.Image.fromarray(photo).save(turned, exif=exif)
    assert_one_line(refine(turned, pair[1], tmp_path / "o.png"), "EXIF")


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (7.5, "sigmoid")])
def test_scores_that_are_no_probabilities_are_refused(refine, pair, tmp_path, value, word):
    np.save(tmp_path / "m.npy", np.full((40, 48), value, np.float32))
    assert_one_line(refine(pair[0], tmp_path / "m.npy", tmp_path / "o.npy"), "m.npy", word)


def test_a_mask_in_colours_is_refused(refine, pair, tmp_path, save_picture, photo):
    save_picture(pair[1], photo)
    assert_one_line(refine(*pair, tmp_path / "o.png"), "in colours", "palette")


@pytest.mark.parametrize("value", [0, 255], ids=["empty", "full"])
def test_empty_and_full_masks_pass_through(refine, pair, tmp_path, save_picture, value):
    mask = np.full((40, 48), value, np.uint8)
    save_picture(pair[1], mask)
    assert refine(*pair, tmp_path / "o.png").code == 0
    np.testing.assert_array_equal(np.array(PIL.Image.open(tmp_path / "o.png")), mask)


def test_a_picture_of_one_pixel_is_refined(refine, tmp_path, save_picture):
    image = save_picture(tmp_path / "i.png", np.zeros((1, 1, 3), np.uint8))
    mask = save_picture(tmp_path / "m.png", np.full((1, 1), 255, np.uint8))
    assert refine(image, mask, tmp_path / "o.png").code == 0
    assert np.array(PIL.Image.open(tmp_path / "o.png")).shape == (1, 1)


def test_names_may_hold_any_letters(refine, pair, tmp_path):
    folder = tmp_path / "Zürich [1] 日本 😀"
    folder.mkdir()
    image, mask = shutil.copy(pair[0], folder / "é.png"), shutil.copy(pair[1], folder / "ñ.png")
    result = refine(image, mask, folder / "ж.png")
    assert result.code == 0
    assert str(folder / "ж.png") in result.out
    assert (folder / "ж.png").is_file()


def test_a_name_with_brackets_is_shown_whole_in_errors(refine, pair, tmp_path):
    assert_one_line(refine(tmp_path / "[red]é.png", pair[1], tmp_path / "o.png"), "[red]é.png")


def test_an_output_in_an_existing_folder_takes_the_name_of_the_mask(refine, pair, tmp_path):
    (tmp_path / "there").mkdir()
    assert refine(*pair, tmp_path / "there").code == 0
    assert (tmp_path / "there" / "a.png").is_file()


def test_an_unknown_picture_format_is_refused(refine, pair, tmp_path):
    assert_one_line(refine(*pair, tmp_path / "o.xyz"), ".xyz")


# outputs that cannot be written


def test_a_picture_below_a_file_cannot_be_written(refine, pair, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_one_line(refine(*pair, tmp_path / "file" / "o.png"), "cannot write")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_cannot_be_written_over_a_file(refine, folders):
    folders.out.write_text("mine")
    assert_one_line(refine(folders.images, folders.masks, folders.out), "cannot write")
    assert folders.out.read_text() == "mine"


def test_a_json_below_a_file_cannot_be_written(refine, results, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = refine(results.images, results.masks, tmp_path / "file" / "o.json")
    assert_one_line(result, "cannot write")


def test_a_json_cannot_be_written_over_a_folder(refine, results):
    results.out.mkdir()
    assert_one_line(refine(results.images, results.masks, results.out), "folder")


def test_the_coarse_masks_are_never_overwritten(refine, folders):
    result = refine(folders.images, folders.masks, folders.masks)
    assert_one_line(result, "overwrite", code=MISUSED)


# misuse


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "nope"], ["nope", "guided"]),
        (["--option", "nope=1"], ["nope", "radius_px"]),
        (["--option", "radius_px"], ["NAME=VALUE"]),
        (["--option", "smoothness=0"], ["smoothness"]),
        (["--format", "nope"], ["nope", "coco"]),
        (["--batch-size", "0"], ["batch size"]),
        (["--weights", "some.safetensors"], ["no weights"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("-") else "",
)
def test_misuse_is_answered_with_what_is_known(refine, folders, arguments, words):
    result = refine(folders.images, folders.masks, folders.out, *arguments)
    assert_one_line(result, *words, code=MISUSED)
    assert not folders.out.exists()


@pytest.mark.parametrize("option", [["--device", "nope"], ["--dtype", "nope"]], ids=" ".join)
def test_an_unknown_device_or_dtype_is_misuse(run_cli, folders, bpr_weights, option):
    paths = [folders.images, folders.masks, "-o", folders.out, "--weights", bpr_weights]
    assert_one_line(run_cli("refine", *paths, *option), "nope", code=MISUSED)


def test_an_option_of_the_wrong_type_is_misuse(refine, folders):
    result = refine(folders.images, folders.masks, folders.out, "--option", "radius_px=wide")
    assert_one_line(result, "radius_px", code=MISUSED)


def test_debug_shows_the_traceback(run_cli, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        run_cli("--debug", "refine", tmp_path / "no.png", tmp_path / "no.png", "-o", tmp_path / "o")


# folders


def test_one_bad_item_is_reported_and_the_rest_is_done(refine, folders, list_files):
    (folders.images / "b.png").write_bytes(b"\x89PNG broken")
    result = refine(folders.images, folders.masks, folders.out)
    assert result.code == FAILED
    assert "b.png" in result.err
    assert "Traceback" not in result.err
    assert [n for n in list_files(folders.out) if n.endswith(".png")] == ["a.png", "c.png"]


def test_a_mask_without_image_is_reported_and_the_rest_is_done(refine, folders, list_files):
    (folders.images / "b.png").unlink()
    result = refine(folders.images, folders.masks, folders.out)
    assert result.code == FAILED
    assert str(folders.masks / "b.png") in result.err
    assert [n for n in list_files(folders.out) if n.endswith(".png")] == ["a.png", "c.png"]


def test_an_empty_folder_is_refused(refine, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    result = refine(folders.images, tmp_path / "empty", folders.out)
    assert_one_line(result, "holds no masks")


def test_a_stopped_folder_run_leaves_whole_files_and_goes_on(
    refine, folders, list_files, monkeypatch
):
    with monkeypatch.context() as patch:
        break_after(patch, n_images=1)
        stopped = refine(folders.images, folders.masks, folders.out)
    assert stopped.code == INTERRUPTED
    assert "--resume" in stopped.err
    assert [n for n in list_files(folders.out) if n != ".maskhone-run.json"] == ["a.png"]
    result = refine(folders.images, folders.masks, folders.out, "--resume")
    assert result.code == 0
    assert "2 pictures refined, 1 done before" in result.out
    assert list_files(folders.out) == [".maskhone-run.json", "a.png", "b.png", "c.png"]


# json


def test_an_entry_of_wrong_size_is_kept_and_the_rest_refined(refine, results):
    results.entries[2]["segmentation"] = {"size": [2, 2], "counts": "22"}
    results.masks.write_text(json.dumps(results.entries))
    result = refine(results.images, results.masks, results.out, "--guard", "off")
    assert result.code == FAILED
    assert "entry 2" in result.err
    refined = json.loads(results.out.read_text())
    assert refined[2] == results.entries[2]
    assert refined[0]["segmentation"] != results.entries[0]["segmentation"]
    assert refined[1]["segmentation"]["size"] == [40, 48]


def test_entries_of_an_unknown_image_are_kept_and_the_rest_refined(refine, results):
    (results.images / "2.png").unlink()
    result = refine(results.images, results.masks, results.out, "--guard", "off")
    assert result.code == FAILED
    assert "image 2" in result.err
    refined = json.loads(results.out.read_text())
    assert refined[0] == results.entries[0]
    assert refined[2]["segmentation"] != results.entries[2]["segmentation"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not json"),
        ("3", "expected a COCO"),
        ('[{"image_id": 1}]', "segmentation"),
        ('[{"image_id": [1], "segmentation": []}]', "image_id"),
        ('{"annotations": [], "images": [3]}', "id"),
    ],
)
def test_a_json_of_something_else_is_refused(refine, results, text, word):
    results.masks.write_text(text)
    assert_one_line(refine(results.images, results.masks, results.out), str(results.masks), word)
    assert not results.out.exists()


def test_a_stopped_json_run_leaves_no_json_and_goes_on(refine, results, list_files, monkeypatch):
    refine(results.images, results.masks, results.out)
    uninterrupted = results.out.read_text()
    results.out.unlink()
    with monkeypatch.context() as patch:
        break_after(patch, n_images=1)
        assert refine(results.images, results.masks, results.out).code == INTERRUPTED
    assert not results.out.exists()
    result = refine(results.images, results.masks, results.out, "--resume")
    assert result.code == 0
    assert "1 pictures refined, 1 done before" in result.out
    assert results.out.read_text() == uninterrupted
    assert "unfinished" not in " ".join(list_files(results.out.parent))


@pytest.mark.parametrize("which", ["prediction", "target"])
def test_scoring_a_broken_json_is_refused(run_cli, results, tmp_path, which):
    truth = tmp_path / "truth.json"
    truth.write_text('{"images": [], "annotations": [], "categories": []}')
    {"prediction": results.masks, "target": truth}[which].write_text("{")
    assert_one_line(run_cli("evaluate", results.masks, truth), "json")


# weights


def run_with_weights(run_cli, pair, out, weights):
    return run_cli("refine", *pair, "-o", out, "--weights", weights, "--device", "cpu")


def test_weights_that_are_not_there_are_named(run_cli, pair, tmp_path):
    result = run_with_weights(run_cli, pair, tmp_path / "o.png", "nope")
    assert_one_line(result, "nope", "weights list")


def test_a_flipped_byte_in_the_tensors_is_found(run_cli, pair, tmp_path, bpr_weights):
    content = bytearray(bpr_weights.read_bytes())
    content[-1000] ^= 1
    (tmp_path / "w.safetensors").write_bytes(content)
    result = run_with_weights(run_cli, pair, tmp_path / "o.png", tmp_path / "w.safetensors")
    assert_one_line(result, "w.safetensors", "hash")
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb"__metadata__", rb"__metaData__"),
        (rb"\"config\"", rb"\"cOnfig\""),
        (rb"\"patch_px\"", rb"\"pAtch_px\""),
        (rb"\"patch_px\": 16", rb"\"patch_px\": 1x"),
        (rb"hrnet18s", rb"hrnet18x"),
    ],
    ids=["metadata", "key", "field", "json", "value"],
)
def test_a_changed_header_is_found(run_cli, pair, tmp_path, bpr_weights, old, new):
    content = bpr_weights.read_bytes()
    assert old in content
    (tmp_path / "w.safetensors").write_bytes(content.replace(old, new, 1))
    result = run_with_weights(run_cli, pair, tmp_path / "o.png", tmp_path / "w.safetensors")
    assert_one_line(result, "w.safetensors")


def test_a_cut_weight_file_is_found(run_cli, pair, tmp_path, bpr_weights):
    (tmp_path / "w.safetensors").write_bytes(bpr_weights.read_bytes()[:-100])
    result = run_with_weights(run_cli, pair, tmp_path / "o.png", tmp_path / "w.safetensors")
    assert_one_line(result, "w.safetensors")


def test_a_published_checkpoint_given_as_weights_is_sent_to_import(run_cli, pair, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "w.pth")
    result = run_with_weights(run_cli, pair, tmp_path / "o.png", tmp_path / "w.pth")
    assert_one_line(result, "weights import")


@pytest.mark.parametrize(
    "content",
    [
        argparse.Namespace(a=1),
        {"state_dict": argparse.Namespace(a=1)},
        {"state_dict": {"a": 1}},
        {1: torch.zeros(1)},
        [torch.zeros(1)],
    ],
    ids=["object", "object inside", "number", "numbered", "list"],
)
def test_a_pickle_of_anything_but_tensors_is_not_imported(run_cli, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    result = run_cli("weights", "import", tmp_path / "w.pth", "--name", "bpr_hrnet18s_128.coco")
    assert_one_line(result, "w.pth")
    assert not list(tmp_path.glob("*.safetensors"))


def test_importing_a_file_of_unknown_name_asks_for_it(run_cli, tmp_path):
    torch.save({}, tmp_path / "w.pth")
    assert_one_line(run_cli("weights", "import", tmp_path / "w.pth"), "--name", code=MISUSED)
