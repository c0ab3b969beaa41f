"""What the stages say of class maps and fits that are not of one picture."""

from pathlib import Path

import numpy as np
import pytest

from maskhone.data.array_files import save_arrays
from maskhone.data.class_maps import Cams, find_grid_hw, write_cams
from maskhone.data.tagged_images import TaggedImage
from maskhone.errors import InputError
from maskhone.pipelines.pseudo.pictures import write_combined, write_walked

ITEM = TaggedImage(id="a", image_path=Path("a.png"), classes=(0,))


def make_cams(size_hw):
    maps = [np.ones((1, *size), dtype=np.float32) for size in (find_grid_hw(size_hw), size_hw)]
    return Cams(keys=np.array([0, 1]), cam=maps[0], hr_cam=maps[1])


def test_fits_of_another_picture_are_not_resized_in_silence(tmp_path):
    folders = {name: tmp_path / name for name in ("cam", "fit")}
    write_cams(folders["cam"] / "a.npz", make_cams((20, 24)))
    bits = np.packbits(np.ones((1, 40, 48), dtype=np.bool_))
    fits = {"shape": np.array([1, 40, 48]), "slic": bits, "quick": bits}
    save_arrays(folders["fit"] / "a.npz", fits)
    with pytest.raises(InputError, match=r"fits of \(1, 40, 48\).* are \(1, 20, 24\)"):
        write_combined(ITEM, folders=folders, folder=tmp_path / "combine")
    assert not (tmp_path / "combine").exists()


def test_class_maps_of_another_picture_do_not_walk(tmp_path):
    write_cams(tmp_path / "cam" / "a.npz", make_cams((20, 24)))
    edges = np.zeros((9, 9), dtype=np.float32)
    options = {"radius": 2, "beta": 1.0, "exp_times": 1}
    with pytest.raises(InputError, match="has another size"):
        write_walked(ITEM, edges, source=tmp_path / "cam", folder=tmp_path / "walk", **options)
