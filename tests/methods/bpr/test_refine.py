from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from maskhone.errors import UsageError, WeightsError
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.network import HRNETS, BPRNetwork
from maskhone.methods.bpr.refine import BPRRefiner, build_network

CONFIG = BPRConfig(patch_px=16, input_px=32)


class Says(nn.Module):
    """A network that gives every pixel of every patch one probability; counts its batches."""

    def __init__(self, probability):
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))
        self.batch_sizes = []

    prepare = BPRNetwork.prepare
    rgb_mean = rgb_std = torch.ones(1, 3, 1, 1)

    def forward(self, inputs):
        self.batch_sizes.append(len(inputs))
        logits = torch.zeros(len(inputs), 2, 8, 8)
        logits[:, 1] = self.logit
        return logits


@pytest.fixture
def masks(disc):
    return disc[None].astype(np.float32)


def refine(network, image, masks, *, batch_size=32, **options):
    refiner = BPRRefiner(network=network, config=replace(CONFIG, **options), batch_size=batch_size)
    return refiner.refine(image, masks)


@pytest.mark.parametrize("options", [{}, {"resizes_probabilities": True}, {"padding_px": 4}])
def test_covered_pixels_take_what_the_network_says(photo, masks, options):
    refined = refine(Says(0.75), photo, masks, **options)
    is_changed = refined != masks
    assert is_changed.any()
    np.testing.assert_allclose(refined[is_changed], 0.75, atol=1e-6)


def test_the_second_look_takes_one_pass(photo, masks):
    network = Says(0.75)
    config = replace(CONFIG, coarsest_side_px=8, narrowest_px=1.0)
    refiner = BPRRefiner(network=network, config=config)
    refiner.refine(photo, masks)
    n_patches = sum(network.batch_sizes)
    (look,) = refiner.look_again(photo, masks)
    n_again = sum(network.batch_sizes) - n_patches
    assert 0 < n_again < n_patches
    once = refine(Says(0.75), photo[:, ::-1], masks[:, :, ::-1])
    np.testing.assert_array_equal(look, once[:, :, ::-1])


def test_pixels_far_from_the_boundary_stay(photo):
    masks = np.zeros((1, *photo.shape[:2]), dtype=np.float32)
    masks[0, 30:36, 36:44] = 1
    refined = refine(Says(0.75), photo, masks)
    assert not refined[0, :10, :20].any()


def test_patches_of_all_objects_share_batches(photo, disc):
    network = Says(0.75)
    masks = np.stack([disc, np.roll(disc, 5, axis=0), np.roll(disc, 5, axis=1)])
    refine(network, photo, masks.astype(np.float32), batch_size=1000)
    assert len(network.batch_sizes) == 1


def test_batches_are_no_larger_than_asked(photo, masks):
    network = Says(0.75)
    refine(network, photo, masks, batch_size=3)
    assert max(network.batch_sizes) == 3


def test_an_image_smaller_than_a_patch_is_refined():
    masks = np.zeros((1, 5, 7), dtype=np.float32)
    masks[0, 1:4, 2:5] = 1
    refined = refine(Says(0.75), np.zeros((5, 7, 3), np.uint8), masks)
    np.testing.assert_allclose(refined, 0.75, atol=1e-6)


def test_large_objects_are_seen_in_smaller_copies_first(photo, masks):
    once, twice = Says(0.75), Says(0.75)
    refine(once, photo, masks, batch_size=1000)
    refine(twice, photo, masks, batch_size=1000, coarsest_side_px=10, narrowest_px=2)
    assert (len(once.batch_sizes), len(twice.batch_sizes)) == (1, 2)


def test_weights_of_another_network_are_refused():
    state = BPRNetwork(HRNETS["hrnet18s"]).state_dict()
    with pytest.raises(WeightsError, match=r"a\.safetensors.*hrnet48"):
        build_network(state, replace(CONFIG, network="hrnet48"), source="a.safetensors")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "hrnet32"),
        ("patch_px", 7),
        ("padding_px", -1),
        ("input_px", 100),
        ("nms_iou", 1.5),
        ("window_px", 4),
        ("edge_rule", "none"),
        ("narrowest_px", -1),
        ("mask_input", "raw"),
        ("coarsest_side_px", -1),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=name):
        BPRConfig(**{name: value})
