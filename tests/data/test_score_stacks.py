import numpy as np
import pytest

from maskhone.data.score_stacks import (
    StackPaths,
    name_stacks,
    open_stack,
    open_stacks,
    read_map,
    write_stack,
)
from maskhone.errors import InputError, UsageError

SIZE_HW = (4, 6)


@pytest.fixture
def maps():
    return np.random.default_rng(0).random((3, *SIZE_HW)).astype(np.float32)


def write(path, maps, **options):
    return write_stack(path, iter(maps), count=len(maps), size_hw=SIZE_HW, **options)


def test_a_stack_comes_back_map_by_map_from_the_disk(tmp_path, maps):
    stack = open_stack(write(tmp_path / "val_pred.npy", maps))
    assert isinstance(stack, np.memmap)
    assert not stack.flags.writeable
    for i, expected in enumerate(maps):
        np.testing.assert_array_equal(read_map(stack, i)[0], expected)


def test_the_file_is_the_published_one(tmp_path, maps):
    write(tmp_path / "val_pred.npy", maps[:, np.newaxis])
    array = np.load(tmp_path / "val_pred.npy")
    assert (array.shape, array.dtype) == ((3, *SIZE_HW, 1), np.float32)
    assert array.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.bool_])
def test_labels_of_any_type_are_read_as_zero_and_one(tmp_path, maps, dtype):
    labels = maps > 0.5
    stack = open_stack(write(tmp_path / "labels.npy", labels, dtype=dtype))
    assert stack.dtype == dtype
    found = read_map(stack, 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], labels[1])


@pytest.mark.parametrize(
    ("split", "side", "names"),
    [
        ("val", 64, ["val_pred.npy", "val_orig_gt.npy", "train_aux_gt_p_64.npy"]),
        ("test", 512, ["test_input.npy", "test_orig_gt.npy", "test_aux_gt_p_512.npy"]),
    ],
)
def test_files_have_the_published_names(tmp_path, split, side, names):
    paths = name_stacks(tmp_path, split, label_side_px=side)
    assert [paths.scores, paths.truths, paths.labels] == [tmp_path / name for name in names]


def test_there_are_no_stacks_of_train(tmp_path):
    with pytest.raises(UsageError, match="val or test"):
        name_stacks(tmp_path, "train")


def test_the_stacks_of_a_split_are_opened_together(tmp_path, maps):
    paths = name_stacks(tmp_path, label_side_px=2)
    for path in (paths.scores, paths.truths, paths.labels):
        write(path, maps)
    stacks = open_stacks(paths)
    assert len(stacks) == 3
    np.testing.assert_array_equal(stacks.labels, maps)
    assert open_stacks(name_stacks(tmp_path)).labels is None


def test_stacks_that_disagree_are_refused(tmp_path, maps):
    paths = StackPaths(scores=tmp_path / "a.npy", truths=tmp_path / "b.npy", labels=None)
    write(paths.scores, maps)
    write(paths.truths, maps[:2])
    with pytest.raises(InputError, match=r"b\.npy: 2 maps of 4x6, but .*a\.npy holds 3 maps"):
        open_stacks(paths)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 4, 6)), r"\(maps, height, width, 1\)"),
        (np.zeros((3, 4, 6, 2)), r"\(maps, height, width, 1\)"),
        (np.zeros((0, 4, 6, 1)), r"\(maps, height, width, 1\)"),
        (np.zeros((1, 4, 6, 1), complex), "expected one array of float"),
    ],
)
def test_an_array_of_another_form_is_refused(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=said) as error:
        open_stack(tmp_path / "a.npy")
    assert "a.npy" in str(error.value)


def test_a_missing_or_damaged_stack_is_named(tmp_path, maps):
    with pytest.raises(InputError, match=r"a\.npy: no such file"):
        open_stack(tmp_path / "a.npy")
    path = write(tmp_path / "a.npy", maps)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"a\.npy: cannot read the stack"):
        open_stack(path)


def test_logits_are_no_scores(tmp_path, maps):
    stack = open_stack(write(tmp_path / "a.npy", maps * 9 - 4))
    with pytest.raises(InputError, match=r"a\.npy: map 1: .*sigmoid"):
        read_map(stack, 1, name="a.npy")


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ([np.zeros(SIZE_HW)], "1 maps, but 2 announced"),
        ([np.zeros(SIZE_HW)] * 3, "more than the 2 maps"),
        ([np.zeros(SIZE_HW), np.zeros((6, 4))], r"map 1 has shape \(6, 4\)"),
    ],
)
def test_a_stack_that_does_not_fill_is_not_written(tmp_path, list_files, maps, said):
    with pytest.raises(InputError, match=said):
        write_stack(tmp_path / "a.npy", maps, count=2, size_hw=SIZE_HW)
    assert list_files(tmp_path) == []


def test_fractions_are_not_lost_in_whole_numbers(tmp_path, maps, list_files):
    with pytest.raises(InputError, match="uint8 cannot"):
        write(tmp_path / "a.npy", maps, dtype=np.uint8)
    assert list_files(tmp_path) == []


def test_a_stack_of_no_maps_is_refused(tmp_path):
    with pytest.raises(InputError, match="no maps"):
        write(tmp_path / "a.npy", [])
