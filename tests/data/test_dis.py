import numpy as np
import pytest

from maskhone.data.dis import find_coarse_masks, find_thing_items
from maskhone.errors import InputError


@pytest.fixture
def thin(tmp_path, photo, disc, save_picture):
    """ThinObject-5K with two listed things and one that is not; suffixes as people have them."""
    folder = tmp_path / "thin_object"
    for name, suffix in (("a", ".jpg"), ("b", ".JPEG"), ("c", ".jpg")):
        save_picture(folder / "images" / f"{name}{suffix}", photo)
        for kind in ("masks", "coarse", "coarse_expand"):
            save_picture(folder / kind / f"{name}.png", disc.astype(np.uint8) * 255)
    (folder / "list").mkdir()
    (folder / "list" / "train.txt").write_text("b.png\na.png\n\n")
    return folder


@pytest.fixture
def dis(tmp_path, photo, disc, save_picture):
    folder = tmp_path / "DIS-VD"
    save_picture(folder / "im" / "x.jpg", photo)
    save_picture(folder / "gt" / "x.png", disc.astype(np.uint8) * 255)
    return folder


def test_listed_things_come_in_the_order_of_the_list(thin):
    items = find_thing_items(thin)
    assert [item.id for item in items] == ["b", "a"]
    assert items[0].image_path.name == "b.JPEG"
    assert [p.parent.name for p in find_coarse_masks(items[0])] == ["coarse", "coarse_expand"]


def test_dis_has_no_lists(dis):
    (item,) = find_thing_items(dis)
    assert (item.id, item.mask_paths[0].parent.name) == ("x", "gt")
    with pytest.raises(InputError, match="maskhone coarse"):
        find_coarse_masks(item)


@pytest.mark.parametrize(
    ("lost", "said"), [("images/a.jpg", "no picture a"), ("masks/b.png", "no mask b")]
)
def test_half_a_pair_is_told(thin, lost, said):
    (thin / lost).unlink()
    with pytest.raises(InputError, match=said):
        find_thing_items(thin)


def test_other_layouts_and_splits_are_told(thin, tmp_path):
    with pytest.raises(InputError, match="im/ and gt/"):
        find_thing_items(tmp_path)
    with pytest.raises(InputError, match=r"test\.txt"):
        find_thing_items(thin, "test")
