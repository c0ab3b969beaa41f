"""Classifier, DeepLabv3+ and their inference against the original (spec perimeterfit.md, 1-2, 8).

A network's weights are drawn by the rule on our names; the published second names share them.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.golden import ROOT, Fixture, find_fixtures, tolerance_number, weight_by_rule

from maskhone.nn.backbones import ARCHITECTURES, run_backbone
from maskhone.ops.dense_crf import SOFTMAX_PARAMETERS, infer, unary_from_probabilities
from maskhone.segmenters.aliases import add_aliases, find_first_name, remove_aliases
from maskhone.segmenters.class_models import ClassModel, describe_tensors
from maskhone.segmenters.classifier import Classifier, make_cams
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus, predict_scores

VOC_CLASSES = 21  # with the background
TORCH_TYPES = {"float32": torch.float32, "int64": torch.int64}


def draw_state(fixture: Fixture) -> dict[str, torch.Tensor]:
    """Draws every key of the published layout, second names as their first."""
    drawn: dict[str, torch.Tensor] = {}
    state = {}
    for key, shape, dtype in fixture.manifest["state_dict"]:
        first = find_first_by_manifest(key, fixture.manifest["aliases"]["prefix"])
        if first not in drawn:
            drawn[first] = draw_tensor(first, tuple(shape), fixture.manifest["weights"])
        assert drawn[first].dtype == TORCH_TYPES[dtype]
        state[key] = drawn[first]
    return state


def draw_tensor(key: str, shape: tuple[int, ...], rule: str) -> torch.Tensor:
    """Draws one tensor by the common rule, damped as the manifest says."""
    multiplied = re.search(r"every key ending in '([^']+)' is multiplied by ([\d.]+)", rule)
    assert multiplied, f"no damping in {rule!r}"
    value = weight_by_rule(key, shape)
    if key.endswith(multiplied[1]):
        value = (value * np.float32(multiplied[2])).astype(value.dtype)
    return torch.from_numpy(value)


def find_first_by_manifest(key: str, prefixes: dict[str, str]) -> str:
    """Follows the manifest's own table, which needs two steps for some names."""
    for published, canonical in prefixes.items():
        if key.startswith(f"{published}."):
            return find_first_by_manifest(canonical + key.removeprefix(published), prefixes)
    return key


def draw_input(fixture: Fixture) -> torch.Tensor:
    found = re.search(r"PCG64\((\d+)\)\s+standard_normal\(([\d, ]+)\)", fixture.manifest["input"])
    assert found, fixture.manifest["input"]
    shape = tuple(int(part) for part in found[2].split(","))
    generator = np.random.Generator(np.random.PCG64(int(found[1])))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def find_architecture(text: str) -> str:
    """Reads the architecture from a fixture's name or description."""
    named = [name for name in ARCHITECTURES if re.search(rf"(?<![a-z0-9]){name}(?![0-9])", text)]
    assert len(named) == 1, text
    return named[0]


@lru_cache(2)
def load_network(path: Any) -> Classifier | DeepLabV3Plus:
    """Makes the network of a fixture with its drawn weights."""
    fixture = Fixture(path)
    state = draw_state(fixture)
    kept = remove_aliases(state, source=str(fixture))
    network = describe_tensors(kept, source=str(fixture)).build()
    network.load_state_dict(kept)
    return network.eval()


def close(fixture: Fixture, ours: torch.Tensor, name: str) -> None:
    tolerance = fixture.manifest["tolerance"]
    np.testing.assert_allclose(ours.numpy(), fixture.outputs[name], **tolerance, err_msg=name)


def thin_out(stage: torch.Tensor, level: int) -> torch.Tensor:
    """Keeps what `what` of the manifests says is stored of a stage."""
    step = 8 if level == 1 else 16
    pixels = 2 if level <= 2 else 1
    return stage[:, ::step, ::pixels, ::pixels]


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "classifier_*"))
def test_stages_logits_and_maps_are_those_of_the_original(fixture: Fixture) -> None:
    network = load_network(fixture.path)
    assert isinstance(network, Classifier)
    assert network.architecture == find_architecture(str(fixture))
    x = draw_input(fixture)
    with torch.inference_mode():
        stages = run_backbone(network.model, x)
        logits, maps = network.find_maps(x)
        plain = network(x)
    ours = {f"stage{i}_sub": thin_out(stage, i) for i, stage in enumerate(stages, start=1)}
    ours |= {"logits": logits, "features": maps, "logits_plain": plain}
    assert ours.keys() == fixture.outputs.keys()
    for name, value in ours.items():
        close(fixture, value, name)


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "deeplab_*"))
def test_pyramid_decoder_and_logits_are_those_of_the_original(fixture: Fixture) -> None:
    network = load_network(fixture.path)
    assert isinstance(network, DeepLabV3Plus)
    assert network.architecture == find_architecture(str(fixture))
    x = draw_input(fixture)
    with torch.inference_mode():
        _, low, *_, high = run_backbone(network.model, x)
        pyramid = network.aspp(high)
        decoded = network.decoder(pyramid, low)
        logits = network(x)
    ours = {
        "aspp_sub": pyramid[:, ::8],
        "decoder": decoded,
        "logits_sub": logits[:, :, ::2, ::2],
        "logits": logits,
    }
    stored = fixture.outputs.keys() - {"argmax"}
    assert stored <= ours.keys()
    for name in stored:
        close(fixture, ours[name], name)
    same = (logits.argmax(dim=1).numpy() == fixture.outputs["argmax"]).mean()
    assert same >= 0.999  # two logits within the tolerance of each other may change places


NETWORKS = [
    *find_fixtures("perimeterfit", "classifier_*"),
    *find_fixtures("perimeterfit", "deeplab_*"),
]


@pytest.mark.parametrize("fixture", NETWORKS)
def test_our_names_and_their_second_names_are_the_published_layout(fixture: Fixture) -> None:
    layout = [(key, tuple(shape)) for key, shape, _ in fixture.manifest["state_dict"]]
    with torch.device("meta"):
        published = {key: torch.empty(shape) for key, shape in layout}
        network = describe_tensors(published, source=str(fixture)).build()
    with_all_names = add_aliases(network.state_dict())
    assert [(key, tuple(value.shape)) for key, value in with_all_names.items()] == layout
    for key, _ in layout:
        first = find_first_by_manifest(key, fixture.manifest["aliases"]["prefix"])
        assert (find_first_name(key) or key) == first


def list_pictures(fixture: Fixture) -> list[str]:
    found = [key.removesuffix("_image") for key in fixture.outputs if key.endswith("_image")]
    assert found
    return found


def load_named_network(fixture: Fixture, num_classes: int) -> Classifier | DeepLabV3Plus:
    """Makes the network of the folder whose state dict the fixture says it uses.

    That folder may be absent from a set; its name then tells what to build.
    """
    named = re.search(r"State dict as in fixture (\w+)", fixture.manifest["weights"])
    assert named, fixture.manifest["weights"]
    folder = ROOT / "perimeterfit" / named[1]
    if folder.is_dir():
        return load_network(folder)
    kind = "classifier" if named[1].startswith("classifier") else "deeplabv3plus"
    network = ClassModel(
        kind=kind,
        architecture=find_architecture(named[1]),
        num_classes=num_classes,
        uses_group_norm=named[1].endswith("_gn"),
    ).build()
    network.load_state_dict(
        {
            key: draw_tensor(key, tuple(value.shape), fixture.manifest["weights"])
            for key, value in network.state_dict().items()
        }
    )
    return network.eval()


def find_scales(fixture: Fixture) -> tuple[float, ...]:
    found = re.search(r"scales ([\d.]+(?:,[\d.]+)*)", fixture.manifest["what"])
    assert found, fixture.manifest["what"]
    return tuple(float(part) for part in found[1].rstrip(",").split(","))


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "cam_inference*"))
def test_class_maps_are_those_of_the_original(fixture: Fixture) -> None:
    labels = [value for key, value in fixture.outputs.items() if key.endswith("_label")]
    network = load_named_network(fixture, len(labels[0]))
    assert isinstance(network, Classifier)
    checked = set()
    for name in list_pictures(fixture):
        stored = {k: v for k, v in fixture.outputs.items() if k.startswith(f"{name}_")}
        cams = make_cams(
            network,
            stored[f"{name}_image"],
            np.flatnonzero(stored[f"{name}_label"]).tolist(),
            scales=find_scales(fixture),
        )
        np.testing.assert_array_equal(cams.keys, stored[f"{name}_keys"])
        atol = fixture.manifest["tolerance"]["atol"]
        for ours, key in ((cams.cam, f"{name}_cam"), (cams.hr_cam, f"{name}_hr_cam")):
            np.testing.assert_allclose(ours, stored[key], rtol=0, atol=atol, err_msg=key)
        checked |= {f"{name}_{part}" for part in ("image", "label", "keys", "cam", "hr_cam")}
    assert checked == fixture.outputs.keys()


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "seg_inference*"))
def test_label_maps_are_those_of_the_original(fixture: Fixture) -> None:
    network = load_named_network(fixture, VOC_CLASSES)
    least = tolerance_number(fixture.manifest["tolerance"])
    checked = set()
    for name in list_pictures(fixture):
        image = fixture.outputs[f"{name}_image"]
        scores = predict_scores(network, image, scales=find_scales(fixture))
        np.testing.assert_allclose(scores.sum(axis=0), 1, atol=1e-5)
        checked.add(f"{name}_image")
        for key in fixture.outputs:
            found = re.fullmatch(rf"{name}_pred_iter(\d+)", key)
            if found:
                ours = smooth(scores, image, iterations=int(found[1])).argmax(axis=0)
                assert (ours == fixture.outputs[key]).mean() >= least, key
                checked.add(key)
    assert checked == fixture.outputs.keys()


def smooth(scores: np.ndarray, image: np.ndarray, *, iterations: int) -> np.ndarray:
    if not iterations:
        return scores
    unary = unary_from_probabilities(scores)
    return infer(unary, image, parameters=SOFTMAX_PARAMETERS, iterations=iterations)
