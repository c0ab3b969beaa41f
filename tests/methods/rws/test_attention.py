import numpy as np
import pytest
import torch
from tests.methods.rws.hosts import LAYERS, DictHost, FlatHost, TinyHost, make_seeded
from torch import nn

from maskhone.errors import UsageError
from maskhone.methods.rws.attention import (
    WEIGHINGS,
    eval_mode,
    explain,
    find_gradients,
    find_heat_maps,
    find_layers,
    find_missing_weights,
    find_smooth_heat_map,
    keep_inside,
    look,
    observe,
    pick_logits,
    tap_layers,
)


def count_hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


@pytest.fixture
def inputs():
    return torch.randn(1, 3, 20, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", WEIGHINGS)
@pytest.mark.parametrize("kind", [TinyHost, DictHost])
def test_heat_is_between_0_and_1_at_the_size_of_the_picture(inputs, kind, method):
    network = make_seeded(kind)
    heat = find_heat_maps(
        network, inputs, LAYERS, 1, mask=np.ones((20, 28), dtype=bool), method=method
    )
    assert heat.shape == (3, 20, 28)
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert heat.max() > 0.9
    assert count_hooks(network) == 0
    assert network.training


def test_all_layers_at_once_are_the_layers_one_by_one(inputs):
    network = make_seeded()
    together = find_heat_maps(network, inputs, LAYERS, 2)
    alone = [find_heat_maps(network, inputs, [name], 2)[0] for name in LAYERS]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-6)


def test_gradients_are_those_of_the_sum_of_logits(inputs):
    """Moves one value of a layer a little and looks at what the score does."""
    network = make_seeded().double()
    seen = observe(network, inputs.double(), LAYERS)
    mask = np.zeros((20, 28), dtype=bool)
    mask[4:9, 5:20] = True
    gradient = find_gradients(seen, 1, mask=mask)[1]
    place, step = (0, 3, 2, 4), 1e-5

    def score(change):
        def nudge(x):
            moved = x.clone()
            moved[place] += change
            return moved

        with tap_layers(network, ["two"], replace={"two": nudge}), eval_mode(network):
            logits = nn.functional.interpolate(
                network(inputs.double()), size=(20, 28), mode="bilinear", align_corners=False
            )
        return logits[0, 1][torch.from_numpy(mask)].sum().item()

    measured = (score(step) - score(-step)) / (2 * step)
    assert gradient[place].item() == pytest.approx(measured, rel=1e-4)


def test_a_class_that_is_nowhere_predicted_has_no_heat(inputs):
    network = make_seeded()
    with torch.no_grad():
        network.head.bias[2] = -100
    assert not find_heat_maps(network, inputs, LAYERS, 2).any()
    label = np.ones((20, 28), dtype=bool)
    assert find_heat_maps(network, inputs, LAYERS, 2, mask=label).any()


def test_frozen_networks_can_be_asked(inputs):
    network = make_seeded()
    free = find_heat_maps(network, inputs, LAYERS, 0)
    frozen = find_heat_maps(network.requires_grad_(False), inputs, LAYERS, 0)
    np.testing.assert_array_equal(free, frozen)
    assert not inputs.requires_grad
    assert all(p.grad is None for p in network.parameters())


def test_changes_in_place_behind_a_layer_do_not_reach_what_is_seen(inputs):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    with tap_layers(network, ["0"]) as found:
        network(inputs)
    assert (found["0"] < 0).any()


def test_hooks_go_when_the_network_fails(inputs):
    network = make_seeded()
    network.head = nn.Conv2d(5, 3, 1)
    with pytest.raises(RuntimeError):
        observe(network, inputs, LAYERS)
    assert count_hooks(network) == 0
    assert network.training
    with pytest.raises(UsageError, match="tree"):
        find_layers(network, ["one", "tree"])


def test_each_module_goes_back_to_its_own_mode():
    network = make_seeded()
    network.two.eval()
    with eval_mode(network):
        assert not any(module.training for module in network.modules())
    assert network.three.training
    assert not network.two.training


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["thre"], "nearest: three"),
        (["zzz"], "it has: one, two, three, head"),
        ([], "one or more"),
        (["one", "one"], "each once"),
    ],
)
def test_layers_that_are_not_there_are_refused(inputs, layers, said):
    with pytest.raises(UsageError, match=said):
        find_heat_maps(make_seeded(), inputs, layers, 0)


def test_layers_that_make_no_map_or_do_not_matter_are_refused(inputs):
    network = make_seeded(FlatHost)
    with pytest.raises(UsageError, match=r"'flat' puts out \(1, 1680\), no map"):
        find_heat_maps(network, inputs, ["flat"], 0)
    with pytest.raises(UsageError, match="did not use its layer 'unused'"):
        find_heat_maps(network, inputs, ["unused"], 0)


def test_hooks_of_the_users_own_stay(inputs):
    network = make_seeded()
    calls = []
    network.one.register_forward_hook(lambda *_: calls.append(1))
    find_heat_maps(network, inputs, LAYERS, 0)
    assert count_hooks(network) == 1
    assert calls == [1]


def test_impossible_questions_are_refused(inputs):
    network = make_seeded()
    with pytest.raises(UsageError, match="class 3 asked for, but the network has 3"):
        find_heat_maps(network, inputs, LAYERS, 3)
    with pytest.raises(UsageError, match="expected gradcam"):
        find_heat_maps(network, inputs, LAYERS, 0, method="scorecam")
    with pytest.raises(UsageError, match="mask is"):
        find_heat_maps(network, inputs, LAYERS, 0, mask=np.ones((2, 2), dtype=bool))
    with pytest.raises(UsageError, match="expected logits"):
        pick_logits({"logits": 1})
    with pytest.raises(UsageError, match=r"\(1, 3, 20\)"):
        pick_logits(torch.zeros(1, 3, 20))


def test_logits_are_found_in_what_networks_return():
    logits = torch.zeros(1, 2, 4, 4)
    for output in (logits, {"out": logits, "aux": 0}, (logits, 5), [logits]):
        assert pick_logits(output) is logits


def test_one_channel_is_a_class_against_a_background(inputs):
    network = make_seeded(num_classes=1)
    seen = observe(network, inputs, LAYERS)
    logits = nn.functional.interpolate(
        network.eval()(inputs), size=(20, 28), mode="bilinear", align_corners=False
    )
    np.testing.assert_array_equal(seen.prediction, (logits[0, 0] > 0).numpy())
    assert explain(seen, 1, mask=np.ones((20, 28), dtype=bool)).any()


def test_looking_sees_what_observing_sees(inputs):
    network = make_seeded()
    seen = observe(network, inputs, LAYERS)
    features, prediction = look(network, inputs, LAYERS)
    np.testing.assert_array_equal(prediction, seen.prediction)
    for ours, theirs in zip(features, seen.features, strict=True):
        assert torch.equal(ours, theirs)


def test_the_mean_over_layers_is_one_map(inputs):
    seen = observe(make_seeded(), inputs, LAYERS)
    one = explain(seen, 1, averages=True)
    assert one.shape == (1, 20, 28)
    assert one.max() <= 1


def test_a_smooth_map_mirrors_with_its_picture(inputs):
    network = make_seeded()
    mask = np.zeros((20, 28), dtype=bool)
    mask[:, :10] = True
    straight = find_smooth_heat_map(network, inputs, "three", 1, mask=mask)
    mirrored = find_smooth_heat_map(network, inputs.flip(-1), "three", 1, mask=mask[:, ::-1].copy())
    np.testing.assert_allclose(straight, mirrored[:, ::-1], atol=1e-4)


def test_the_best_layer_misses_nothing():
    heat = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    missing = find_missing_weights(heat)
    assert missing.min() == 0
    assert ((missing == 0).sum(axis=0) >= 1).all()
    inside = np.zeros((4, 5), dtype=bool)
    inside[1:3, 2] = True
    assert not keep_inside(heat, inside)[:, ~inside].any()
