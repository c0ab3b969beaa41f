import numpy as np
import pytest

from maskhone.data.splits import check_split, read_ids, read_split_csv, split_like_published
from maskhone.errors import InputError, UsageError


@pytest.mark.parametrize(("n", "n_held"), [(2, 1), (5, 1), (6, 2), (120, 24), (1246, 250)])
def test_a_fifth_rounded_up_is_held_back_and_nothing_lost(n, n_held):
    stay, held = split_like_published(n)
    assert len(held) == n_held
    assert sorted([*stay, *held]) == list(range(n))


def test_another_seed_gives_another_split():
    assert not np.array_equal(split_like_published(50)[0], split_like_published(50, seed=1)[0])


@pytest.mark.parametrize(("n", "share"), [(0, 0.2), (1, 0.2), (10, 1.0), (10, 0.0)])
def test_a_split_with_an_empty_part_is_refused(n, share):
    with pytest.raises(UsageError, match="cannot be split"):
        split_like_published(n, share=share)


def test_a_list_keeps_its_order_and_skips_empty_lines(tmp_path):
    path = tmp_path / "val.csv"
    path.write_bytes(b"\xef\xbb\xbfimg,target\r\nb.jpg,b.png\r\n\r\na.jpg, a.png\r\n")
    assert read_split_csv(path) == [("b.jpg", "b.png"), ("a.jpg", "a.png")]


def test_an_index_column_beside_the_names_does_no_harm(tmp_path):
    path = tmp_path / "val.csv"
    path.write_text(",img,target\n0,a.jpg,a.png\n")
    assert read_split_csv(path) == [("a.jpg", "a.png")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,mask\na.jpg,a.png\n", "expected img,target"),
        ("", "expected img,target"),
        ("img,target\na.jpg\n", "a.jpg lacks a name"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, text, said):
    path = tmp_path / "val.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as error:
        read_split_csv(path)
    assert str(path) in str(error.value)


def test_the_end_of_a_list_makes_no_id(tmp_path):
    (tmp_path / "test.txt").write_text("one\ntwo\n\n")
    assert read_ids(tmp_path / "test.txt") == ["one", "two"]


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(InputError, match=r"test\.txt: no such file"):
        read_ids(tmp_path / "test.txt")


def test_an_unknown_split_is_refused():
    with pytest.raises(UsageError, match="train, val, test"):
        check_split("valid")
