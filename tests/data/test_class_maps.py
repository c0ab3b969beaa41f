import pickle

import numpy as np
import pytest
import torch

from maskhone.data.class_maps import Cams, load_class_arrays, read_cams, write_cams
from maskhone.errors import InputError


def draw(count=2, size_hw=(9, 14)):
    random = np.random.default_rng(0)
    keys = np.arange(count + 1, dtype=np.int64) * 3
    grid_hw = tuple(-(-n // 4) for n in size_hw)
    return Cams(
        keys=keys,
        cam=random.random((count, *grid_hw), dtype=np.float32),
        hr_cam=random.random((count, *size_hw), dtype=np.float32),
    )


def check_same(ours, expected):
    for name in ("keys", "cam", "hr_cam"):
        found = getattr(ours, name)
        np.testing.assert_array_equal(found, getattr(expected, name))
        assert found.dtype == getattr(expected, name).dtype


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_was_written_is_read(tmp_path, count):
    cams = draw(count)
    path = write_cams(tmp_path / "a.npz", cams)
    check_same(read_cams(path, size_hw=(9, 14)), cams)
    assert cams.classes.tolist() == [2, 5][:count]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_the_original_scripts_are_read(tmp_path, protocol):
    cams = draw()
    content = {"keys": cams.keys, "cam": torch.from_numpy(cams.cam), "hr_cam": cams.hr_cam}
    path = tmp_path / "a.npy"
    np.save(path, content)
    stored = path.read_bytes()
    header = stored[: stored.index(b"\n") + 1]
    path.write_bytes(header + pickle.dumps(np.array(content, dtype=object), protocol=protocol))
    check_same(read_cams(path), cams)


def test_pickles_as_saved_today_and_under_the_old_numpy_are_read(tmp_path):
    cams = draw()
    path = tmp_path / "a.npy"
    np.save(path, {"keys": cams.keys, "rw": cams.hr_cam}, allow_pickle=True)
    np.testing.assert_array_equal(load_class_arrays(path)["rw"], cams.hr_cam)
    content = pickle.dumps(np.array({"rw": cams.hr_cam}, dtype=object), protocol=2)
    assert b"numpy._core" in content
    stored = path.read_bytes()
    header = stored[: stored.index(b"\n") + 1]
    path.write_bytes(header + content.replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(load_class_arrays(path)["rw"], cams.hr_cam)


class Runs:
    def __reduce__(self):
        return print, ("code of the file",)


@pytest.mark.parametrize("inside", ["beside", "tensor"])
def test_nothing_else_in_a_pickle_is_run(tmp_path, capsys, inside):
    content = {"keys": np.zeros(1, np.int64), "cam": Runs()}
    if inside == "tensor":
        hidden = pickle.dumps(Runs(), protocol=2)

        class Hides:
            def __reduce__(self):
                return torch.storage._load_from_bytes, (hidden,)

        content["cam"] = Hides()
    path = tmp_path / "a.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as class maps"):
        read_cams(path)
    assert "code of the file" not in capsys.readouterr().out


def test_strings_in_a_pickle_are_no_arrays(tmp_path):
    np.save(tmp_path / "a.npy", {"keys": "zero"}, allow_pickle=True)
    with pytest.raises(InputError, match="holds a str"):
        load_class_arrays(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_missing_and_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match="no such file"):
        read_cams(path)
    path.write_bytes(b"\x93NUMPY\x01\x00 not an array")
    with pytest.raises(InputError, match=name):
        read_cams(path)


def test_plain_arrays_are_no_class_maps(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    with pytest.raises(InputError, match="expected one pickled dict"):
        read_cams(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", keys=np.zeros(1, np.int64))
    with pytest.raises(InputError, match="no cam; expected keys, cam and hr_cam"):
        read_cams(tmp_path / "a.npz")


def test_a_picture_of_another_size_is_named(tmp_path):
    path = write_cams(tmp_path / "a.npz", draw())
    with pytest.raises(InputError, match=r"a\.npz: .* of 9x14, but the picture is 14x9"):
        read_cams(path, size_hw=(14, 9))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"keys": np.array([1, 3, 6])}, "expected 0, then"),
        ({"keys": np.array([0, 6, 3])}, "ascending"),
        ({"keys": np.array([0, 3])}, "expected 1 maps"),
        ({"cam": np.zeros((2, 3, 3), np.float32)}, "expected a quarter of it"),
        ({"cam": np.full((2, 3, 4), np.nan, np.float32)}, "finite"),
        ({"hr_cam": np.zeros((2, 9, 14))}, "float32"),
    ],
)
def test_maps_that_contradict_each_other_are_refused(changed, said):
    with pytest.raises(InputError, match=said):
        Cams(**{**vars(draw()), **changed})
