import pytest
import torch

from maskhone.engine.weights import read_header
from maskhone.pipelines.weights import list_importable
from maskhone.segmenters import catalogue
from maskhone.segmenters.catalogue import SEGMENTERS


class Small(torch.nn.Linear):
    """Stands in for a base model."""

    def __init__(self):
        super().__init__(2, 1)


@pytest.fixture
def state(monkeypatch):
    model = SEGMENTERS["dlinknet34"]
    monkeypatch.setitem(
        SEGMENTERS, "dlinknet34", catalogue.BaseModel(**{**vars(model), "build": Small})
    )
    return Small().state_dict()


@pytest.mark.parametrize(
    ("file", "options"),
    [("dlinknet_weights.th", []), ("a.th", ["--name", "dlinknet34"])],
    ids=["by its file name", "by name"],
)
def test_base_models_are_imported_by_the_same_command(run_cli, tmp_path, state, file, options):
    torch.save(state, tmp_path / file)
    assert run_cli("weights", "import", tmp_path / file, *options).code == 0
    assert read_header(tmp_path / "dlinknet34.safetensors")["method"] == "dlinknet34"


@pytest.mark.parametrize("options", [[], ["--name", "nope"]], ids=["file", "name"])
def test_what_is_not_known_is_answered_with_what_is(run_cli, tmp_path, state, options):
    torch.save(state, tmp_path / "a.th")
    said = run_cli("weights", "import", tmp_path / "a.th", *options)
    assert said.code == 2
    for word in ("--name", "pfanet", "segrefiner_lr", "prn_p64.duts"):
        assert word in said.err


def test_the_listed_commands_name_what_the_file_does_not_tell():
    listed = list_importable()
    assert listed["prn_p64.duts"].endswith("p64_weights.th --name prn_p64.duts")
    assert listed["dlinknet34"].endswith("dlinknet_weights.th")
    assert "--name" not in listed["segrefiner_lr"]
