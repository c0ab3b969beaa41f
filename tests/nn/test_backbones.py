import pytest
import torch

from maskhone.errors import UsageError
from maskhone.nn.backbones import ARCHITECTURES, find_architecture, make_backbone
from maskhone.nn.efficientnet import SameConv2d
from maskhone.nn.norms import FixedBatchNorm2d
from maskhone.nn.resnest import SplitAttention

PARAMETERS = {  # with 20 classes on top (spec perimeterfit.md, 1.2), in millions
    "resnest50": 25.48,
    "resnest101": 46.27,
    "resnest269": 108.92,
    "resnet50": 23.55,
}


def make_on_meta(architecture, **options):
    with torch.device("meta"):
        return make_backbone(architecture, **options)


@pytest.mark.parametrize("size_hw", [(1, 1), (33, 50), (64, 32)])
def test_five_outputs_of_any_size_have_the_promised_strides_and_widths(size_hw):
    body = make_backbone("efficientnet_lite0").eval()
    outputs = body(torch.randn(1, 3, *size_hw))
    assert tuple(y.shape[1] for y in outputs) == body.widths
    for y, stride in zip(outputs, (4, 4, 8, 16, 16), strict=True):
        assert tuple(y.shape[2:]) == tuple(-(-n // stride) for n in size_hw)


@pytest.mark.parametrize("architecture", ["resnest50", "resnet50", "resnest101"])
def test_bodies_have_the_promised_strides_and_widths(architecture):
    body = make_on_meta(architecture)
    outputs = body(torch.empty(2, 3, 65, 90, device="meta"))
    assert tuple(y.shape[1] for y in outputs) == body.widths
    sizes = [tuple(y.shape[2:]) for y in outputs]
    assert sizes == [(17, 23), (17, 23), (9, 12), (5, 6), (5, 6)]


@pytest.mark.parametrize("architecture", PARAMETERS)
def test_the_number_of_parameters_is_the_published_one(architecture):
    count = sum(p.numel() for p in make_on_meta(architecture).parameters()) + 20 * 2048
    assert round(count / 1e6, 2) == PARAMETERS[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_tell_their_body(architecture):
    state = make_on_meta(architecture).state_dict()
    assert find_architecture(state) == architecture
    named = {f"model.{key}": value for key, value in state.items()}
    assert find_architecture(named, prefix="model.") == architecture
    assert find_architecture(named) is None


def test_every_norm_of_a_body_can_be_fixed():
    for architecture in ("resnest50", "resnet50", "efficientnet_lite0"):
        body = make_on_meta(architecture, fixes_norms=True)
        norms = [m for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert all(isinstance(m, FixedBatchNorm2d) for m in norms)


def test_unknown_bodies_are_answered_with_the_known():
    with pytest.raises(UsageError, match=r"known: resnest50, .*efficientnet_lite0"):
        make_backbone("resnet18")


def test_padding_goes_right_and_below_where_it_is_odd():
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    torch.nn.init.zeros_(conv.weight)
    conv.weight.data[0, 0, 0, 0] = 1  # the window's first pixel
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert conv(x).flatten().tolist() == [0, 2, 8, 10]


def test_attention_mixes_its_halves_with_weights_that_sum_to_one():
    block = SplitAttention(4).eval()
    halves = torch.ones(1, 8, 3, 3)
    block.bn0 = torch.nn.Identity()
    block.conv.forward = lambda x: halves
    torch.testing.assert_close(block(torch.randn(1, 4, 3, 3)), torch.ones(1, 4, 3, 3))


def test_lite_bodies_are_deterministic_and_depend_on_their_input():
    torch.manual_seed(0)
    body = make_backbone("efficientnet_lite0").eval()
    x = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(body(x)[-1], body(x)[-1], rtol=0, atol=0)
    assert (body(x)[-1] - body(-x)[-1]).abs().max() > 1e-3
