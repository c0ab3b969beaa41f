from dataclasses import replace

import numpy as np
import pytest
import torch

from maskhone.errors import UsageError, WeightsError
from maskhone.methods.catalogue import load
from maskhone.methods.segrefiner.config import UNETS, SegRefinerConfig
from maskhone.methods.segrefiner.diffusion import (
    DiffusionSchedule,
    SeededNoise,
    choose_steps,
    run_backwards,
)
from maskhone.methods.segrefiner.network import DenoisingUNet
from maskhone.methods.segrefiner.refine import SegRefiner, build_network

CONFIG = SegRefinerConfig(network="lite", model_px=32, least_area_px=1)


class Follows:
    """Answers with the mask it is given, moved by `lean`; may be unsure about the left half."""

    def __init__(self, lean=0.0, is_unsure=False):
        self.lean, self.is_unsure, self.steps, self.rows = lean, is_unsure, [], []

    def normalise(self, rgb):
        return rgb

    def __call__(self, inputs, step):
        self.steps.append(int(step[0]))
        self.rows.append(len(step))
        logits = 8 * (inputs[:, 3:] - 0.5) + self.lean
        if self.is_unsure:
            logits[..., : logits.shape[-1] // 2] *= 0.1
        return logits


def refine(image, masks, network=None, batch_size=32, **options):
    network = network or Follows()
    config = replace(CONFIG, **options)
    refiner = SegRefiner(network=network, config=config, batch_size=batch_size)
    return refiner.refine(image, np.asarray(masks, dtype=np.float32))


@pytest.mark.parametrize("scope", ["objects", "picture"])
def test_a_network_that_follows_the_mask_leaves_it_almost_alone(photo, disc, scope):
    (scores,) = refine(photo, disc[None], scope=scope)
    assert np.count_nonzero((scores > 0.5) != disc) < 0.1 * np.count_nonzero(disc)


@pytest.mark.parametrize("size_hw", [(20, 24), (40, 48), (100, 9), (200, 300)])
@pytest.mark.parametrize("scope", ["objects", "picture"])
def test_pictures_of_any_size_are_refined(scope, size_hw):
    image = np.zeros((*size_hw, 3), dtype=np.uint8)
    mask = np.zeros(size_hw, dtype=bool)
    mask[: size_hw[0] // 2] = True
    (scores,) = refine(image, mask[None], scope=scope)
    assert np.mean((scores > 0.5) != mask) < 0.15


def test_objects_that_touch_the_border_reach_it(photo):
    mask = np.ones((1, 40, 48), dtype=bool)
    assert (refine(photo, mask) > 0.9).all()
    faded = refine(photo, mask, fades_at_crop=True)
    assert faded[0, 0, 0] < 0.9


def test_small_objects_stay_as_they_are(photo, disc):
    network = Follows()
    scores = refine(photo, disc[None] * 0.75, network, least_area_px=10_000)
    np.testing.assert_array_equal(scores[0], disc * np.float32(0.75))
    assert network.steps == []


@pytest.mark.parametrize("drops", [False, True])
def test_small_masks_of_pictures_are_kept_or_dropped(photo, drops):
    mask = np.zeros((1, 40, 48), dtype=bool)
    mask[0, 5:15, 5:15] = True
    scores = refine(photo, mask, scope="picture", drops_small=drops)
    assert scores.any() != drops


def test_the_seed_decides_and_the_batch_does_not(photo, disc):
    masks = np.stack([np.roll(disc, i, axis=1) for i in range(3)])
    network = build_network(fresh_state(), CONFIG, source="fresh")
    one, again, batched, other = (
        refine(photo, masks, network, batch_size=n, noise_seed=seed)
        for n, seed in ((1, 0), (1, 0), (8, 0), (1, 5))
    )
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(one, batched, atol=1e-3)
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_frozen_network_gives_the_same_answer(scale_shift):
    torch.manual_seed(0)
    spec = replace(UNETS["lite"], use_scale_shift_norm=scale_shift)
    network = DenoisingUNet(spec).eval()
    inputs = torch.randn(2, 4, 64, 32), torch.tensor([0, 3])
    with torch.inference_mode():
        plain = network(*inputs)
        network.freeze()
        np.testing.assert_allclose(network(*inputs), plain, atol=1e-4)
        np.testing.assert_allclose(network(*inputs), plain, atol=1e-4)  # nothing was written over
    assert network.state_dict().keys() == DenoisingUNet(spec).state_dict().keys()


def fresh_state():
    torch.manual_seed(0)
    network = DenoisingUNet(UNETS["lite"])
    with torch.no_grad():
        network.out[2].weight *= 30  # so that it is sure of something
    return network.state_dict()


def test_all_objects_share_batches(photo, disc):
    network = Follows()
    refine(photo, np.stack([disc] * 5), network, batch_size=4)
    assert network.rows == [4] * 6 + [1] * 6


@pytest.mark.parametrize(
    ("count", "truncates", "steps"),
    [(6, False, [5, 4, 3, 2, 1, 0]), (3, True, [5, 4, 3]), (2, False, [5, 0]), (1, False, [0])],
)
def test_steps_are_spread_or_cut_off(photo, disc, count, truncates, steps):
    network = Follows()
    refine(photo, disc[None], network, steps=count, truncates_steps=truncates)
    assert network.steps == steps


def test_a_short_run_is_as_fine_at_its_end_as_a_long_one():
    sure = lambda inputs, step: torch.full_like(inputs[:, 3:], 99.0)  # noqa: E731
    schedule = DiffusionSchedule()
    for count in range(1, 7):
        _, fine = run_backwards(
            sure,
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 1, 4, 4),
            steps=choose_steps(schedule, count, truncates=False),
            schedule=schedule,
            noise=SeededNoise([0], torch.device("cpu")),
        )
        np.testing.assert_allclose(fine, 1, atol=1e-6)


def test_a_picture_is_seen_whole_and_then_in_patches(photo, disc):
    network = Follows(is_unsure=True)
    big = np.kron(disc, np.ones((4, 4))) > 0
    refine(np.kron(photo, np.ones((4, 4, 1))).astype(np.uint8), big[None], network, scope="picture")
    assert network.steps == [5, 4, 3, 2, 1, 0]
    assert network.rows[:5] == [1] * 5
    assert network.rows[5] > 3


def test_the_number_of_patches_can_be_limited(photo, disc):
    network = Follows(is_unsure=True)
    big = np.kron(disc, np.ones((4, 4))) > 0
    image = np.kron(photo, np.ones((4, 4, 1))).astype(np.uint8)
    refine(image, big[None], network, scope="picture", max_patches=2)
    assert network.rows[-1] == 2


def test_surroundings_leave_the_rest_of_the_picture_alone(photo, disc):
    masks = disc[None].astype(np.float32)
    masks[0, 0, 0] = 0.25
    network = Follows(lean=9.0)
    scores = refine(photo, masks, network, scope="picture", surroundings=0.1)
    assert scores[0, 0, 0] == 0.25
    assert scores[0, 20, 24] > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("network", "huge"),
        ("scope", "pixels"),
        ("model_px", 100),
        ("steps", 0),
        ("steps", 7),
        ("context_px", -1),
        ("max_patches", -1),
        ("noise_seed", -1),
        ("surroundings", -0.5),
        ("nms_iou", 1.5),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(UsageError, match=name):
        SegRefinerConfig(**{name: value})


def test_a_picture_needs_two_steps():
    with pytest.raises(UsageError, match="2 to 6"):
        SegRefinerConfig(scope="picture", steps=1)


def test_weights_of_other_steps_are_refused(segrefiner_weights):
    with pytest.raises(WeightsError, match="trained for 6 steps"):
        load("segrefiner-lr", weights=segrefiner_weights, num_timesteps=8)


@pytest.mark.parametrize(
    ("method", "option"),
    [("segrefiner-lr", {"max_patches": 3}), ("segrefiner-hr", {"context_px": 9})],
)
def test_options_without_effect_are_refused(segrefiner_files, method, option):
    with pytest.raises(UsageError, match="no effect"):
        load(method, weights=segrefiner_files[method], **option)


def test_any_weights_look_the_way_that_is_asked_for(segrefiner_files):
    lr, lite = (segrefiner_files[f"segrefiner-{kind}"] for kind in ("lr", "lite"))
    asked = load("segrefiner-hr", weights=lr).config
    assert (asked.scope, asked.picks_nearest) == ("picture", True)
    kept = load("segrefiner-hr", weights=lite).config
    assert (kept.picks_nearest, kept.surroundings) == (False, 0.25)
    assert load("segrefiner-lr", weights=lite).config.scope == "objects"


def test_whole_numbers_are_not_taken_for_shares(segrefiner_weights):
    with pytest.raises(UsageError, match="least_area_px"):
        load("segrefiner-lr", weights=segrefiner_weights, least_area_px=2.5)
    weights = load("segrefiner-hr", weights=segrefiner_weights, fine_share=1)
    assert weights.config.fine_share == 1


def test_weights_of_another_network_are_refused():
    state = fresh_state()
    del state["out.2.bias"]
    with pytest.raises(WeightsError, match="lite"):
        build_network(state, CONFIG, source="a")


@pytest.mark.parametrize("drops", [False, True])
def test_a_mask_that_vanishes_when_shrunk_is_kept_or_dropped(drops):
    mask = np.zeros((1, 400, 400), dtype=bool)
    mask[0, 101, 50:300] = True
    image = np.zeros((400, 400, 3), dtype=np.uint8)
    scores = refine(image, mask, scope="picture", picks_nearest=True, drops_small=drops)
    assert np.array_equal(scores > 0.5, mask) != drops
