import numpy as np
import pytest

from maskhone.ops.committee import choose

IMAGE = np.zeros((1, 10, 3), dtype=np.uint8)
COARSE = np.ones((1, 10), dtype=np.float32)


def cut(length, height=1.0):
    """A mask of the first pixels."""
    mask = np.zeros((1, 10), dtype=np.float32)
    mask[:, :length] = height
    return mask


def test_a_chosen_mask_has_the_scores_of_one_that_was_offered():
    offered = {"one": cut(8, 0.75), "two": cut(9, 0.875)}
    chosen = choose(IMAGE, COARSE, offered, guard="off").scores
    assert chosen.dtype == np.float32
    assert any(np.array_equal(chosen, each) for each in offered.values())


def test_a_lone_stray_is_not_chosen():
    offered = {"stray": cut(1), "one": cut(9), "two": cut(8)}
    choice = choose(IMAGE, COARSE, offered)
    np.testing.assert_array_equal(choice.scores, offered["one"])
    assert choice.note.startswith("one, ")
    assert "stray" in choice.note
    assert choice.kept == 0


@pytest.mark.parametrize(("guard", "length"), [("off", 4), ("safe", 10), ("strict", 10)])
def test_a_choice_that_strays_is_guarded_as_asked(guard, length):
    choice = choose(IMAGE, COARSE, {"stray": cut(4)}, guard=guard)
    np.testing.assert_array_equal(choice.scores, cut(length))
    assert ("the guard undid 100 %" in choice.note) == (guard != "off")
    assert "the only method that ran" in choice.note


def test_empty_masks_agree():
    assert not choose(IMAGE, COARSE * 0, {"one": cut(0), "two": cut(3)}).scores.any()


def test_a_note_is_one_line():
    assert "\n" not in choose(IMAGE, COARSE, {"one": cut(9), "two": cut(3)}).note


@pytest.mark.parametrize("guard", ["off", "safe"])
def test_the_masks_that_were_offered_are_left_alone(guard):
    coarse, offered = COARSE.copy(), {"one": cut(9), "two": cut(3)}
    choose(IMAGE, coarse, offered, guard=guard)
    np.testing.assert_array_equal(offered["one"], cut(9))
    np.testing.assert_array_equal(offered["two"], cut(3))
    np.testing.assert_array_equal(coarse, COARSE)
