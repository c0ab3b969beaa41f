import numpy as np
import py_sod_metrics
import pytest

from maskhone.errors import InputError
from maskhone.metrics.saliency import SaliencyScores, e_curve, f_curve, s_measure

EXACT = 1e-12
SIZES_HW = [(40, 48), (17, 9), (5, 7)]
TRUTHS = ["noise", "empty", "full", "block"]
MAPS = ["noise", "constant", "zero", "full", "soft", "narrow"]


def make_truth(kind, size_hw):
    height, width = size_hw
    truth = np.full(size_hw, kind == "full")
    if kind == "block":
        truth[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = True
    if kind == "noise":
        truth = np.random.default_rng(1).random(size_hw) > 0.6
    return truth


def make_map(kind, truth):
    """Grey values of a map that knows the truth only when it is `soft`."""
    g = np.random.default_rng(2)
    drawn = {
        "noise": g.integers(0, 256, truth.shape),
        "constant": np.full(truth.shape, 77),
        "zero": np.zeros(truth.shape),
        "full": np.full(truth.shape, 255),
        "soft": np.clip(180 * truth + g.normal(20, 30, truth.shape), 0, 255),
        "narrow": g.integers(40, 91, truth.shape),
    }
    return drawn[kind].astype(np.uint8)


def score_elsewhere(pairs):
    """Scores pairs of grey values and truths with PySODMetrics."""
    handler = py_sod_metrics.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3)
    f, s = py_sod_metrics.FmeasureV2({"fm": handler}), py_sod_metrics.Smeasure()
    e, mae = py_sod_metrics.Emeasure(), py_sod_metrics.MAE()
    for grey, truth in pairs:
        for metric in (f, s, e, mae):
            metric.step(grey, truth * np.uint8(255))
    f_found, e_found = f.get_results()["fm"], e.get_results()["em"]
    return {
        "f_adaptive": f_found["adaptive"],
        "f_max": f_found["dynamic"].max(),
        "f_mean": f_found["dynamic"].mean(),
        "s_measure": s.get_results()["sm"],
        "e_adaptive": e_found["adp"],
        "e_max": e_found["curve"].max(),
        "e_mean": e_found["curve"].mean(),
        "mae": mae.get_results()["mae"],
    }


def score(pairs, **options):
    metric = SaliencyScores(**options)
    for grey, truth in pairs:
        metric.update((grey / 255).astype(np.float32), truth)
    return metric.compute()


@pytest.mark.parametrize("size_hw", SIZES_HW, ids=str)
@pytest.mark.parametrize("truth_kind", TRUTHS)
@pytest.mark.parametrize("map_kind", MAPS)
def test_one_map_scores_as_elsewhere(size_hw, truth_kind, map_kind):
    truth = make_truth(truth_kind, size_hw)
    pair = make_map(map_kind, truth), truth
    assert score([pair]) == pytest.approx(score_elsewhere([pair]), abs=EXACT)


def test_many_maps_score_as_elsewhere():
    truths = [make_truth(kind, size_hw) for kind in TRUTHS for size_hw in SIZES_HW]
    pairs = [(make_map(kind, truth), truth) for kind in MAPS for truth in truths]
    assert score(pairs) == pytest.approx(score_elsewhere(pairs), abs=EXACT)


def test_update_gives_the_scores_of_one_map():
    truth = make_truth("block", (40, 48))
    metric = SaliencyScores()
    metric.update(make_map("noise", truth) / 255, truth)
    alone = metric.update(make_map("soft", truth) / 255, truth)
    assert alone == score([(make_map("soft", truth), truth)])


def test_reset_forgets():
    truth = make_truth("block", (40, 48))
    metric = SaliencyScores()
    metric.update(make_map("noise", truth) / 255, truth)
    metric.reset()
    assert all(np.isnan(value) for value in metric.compute().values())


def test_a_narrow_map_scores_otherwise_when_it_is_not_stretched():
    truth = make_truth("block", (40, 48))
    pair = make_map("narrow", truth), truth
    found = score([pair], stretches=False)
    assert found["mae"] == pytest.approx(np.abs(pair[0] / 255 - truth).mean())
    assert found["mae"] != pytest.approx(score([pair])["mae"], abs=0.01)


def test_the_curves_run_from_one_to_zero():
    scores, truth = np.array([[0.9, 0.4, 0.1]]), np.array([[True, False, False]])
    f, e = f_curve(scores, truth), e_curve(scores, truth)
    at = {level: 255 - level for level in (255, 200, 60, 0)}
    assert f[list(at.values())] == pytest.approx([0, 1, 1.3 / (0.3 + 2), 1.3 / (0.3 + 3)])
    assert e[at[200]] == pytest.approx(3 / 2)  # perfect: N / (N - 1)


def test_a_truth_of_one_pixel_has_an_even_object():
    scores = np.array([[0.5, 0.0], [0.0, 0.0]])
    truth = np.array([[True, False], [False, False]])
    whole = 0.25 * 2 * 0.5 / (0.25 + 1) + 0.75
    assert s_measure(scores, truth) == pytest.approx(0.5 * whole + 0.5)  # four even quarters


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("is_true", [False, True])
def test_a_picture_of_one_pixel_has_finite_scores(value, is_true):
    found = SaliencyScores(stretches=False).update(np.array([[value]]), np.array([[is_true]]))
    assert all(0 <= score <= 1 for score in found.values())
    assert found["s_measure"] == pytest.approx(value if is_true else 1 - value)


def test_a_truth_at_the_far_corner_leaves_three_quarters_empty():
    truth = np.zeros((4, 4), dtype=bool)
    truth[3, 3] = True
    assert s_measure(truth.astype(float), truth) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("scores", "truth", "said"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2), bool), "transpose"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "expected bool"),
        (np.full((2, 2), 200.0), np.zeros((2, 2), bool), "divide by 255"),
        (np.full((2, 2), np.nan), np.zeros((2, 2), bool), "nan"),
    ],
)
def test_bad_pairs_are_refused(scores, truth, said):
    with pytest.raises(InputError, match=said):
        SaliencyScores().update(scores, truth)
