"""`auto`: who is asked about which masks in the time allowed, and what becomes of the answers."""

import sys

import numpy as np
import pytest

from maskhone.contracts import FOREGROUND, LooksAgain
from maskhone.errors import MissingExtraError, UsageError
from maskhone.methods.auto.config import CAN_BE_SURE, START_RATES, AutoConfig
from maskhone.methods.auto.refine import AutoRefiner, measure_window
from maskhone.methods.catalogue import METHODS, load

COSTS = {"bpr": 4.0, "crf": 1.0, "grabcut": 2.0}
"""Seconds that the pretended methods take for a look, whatever the size and number of masks."""

ALL_LOOKS = {"bpr": 8.0, "crf": 3.0, "grabcut": 6.0}


class Clock:
    """A clock that stands still but for the pretended methods."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Shift:
    """A method that moves masks by some columns, in a known time."""

    def __init__(self, clock, seconds, columns):
        self.clock, self.seconds, self.columns, self.seen = clock, seconds, columns, []

    def refine(self, image, masks):
        self.clock.now += self.seconds
        self.seen.append(masks.copy())
        return np.roll(masks, self.columns, axis=2)


class Sure(Shift):
    """A method that finds the disc of the photo, and finds it again, in masks that touch it."""

    def __init__(self, clock, seconds, disc):
        super().__init__(clock, seconds, 0)
        self.disc, self.looked_again = disc, 0

    def refine(self, image, masks):
        super().refine(image, masks)
        return self._find(masks, 0)

    def look_again(self, image, masks):
        self.clock.now += self.seconds
        self.looked_again += 1
        return [self._find(masks, 12)]

    def _find(self, masks, columns):
        """Finds the disc, or moves a mask that lies in the upper rows, further each time."""
        height, width = masks.shape[1:]
        found = [
            np.roll(mask, columns, axis=1) if mask[8:].sum() == 0 else self.disc[:height, :width]
            for mask in masks
        ]
        return np.array(found, dtype=np.float32).reshape(masks.shape)


@pytest.fixture
def pretend(disc):
    """Makes an auto refiner of pretended methods."""

    def make(**options):
        clock, members = Clock(), {}

        def open_one(name):
            clock.now += 100  # loading takes long, and does not count
            members[name] = (
                Sure(clock, COSTS[name], disc)
                if name == "bpr"
                else Shift(clock, COSTS[name], list(COSTS).index(name))
            )
            return members[name]

        refiner = AutoRefiner(config=AutoConfig(**options), load=open_one, clock=clock)
        refiner.pretended = members
        return refiner

    return make


@pytest.fixture
def known(disc):
    """A mask of which bpr is sure."""
    return np.roll(disc, 2, axis=1).astype(np.float32)


@pytest.fixture
def strange(disc):
    """A mask of which nobody is sure."""
    mask = np.zeros(disc.shape, dtype=np.float32)
    mask[1:7, 4:20] = 1
    return mask


def test_who_is_sure_decides_and_nobody_else_is_even_loaded(pretend, photo, known, disc):
    refiner = pretend()
    (choice,) = refiner.choose_each(photo, known[None], guard="safe")
    assert set(refiner.pretended) == {"bpr"}
    np.testing.assert_array_equal(choice.scores > FOREGROUND, disc)
    assert choice.note.startswith("bpr, which is sure here")


def test_only_masks_of_which_nobody_is_sure_go_to_the_others(pretend, photo, known, strange):
    refiner = pretend()
    masks = np.stack([known, strange, known])
    first, second, third = refiner.choose_each(photo, masks, guard="safe")
    np.testing.assert_array_equal(refiner.pretended["bpr"].seen[0], masks)
    for name in ("crf", "grabcut"):
        assert [len(seen) for seen in refiner.pretended[name].seen] == [1, 1, 1]
        np.testing.assert_array_equal(refiner.pretended[name].seen[0][0], strange)
    assert first.note == third.note
    assert first.note.startswith("bpr, which is sure")
    assert second.note.startswith("a vote of bpr")
    assert "crf" in second.note
    assert "grabcut" in second.note


def run_again(refiner, photo, mask, seconds):
    """Runs once without a limit, to measure, and again with one; returns who ran and the choice."""
    refiner.config = AutoConfig(seconds=1e9)
    refiner.choose_each(photo, mask[None], guard="safe")
    before = {name: len(each.seen) for name, each in refiner.pretended.items()}
    refiner.config = AutoConfig(seconds=seconds)
    (choice,) = refiner.choose_each(photo, mask[None], guard="safe")
    return {n for n, each in refiner.pretended.items() if len(each.seen) > before[n]}, choice


@pytest.mark.parametrize(
    ("seconds", "run"),
    [
        (0.5, set()),
        (3.2, {"crf"}),
        (7.9, {"crf"}),  # one look of bpr would fit, but not its second
        (8.2, {"bpr"}),
        (11.2, {"bpr", "crf"}),
        (17.2, set(COSTS)),
    ],
)
def test_methods_that_do_not_fit_with_all_looks_are_left_out(pretend, photo, strange, seconds, run):
    ran, choice = run_again(pretend(), photo, strange, seconds)
    assert ran == run
    for name in COSTS:
        assert (f"{name} (does not fit into {seconds:g} s)" in choice.note) == (name not in run)


def test_what_all_looks_of_a_method_took_is_measured(pretend, photo, strange):
    refiner = pretend()
    refiner.refine(photo, strange[None])
    for name, seconds in ALL_LOOKS.items():
        assert refiner._rate(name, "safe") == pytest.approx(seconds / measure_window(strange))


def test_however_little_time_there_is_an_answer(pretend, photo, strange):
    refiner = pretend(seconds=1e-9)
    (choice,) = refiner.choose_each(photo, strange[None], guard="safe")
    assert not refiner.pretended
    assert choice.scores.any()
    assert "guided filter" in choice.note
    assert "left out: bpr (does not fit into 1e-09 s), crf" in choice.note


def test_a_mask_that_is_decided_leaves_nobody_out(pretend, photo, known):
    ran, choice = run_again(pretend(), photo, known, 8.2)
    assert ran == {"bpr"}
    assert "left out" not in choice.note


def test_a_window_holds_the_object_and_four_bands(disc):
    assert measure_window(disc.astype(np.float32)) == pytest.approx((21 + 16) ** 2 / 1e6)
    assert measure_window(np.zeros((4, 4), dtype=np.float32)) == 0


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_many_masks_are_done_in_groups_that_fit_into_memory(
    pretend, photo, known, strange, monkeypatch, at_once
):
    monkeypatch.setattr("maskhone.ops.groups.PIXELS_AT_ONCE", at_once)
    masks = np.stack([strange, known, known * 0, strange])
    refiner = pretend()
    together = refiner.refine(photo, masks)
    assert len(refiner.pretended["bpr"].seen) == (4 if at_once == 1 else 1)
    alone = [pretend().refine(photo, mask[None])[0] for mask in masks]
    np.testing.assert_array_equal(together, alone)


def test_without_a_guard_the_first_method_answers_once(pretend, photo, strange):
    refiner = pretend(methods="crf,bpr")
    (choice,) = refiner.choose_each(photo, strange[None], guard="off")
    assert set(refiner.pretended) == {"crf"}
    assert len(refiner.pretended["crf"].seen) == 1
    np.testing.assert_array_equal(choice.scores, np.roll(strange, 1, axis=1))
    assert choice.kept == 0


def test_without_a_guard_a_first_method_that_does_not_fit_is_passed_over(pretend, photo, strange):
    refiner = pretend()
    refiner.choose_each(photo, strange[None], guard="off")
    refiner.config = AutoConfig(seconds=3.2)
    (choice,) = refiner.choose_each(photo, strange[None], guard="off")
    assert choice.note.startswith("crf, without a guard; left out: bpr")
    assert refiner.pretended["bpr"].looked_again == 0


@pytest.mark.parametrize(("name", "looks"), [("bpr", 2), ("crf", 3), ("grabcut", 3)])
def test_without_a_guard_one_look_is_reckoned(pretend, photo, strange, name, looks):
    refiner = pretend(methods=name)
    assert refiner._rate(name, "safe") == START_RATES[name]
    assert refiner._rate(name, "off") == pytest.approx(START_RATES[name] / looks)
    refiner.choose_each(photo, strange[None], guard="off")
    assert refiner._rate(name, "off") == pytest.approx(COSTS[name] / measure_window(strange))


def test_calls_with_and_without_a_guard_are_reckoned_apart(pretend, photo, strange):
    refiner = pretend()
    refiner.refine(photo, strange[None])
    for _ in range(3):
        refiner.choose_each(photo, strange[None], guard="off")
    for guard in ("safe", "strict"):
        for name, seconds in ALL_LOOKS.items():
            assert refiner._rate(name, guard) == pytest.approx(seconds / measure_window(strange))
    refiner.config = AutoConfig(seconds=7.9)  # one look of bpr would fit
    (choice,) = refiner.choose_each(photo, strange[None], guard="safe")
    assert "left out: bpr" in choice.note


def test_without_a_limit_speed_has_no_say(pretend, photo, strange):
    refiner = pretend(methods="grabcut,crf")
    (first,) = refiner.choose_each(photo, strange[None], guard="safe")
    assert list(refiner.pretended) == ["grabcut", "crf"]
    assert refiner._rate("crf", "safe") < refiner._rate("grabcut", "safe")
    (second,) = refiner.choose_each(photo, strange[None], guard="safe")
    assert first.note == second.note
    assert first.note.index("grabcut") < first.note.index("crf")


def test_with_a_limit_the_fastest_of_the_others_is_asked_first(pretend, photo, strange):
    refiner = pretend(methods="grabcut,crf", seconds=1e9)
    refiner.choose_each(photo, strange[None], guard="safe")
    assert list(refiner.pretended) == ["crf", "grabcut"]


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
@pytest.mark.parametrize("methods", ["bpr,crf", "crf,grabcut"])
def test_of_empty_masks_nobody_is_left_out(pretend, photo, strange, guard, methods):
    refiner = pretend(methods=methods, seconds=1e-9)
    choices = refiner.choose_each(photo, np.stack([strange * 0] * 2), guard=guard)
    assert not any("left out" in choice.note for choice in choices)
    assert not any(choice.scores.any() for choice in choices)


class FarAway:
    """A method that is sure of a part far from the outline, and changes nothing else."""

    def refine(self, image, masks):
        refined = masks.copy()
        refined[:, -8:, :8] = 1
        return refined

    def look_again(self, image, masks):
        return [self.refine(image, masks)]


@pytest.mark.parametrize("band_px", [0, 3])
def test_what_lies_beyond_the_band_is_not_judged(photo, disc, band_px):
    image, mask = photo.copy(), disc.astype(np.float32)
    image[-8:, :8] = image[disc][:64].reshape(8, 8, 3)  # the part looks like the disc
    refiner = AutoRefiner(config=AutoConfig(methods="bpr"), load=lambda name: FarAway())
    (choice,) = refiner.choose_each(image, mask[None], guard="safe", band_px=band_px)
    if band_px:
        np.testing.assert_array_equal(choice.scores, mask)
        assert choice.note == "bpr, which changes nothing"
        assert choice.kept == 0
    else:
        assert choice.note.startswith("bpr, which is sure here")
        assert (choice.scores > FOREGROUND)[-8:, :8].all()


def test_no_masks_ask_nobody(pretend, photo):
    refiner = pretend()
    assert refiner.choose_each(photo, np.zeros((0, 40, 48), np.float32), guard="safe") == []
    assert not refiner.pretended


def test_those_that_can_be_sure_are_those_with_looks_of_their_own(weights_by_method):
    for name in START_RATES:
        if name == "matting":
            continue  # its package may be missing
        refiner = load(name, weights=weights_by_method.get(name), device="cpu", dtype="fp32")
        assert isinstance(refiner, LooksAgain) == (name in CAN_BE_SURE)


def test_by_default_nobody_is_asked_who_may_not_be_installed():
    assert not [name for name in AutoConfig().names if "extra" in METHODS[name].needs]


def test_a_method_that_was_asked_for_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatting", None)
    with pytest.raises(MissingExtraError, match="pymatting"):
        load("auto", methods="bpr,matting")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seconds": -1}, "seconds is -1"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"methods": "guided,prn"}, "guided,prn"),
        ({"methods": ""}, "expected one or more of bpr"),
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
