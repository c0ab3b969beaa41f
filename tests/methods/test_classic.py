import numpy as np
import pytest

from maskhone.contracts import FOREGROUND
from maskhone.errors import UsageError
from maskhone.methods.classic.crf import CRFRefiner
from maskhone.methods.classic.grabcut import GrabCutRefiner, make_trimap
from maskhone.methods.classic.guided import GuidedRefiner


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright noisy square on a dark ground, its truth, and a mask that is 3 px too large."""
    random = np.random.default_rng(0)
    truth = np.zeros((64, 64), dtype=bool)
    truth[20:44, 20:44] = True
    image = np.where(truth[..., None], 200, 60) + random.integers(-9, 10, (64, 64, 3))
    coarse = np.zeros((1, 64, 64), dtype=np.float32)
    coarse[0, 17:47, 17:47] = 1.0
    return image.astype(np.uint8), truth, coarse


def errors(scores: np.ndarray, truth: np.ndarray) -> int:
    return int(((scores[0] > FOREGROUND) != truth).sum())


@pytest.mark.parametrize(
    ("refiner", "share_left"),
    [
        (GrabCutRefiner(band_px=5), 0.1),
        (CRFRefiner(), 0.5),
        (GuidedRefiner(radius_px=8, smoothness=1e-3), 0.9),
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
    ],
)
def test_contradicting_options_are_refused(kind, options):
    with pytest.raises(UsageError):
        kind(**options)
