import random

import numpy as np
import pytest
import torch

from maskhone.errors import UsageError
from maskhone.methods.perimeterfit.augment import (
    GeneratorDraws,
    PublishedDraws,
    Views,
    place,
    resize_to,
    shrink_labels,
    view_at_random,
)

IMAGE = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
LABELS = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)


class Said:
    """Draws that are said before."""

    def __init__(self, *numbers, mirrors=False):
        self.numbers, self.mirrors, self.asked = list(numbers), mirrors, []

    def draw_below(self, n):
        self.asked.append(n)
        return self.numbers.pop(0)

    def toss(self):
        self.asked.append("toss")
        return self.mirrors


def view(*numbers, side, mirrors=False):
    draws = Said(*numbers, mirrors=mirrors)
    views = Views(image_px=side, min_image_px=8, max_image_px=8)
    _, labels = view_at_random(IMAGE, LABELS, draws, views)
    return labels, draws.asked


def test_a_larger_picture_is_cut_at_the_drawn_column_and_row():
    labels, asked = view(0, 3, 1, side=5)
    assert np.array_equal(labels, LABELS[1:6, 3:8])
    assert asked == [1, "toss", 4, 2]


def test_a_smaller_picture_is_pasted_at_the_drawn_column_and_row():
    labels, asked = view(0, 2, 4, side=10)
    assert np.array_equal(labels[4:10, 2:10], LABELS)
    assert (labels == 255).sum() == 100 - 48
    assert asked == [1, "toss", 3, 5]


def test_a_mirror_turns_image_and_labels():
    plain, _ = view(0, 0, 0, side=8)
    mirrored, _ = view(0, 0, 0, side=8, mirrors=True)
    assert np.array_equal(mirrored[:6], plain[:6, ::-1])


def test_outside_the_picture_is_its_mean_colour_and_unknown():
    square, labels = place(IMAGE, LABELS, 10, x=1, y=-2)
    assert (square[:, :, 0] == 0).all()
    assert (square[:, 4:] == 0).all()
    assert (labels[4:] == 255).all()
    assert np.array_equal(labels[:4, 1:9], LABELS[2:])


def test_image_and_labels_move_together():
    image = np.repeat(LABELS[..., np.newaxis], 3, axis=2)
    for seed in range(5):
        views = Views(image_px=7, min_image_px=8, max_image_px=8)
        draws = GeneratorDraws(np.random.default_rng(seed))
        square, labels = view_at_random(image, LABELS, draws, views)
        inside = labels != 255
        red = (square[0].numpy() * 0.229 + 0.485) * 255
        np.testing.assert_allclose(red[inside], labels[inside], atol=1e-3)


def test_the_longer_side_gets_the_length():
    assert resize_to(IMAGE, LABELS, 16)[0].shape == (12, 16, 3)
    assert resize_to(IMAGE.transpose(1, 0, 2), None, 4)[0].shape == (4, 3, 3)
    assert resize_to(np.zeros((1, 900, 3), dtype=np.uint8), None, 30)[0].shape == (1, 30, 3)


def test_both_kinds_of_draws_are_seeded_and_in_range():
    for make in (
        lambda: GeneratorDraws(np.random.default_rng(3)),
        lambda: PublishedDraws(random.Random(3)),
    ):
        first, again = make(), make()
        drawn = [first.draw_below(4) for _ in range(50)] + [first.toss() for _ in range(50)]
        assert drawn == [again.draw_below(4) for _ in range(50)] + [again.toss() for _ in range(50)]
        assert set(drawn[:50]) == {0, 1, 2, 3}
        assert set(drawn[50:]) == {False, True}


def test_labels_shrink_to_the_nearest():
    assert shrink_labels(LABELS, (3, 4)).shape == (3, 4)
    assert set(shrink_labels(LABELS, (3, 4)).ravel()) <= set(LABELS.ravel())


def test_inputs_stay_as_they_are():
    image, labels = IMAGE.copy(), LABELS.copy()
    views = Views(image_px=7, min_image_px=5, max_image_px=9)
    square, _ = view_at_random(image, labels, GeneratorDraws(np.random.default_rng(0)), views)
    assert square.dtype == torch.float32
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize("sizes", [{"image_px": 0}, {"min_image_px": 9, "max_image_px": 8}])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(UsageError, match="expected 1 or more"):
        Views(**sizes)
