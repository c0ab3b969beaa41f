import pytest
import torch

from maskhone.methods.bpr.network import HRNETS, BPRNetwork, initialise, resize


@pytest.fixture(scope="module")
def network():
    return BPRNetwork(HRNETS["hrnet18s"]).eval()


@pytest.mark.parametrize("side", [32, 64])
def test_logits_are_a_quarter_of_the_input(network, side):
    with torch.no_grad():
        assert network(torch.zeros(2, 4, side, side)).shape == (2, 2, side // 4, side // 4)


@pytest.mark.parametrize(("name", "channels"), [("hrnet18s", 270), ("hrnet48", 720)])
def test_the_head_reads_all_branches(name, channels):
    with torch.device("meta"):
        head = BPRNetwork(HRNETS[name]).decode_head
    assert head.conv_seg.weight.shape == (2, channels, 1, 1)


def test_the_input_is_normalised_and_the_mask_runs_from_minus_one_to_one(network):
    rgb = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    prepared = network.prepare(rgb, torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(prepared.flatten(), torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert network.prepare(rgb, torch.zeros(1, 1, 1, 1))[0, 3].item() == -1.0


def test_the_mask_is_seen(network):
    inputs = torch.zeros(1, 4, 32, 32)
    with torch.no_grad():
        without = network(inputs)
        inputs[:, 3, :, :16] = 1
        assert not torch.equal(network(inputs), without)


def test_mean_and_std_are_not_among_the_weights(network):
    assert not [key for key in network.state_dict() if "rgb" in key]


def test_fresh_weights_follow_the_seed():
    states = []
    for seed in (1, 1, 2):
        network = BPRNetwork(HRNETS["hrnet18s"])
        initialise(network, torch.Generator().manual_seed(seed))
        states.append(network.backbone.conv1.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_resizing_to_the_same_size_gives_the_tensor_itself():
    x = torch.zeros(1, 1, 3, 3)
    assert resize(x, (3, 3)) is x
