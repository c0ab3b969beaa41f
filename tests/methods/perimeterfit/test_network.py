import numpy as np
import pytest
import torch

from maskhone.methods.perimeterfit.network import AffinityNet, find_edges, predict_edges


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AffinityNet("efficientnet_lite0").eval()


@pytest.mark.parametrize("architecture", ["resnest50", "resnest101", "resnet101"])
def test_every_backbone_fits_its_heads(architecture):
    with torch.device("meta"):
        network = AffinityNet(architecture).eval()
        assert network(torch.zeros(1, 3, 37, 50)).shape == (1, 1, 10, 13)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 70), (33, 31), (64, 48)])
def test_pictures_of_any_size_have_a_cell_for_every_4_px(network, size_hw):
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    edges = predict_edges(network, image, canvas_px=64)
    assert edges.shape == tuple(-(-side // 4) for side in size_hw)
    assert edges.dtype == np.float32
    assert ((edges >= 0) & (edges <= 1)).all()


def test_a_canvas_grows_by_16(network):
    seen = []
    network.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    predict_edges(network, np.zeros((65, 20, 3), dtype=np.uint8), canvas_px=32)
    network._forward_pre_hooks.clear()
    assert seen == [(2, 3, 80, 32)]


def test_edges_of_the_mirror_image_are_mirrored(network):
    x = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    edges = find_edges(network, x, canvas_px=32)
    torch.testing.assert_close(find_edges(network, x.flip(-1), canvas_px=32), edges.flip(-1))


def test_only_the_heads_learn():
    network = AffinityNet("efficientnet_lite0").train()
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is None for parameter in network.model.parameters())
    heads = [parameter for head in network.list_heads() for parameter in head.parameters()]
    assert len(heads) == 5 * 3 + 2
    assert all(parameter.grad is not None for parameter in heads)
    after = network.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
