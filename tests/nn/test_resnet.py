import torch

from maskhone.nn.resnet import BasicBlock, make_stage


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
