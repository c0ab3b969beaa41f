import numpy as np
import pytest
import torch

from maskhone.engine.weights import read_header
from maskhone.errors import UsageError, WeightsError
from maskhone.pipelines.segmenters import (
    export_class_model,
    import_class_model,
    load_class_model,
    load_class_segmenter,
)
from maskhone.pipelines.weights import list_importable
from maskhone.segmenters.aliases import add_aliases
from maskhone.segmenters.class_models import ClassModel

MODELS = {
    "classifier": ClassModel(kind="classifier", architecture="efficientnet_lite0", num_classes=2),
    "deeplabv3plus": ClassModel(
        kind="deeplabv3plus",
        architecture="efficientnet_lite0",
        num_classes=3,
        uses_group_norm=False,
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def network(kind):
    torch.manual_seed(0)
    return MODELS[kind].build().eval()


def save(path, state):
    torch.save(state, path)
    return path


def test_a_checkpoint_is_imported_and_scores_as_before(tmp_path, kind, network):
    path = import_class_model(save(tmp_path / "a.pth", network.state_dict()), name=kind)
    assert path == tmp_path / f"{kind}.safetensors"
    config = read_header(path)["config"]
    assert ClassModel(kind=kind, **config) == MODELS[kind]
    loaded = load_class_model(path, name=kind, device="cpu")
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    x = torch.randn(1, 3, 32, 40)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), network(x), rtol=0, atol=0)
    segmenter = load_class_segmenter(path, device="cpu", dtype="fp32")
    scores = segmenter.segment(np.zeros((9, 12, 3), np.uint8))
    assert scores.shape == (MODELS[kind].num_classes, 9, 12)


def test_second_names_are_accounted_for(tmp_path):
    """On a ResNet, whose published files have them."""
    model = ClassModel(kind="classifier", architecture="resnet50", num_classes=1)
    torch.manual_seed(0)
    state = add_aliases(model.build().state_dict())
    weights = import_class_model(save(tmp_path / "a.pth", state), name="classifier")
    again = export_class_model(weights, tmp_path / "b.pth")
    exported = torch.load(again, weights_only=True)
    assert list(exported) == list(state)
    assert all(torch.equal(exported[key], value) for key, value in state.items())
    state["stage5.0.2.bn3.bias"] = state["stage5.0.2.bn3.bias"] + 1
    with pytest.raises(WeightsError, match=r"stage5\.0\.2\.bn3\.bias and model\.layer4\.2"):
        import_class_model(save(tmp_path / "a.pth", state), name="classifier")


def test_weights_of_the_other_kind_and_of_other_networks_are_refused(
    tmp_path, kind, network, bpr_weights
):
    other = next(name for name in MODELS if name != kind)
    path = save(tmp_path / "a.pth", network.state_dict())
    with pytest.raises(WeightsError, match=f"weights of {kind}, not of {other}"):
        import_class_model(path, name=other)
    weights = import_class_model(path, name=kind)
    with pytest.raises(WeightsError, match=f"weights of {kind}, not of {other}"):
        load_class_model(weights, name=other)
    with pytest.raises(WeightsError, match="weights of bpr, not of one of classifier"):
        load_class_model(bpr_weights)
    with pytest.raises(WeightsError, match="neither a classifier nor a DeepLabv3"):
        import_class_model(save(tmp_path / "b.pth", {"a": torch.zeros(1)}), name=kind)


def test_missing_and_extra_tensors_are_listed(tmp_path, kind, network):
    state = network.state_dict()
    state.pop("model._bn0.bias")
    state["model.more"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"1 missing \(model\._bn0\.bias\); 1 extra"):
        import_class_model(save(tmp_path / "a.pth", state), name=kind)
    assert not list(tmp_path.glob("*.safetensors"))


def test_unknown_names_are_answered_with_the_known(tmp_path):
    for call in (import_class_model, load_class_model):
        with pytest.raises(UsageError, match="known: classifier, deeplabv3plus"):
            call(tmp_path / "a.pth", name="unet")


def test_the_command_imports_by_file_name_and_by_name(run_cli, tmp_path, kind, network):
    options = ["--name", kind]
    file = "a.pth"
    if kind == "classifier":
        file, options = "ResNeSt101@Puzzle@optimal.pth", []
    save(tmp_path / file, network.state_dict())
    assert run_cli("weights", "import", tmp_path / file, *options).code == 0
    assert read_header(tmp_path / f"{kind}.safetensors")["method"] == kind


def test_the_listed_commands_say_what_the_file_does_not_tell():
    listed = list_importable()
    assert listed["classifier"].endswith("ResNeSt101@Puzzle@optimal.pth")
    assert listed["deeplabv3plus"].endswith("FILE.pth --name deeplabv3plus")
