import os
import subprocess
import sys

import numpy as np
import pytest

from maskhone.contracts import FOREGROUND
from maskhone.errors import MissingExtraError, UsageError
from maskhone.methods.classic import matting
from maskhone.methods.classic.crf import CRFRefiner
from maskhone.methods.classic.grabcut import GrabCutRefiner, make_trimap
from maskhone.methods.classic.guided import GuidedRefiner
from maskhone.methods.classic.matting import MattingRefiner


def errors(scores: np.ndarray, truth: np.ndarray) -> int:
    return int(((scores[0] > FOREGROUND) != truth).sum())


@pytest.mark.parametrize(
    ("refiner", "share_left"),
    [
        (GrabCutRefiner(band_px=5), 0.1),
        (CRFRefiner(), 0.5),
        (GuidedRefiner(radius_px=8, smoothness=1e-3), 0.9),
        (MattingRefiner(band_px=6), 0.1),
    ],
)
def test_a_mask_that_is_too_large_shrinks_towards_the_edges(scene, refiner, share_left):
    image, truth, coarse = scene
    assert errors(refiner.refine(image, coarse), truth) <= share_left * errors(coarse, truth)


def test_grabcut_leaves_what_is_outside_its_band(scene):
    image, _, coarse = scene
    refined = GrabCutRefiner(band_px=2).refine(image, coarse)
    certain = make_trimap(coarse[0] > FOREGROUND, 2) < 2
    assert (refined[0][certain] == coarse[0][certain]).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (GuidedRefiner, {"smoothness": 0.0}),
        (GrabCutRefiner, {"iterations": 0}),
        (CRFRefiner, {"certainty": 0.5}),
        (MattingRefiner, {"longest_side_px": 8}),
        (MattingRefiner, {"width_share": 0.0}),
    ],
)
def test_contradicting_options_are_refused(kind, options):
    with pytest.raises(UsageError):
        kind(**options)


def test_matting_is_soft_in_its_band_and_leaves_the_rest(scene):
    image, _, coarse = scene
    refined = MattingRefiner(band_px=4).refine(image, coarse)[0]
    is_band = matting.make_trimap(coarse[0] > FOREGROUND, 4) == 0.5
    assert ((refined[is_band] > 0.01) & (refined[is_band] < 0.99)).any()
    np.testing.assert_array_equal(refined[~is_band], coarse[0][~is_band])


def test_matting_keeps_a_thin_strand(scene):
    image, _, _ = scene
    strand = np.zeros((1, 64, 64), dtype=np.float32)
    strand[0, 30:33] = 1.0
    image[:] = 60
    image[30:33] = 200
    refined = MattingRefiner().refine(image, strand)
    np.testing.assert_array_equal(refined > FOREGROUND, strand > FOREGROUND)


def test_matting_of_a_shrunken_window_still_finds_the_edges(scene):
    image, truth, coarse = scene
    refined = MattingRefiner(band_px=6, longest_side_px=32).refine(image, coarse)
    assert errors(refined, truth) < 0.5 * errors(coarse, truth)


def test_matting_solves_the_same_system_without_room_for_the_preconditioner(scene, monkeypatch):
    image, _, coarse = scene
    refiner = MattingRefiner(band_px=4)
    expected = refiner.refine(image, coarse)
    monkeypatch.setattr(matting, "_FILL", 1)
    np.testing.assert_allclose(refiner.refine(image, coarse), expected, atol=1e-4)


def test_matting_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(MissingExtraError, match=r"maskhone\[matting\]"):
        MattingRefiner()


def test_matting_leaves_the_number_of_threads_alone():
    code = (
        "import torch; from maskhone.methods.classic.matting import import_pymatting; "
        "import_pymatting(); assert torch.get_num_threads() == 1, torch.get_num_threads()"
    )
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], env=alone, check=True)
