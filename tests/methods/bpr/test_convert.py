import hashlib

import numpy as np
import pytest
import torch

from maskhone.engine.weights import load_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.bpr.config import PRESETS
from maskhone.methods.bpr.convert import import_checkpoint, load_imagenet_backbone
from maskhone.methods.bpr.network import HRNETS, BPRNetwork
from maskhone.methods.bpr.refine import build_network
from maskhone.methods.catalogue import METHODS

SMALL = "bpr_hrnet18s_128.coco"
LARGE = "bpr_hrnet48_256.cityscapes"


def make_network(preset):
    torch.manual_seed(0)
    return BPRNetwork(HRNETS[PRESETS[preset].network]).eval()


def save_as_published(path, state):
    """Saves tensors as the authors did: beside `meta`, under `state_dict`, from several GPUs."""
    state = {f"module.{key}": value for key, value in state.items()}
    torch.save({"meta": {"epoch": 3, "mmseg_version": "0.7.0"}, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def small_state():
    return make_network(SMALL).state_dict()


@pytest.mark.parametrize("preset", [SMALL, LARGE])
def test_an_imported_network_gives_the_same_logits(tmp_path, preset):
    network = make_network(preset)
    path = save_as_published(tmp_path / "theirs.pth", network.state_dict())
    state, header = load_weights(import_checkpoint(path, tmp_path / "o.safetensors", name=preset))
    ours = build_network(state, PRESETS[preset], source="o")
    inputs = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_allclose(ours(inputs), network(inputs), atol=1e-5)
    assert header["config"]["network"] == PRESETS[preset].network
    assert header["name"] == preset


def test_a_bare_state_dict_is_imported_too(tmp_path, small_state):
    torch.save(small_state, tmp_path / "a.pth")
    path = import_checkpoint(tmp_path / "a.pth", name=SMALL)
    assert path == tmp_path / f"{SMALL}.safetensors"
    assert load_weights(path)[0].keys() == small_state.keys()


def test_missing_extra_and_reshaped_keys_are_listed(tmp_path, small_state):
    state = {k: v for k, v in small_state.items() if k != "backbone.conv_mask.weight"}
    state |= {"auxiliary.weight": torch.zeros(1), "backbone.bn1.weight": torch.zeros(3)}
    path = save_as_published(tmp_path / "a.pth", state)
    with pytest.raises(WeightsError) as refused:
        import_checkpoint(path, name=SMALL)
    assert "1 missing (backbone.conv_mask.weight)" in str(refused.value)
    assert "1 extra (auxiliary.weight)" in str(refused.value)
    assert "1 of other shape (backbone.bn1.weight)" in str(refused.value)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_checkpoint_of_the_other_network_is_refused(tmp_path, small_state):
    path = save_as_published(tmp_path / "a.pth", small_state)
    with pytest.raises(WeightsError, match="keys of another network"):
        import_checkpoint(path, name=LARGE)


def test_a_name_whose_hash_does_not_match_is_refused(tmp_path, small_state):
    path = save_as_published(tmp_path / "hrnet18s_coco-c172955f.pth", small_state)
    with pytest.raises(WeightsError, match="c172955f"):
        import_checkpoint(path, name=SMALL)


def test_a_name_whose_hash_matches_is_taken(tmp_path, small_state):
    path = save_as_published(tmp_path / "a.pth", small_state)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    named = path.rename(tmp_path / f"any-{digits}.pth")
    assert import_checkpoint(named, name=SMALL).is_file()


def test_a_damaged_checkpoint_is_refused(tmp_path, small_state):
    path = save_as_published(tmp_path / "a.pth", small_state)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"a\.pth"):
        import_checkpoint(path, name=SMALL)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"no\.pth"):
        import_checkpoint(tmp_path / "no.pth", name=SMALL)


def test_an_unknown_preset_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nope"):
        import_checkpoint(tmp_path / "a.pth", name="nope")


def test_every_published_file_has_a_preset():
    assert set(METHODS["bpr"].published.values()) == set(PRESETS)


def test_an_imagenet_backbone_leaves_the_mask_stem_fresh(tmp_path, small_state):
    prefix = "backbone."
    backbone = {k.removeprefix(prefix): v for k, v in small_state.items() if k.startswith(prefix)}
    del backbone["conv_mask.weight"]
    backbone["conv1.weight"] = torch.full_like(backbone["conv1.weight"], 7)
    torch.save({"state_dict": {**backbone, "fc.weight": torch.zeros(2)}}, tmp_path / "a.pth")
    network = make_network(SMALL)
    fresh = network.backbone.conv_mask.weight.clone()
    load_imagenet_backbone(network, tmp_path / "a.pth")
    assert (network.backbone.conv1.weight == 7).all()
    assert torch.equal(network.backbone.conv_mask.weight, fresh)


def test_an_imagenet_backbone_with_missing_keys_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="missing"):
        load_imagenet_backbone(make_network(SMALL), tmp_path / "a.pth")
