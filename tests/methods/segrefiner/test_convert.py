import numpy as np
import pytest
import torch

from maskhone.engine.weights import load_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.catalogue import METHODS, import_weights
from maskhone.methods.segrefiner.config import PRESETS, UNETS
from maskhone.methods.segrefiner.convert import import_checkpoint
from maskhone.methods.segrefiner.loss import sobel_kernel
from maskhone.methods.segrefiner.network import DenoisingUNet
from maskhone.methods.segrefiner.refine import build_network

PRESET = "segrefiner_lr"


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch):
    """The published network has half a gigabyte; its keys are held by the parity test."""
    monkeypatch.setitem(UNETS, "published", UNETS["lite"])


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DenoisingUNet(UNETS["published"]).eval()


@pytest.fixture
def state(network):
    """A checkpoint as the authors saved it: prefixed, with two constants of the loss."""
    kernel = sobel_kernel(torch.zeros(1))
    return {
        **{f"denoise_model.{k}": v for k, v in network.state_dict().items()},
        "loss_texture.sobel.conv_x.weight": kernel,
        "loss_texture.sobel.conv_y.weight": kernel.mT.contiguous(),
    }


def save(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("layout", ["bare", "wrapped", "many GPUs"])
def test_both_layouts_give_the_same_logits(tmp_path, network, state, layout):
    if layout == "wrapped":
        state = {"meta": {"iter": 3}, "state_dict": state, "optimizer": {}}
    elif layout == "many GPUs":
        state = {"state_dict": {f"module.{k}": v for k, v in state.items()}}
    path = import_checkpoint(save(tmp_path / "a.pth", state), name=PRESET)
    loaded, header = load_weights(path)
    ours = build_network(loaded, PRESETS[PRESET], source="a")
    inputs = torch.randn(1, 4, 32, 32), torch.tensor([2])
    with torch.no_grad():
        np.testing.assert_allclose(ours(*inputs), network(*inputs), atol=1e-5)
    assert header["config"]["scope"] == "objects"


def test_missing_and_extra_keys_are_listed(tmp_path, state):
    del state["denoise_model.out.2.bias"]
    state["other.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as refused:
        import_checkpoint(save(tmp_path / "a.pth", state), name=PRESET)
    assert "1 missing (out.2.bias)" in str(refused.value)
    assert "1 extra (other.weight)" in str(refused.value)
    assert not list(tmp_path.glob("*.safetensors"))


def test_other_constants_of_the_loss_are_refused(tmp_path, state):
    state["loss_texture.sobel.conv_x.weight"] *= 2
    with pytest.raises(WeightsError, match="Sobel"):
        import_checkpoint(save(tmp_path / "a.pth", state), name=PRESET)


def test_another_checkpoint_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="denoise_model"):
        import_checkpoint(save(tmp_path / "a.pth", {"conv.weight": torch.zeros(1)}), name=PRESET)


def test_released_files_are_known_by_name(tmp_path, state):
    path = import_weights(save(tmp_path / "segrefiner_hr_latest.pth", state))
    assert load_weights(path)[1]["config"]["scope"] == "picture"


def test_unknown_names_are_refused(tmp_path, state):
    path = save(tmp_path / "a.pth", state)
    with pytest.raises(UsageError, match="--name"):
        import_weights(path)
    with pytest.raises(UsageError, match="nope"):
        import_weights(path, name="nope")


def test_every_published_file_has_a_preset():
    names = {n for method in METHODS.values() for n in method.published.values()}
    assert set(PRESETS) <= names


def test_a_checkpoint_of_other_steps_says_so(tmp_path, state):
    table = state["denoise_model.time_embed.weight"]
    state["denoise_model.time_embed.weight"] = torch.cat([table, table])
    with pytest.raises(WeightsError, match="trained for 12 steps"):
        import_checkpoint(save(tmp_path / "a.pth", state), name=PRESET)
