import numpy as np
import pytest

from maskhone.contracts import FOREGROUND
from maskhone.ops.committee import choose, choose_from_opinions
from maskhone.ops.guard import form_opinion, put_to_vote
from maskhone.ops.guided_filter import guide_masks
from maskhone.ops.looks import Looks
from maskhone.ops.masks import near_outline

ROWS, COLUMNS = np.ogrid[:80, :96]


def draw_disc(column):
    return (ROWS - 40) ** 2 + (COLUMNS - column) ** 2 <= 24**2


TRUTH = draw_disc(48)
COARSE = draw_disc(50).astype(np.float32)
NOISE = np.random.default_rng(0).integers(0, 30, (80, 96, 3))
IMAGE = (NOISE + 60 + 120 * TRUTH[..., None]).astype(np.uint8)


def say(*masks, certainty=0.96, can_be_trusted=False):
    scores = [np.where(mask, 0.5 + certainty / 2, 0.5 - certainty / 2) for mask in masks]
    return Looks(
        scores=tuple(each.astype(np.float32) for each in scores), can_be_trusted=can_be_trusted
    )


SURE = say(TRUTH, TRUTH, can_be_trusted=True)
TORN = say(draw_disc(70), draw_disc(26), can_be_trusted=True)
STRAY = say(draw_disc(80), draw_disc(80), draw_disc(80))
TAME = say(TRUTH, TRUTH, TRUTH)


@pytest.mark.parametrize("guard", ["safe", "strict"])
def test_one_that_is_sure_decides_alone(guard):
    choice = choose(IMAGE, COARSE, {"stray": STRAY, "sure": SURE}, guard=guard)
    np.testing.assert_allclose(choice.scores, SURE.scores[0], atol=1e-6)
    assert choice.note.startswith("sure, which is sure here")


def test_of_two_that_are_sure_the_surer_decides():
    less = say(draw_disc(49), draw_disc(49), certainty=0.8, can_be_trusted=True)
    for members in ({"less": less, "sure": SURE}, {"sure": SURE, "less": less}):
        choice = choose(IMAGE, COARSE, members, guard="safe")
        assert choice.note.startswith("sure, ")
        np.testing.assert_allclose(choice.scores, SURE.scores[0], atol=1e-6)


def test_one_that_cannot_be_trusted_is_put_to_the_vote():
    choice = choose(IMAGE, COARSE, {"tame": TAME}, guard="safe")
    assert choice.note.startswith("a vote of tame (voice ")
    assert "guided filter" in choice.note
    assert "not sure" not in choice.note


def test_one_that_is_not_sure_is_named_and_has_no_say():
    choice = choose(IMAGE, COARSE, {"torn": TORN}, guard="safe")
    assert "not sure here: torn (trust 0." in choice.note
    alone = choose(IMAGE, COARSE, {}, guard="safe")
    np.testing.assert_array_equal(choice.scores > FOREGROUND, alone.scores > FOREGROUND)
    assert choice.kept > 0.5
    assert f"{100 * choice.kept:.0f} % of the changes were undone" in choice.note


def test_a_stray_does_not_change_the_vote_of_the_others():
    with_it = choose(IMAGE, COARSE, {"stray": STRAY, "tame": TAME}, guard="safe")
    without = choose(IMAGE, COARSE, {"tame": TAME}, guard="safe")
    np.testing.assert_allclose(with_it.scores, without.scores, atol=1e-6)
    assert "stray (voice 0.00)" in with_it.note


@pytest.mark.parametrize("guard", ["safe", "strict"])
def test_where_no_method_ran_the_guided_filter_and_the_coarse_mask_vote(guard):
    choice = choose(IMAGE, COARSE, {}, guard=guard)
    np.testing.assert_array_equal(choice.scores, put_to_vote(IMAGE, COARSE, [], guard=guard))
    guided = guide_masks(IMAGE, COARSE[None])[0] > FOREGROUND
    coarse, chosen = COARSE > FOREGROUND, choice.scores > FOREGROUND
    assert ((chosen == coarse) | (chosen == guided)).all()
    assert "no other method ran" in choice.note
    assert choice.kept == 0


def test_without_a_guard_the_first_is_taken():
    choice = choose(IMAGE, COARSE, {"stray": STRAY, "sure": SURE}, guard="off")
    np.testing.assert_array_equal(choice.scores, STRAY.scores[0])
    assert choice.note.startswith("stray, ")
    assert choice.kept == 0


def test_without_a_guard_and_without_methods_the_guided_filter_answers():
    choice = choose(IMAGE, COARSE, {}, guard="off")
    np.testing.assert_array_equal(choice.scores, guide_masks(IMAGE, COARSE[None])[0])
    assert choice.note.startswith("guided, ")


def test_one_that_changes_nothing_may_be_sure_of_it():
    calm = say(COARSE > FOREGROUND, COARSE > FOREGROUND, can_be_trusted=True)
    choice = choose(IMAGE, COARSE, {"calm": calm, "stray": STRAY}, guard="safe")
    np.testing.assert_array_equal(choice.scores > FOREGROUND, COARSE > FOREGROUND)
    assert choice.note.startswith("calm, which changes nothing")


def test_of_one_that_changes_nothing_the_first_answer_is_taken():
    first, again = np.where(COARSE > FOREGROUND, [[[0.9]], [[0.7]]], 0).astype(np.float32)
    calm = Looks(scores=(first, again), can_be_trusted=True)
    choice = choose(IMAGE, COARSE, {"calm": calm}, guard="safe")
    np.testing.assert_array_equal(choice.scores, first)


def test_the_band_limits_the_guided_filter_too_before_the_share_kept_is_measured():
    members = {"tame": TAME}
    opinions = {name: form_opinion(IMAGE, COARSE, looks) for name, looks in members.items()}
    free, limited = (
        choose_from_opinions(IMAGE, COARSE, opinions, guard="safe", band_px=band_px)
        for band_px in (0, 1)
    )
    beyond = ~near_outline(COARSE > FOREGROUND, 1)
    assert ((free.scores > FOREGROUND) != (COARSE > FOREGROUND))[beyond].any()
    np.testing.assert_array_equal(limited.scores[beyond], COARSE[beyond])
    changed = TRUTH != (COARSE > FOREGROUND)
    stayed = changed & ((limited.scores > FOREGROUND) == (COARSE > FOREGROUND))
    assert limited.kept == pytest.approx(stayed.sum() / changed.sum())
    assert limited.kept > free.kept


def test_the_band_limits_the_guided_filter_that_answers_alone():
    unguarded = choose_from_opinions(IMAGE, COARSE, {}, guard="off", band_px=1)
    guided = guide_masks(IMAGE, COARSE[None])[0]
    beyond = ~near_outline(COARSE > FOREGROUND, 1)
    assert (guided != COARSE)[beyond].any()
    np.testing.assert_array_equal(unguarded.scores, np.where(beyond, COARSE, guided))


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
def test_an_empty_mask_stays_empty(guard):
    nothing = np.zeros_like(COARSE)
    same = Looks(scores=(nothing, nothing))
    for members in ({}, {"same": same}):
        assert not choose(IMAGE, nothing, members, guard=guard).scores.any()


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
@pytest.mark.parametrize("members", [{}, {"torn": TORN, "stray": STRAY}, {"sure": SURE}], ids=len)
def test_a_choice_is_scores_and_a_line(guard, members):
    choice = choose(IMAGE, COARSE, members, guard=guard)
    assert (choice.scores.dtype, choice.scores.shape) == (np.float32, COARSE.shape)
    assert ((choice.scores >= 0) & (choice.scores <= 1)).all()
    assert len(choice.note.splitlines()) == 1
    assert 0 <= choice.kept <= 1


@pytest.mark.parametrize("guard", ["off", "safe"])
def test_what_was_offered_is_left_alone(guard):
    coarse, members = COARSE.copy(), {"torn": TORN, "tame": TAME}
    before = {name: [each.copy() for each in looks.scores] for name, looks in members.items()}
    choose(IMAGE, coarse, members, guard=guard)
    np.testing.assert_array_equal(coarse, COARSE)
    for name, looks in members.items():
        np.testing.assert_array_equal(np.stack(looks.scores), np.stack(before[name]))
