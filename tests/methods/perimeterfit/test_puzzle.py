import pytest
import torch

from maskhone.errors import UsageError
from maskhone.methods.perimeterfit.puzzle import (
    Puzzle,
    cut,
    find_alpha,
    join,
    puzzle_losses,
    reconstruction_loss,
    scale_to_one,
)

TAGS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pieces", [1, 4, 9])
def test_joining_undoes_cutting(pieces):
    x = draw(2, 3, 6, 12)
    parts = cut(x, pieces)
    assert len(parts) == 2 * pieces
    assert torch.equal(join(parts, pieces), x)


def test_sides_must_be_divisible():
    with pytest.raises(UsageError, match="expected sides divisible by 2"):
        cut(draw(1, 1, 4, 5), 4)


def test_absent_classes_count_nothing_or_zero_or_fully():
    maps, joined = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    joined[:, 2] = 3
    lost = {
        masking: reconstruction_loss(maps, joined, TAGS, masking=masking).item()
        for masking in ("masking", "selection", "none")
    }
    assert lost["masking"] == pytest.approx((1 + 3 + 1) / 6)
    assert lost["selection"] == pytest.approx(((1 + 3) / 2 + 1) / 2)
    assert lost["none"] == pytest.approx((1 + 1 + 3) / 3)
    squared = reconstruction_loss(maps, joined, TAGS, distance="l2", masking="none")
    assert squared.item() == pytest.approx((1 + 1 + 9) / 3)


def test_a_picture_without_classes_is_no_division_by_zero():
    lost = reconstruction_loss(
        draw(1, 3, 2, 2), draw(1, 3, 2, 2, seed=1), torch.zeros(1, 3), masking="selection"
    )
    assert lost.item() == 0.0


def test_maps_are_scaled_to_one_and_unseen_ones_stay_zero():
    scaled = scale_to_one(torch.tensor([[[[-1.0, 2.0]], [[-1.0, -3.0]]]]))
    assert scaled[0, 0].flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-4)
    assert scaled[0, 1].flatten().tolist() == [0.0, 0.0]


def test_the_total_is_the_weighted_sum_of_the_chosen_terms():
    whole = draw(2, 3), draw(2, 3, 4, 4, seed=1)
    parts = draw(8, 3, seed=2), draw(8, 3, 2, 2, seed=3)
    found = puzzle_losses(whole, parts, TAGS, Puzzle(has_confidence_loss=True), alpha=2.5)
    total = found["classes"] + found["part_classes"] + found["confidence"]
    torch.testing.assert_close(found["loss"], total + 2.5 * found["reconstruction"])
    fewer = puzzle_losses(whole, parts, TAGS, Puzzle(has_part_loss=False), alpha=2.5)
    assert fewer.keys() == {"loss", "classes", "reconstruction"}
    scaled = puzzle_losses(whole, parts, TAGS, Puzzle(level="cam"), alpha=2.5)
    assert scaled["reconstruction"] != found["reconstruction"]


def test_without_pieces_only_the_pictures_classify():
    found = puzzle_losses((draw(2, 3), draw(2, 3, 4, 4)), None, TAGS, Puzzle(pieces=1), alpha=4)
    assert found["loss"] == found["classes"]


def test_a_schedule_of_zero_is_constant():
    assert find_alpha(Puzzle(alpha=3.0, alpha_schedule=0.0), 0, steps=10) == 3.0


@pytest.mark.parametrize(
    "options", [{"pieces": 3}, {"level": "pixel"}, {"masking": "all"}, {"alpha_schedule": 2.0}]
)
def test_puzzles_that_cannot_be_are_refused(options):
    with pytest.raises(UsageError, match="expected"):
        Puzzle(**options)
