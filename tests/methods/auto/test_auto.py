"""`auto`: which methods run in the time allowed, and what becomes of what they return."""

import numpy as np
import pytest

from maskhone.errors import MissingExtraError, UsageError
from maskhone.methods.auto.config import AutoConfig
from maskhone.methods.auto.refine import AutoRefiner, measure_window
from maskhone.methods.catalogue import load

COSTS = {"guided": 0.1, "matting": 2.0, "crf": 3.0, "grabcut": 1.0, "bpr": 9.0}
"""Seconds that the pretended methods take for a mask, whatever its size."""


class Clock:
    """A clock that stands still but for the pretended methods."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Shift:
    """A method that moves masks, in a known time."""

    def __init__(self, clock, seconds, columns):
        self.clock, self.seconds, self.columns, self.calls = clock, seconds, columns, 0

    def refine(self, image, masks):
        self.clock.now += self.seconds
        self.calls += 1
        return np.roll(masks, self.columns, axis=2)


@pytest.fixture
def pretend():
    """Makes an auto refiner of pretended methods, each of which moves masks a little further."""

    def make(*, costs=COSTS, missing=(), **options):
        clock, members = Clock(), {}

        def open_one(name):
            clock.now += 100  # loading takes long, and does not count
            if name in missing:
                raise MissingExtraError(f"py{name}", extra=name)
            members[name] = Shift(clock, costs[name], list(COSTS).index(name))
            return members[name]

        refiner = AutoRefiner(config=AutoConfig(**options), load=open_one, clock=clock)
        refiner.pretended = members
        return refiner

    return make


@pytest.fixture
def masks(disc):
    return disc.astype(np.float32)[None]


def test_without_a_limit_all_methods_run(pretend, photo, masks):
    refiner = pretend()
    refiner.choose_each(photo, masks, guard="off")
    assert {name: each.calls for name, each in refiner.pretended.items()} == dict.fromkeys(COSTS, 1)


@pytest.mark.parametrize(
    ("seconds", "run"),
    [
        (0.01, {"guided"}),
        (1.2, {"guided", "grabcut"}),
        (3.2, {"guided", "grabcut", "matting"}),
        (6.2, {"guided", "grabcut", "matting", "crf"}),
        (15.2, set(COSTS)),
    ],
)
def test_the_dearest_are_left_out_when_they_do_not_fit(pretend, photo, masks, seconds, run):
    refiner = pretend(seconds=20.0)
    refiner.refine(photo, masks)  # measures them
    before = {name: each.calls for name, each in refiner.pretended.items()}
    refiner.config = AutoConfig(seconds=seconds)
    (choice,) = refiner.choose_each(photo, masks, guard="safe")
    ran = {name for name, each in refiner.pretended.items() if each.calls > before[name]}
    assert ran == run
    for name in COSTS.keys() - run:
        assert f"{name} (does not fit into {seconds:g} s)" in choice.note


def test_a_method_that_does_not_fit_is_not_even_loaded(pretend, photo, masks):
    refiner = pretend(seconds=1e-9)
    refiner.refine(photo, masks)
    assert set(refiner.pretended) == {"guided"}


def test_time_is_shared_out_by_megapixels(pretend, photo, masks):
    refiner = pretend(seconds=20.0)
    refiner.refine(photo, masks)
    assert refiner._rate("crf") == pytest.approx(COSTS["crf"] / measure_window(masks[0]))


def test_a_window_holds_the_object_and_four_bands(disc):
    assert measure_window(disc.astype(np.float32)) == pytest.approx((21 + 16) ** 2 / 1e6)
    assert measure_window(np.zeros((4, 4), dtype=np.float32)) == 0


def test_a_method_whose_package_is_missing_is_left_out_and_named(pretend, photo, masks):
    (choice,) = pretend(missing=["matting"]).choose_each(photo, masks, guard="safe")
    assert "left out: matting (needs the package pymatting)" in choice.note


def test_the_first_method_must_be_there(pretend, photo, masks):
    with pytest.raises(MissingExtraError):
        pretend(missing=["matting"], methods="matting,guided").refine(photo, masks)


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_many_masks_are_done_in_groups_that_fit_into_memory(
    pretend, photo, masks, monkeypatch, at_once
):
    monkeypatch.setattr("maskhone.methods.auto.refine.PIXELS_AT_ONCE", at_once)
    three = np.concatenate([masks, np.roll(masks, 5, axis=1), masks * 0])
    refiner = pretend()
    together = refiner.refine(photo, three)
    assert refiner.pretended["crf"].calls == (3 if at_once == 1 else 1)
    alone = [pretend().refine(photo, mask[None])[0] for mask in three]
    np.testing.assert_array_equal(together, alone)


def test_only_the_guard_that_is_asked_for_is_applied(pretend, photo, masks):
    away = {"methods": "bpr"}  # moved by 4 of 21 columns: an IoU of 0.60
    free, safe = (
        pretend(**away).choose_each(photo, masks, guard=guard)[0] for guard in ("off", "safe")
    )
    np.testing.assert_array_equal(free.scores, np.roll(masks[0], 4, axis=1))
    np.testing.assert_array_equal(safe.scores, masks[0])
    assert (free.kept, safe.kept) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seconds": -1}, "seconds is -1"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"methods": "guided,prn"}, "guided,prn"),
        ({"methods": ""}, "expected one or more of guided"),
        ({"methods": "guided,guided"}, "each once"),
        ({"seconds": "5"}, "expected float"),
        ({"radius_px": 5}, "unknown option radius_px; known: seconds, methods"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, word):
    with pytest.raises(UsageError, match=word):
        load("auto", **options)


def test_weights_are_refused(bpr_weights):
    with pytest.raises(UsageError, match="auto takes no weights"):
        load("auto", weights=bpr_weights)


@pytest.mark.parametrize("options", [{"device": "nope"}, {"dtype": "nope"}], ids=str)
def test_a_bad_device_is_refused_before_anything_runs(options):
    with pytest.raises(UsageError, match="nope"):
        load("auto", **options)
