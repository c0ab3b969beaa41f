import numpy as np
import pytest

from maskhone.data.images import read_mask
from maskhone.errors import InputError, UsageError
from maskhone.pipelines.scores import write_score_map, write_scores


class Brightness:
    """Scores a pixel by its brightness; counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def segment(self, image):
        self.asked += 1
        return image.mean(axis=2, dtype=np.float32)[None] / np.float32(255)


@pytest.mark.parametrize("form", ["png", "npy"])
def test_every_picture_gets_its_scores(folders, photo, form):
    assert write_scores(Brightness(), folders.images, folders.out, form=form) == []
    assert sorted(p.name for p in folders.out.iterdir()) == [f"{n}.{form}" for n in "abc"]
    found = read_mask(folders.out / f"b.{form}").scores[0]
    expected = Brightness().segment(photo)[0]
    np.testing.assert_allclose(found, expected, atol=0 if form == "npy" else 1 / 65535)


def test_subfolders_are_kept(tmp_path, photo, save_picture):
    save_picture(tmp_path / "in" / "deep" / "a.png", photo)
    write_scores(Brightness(), tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "deep" / "a.png").exists()


def test_a_stopped_run_goes_on(folders):
    def stop(done, total):
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scores(Brightness(), folders.images, folders.out, on_progress=stop)
    model = Brightness()
    write_scores(model, folders.images, folders.out, resume=True)
    assert model.asked == 1
    assert len(list(folders.out.iterdir())) == 3


def test_a_broken_picture_is_named_and_stops_no_other(folders):
    (folders.images / "b.png").write_bytes(b"no picture")
    problems = write_scores(Brightness(), folders.images, folders.out)
    assert len(problems) == 1
    assert "b.png" in problems[0]
    assert sorted(p.name for p in folders.out.iterdir()) == ["a.png", "c.png"]


def test_pictures_of_one_name_are_refused(folders, photo, save_picture):
    save_picture(folders.images / "a.bmp", photo)
    with pytest.raises(InputError, match="one name"):
        write_scores(Brightness(), folders.images, folders.out)


def test_folders_without_pictures_and_other_forms_are_refused(tmp_path, folders):
    with pytest.raises(InputError, match="no such folder"):
        write_scores(Brightness(), tmp_path / "gone", folders.out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        write_scores(Brightness(), tmp_path / "empty", folders.out)
    with pytest.raises(UsageError, match="png or npy"):
        write_scores(Brightness(), folders.images, folders.out, form="jpg")


@pytest.mark.parametrize("steps", [1, 2, 255, 256])
def test_a_map_of_almost_nothing_is_not_read_as_a_mask(tmp_path, steps):
    scores = np.zeros((4, 4), np.float32)
    scores[0, 0] = steps / 65535
    found = read_mask(write_score_map(tmp_path / "a.png", scores)).scores[0]
    np.testing.assert_allclose(found, scores, atol=1.1 / 65535)


def test_zeros_and_ones_are_kept(tmp_path):
    scores = np.eye(4, dtype=np.float32)
    found = read_mask(write_score_map(tmp_path / "a.png", scores)).scores[0]
    np.testing.assert_array_equal(found, scores)
