import pytest
import torch

from maskhone.engine.weights import load_weights
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.catalogue import METHODS
from maskhone.methods.prn import convert
from maskhone.methods.prn.config import PRESETS
from maskhone.methods.prn.convert import import_checkpoint
from maskhone.methods.prn.network import PRN, SPECS, PRNSpec

NAME = "prn_p64.kvasir"


@pytest.fixture
def state(monkeypatch):
    """A narrow network stands in for the published one, whose keys the parity test holds."""
    small = PRNSpec(cells=8, width=4)
    monkeypatch.setitem(SPECS, "p64", small)
    torch.manual_seed(0)
    return PRN(small).state_dict()


def save(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("layout", ["bare", "state_dict", "model", "many GPUs"])
def test_every_layout_gives_the_same_tensors(tmp_path, state, layout):
    content = state if layout == "bare" else {layout: state}
    if layout == "many GPUs":
        content = {f"module.{key}": value for key, value in state.items()}
    path = import_checkpoint(save(tmp_path / "p64_weights.th", content), name=NAME)
    assert path == tmp_path / f"{NAME}.safetensors"
    loaded, header = load_weights(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert header["method"] == "prn"
    assert header["config"]["has_row_quirk"]


def test_missing_and_extra_keys_are_listed(tmp_path, state):
    del state["out_local.0.bias"]
    state["other.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as refused:
        import_checkpoint(save(tmp_path / "a.th", state), name=NAME)
    assert "1 missing (out_local.0.bias)" in str(refused.value)
    assert "1 extra (other.weight)" in str(refused.value)
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_unknown_name_is_refused(tmp_path, state):
    with pytest.raises(UsageError, match=r"prn_p64\.duts"):
        import_checkpoint(save(tmp_path / "a.th", state), name="prn_p16.duts")


def test_every_published_file_has_a_preset():
    assert set(METHODS["prn"].published.values()) == set(PRESETS)
    assert convert.PRESETS is PRESETS


def test_a_file_name_that_fits_several_asks_for_the_name(run_cli, tmp_path, state):
    path = save(tmp_path / "p64_weights.th", state)
    said = run_cli("weights", "import", path)
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
    for word in ("p64_weights.th", "--name", *PRESETS):
        assert word in said.err
    assert run_cli("weights", "import", path, "--name", NAME).code == 0
    assert (tmp_path / f"{NAME}.safetensors").is_file()
