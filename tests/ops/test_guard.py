"""What the guard promises, with wide margins: its numbers are tuned by benchmarks/guard.py."""

import numpy as np
import pytest

from maskhone.contracts import FOREGROUND
from maskhone.errors import UsageError
from maskhone.ops.guard import (
    GUARDS,
    check_guard,
    form_opinion,
    judge,
    keep_coarse_beyond_band,
    put_to_vote,
    read_signs,
    share_given_back,
)
from maskhone.ops.guided_filter import guide_masks
from maskhone.ops.looks import Looks

SIZE_HW = (96, 128)


def draw_disc(row, column, radius):
    rows, columns = np.ogrid[: SIZE_HW[0], : SIZE_HW[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


TRUTH = draw_disc(48, 64, 30)
COARSE = draw_disc(48, 67, 30).astype(np.float32)


def paint(mask):
    """A picture that is bright where a mask is, and dark and noisy elsewhere."""
    noise = np.random.default_rng(0).integers(0, 30, (*SIZE_HW, 3))
    return (noise + 60 + 120 * mask[..., None]).astype(np.uint8)


def say(*masks, certainty=0.96, can_be_trusted=True):
    """Looks that have these masks, each with the same certainty."""
    scores = [np.where(mask, 0.5 + certainty / 2, 0.5 - certainty / 2) for mask in masks]
    return Looks(
        scores=tuple(each.astype(np.float32) for each in scores), can_be_trusted=can_be_trusted
    )


def cut(scores):
    return scores > FOREGROUND


@pytest.fixture
def image():
    return paint(TRUTH)


def draw_wild_case(seed, *, is_soft):
    """A picture, a blob, and looks that are blobs too, all at random."""
    random = np.random.default_rng(seed)

    def draw_blob():
        centre, radius = random.integers((30, 40), (60, 90)), random.integers(8, 28)
        mask = draw_disc(*centre, radius).astype(np.float32)
        if not is_soft:
            return mask
        noise = random.random(SIZE_HW, dtype=np.float32)
        return np.clip(0.6 * mask + 0.4 * noise, 0, 1)

    looks = tuple(draw_blob() for _ in range(3))
    return paint(cut(draw_blob())), draw_blob(), looks


# which objects are trusted


@pytest.mark.parametrize("guard", ["safe", "strict"])
@pytest.mark.parametrize("far", ["nothing", "everything", "a third"])
def test_whoever_deletes_or_floods_an_object_is_not_believed(guard, far):
    answer = {"nothing": draw_disc(0, 0, -1), "everything": draw_disc(48, 64, 200)}.get(
        far, draw_disc(48, 50, 16)
    )
    coarse, grey = TRUTH.astype(np.float32), np.full((*SIZE_HW, 3), 128, np.uint8)
    for picture in (paint(TRUTH), grey):
        verdict = judge(picture, coarse, say(answer, answer, certainty=1.0), guard=guard)
        assert not verdict.is_trusted
        assert (cut(verdict.scores) != TRUTH).sum() < 0.02 * TRUTH.sum()


@pytest.mark.parametrize("can_be_trusted", [True, False])
def test_a_line_that_its_refiner_leaves_alone_is_left_alone(can_be_trusted):
    line = draw_disc(0, 0, -1)
    line[40, 10:110] = True
    texture = np.random.default_rng(0).integers(100, 116, (*SIZE_HW, 3)).astype(np.uint8)
    looks = say(line, np.roll(line, 1, axis=0), can_be_trusted=can_be_trusted)
    verdict = judge(texture, line.astype(np.float32), looks, guard="safe")
    np.testing.assert_array_equal(cut(verdict.scores), line)


def test_the_guided_filter_does_not_wear_a_line_away():
    line = draw_disc(0, 0, -1)
    line[40, 10:110] = True
    texture = np.random.default_rng(0).integers(100, 116, (*SIZE_HW, 3)).astype(np.uint8)
    voted = put_to_vote(texture, line.astype(np.float32), [], guard="safe")
    np.testing.assert_array_equal(cut(voted), line)


@pytest.mark.parametrize("guard", ["safe", "strict"])
def test_where_looks_agree_are_certain_and_fit_the_colours_their_average_is_taken(image, guard):
    looks = Looks(
        scores=(say(TRUTH).scores[0], say(TRUTH, certainty=0.9).scores[0]), can_be_trusted=True
    )
    verdict = judge(image, COARSE, looks, guard=guard)
    assert verdict.is_trusted
    np.testing.assert_array_equal(verdict.scores, looks.average())
    assert (verdict.scores <= looks.scores[0])[TRUTH].all()
    assert (verdict.scores >= looks.scores[1])[TRUTH].all()


@pytest.mark.parametrize("guard", ["safe", "strict"])
def test_looks_that_are_not_the_refiners_own_are_put_to_the_vote(image, guard):
    looks = say(TRUTH, TRUTH, TRUTH, can_be_trusted=False)
    assert not judge(image, COARSE, looks, guard=guard).is_trusted


@pytest.mark.parametrize("guard", ["safe", "strict"])
def test_of_looks_that_disagree_wildly_nothing_is_left(image, guard):
    looks = say(np.roll(TRUTH, 25, axis=1), np.roll(TRUTH, -25, axis=1))
    verdict = judge(image, COARSE, looks, guard=guard)
    assert not verdict.is_trusted
    guided = cut(guide_masks(image, COARSE[None])[0])
    moved = cut(verdict.scores) != cut(COARSE)
    assert not (moved & (cut(verdict.scores) != guided)).any()


def test_a_change_against_the_colours_is_undone_and_one_with_them_is_not():
    disc, larger = draw_disc(48, 64, 27), draw_disc(48, 64, 30)
    looks = say(larger, larger, certainty=0.4)
    with_them = judge(paint(larger), disc.astype(np.float32), looks, guard="safe")
    against = judge(paint(disc), disc.astype(np.float32), looks, guard="safe")
    assert with_them.signs.likeness > 0 > against.signs.likeness
    rim = larger & ~disc
    assert cut(with_them.scores)[rim].mean() > 0.9
    assert cut(against.scores)[rim].mean() < 0.1


def test_strict_trusts_nothing_that_safe_does_not(image):
    for seed in range(6):
        _, coarse, looks = draw_wild_case(seed, is_soft=False)
        trusted = [
            judge(image, coarse, Looks(scores=looks, can_be_trusted=True), guard=guard).is_trusted
            for guard in ("safe", "strict")
        ]
        assert trusted != [False, True]


def test_signs_are_higher_where_looks_agree_and_are_certain(image):
    coarse = COARSE
    sure = form_opinion(image, coarse, say(TRUTH, TRUTH))
    unsure = form_opinion(image, coarse, say(TRUTH, TRUTH, certainty=0.1))
    torn = form_opinion(image, coarse, say(TRUTH, np.roll(TRUTH, 8, axis=0)))
    assert sure.trust > unsure.trust
    assert sure.trust > torn.trust
    assert sure.voice > torn.voice
    assert all(0 <= each.trust <= 1 for each in (sure, unsure, torn))
    alone = form_opinion(image, coarse, say(TRUTH, TRUTH, can_be_trusted=False))
    assert 0 <= alone.voice <= 1 < sure.voice


def test_signs_can_be_counted_by_hand():
    coarse = np.array([[1, 1, 1, 1, 0, 0]], dtype=np.float32)
    first = np.array([[1, 1, 1, 0, 1, 0]], dtype=np.float32)
    second = np.array([[1, 1, 1, 0, 0, 0]], dtype=np.float32)
    signs = read_signs(np.zeros((1, 6, 3), np.uint8), coarse, np.stack([first, second]))
    assert signs.agreement == pytest.approx(3 / 5)
    assert signs.consistency == pytest.approx(3 / 4)
    assert signs.unanimity == pytest.approx(1 / 2)
    assert 1 / 2 <= signs.certainty < 1  # 1 where both agree, less where they do not


def test_colours_are_compared_in_tiles_as_in_the_whole(monkeypatch, image):
    whole = form_opinion(image, COARSE, say(TRUTH, np.roll(TRUTH, 3, axis=0))).signs
    monkeypatch.setattr("maskhone.ops.guard._TILE_PX", 16)
    tiled = form_opinion(image, COARSE, say(TRUTH, np.roll(TRUTH, 3, axis=0))).signs
    assert tiled.likeness == pytest.approx(whole.likeness, abs=1e-4)


# what becomes of the others


@pytest.mark.parametrize("is_soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("can_be_trusted", [False, True])
def test_no_pixel_is_on_a_side_on_which_nobody_has_it(is_soft, can_be_trusted):
    for seed in range(5):
        image, coarse, looks = draw_wild_case(seed, is_soft=is_soft)
        offered = [cut(each) for each in (*looks, coarse, guide_masks(image, coarse[None])[0])]
        for guard in ("safe", "strict"):
            seen = Looks(scores=looks, can_be_trusted=can_be_trusted)
            result = judge(image, coarse, seen, guard=guard).scores
            assert result.dtype == np.float32
            assert ((result >= 0) & (result <= 1)).all()
            assert not (cut(result) & ~np.any(offered, axis=0)).any()
            assert not (~cut(result) & np.all(offered, axis=0)).any()


@pytest.mark.parametrize("is_soft", [False, True], ids=["hard", "soft"])
def test_a_strict_vote_keeps_all_that_a_safe_one_keeps(is_soft):
    for seed in range(5):
        image, coarse, looks = draw_wild_case(seed, is_soft=is_soft)
        seen = Looks(scores=(looks[0], looks[0], looks[1]))
        safe, strict = (
            cut(judge(image, coarse, seen, guard=guard).scores) != cut(coarse)
            for guard in ("safe", "strict")
        )
        assert not (strict & ~safe).any()


def test_in_a_vote_a_refiner_that_looks_agree_on_is_heard(image):
    coarse = draw_disc(48, 65, 30).astype(np.float32)
    heard = form_opinion(image, coarse, say(TRUTH, TRUTH, can_be_trusted=False))
    assert heard.voice > 0.5
    changed = cut(put_to_vote(image, coarse, [heard], guard="safe")) != cut(coarse)
    assert changed.any()
    assert not (changed & (TRUTH == cut(coarse))).any()


def test_a_refiner_without_a_voice_changes_no_vote(image):
    answers = np.roll(TRUTH, 25, axis=1), np.roll(TRUTH, -25, axis=1)
    torn = say(*answers, can_be_trusted=False)
    silent = form_opinion(image, COARSE, torn)
    assert silent.voice == 0
    np.testing.assert_array_equal(
        cut(put_to_vote(image, COARSE, [silent], guard="safe")),
        cut(put_to_vote(image, COARSE, [], guard="safe")),
    )


def test_a_far_part_of_the_picture_has_no_say(image):
    looks, other = say(TRUTH, TRUTH, can_be_trusted=False), np.zeros((96, 200, 3), np.uint8)
    before = judge(np.concatenate([image, other], axis=1), *widen(COARSE, looks), guard="safe")
    other[:, 100:] = 255
    after = judge(np.concatenate([image, other], axis=1), *widen(COARSE, looks), guard="safe")
    np.testing.assert_array_equal(before.scores, after.scores)


def widen(coarse, looks):
    """Puts 200 columns of background beside a mask and the looks at it."""
    wide = [np.pad(each, ((0, 0), (0, 200))) for each in (coarse, *looks.scores)]
    return wide[0], Looks(scores=tuple(wide[1:]))


@pytest.mark.parametrize("guard", ["safe", "strict"])
def test_empty_masks_stay_empty(image, guard):
    nothing = np.zeros(SIZE_HW, dtype=np.float32)
    looks = Looks(scores=(nothing, nothing), can_be_trusted=True)
    assert not judge(image, nothing, looks, guard=guard).scores.any()


def test_out_of_an_empty_mask_nothing_grows_on_one_say(image):
    looks = say(TRUTH, draw_disc(20, 20, 9))
    assert not cut(judge(image, np.zeros(SIZE_HW, np.float32), looks, guard="safe").scores).any()


def test_where_no_pixel_changes_sides_the_refined_scores_are_taken(image):
    looks = say(cut(COARSE), cut(COARSE), certainty=0.2, can_be_trusted=False)
    verdict = judge(image, COARSE, looks, guard="strict")
    assert verdict.signs is None
    np.testing.assert_array_equal(verdict.scores, looks.scores[0])


@pytest.mark.parametrize("guard", ["safe", "strict"])
def test_what_is_judged_is_left_alone(image, guard):
    coarse, looks = COARSE.copy(), say(np.roll(TRUTH, 9, axis=1), TRUTH)
    before = [each.copy() for each in looks.scores]
    judge(image, coarse, looks, guard=guard)
    np.testing.assert_array_equal(coarse, COARSE)
    np.testing.assert_array_equal(np.stack(looks.scores), np.stack(before))


# the words, the shares, the band


def test_the_three_words_pass():
    assert [check_guard(word) for word in GUARDS] == ["off", "safe", "strict"]


@pytest.mark.parametrize(
    ("guard", "word"),
    [(True, "True is now 'safe'"), (False, "False is now 'off'"), ("on", "'on'"), (None, "None")],
)
def test_anything_else_is_refused_with_the_three_words(guard, word):
    with pytest.raises(UsageError, match=word) as refused:
        check_guard(guard)
    assert "off, safe, strict" in str(refused.value)


def row(length):
    """A mask of the first of ten pixels."""
    return np.array([[[1] * length + [0] * (10 - length)]], dtype=np.float32)


def test_what_a_guard_gave_back_is_a_share_of_what_changed():
    coarse = np.concatenate([row(10), row(10), row(10)])
    refined = np.concatenate([row(8), row(8), row(10)])
    guarded = np.concatenate([row(9), row(10), row(10)])
    assert share_given_back(coarse, refined, guarded).tolist() == [0.5, 1.0, 0.0]


def test_beyond_the_band_the_coarse_mask_is_kept():
    kept = keep_coarse_beyond_band(row(5), row(0), band_px=2)
    assert kept.tolist() == row(3).tolist()
