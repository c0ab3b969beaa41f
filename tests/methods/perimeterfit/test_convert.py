import pytest
import torch

from maskhone.engine.weights import save_weights
from maskhone.errors import WeightsError
from maskhone.methods.perimeterfit.convert import METHOD, import_checkpoint, load_affinity_net
from maskhone.methods.perimeterfit.network import AffinityNet
from maskhone.pipelines.weights import AFFINITY_NET, import_weights, list_importable
from maskhone.segmenters.aliases import AFFINITY_ALIASES, add_aliases


@pytest.fixture(scope="module")
def state():
    """The smallest network stands in for the published ones, whose keys the parity test holds."""
    torch.manual_seed(0)
    return AffinityNet("efficientnet_lite0").state_dict()


@pytest.fixture
def published(state):
    """Lists every tensor under each of its names, and an index of paths."""
    paths = {"path_indices_0": torch.zeros(2, 2, 5, dtype=torch.int64)}
    return {**paths, **add_aliases(state, AFFINITY_ALIASES)}


def save(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("layout", ["published", "once", "many GPUs"])
def test_every_layout_gives_the_same_network(tmp_path, state, published, layout):
    content = state if layout == "once" else published
    if layout == "many GPUs":
        content = {f"module.{key}": value for key, value in content.items()}
    path = import_weights(save(tmp_path / "a.pth", content), name=AFFINITY_NET)
    assert path == tmp_path / f"{METHOD}.safetensors"
    network = load_affinity_net(path)
    assert not network.training
    assert all(torch.equal(network.state_dict()[key], state[key]) for key in state)


def test_names_of_one_tensor_must_agree(tmp_path, published):
    published["edge_layers.5.bias"] = published["edge_layers.5.bias"] + 1
    with pytest.raises(WeightsError, match=r"edge_layers\.5\.bias.*fc_edge6\.bias"):
        import_checkpoint(save(tmp_path / "a.pth", published))
    assert not list(tmp_path.glob("*.safetensors"))


def test_missing_and_extra_keys_are_listed(tmp_path, state):
    content = {key: value for key, value in state.items() if key != "fc_edge6.bias"}
    content["classifier.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as refused:
        import_checkpoint(save(tmp_path / "a.pth", content))
    assert "1 missing (fc_edge6.bias)" in str(refused.value)
    assert "1 extra (classifier.weight)" in str(refused.value)


def test_another_network_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"not an AffinityNet.*resnest101"):
        import_checkpoint(save(tmp_path / "a.pth", {"fc.bias": torch.zeros(1)}))


def test_weights_of_something_else_are_refused(tmp_path, state):
    path = save_weights(tmp_path / "a.safetensors", dict(state), {"method": "prn"}, half=False)
    with pytest.raises(WeightsError, match="prn"):
        load_affinity_net(path)


def test_it_is_listed_with_its_command():
    assert list_importable()[METHOD].endswith(f"FILE.pth --name {METHOD}")
