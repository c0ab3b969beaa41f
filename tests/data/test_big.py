import json

import numpy as np
import PIL.Image
import pytest

from maskhone.data.big import find_big_items, index_big_masks
from maskhone.errors import InputError


@pytest.fixture
def big(tmp_path, photo, disc, save_picture):
    """Two triples, and a mask without its picture."""
    folder = tmp_path / "big"
    for name in ("one", "two_im"):
        save_picture(folder / f"{name}_im.jpg", photo)
        save_picture(folder / f"{name}_gt.png", disc.astype(np.uint8) * 255)
        shifted = np.roll(disc, 3, axis=1).astype(np.uint8) * 255
        save_picture(folder / f"{name}_seg.png", shifted)
    save_picture(folder / "lost_seg.png", shifted)
    return folder


def test_triples_are_found_and_strays_are_told(big):
    items, problems = find_big_items(big, big)
    assert [item.id for item in items] == ["one", "two_im"]
    assert len(problems) == 1
    assert "lost_im.jpg" in problems[0]


def test_of_several_masks_of_a_name_the_first_kind_counts(big):
    assert index_big_masks(big, ("_refine", "_seg"))["one"].name == "one_seg.png"
    (big / "one_seg.png").rename(big / "one_refine.png")
    assert index_big_masks(big, ("_refine", "_seg"))["one"].name == "one_refine.png"


def test_the_truth_is_not_scored_against_itself(run_cli, big):
    """All three kinds lie in one folder, as released."""
    (big / "lost_seg.png").unlink()
    said = run_cli("evaluate", big, big, "--format", "big", "--json")
    (row,) = json.loads(said.out)["rows"]
    assert row["n"] == 2
    assert 0.5 < row["iou"] < 1


def test_a_folder_without_truth_is_told(run_cli, big, tmp_path):
    for path in big.glob("*_gt.png"):
        path.unlink()
    said = run_cli("evaluate", big, big, "--format", "big")
    assert said.code == 1
    assert "_gt" in said.err


def test_another_folder_is_refused(tmp_path, big):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="_seg"):
        find_big_items(big, tmp_path / "empty")


def test_big_is_refined_and_scored(run_cli, big, tmp_path):
    out = tmp_path / "out"
    said = run_cli("refine", big, big, "-o", out, "--format", "big", "--method", "guided")
    assert said.code == 1  # the stray mask
    assert sorted(p.name for p in out.glob("*.png")) == ["one_refine.png", "two_im_refine.png"]
    (big / "lost_seg.png").unlink()
    scored = run_cli("evaluate", out, big, "--format", "big", "--json")
    assert scored.code == 0
    assert '"n": 2' in scored.out


def test_coarse_masks_do_not_replace_the_clean_ones(run_cli, big, tmp_path):
    before = {path: path.read_bytes() for path in big.iterdir()}
    for output in (big, big / "coarse"):
        said = run_cli("coarse", big, "-o", output)
        assert said.code == 2
        assert "beside" in said.err
    assert {path: path.read_bytes() for path in big.iterdir()} == before


def test_masks_are_made_coarse_before_training(run_cli, big, tmp_path):
    clean = tmp_path / "clean"
    clean.mkdir()
    ring = np.zeros((120, 120), dtype=np.uint8)
    ring[15:105, 15:105] = 255
    ring[40:80, 40:80] = 0
    PIL.Image.fromarray(ring).save(clean / "a.png")
    PIL.Image.fromarray(ring).save(clean / "b.png")
    for name, flags in (("coarse", []), ("again", []), ("expand", ["--fill-holes"])):
        assert run_cli("coarse", clean, "-o", tmp_path / name, *flags).code == 0
    one, again, other, filled = (
        np.asarray(PIL.Image.open(tmp_path / path)) > 127
        for path in ("coarse/a.png", "again/a.png", "coarse/b.png", "expand/a.png")
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert 0.3 < np.sum(one & (ring > 0)) / np.sum(one | (ring > 0)) < 1
    assert filled[40:80, 40:80].mean() > one[40:80, 40:80].mean() + 0.2
