import json

import numpy as np
import PIL.Image
import pytest

from maskhone.data.coco import from_rle
from maskhone.errors import UsageError
from maskhone.methods.classic.guided import GuidedRefiner
from maskhone.pipelines.refine import refine_files


def refine(job, **options):
    return refine_files(job.images, job.masks, job.out, **{"method": "guided", **options})


def read(path):
    return np.array(PIL.Image.open(path))


@pytest.fixture
def empties(monkeypatch):
    """Makes the method a bad one, that returns empty masks."""
    monkeypatch.setattr(GuidedRefiner, "refine", lambda self, image, masks: masks * 0)


# one picture


def test_a_picture_is_written_in_the_kind_of_the_mask(folders):
    one = folders.images / "a.png", folders.masks / "a.png", folders.out / "o.png"
    report = refine_files(*one, method="grabcut")
    assert report.refined == 1
    assert np.unique(read(folders.out / "o.png")).tolist() == [0, 255]


def test_a_comparison_shows_four_panels_in_a_row(folders, tmp_path):
    one = folders.images / "a.png", folders.masks / "a.png", folders.out / "o.png"
    refine_files(*one, method="guided", compare=tmp_path / "compare.png")
    assert read(tmp_path / "compare.png").shape == (40, 4 * 48 + 3 * 6, 3)


# folders


def test_each_mask_gives_a_file_of_its_name(folders, list_files):
    report = refine(folders)
    assert (report.refined, report.skipped, report.problems) == (3, 0, ())
    assert list_files(folders.out) == [".maskhone-run.json", "a.png", "b.png", "c.png"]


def test_the_masks_are_refined(folders, disc):
    refine(folders, method="grabcut")
    before, after = read(folders.masks / "a.png") > 0, read(folders.out / "a.png") > 0
    assert np.count_nonzero(after != disc) < np.count_nonzero(before != disc)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.png", lambda disc: disc.astype(np.uint8)),
        ("a.png", lambda disc: disc * np.uint8(200) + np.uint8(20)),
        ("a.png", lambda disc: disc * np.uint16(60000)),
        ("a.npy", lambda disc: disc),
        ("a.npy", lambda disc: np.stack([disc, ~disc]).astype(np.float32)),
    ],
    ids=["0 and 1", "8 bit probability", "16 bit probability", "bool array", "float stack"],
)
def test_the_same_kind_comes_back(folders, save_picture, disc, name, make):
    mask = make(disc)
    for path in folders.masks.iterdir():
        path.unlink()
    path = folders.masks / name
    np.save(path, mask) if name.endswith("npy") else save_picture(path, mask)
    assert refine(folders).problems == ()
    refined = np.load(folders.out / name) if name.endswith("npy") else read(folders.out / name)
    assert refined.dtype == mask.dtype
    assert refined.shape == mask.shape


def test_a_label_map_comes_back_as_one(folders, disc):
    picture = PIL.Image.fromarray(np.where(disc, 3, 0).astype(np.uint8))
    picture.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    picture.save(folders.masks / "a.png")
    refine(folders)
    refined = PIL.Image.open(folders.out / "a.png")
    assert np.unique(np.array(refined)).tolist() == [0, 3]
    assert refined.mode == "P"


def test_binary_cuts_probabilities(folders, save_picture, disc):
    save_picture(folders.masks / "a.png", disc * np.uint8(200) + np.uint8(20))
    refine(folders, binary=True)
    assert np.unique(read(folders.out / "a.png")).tolist() == [0, 255]


def test_masks_in_subfolders_stay_in_subfolders(folders, list_files):
    for kind in (folders.images, folders.masks):
        (kind / "sub").mkdir()
        (kind / "a.png").rename(kind / "sub" / "a.png")
    refine(folders)
    assert "sub/a.png" in list_files(folders.out)


def test_resume_does_only_what_is_missing(folders):
    refine(folders)
    (folders.out / "b.png").unlink()
    kept = (folders.out / "a.png").stat().st_mtime_ns
    report = refine(folders, resume=True)
    assert (report.refined, report.skipped) == (1, 2)
    assert (folders.out / "a.png").stat().st_mtime_ns == kept
    assert (folders.out / "b.png").is_file()


def test_without_resume_everything_is_done_again(folders):
    refine(folders)
    assert refine(folders).refined == 3


@pytest.mark.parametrize("other", [{"method": "grabcut"}, {"binary": True}, {"guard": "strict"}])
def test_resume_with_other_settings_is_refused(folders, other):
    refine(folders)
    with pytest.raises(UsageError, match=next(iter(other))):
        refine(folders, resume=True, **other)


def test_resume_with_other_options_of_the_method_is_refused(folders):
    refine(folders, options={"radius_px": 2})
    with pytest.raises(UsageError, match="options"):
        refine(folders, options={"radius_px": 3}, resume=True)


@pytest.mark.parametrize("job", ["folders", "results"])
def test_a_dry_run_writes_nothing(request, tmp_path, list_files, job):
    job = request.getfixturevalue(job)
    before = list_files(tmp_path)
    report = refine(job, dry_run=True, scores=True, compare=tmp_path / "compare")
    assert "would refine" in report.lines[0]
    assert list_files(tmp_path) == before
    assert not job.out.exists()


def test_comparisons_and_probabilities_are_written(folders, tmp_path, list_files):
    refine(folders, scores=True, compare=tmp_path / "compare")
    assert list_files(tmp_path / "compare") == ["a.png", "b.png", "c.png"]
    assert list_files(tmp_path / "out-scores") == ["a.png", "b.png", "c.png"]
    assert read(tmp_path / "out-scores" / "a.png").dtype == np.uint16


def test_without_a_guard_a_bad_method_ruins_the_masks(folders, empties):
    refine(folders, guard="off")
    assert not read(folders.out / "a.png").any()


def test_by_default_the_guard_keeps_nearly_all_of_the_coarse_masks(folders, empties):
    refine(folders)
    changed = read(folders.out / "a.png") != read(folders.masks / "a.png")
    assert np.count_nonzero(changed) == 0


def test_progress_counts_the_pictures(folders):
    seen = []
    refine(folders, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# json


def read_entries(results):
    return json.loads(results.out.read_text())


def test_entries_keep_their_order_and_all_other_fields(results):
    refine(results)
    for before, after in zip(results.entries, read_entries(results), strict=True):
        without = {k: v for k, v in after.items() if k != "segmentation"}
        assert without == {k: v for k, v in before.items() if k != "segmentation"}


def test_polygons_become_run_lengths_of_the_refined_mask(results):
    refine(results)
    coded = read_entries(results)[1]["segmentation"]
    assert coded["size"] == [40, 48]
    assert from_rle(coded, size_hw=(40, 48)).any()


def test_boxes_follow_the_masks_only_when_asked(results):
    refine(results)
    assert read_entries(results)[0]["bbox"] == [1, 2, 3, 4]
    refine(results, recompute_boxes=True)
    entry = read_entries(results)[0]
    mask = from_rle(entry["segmentation"], size_hw=(40, 48))
    x, y, width, height = entry["bbox"]
    assert mask[y : y + height, x : x + width].sum() == mask.sum() == entry["area"]


def test_a_data_set_keeps_its_other_parts(results):
    images = [{"id": i, "file_name": f"{i}.png"} for i in (1, 2)]
    document = {"info": {"year": 2026}, "images": images, "annotations": results.entries}
    results.masks.write_text(json.dumps(document))
    refine(results)
    after = read_entries(results)
    assert {**after, "annotations": results.entries} == document


def test_an_image_list_names_the_files(results, tmp_path):
    (results.images / "2.png").rename(results.images / "second.png")
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"images": [{"id": 2, "file_name": "second.png"}]}))
    assert refine(results, image_list=listed).problems == ()


def test_a_finished_json_run_leaves_only_the_json(results, list_files):
    before = list_files(results.out.parent)
    refine(results)
    assert list_files(results.out.parent) == sorted([*before, "out.json"])


def test_a_json_run_resumes_only_with_its_own_settings(results, monkeypatch):
    def stop(self, image, masks):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GuidedRefiner, "refine", stop)
        with pytest.raises(KeyboardInterrupt):
            refine(results)
    with pytest.raises(UsageError, match="method"):
        refine(results, method="grabcut", resume=True)


def test_a_line_torn_by_a_stop_is_done_again(results):
    refine(results)
    uninterrupted = results.out.read_text()
    stop_after_first_image(results)
    journal = results.out.with_name(".out.json.unfinished.jsonl")
    journal.write_text(journal.read_text()[:-20])
    assert refine(results, resume=True).refined == 2
    assert results.out.read_text() == uninterrupted


def stop_after_first_image(results):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(results, on_progress=stop)


def test_the_guard_keeps_nearly_all_of_the_coarse_entries(results, empties):
    refine(results)
    coarse = from_rle(results.entries[0]["segmentation"], size_hw=(40, 48))
    after = from_rle(read_entries(results)[0]["segmentation"], size_hw=(40, 48))
    assert np.count_nonzero(after != coarse) == 0


def test_comparisons_and_probabilities_of_entries_are_written(results, tmp_path, list_files):
    refine(results, scores=True, compare=tmp_path / "compare")
    assert list_files(tmp_path / "compare") == ["1.png", "2.png"]
    assert list_files(tmp_path / "out-scores") == ["1_1.png", "1_2.png", "2_0.png"]
