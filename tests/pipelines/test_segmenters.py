import numpy as np
import pytest
import torch

from maskhone.engine.weights import read_header
from maskhone.errors import UsageError, WeightsError
from maskhone.pipelines.segmenters import import_segmenter, load_segmenter
from maskhone.segmenters import catalogue
from maskhone.segmenters.catalogue import SEGMENTERS, make_segmenter


class Small(torch.nn.Module):
    """Stands in for the published networks, which have tens of megabytes; their keys are held
    by the parity test."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.fixture(autouse=True)
def _small_network(monkeypatch):
    model = SEGMENTERS["resunetpp"]
    small = catalogue.BaseModel(**{**vars(model), "build": Small})
    monkeypatch.setitem(SEGMENTERS, "resunetpp", small)


@pytest.fixture
def state():
    torch.manual_seed(0)
    return Small().state_dict()


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


def wrap(state, layout):
    """Puts the tensors where published files have them."""
    if layout == "state_dict":
        return {"state_dict": state, "epoch": 3}
    if layout == "module":
        return {f"module.{key}": value for key, value in state.items()}
    if layout == "model":  # as PFANet's: among numbers of NumPy and tensors
        facts = {"epoch": 204, "test_mae": np.float64(0.05), "test_acc": torch.tensor(0.9)}
        return {**facts, "model": state, "test_loss": np.float32(0.1), "n": np.int64(3)}
    return state


@pytest.mark.parametrize("layout", ["bare", "state_dict", "module", "model"])
def test_every_published_layout_gives_the_same_scores(tmp_path, state, layout):
    path = import_segmenter(save(tmp_path / "a.th", wrap(state, layout)), name="resunetpp")
    assert path == tmp_path / "resunetpp.safetensors"
    assert read_header(path)["method"] == "resunetpp"
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    made = load_segmenter(path, name="resunetpp", device="cpu", dtype="fp32").segment(image)
    own = make_segmenter("resunetpp", state, device=torch.device("cpu")).segment(image)
    np.testing.assert_array_equal(made, own)


def test_numbers_of_the_old_numpy_are_read(tmp_path, state):
    path = tmp_path / "a.pth"
    save(path, wrap(state, "model"), _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in content or old in content
    path.write_bytes(content.replace(new, old))
    import_segmenter(path, tmp_path / "out.safetensors", name="resunetpp")


def test_a_file_with_more_than_tensors_and_numbers_is_not_opened(tmp_path, state, capsys):
    class Runs:
        def __reduce__(self):
            return print, ("code of the file",)

    path = save(tmp_path / "a.pth", {**wrap(state, "model"), "args": Runs()})
    with pytest.raises(WeightsError, match="more than plain tensors"):
        import_segmenter(path, name="resunetpp")
    assert "code of the file" not in capsys.readouterr().out


def test_missing_and_extra_keys_are_listed(tmp_path, state):
    del state["norm.bias"]
    state["head.weight"] = torch.zeros(1)
    path = save(tmp_path / "a.th", state)
    with pytest.raises(WeightsError) as refused:
        import_segmenter(path, name="resunetpp")
    assert "1 missing (norm.bias)" in str(refused.value)
    assert "1 extra (head.weight)" in str(refused.value)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_file_of_another_model_is_refused(tmp_path, state):
    path = save(tmp_path / "a.th", state)
    with pytest.raises(WeightsError, match="keys of another network"):
        import_segmenter(path, name="pfanet")
    weights = import_segmenter(path, name="resunetpp")
    with pytest.raises(WeightsError, match="weights of resunetpp, not of pfanet"):
        load_segmenter(weights, name="pfanet", device="cpu")


def test_weights_of_a_refiner_are_refused(bpr_weights):
    with pytest.raises(WeightsError, match="weights of bpr, not of a base model"):
        load_segmenter(bpr_weights, device="cpu")


def test_unknown_models_are_refused(tmp_path, state):
    path = save(tmp_path / "a.th", state)
    for call in (import_segmenter, load_segmenter):
        with pytest.raises(UsageError, match="known: dlinknet34"):
            call(path, name="unet")
