"""The base models of PatchRefineNet against the originals' own outputs."""

import re

import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures, state_dict_by_rule, tolerance_number

from maskhone.segmenters import dlinknet, pfanet, resunetpp
from maskhone.segmenters.catalogue import build_network
from maskhone.segmenters.squares import make_square_truth

PATTERN = "base_*"
STAGES = {"spa": "spa_att", "cha": "cha_att"}  # names in the fixtures that are not ours
SCALARS = ("prob", "logit", "ca_act_reg")


pytestmark = pytest.mark.usefixtures("one_thread")


def pcg(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def make_network(fixture: Fixture) -> torch.nn.Module:
    """Builds the network that a fixture is named after and fills it by the weight rule."""
    network = build_network(str(fixture).split("_")[1]).eval()
    listed = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    weights = fixture.manifest["weights"]
    state = state_dict_by_rule(listed, {})
    for key, value in state.items():
        if value.ndim >= 2:
            extra = np.float32(weights.get("overrides", {}).get(key, 1))
            state[key] = value * (np.float32(weights["factor"]) * extra)
        if key in weights.get("shift", {}):
            state[key] = state[key] + np.float32(weights["shift"][key])
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return network


def find_stage(network: torch.nn.Module, name: str) -> torch.nn.Module:
    """Finds the module whose output a fixture stores."""
    name = re.sub(r"^cpfe(\d)$", r"cpfe_conv\1_3", STAGES.get(name, name))
    return network.get_submodule(name)


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", PATTERN))
def test_keys_are_the_published_ones_in_their_order(fixture: Fixture) -> None:
    with torch.device("meta"):
        network = build_network(str(fixture).split("_")[1])
    made = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]
    assert made == fixture.manifest["state_dict"]
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == fixture.manifest["n_params"]


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", PATTERN))
def test_every_stored_stage_is_the_published_one(fixture: Fixture) -> None:
    manifest, outputs = fixture.manifest, fixture.outputs
    assert set(outputs) == set(manifest["outputs"])
    network = make_network(fixture)
    made: dict[str, torch.Tensor] = {}
    for name in set(outputs) - set(SCALARS):
        stage = find_stage(network, name)
        stage.register_forward_hook(lambda _m, _i, out, name=name: made.update({name: out}))
    given = manifest["input"]
    assert "standard_normal" in given["rule"]
    inputs = pcg(given["seed"]).standard_normal(given["shape"]).astype(np.float32)
    with torch.inference_mode():
        found = network(torch.from_numpy(inputs))
    if isinstance(found, tuple):
        found, made["ca_act_reg"] = found
    made |= {"logit": found, "prob": found.sigmoid()}
    tolerance = tolerance_number(manifest["tolerance"].split("<=")[1])
    for name, expected in outputs.items():
        value = made[name].numpy()
        if name == "ca_act_reg":
            value = value.reshape(expected.shape)
        elif value.shape[1] == 1:  # one map that the original repeats for all channels
            value = np.broadcast_to(value, expected.shape)
        else:
            value = value[:, :: value.shape[1] // expected.shape[1]]
        np.testing.assert_allclose(
            value, expected, atol=tolerance, rtol=tolerance, err_msg=f"{fixture} {name}"
        )


def unpack(bits: np.ndarray, side_px: int) -> np.ndarray:
    return np.unpackbits(bits, count=side_px**2).reshape(1, side_px, side_px).astype(bool)


def draw_pairs(manifest: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws two pictures (RGB; the fixture's arrays are BGR) and their masks in [0, 1]."""
    generator, sizes = pcg(manifest["seed"]), manifest["sizes"]
    pairs = []
    for h, w in ((sizes["H"], sizes["W"]), (sizes["h2"], sizes["w2"])):
        image = generator.integers(0, 256, (h, w, 3), dtype=np.uint8)
        mask = generator.integers(0, 256, (h, w), dtype=np.uint8)
        pairs.append((image[..., ::-1], mask.astype(np.float32) / 255))
    return pairs


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "preprocess*"))
def test_pictures_and_masks_are_prepared_as_published(fixture: Fixture) -> None:
    manifest, outputs = fixture.manifest, fixture.outputs
    (image, mask), (image2, mask2) = draw_pairs(manifest)
    soft = pfanet.prepare_mask(mask2)
    binary = make_square_truth(mask, dlinknet.SIDE_PX) > 0
    doubled = pfanet.double_pixels(soft) > 0.5
    pictures = {
        "deepglobe_img_s16": dlinknet.prepare_image(image)[:, 5::16, 5::16],
        "kvasir_img_s16": resunetpp.prepare_image(image)[:, 5::16, 5::16],
        "duts_img_s8": pfanet.prepare_image(image2)[:, 3::8, 3::8],
        "duts_mask_s4": soft[:, 1::4, 1::4],
    }
    masks = {
        "deepglobe_mask_packed": binary,
        "kvasir_mask_packed": binary,
        "duts_mask512_packed": doubled,
    }
    assert set(outputs) == set(pictures) | set(masks) == set(manifest["outputs"])
    tolerance, share = (
        tolerance_number(part) for part in manifest["tolerance"].split(";")
    )  # "2e-5; masks: allow 0.1% pixels ..."
    for name, made in pictures.items():
        np.testing.assert_allclose(made, outputs[name], atol=tolerance, err_msg=name)
    for name, made in masks.items():
        differs = made != unpack(outputs[name], made.shape[-1])
        assert differs.mean() <= share, name
