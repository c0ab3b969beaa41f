import numpy as np
import pytest
from pycocotools import mask as pycoco

from maskhone.data.run_lengths import polygons_to_runs, read_runs
from maskhone.errors import InputError


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5), (300, 200)])
def test_run_lengths_repeat_what_pycocotools_encoded(share, size_hw):
    mask = np.random.default_rng(0).random(size_hw) < share
    counts = pycoco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    for form in (counts, counts.decode()):
        runs = read_runs(form)
        is_foreground = np.arange(len(runs)) % 2 == 1
        assert np.repeat(is_foreground, runs).tolist() == mask.T.ravel().tolist()


def test_long_runs_span_several_characters():
    counts = pycoco.encode(np.zeros((3000, 4000), dtype=np.uint8, order="F"))["counts"]
    assert read_runs(counts).tolist() == [12_000_000]


@pytest.mark.parametrize(
    "counts", ["", "é", "garbage!", "P", b"\xff", None, 7, [1.5], [-1], ["a"], "o" * 9 + "0"]
)
def test_codes_that_are_none_are_refused(counts):
    with pytest.raises(InputError, match=r"^entry 3: counts"):
        read_runs(counts, name="entry 3")


def test_joined_polygons_paint_their_union():
    squares = [[0, 0, 0, 1, 1, 1, 1, 0], [1, 0, 1, 1, 2, 1, 2, 0]]
    assert polygons_to_runs(squares, size_hw=(1, 3)).tolist() == [0, 2, 1]


def test_no_polygon_is_an_empty_mask():
    assert polygons_to_runs([], size_hw=(2, 3)).tolist() == [6]


@pytest.mark.parametrize(
    "polygons",
    [
        [[1, 1, 3, 3]],
        [[1, 1, 2, 2, 3]],
        [[[1, 1], [2, 2], [3, 3]]],
        [1, 2, 3, 4, 5, 6],
        [["a"] * 6],
        [[float("nan")] * 6],
        [[0, 0, 1e12, 0, 1, 1]],
    ],
)
def test_polygons_of_another_form_are_refused(polygons):
    with pytest.raises(InputError, match="expected a list x1, y1"):
        polygons_to_runs(polygons, size_hw=(5, 5))
