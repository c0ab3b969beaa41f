import math

import pytest
import torch

from maskhone.nn.losses import edges_of, entropy_and_dice_loss, truth_loss
from maskhone.segmenters.pfanet import saliency_loss


def test_entropy_and_dice_by_hand():
    prediction = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    # entropy ln 2; Dice 2 * 0.5 / (1 + 1)
    assert entropy_and_dice_loss(prediction, target).item() == pytest.approx(math.log(2) + 0.5)


def test_dice_is_of_the_whole_batch():
    prediction = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(2, 1, 1, 2)
    target = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(2, 1, 1, 2)
    # entropy 100 / 4 for the one wrong pixel; Dice 2 * 2 / (3 + 2)
    assert entropy_and_dice_loss(prediction, target).item() == pytest.approx(25 + 0.2)


def test_both_empty_is_perfect_and_has_finite_gradients():
    prediction = torch.zeros(1, 1, 4, 4, requires_grad=True)
    loss = entropy_and_dice_loss(prediction, torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert bool(torch.isfinite(prediction.grad).all())


def test_an_empty_target_has_finite_gradients():
    prediction = torch.full((1, 1, 4, 4), 0.3, requires_grad=True)
    entropy_and_dice_loss(prediction, torch.zeros(1, 1, 4, 4)).backward()
    assert bool(torch.isfinite(prediction.grad).all())


def test_the_edge_of_an_object_runs_along_the_border_too():
    edges = edges_of(torch.ones(1, 1, 5, 5))
    assert edges[0, 0, 2, 2] == 0
    assert edges[0, 0, 0, 2].item() == pytest.approx(math.tanh(3))


def test_saliency_loss_by_hand():
    prediction = torch.full((1, 1, 1, 1), 0.5)
    target = torch.ones(1, 1, 1, 1)
    # Laplacian of a single pixel: 8 times its value
    edge = -(math.tanh(8) * math.log(math.tanh(4)))
    expected = 0.7 * 1.12 * math.log(2) + 0.3 * edge + 0.25
    made = saliency_loss(prediction, target, torch.tensor(0.25))
    assert made.item() == pytest.approx(expected, abs=1e-4)


def test_the_foreground_counts_more():
    half = torch.full((1, 1, 2, 2), 0.5)
    inside, outside = truth_loss(half, torch.ones_like(half)), truth_loss(half, half * 0)
    assert (inside / outside).item() == pytest.approx(1.12)
