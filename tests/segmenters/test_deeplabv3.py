import argparse

import numpy as np
import pytest
import torch

from maskhone.contracts import Segmenter
from maskhone.engine.weights import read_header, save_weights
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.pipelines.deeplabv3 import import_deeplabv3, load_deeplabv3
from maskhone.segmenters.catalogue import RELEASED_DEEPLABV3
from maskhone.segmenters.deeplabv3 import DeepLabV3, DeepLabV3Segmenter, build_like, prepare_image


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DeepLabV3("resnet50", 4).eval()


@pytest.mark.parametrize("size_hw", [(1, 1), (20, 31), (64, 48)])
def test_any_size_comes_back_as_shares_of_that_size(network, size_hw):
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    before = image.copy()
    segmenter = DeepLabV3Segmenter(network=network, side_px=32)
    assert isinstance(segmenter, Segmenter)
    scores = segmenter.segment(image)
    assert scores.shape == (4, *size_hw)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(image, before)


def test_pictures_keep_their_shape_and_become_normalised_rgb():
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    image[..., 0] = 255
    assert prepare_image(image).shape == (3, 20, 30)
    inputs = prepare_image(image, 40)
    assert inputs.shape == (3, 40, 60)
    assert inputs[0, 0, 0] == pytest.approx((1 - 0.485) / 0.229)
    assert inputs[2, 0, 0] == pytest.approx(-0.406 / 0.225)


def test_released_names_are_those_of_the_networks():
    assert set(RELEASED_DEEPLABV3.values()) == {"deeplabv3_resnet50", "deeplabv3_resnet101"}


def test_a_checkpoint_is_read_as_it_is_and_converted(network, tmp_path):
    path = tmp_path / "downloaded.pth"
    torch.save({"model": network.state_dict()}, path)
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    direct = load_deeplabv3(path, device="cpu")
    converted = import_deeplabv3(path)
    assert converted == tmp_path / "deeplabv3_resnet50.safetensors"
    assert read_header(converted)["config"] == {"num_classes": 4}
    again = load_deeplabv3(converted, device="cpu")
    assert direct.side_px == again.side_px == 520
    small = [DeepLabV3Segmenter(network=s.network, side_px=32) for s in (direct, again)]
    np.testing.assert_array_equal(small[0].segment(image), small[1].segment(image))


def test_a_checkpoint_of_the_original_training_is_read(network, tmp_path):
    path = tmp_path / "model_14.pth"
    told = argparse.Namespace(data_path="data", num_classes=20, pretrained=True)
    torch.save({"model": network.state_dict(), "epoch": 14, "args": told}, path)
    found = load_deeplabv3(path, device="cpu").network.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in network.state_dict().items())


def test_weights_that_rws_trained_keep_the_side_they_were_scored_at(network, tmp_path):
    header = {
        "name": "a", "method": "deeplabv3_resnet50", "licence": "none",
        "config": {"num_classes": 4, "side_px": 32, "layers": []},
    }  # fmt: skip
    path = save_weights(tmp_path / "a.safetensors", network.state_dict(), header, half=False)
    assert load_deeplabv3(path, device="cpu").side_px == 32


def test_other_files_are_refused(network, tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        import_deeplabv3(tmp_path / "none.pth")
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("backbone.layer2")}
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match="missing"):
        import_deeplabv3(tmp_path / "part.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: the tensors lack"):
        load_deeplabv3(tmp_path / "other.pth")
    name = next(iter(RELEASED_DEEPLABV3))
    torch.save(network.state_dict(), tmp_path / name)
    with pytest.raises(WeightsError, match="promises sha256 cd0a2569"):
        import_deeplabv3(tmp_path / name)
    with pytest.raises(UsageError, match="unknown network"):
        import_deeplabv3(tmp_path / "part.pth", name="resnet50")


def test_the_head_is_told_by_the_tensors(network):
    without = {k: v for k, v in network.state_dict().items() if not k.startswith("aux")}
    assert build_like("resnet50", without).aux_classifier is None
    assert build_like("resnet50", network.state_dict()).aux_classifier is not None
    with pytest.raises(UsageError, match="resnet18"):
        DeepLabV3("resnet18")


def test_anything_but_a_colour_picture_is_refused(network):
    with pytest.raises(InputError, match="float64"):
        DeepLabV3Segmenter(network=network).segment(np.zeros((8, 8, 3)))
