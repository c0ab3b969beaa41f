import torch
from torch import nn

from maskhone.nn.norms import FixedBatchNorm2d
from maskhone.nn.resnet import RESNET_COUNTS, BasicBlock, ResNet, make_stage


def test_the_first_block_of_a_stage_changes_size_and_channels():
    stage = make_stage(BasicBlock, 4, 8, count=3, stride=2).eval()
    assert stage(torch.randn(1, 4, 9, 6)).shape == (1, 8, 5, 3)
    assert [k for k in stage.state_dict() if "downsample" in k and "weight" in k] == [
        "0.downsample.0.weight",
        "0.downsample.1.weight",
    ]


def test_a_block_that_keeps_the_shape_adds_its_own_input():
    block = BasicBlock(4, 4).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.relu(x))
    assert not any("downsample" in key for key in block.state_dict())


def test_strides_turned_into_dilation_keep_the_size_of_the_second_stage():
    counts = (1, 1, 2, 2)
    x = torch.randn(1, 3, 64, 48)
    plain = ResNet(counts).eval()
    dilated = ResNet(counts, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)).eval()
    assert [tuple(y.shape[2:]) for y in plain(x)] == [(16, 12), (16, 12), (8, 6), (4, 3), (2, 2)]
    assert [tuple(y.shape[2:]) for y in dilated(x)] == [(16, 12), (16, 12)] + 3 * [(8, 6)]
    assert [y.shape[1] for y in dilated(x)] == list(dilated.widths)
    dilations = [
        b.conv2.dilation[0] for level in (3, 4) for b in dilated.get_submodule(f"layer{level}")
    ]
    assert dilations == [1, 2, 2, 4]
    assert plain.state_dict().keys() == dilated.state_dict().keys()


def test_the_fifty_layers_have_the_published_number_of_parameters():
    with torch.device("meta"):
        body = ResNet(RESNET_COUNTS["resnet50"])
    assert sum(p.numel() for p in body.parameters()) == 25_557_032 - 2048 * 1000 - 1000
    assert not [key for key in body.state_dict() if key.startswith("fc.")]


def test_fixed_statistics_stay_while_scale_and_shift_are_trained():
    x = 3 + torch.randn(4, 5, 6, 6)
    ours, plain = FixedBatchNorm2d(5), nn.BatchNorm2d(5)
    ours.train()(x).square().sum().backward()
    torch.testing.assert_close(ours(x), plain.eval()(x))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert not ours.running_mean.any()
    assert ours.weight.grad.abs().sum() > 0
