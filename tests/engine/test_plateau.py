import math

import pytest

from maskhone.engine.plateau import PUBLISHED_RULES, Plateau, PlateauRule
from maskhone.errors import UsageError

RULE = PlateauRule(patience=1, limit=3, factor=0.5, least_rate=0.0)


def report_all(plateau, scores):
    return [plateau.report(score) for score in scores]


def test_one_plateau_lowers_the_rate_again_and_again_and_then_stops():
    plateau = Plateau(RULE, 0.8)
    said = report_all(plateau, [1.0, 1.0, 1.0, 1.0, 1.0])
    assert said == ["improved", "wait", "reload", "reload", "stop"]
    assert plateau.learning_rate == pytest.approx(0.2)


def test_a_better_epoch_begins_the_count_anew():
    plateau = Plateau(RULE, 0.8)
    said = report_all(plateau, [1.0, 1.0, 1.0, 0.9, 0.9, 0.9])
    assert said == ["improved", "wait", "reload", "improved", "wait", "reload"]


def test_a_rate_below_the_least_is_not_lowered_further():
    rule = PlateauRule(patience=0, limit=9, factor=0.5, least_rate=0.3)
    plateau = Plateau(rule, 0.8)
    assert report_all(plateau, [1.0, 1.0, 1.0, 1.0]) == ["improved", "reload", "reload", "stop"]
    assert plateau.learning_rate == pytest.approx(0.2)


def test_an_epoch_of_nan_is_bad():
    plateau = Plateau(RULE, 0.8)
    assert report_all(plateau, [math.nan, 1.0, math.nan]) == ["wait", "improved", "wait"]
    assert plateau.best == 1.0


def test_a_stopped_run_goes_on_from_its_state():
    scores = [1.0, 1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9]
    whole, first, second = (Plateau(RULE, 0.8) for _ in range(3))
    expected = report_all(whole, scores)
    said = report_all(first, scores[:5])
    second.set_state(first.get_state())
    assert said + report_all(second, scores[5:]) == expected
    assert second.learning_rate == whole.learning_rate


def test_a_state_of_something_else_is_refused():
    with pytest.raises(UsageError, match="lacks best, bad_epochs"):
        Plateau(RULE, 0.8).set_state({"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("name", "first_reload", "stop", "factor"),
    [
        ("prn", 5, 9, 1 / 1.1),
        ("dlinknet34", 4, 7, 1 / 2),
        ("pfanet", 5, 9, 1 / 1.1),
        ("resunetpp", 7, 13, 1 / 1.1),
    ],
)
def test_the_published_rules_count_as_the_loops_do(name, first_reload, stop, factor):
    plateau = Plateau(PUBLISHED_RULES[name], 1e-3)
    said = report_all(plateau, [1.0] * (stop + 1))
    assert said[first_reload - 1 : first_reload + 1] == ["wait", "reload"]
    assert said[stop] == "stop"
    n_reloads = stop - first_reload
    assert said.count("reload") == n_reloads
    assert plateau.learning_rate == pytest.approx(1e-3 * factor**n_reloads)


@pytest.mark.parametrize("change", [{"patience": 4}, {"patience": -1}, {"factor": 0.0}])
def test_a_rule_that_contradicts_itself_is_refused(change):
    values = {"patience": 1, "limit": 3, "factor": 0.5, "least_rate": 0.0}
    with pytest.raises(UsageError, match="expected"):
        PlateauRule(**{**values, **change})
