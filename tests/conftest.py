"""Small pictures, masks, networks and folders that many tests share; all of them seeded."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch

from maskhone import cli
from maskhone.data.coco import to_rle
from maskhone.engine.weights import save_weights
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.network import HRNETS, BPRNetwork, initialise
from maskhone.methods.catalogue import METHODS
from maskhone.methods.prn.config import PRNConfig
from maskhone.methods.prn.network import PRN
from maskhone.methods.segrefiner.config import UNETS, SegRefinerConfig
from maskhone.methods.segrefiner.network import DenoisingUNet

HEIGHT, WIDTH = 40, 48
SEGREFINERS = {
    "segrefiner-lr": {"scope": "objects"},
    "segrefiner-hr": {"scope": "picture", "picks_nearest": True},
    "segrefiner-lite": {"scope": "picture", "surroundings": 0.25},
}
TINY = BPRConfig(network="hrnet18s", patch_px=16, input_px=32)


@pytest.fixture(scope="session")
def bpr_weights(tmp_path_factory):
    """A weight file of a BPR network that was never trained: it changes masks, but not well."""
    network = BPRNetwork(HRNETS[TINY.network])
    initialise(network, torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    header = {"name": "tiny", "method": "bpr", "licence": "none", "config": asdict(TINY)}
    return save_weights(path, network.state_dict(), header)


@pytest.fixture(scope="session")
def segrefiner_files(tmp_path_factory):
    """Weight files of a small SegRefiner network that was never trained, by method name."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = DenoisingUNet(UNETS["lite"]).state_dict()
    files = {}
    for name, ways in SEGREFINERS.items():
        config = SegRefinerConfig(network="lite", model_px=32, least_area_px=16, **ways)
        header = {"name": name, "method": "segrefiner", "licence": "none", "config": asdict(config)}
        files[name] = save_weights(folder / f"{name}.safetensors", state, header)
    return files


@pytest.fixture(scope="session")
def segrefiner_weights(segrefiner_files):
    """The weight file of the way of looking that most tests need: objects."""
    return segrefiner_files["segrefiner-lr"]


@pytest.fixture(scope="session")
def prn_weights(tmp_path_factory):
    """A weight file of a small PatchRefineNet that was never trained."""
    config = PRNConfig(network="grid", cells=2, width=4, map_px=32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = PRN(config.spec).state_dict()
    path = tmp_path_factory.mktemp("weights") / "tiny-prn.safetensors"
    header = {"name": "tiny", "method": "prn", "licence": "none", "config": asdict(config)}
    return save_weights(path, state, header)


@pytest.fixture(scope="session")
def weights_by_method(bpr_weights, segrefiner_files, prn_weights):
    """Weight files of the methods that have weights."""
    files = {"bpr": bpr_weights, "prn": prn_weights, **segrefiner_files}
    return {name: files[name] for name, method in METHODS.items() if method.uses_weights}


@pytest.fixture
def disc():
    """A disc of radius 10 px in the middle of a 40 x 48 mask."""
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return (rows - 20) ** 2 + (columns - 24) ** 2 <= 10**2


@pytest.fixture
def photo(disc):
    """A bright disc on a dark, noisy ground."""
    noise = np.random.default_rng(0).integers(0, 40, (HEIGHT, WIDTH, 3))
    return (noise + 200 * disc[..., None]).astype(np.uint8)


@pytest.fixture
def save_picture():
    """Saves an array as a picture; makes the folders."""

    def save(path, array, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(array).save(path, **options)
        return path

    return save


@pytest.fixture
def folders(tmp_path, photo, disc, save_picture):
    """Three pictures and their masks, shifted by 2 px, in folders: `images`, `masks`, `out`."""
    for name in "abc":
        save_picture(tmp_path / "images" / f"{name}.png", photo)
        coarse = np.roll(disc, 2, axis=1).astype(np.uint8) * 255
        save_picture(tmp_path / "masks" / f"{name}.png", coarse)
    return SimpleNamespace(
        images=tmp_path / "images", masks=tmp_path / "masks", out=tmp_path / "out"
    )


@pytest.fixture
def results(tmp_path, photo, disc, save_picture):
    """Two pictures and a COCO results list: run lengths of 2, a polygon and run lengths of 1."""
    for image_id in (1, 2):
        save_picture(tmp_path / "images" / f"{image_id}.png", photo)
    rle = to_rle(np.roll(disc, 2, axis=1))
    polygon = [[10, 10, 30, 10, 30, 30, 10, 30]]
    entries = [
        {"image_id": 2, "category_id": 5, "score": 0.25, "bbox": [1, 2, 3, 4], "segmentation": rle},
        {"image_id": 1, "id": 17, "score": 0.5, "note": "für", "segmentation": polygon},
        {"image_id": 1, "category_id": 7, "score": 0.125, "segmentation": rle},
    ]
    path = tmp_path / "coarse.json"
    path.write_text(json.dumps(entries))
    return SimpleNamespace(
        images=tmp_path / "images", masks=path, out=tmp_path / "out.json", entries=entries
    )


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Runs `maskhone ARGUMENTS` through its real door; returns its code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["maskhone", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code or 0, out=said.out, err=said.err)

    return run


@pytest.fixture
def list_files():
    """Lists the files below a folder, hidden ones too."""

    def list_below(folder: Path) -> list[str]:
        return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())

    return list_below


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A bright noisy square on a dark ground, its truth, and a mask that is 3 px too large."""
    random = np.random.default_rng(0)
    truth = np.zeros((64, 64), dtype=bool)
    truth[20:44, 20:44] = True
    image = np.where(truth[..., None], 200, 60) + random.integers(-9, 10, (64, 64, 3))
    coarse = np.zeros((1, 64, 64), dtype=np.float32)
    coarse[0, 17:47, 17:47] = 1.0
    return image.astype(np.uint8), truth, coarse
