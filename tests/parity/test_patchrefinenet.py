"""PatchRefineNet against the original's own outputs."""

import re

import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures, state_dict_by_rule, tolerance_number

from maskhone.methods.prn.loss import region_loss, total_loss
from maskhone.methods.prn.merge import merge_branches
from maskhone.methods.prn.network import (
    PRN,
    SPECS,
    AttentionGate,
    Decoder,
    Encoder,
    PRNSpec,
    PyramidPooling,
    Recurrent,
    RecurrentResidual,
    Upsample,
)
from maskhone.methods.prn.thresholds import find_image_threshold, find_thresholds
from maskhone.nn.losses import edges_of, truth_loss


def pcg(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def make_maps(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes the probability maps and truths of the threshold fixture."""
    scores, truths = [], []
    for i in range(n):
        g = pcg(seed + i)
        low = np.kron(g.random((32, 32)), np.ones((16, 16)))
        truth = (0.6 * low + 0.4 * g.random((512, 512)) > 0.55).astype(float)
        bias = np.kron(g.uniform(-0.35, 0.35, (8, 8)), np.ones((64, 64)))
        p = 0.35 * low + 0.2 * g.random((512, 512)) + 0.3 * truth + bias
        truth[0:64, 0:128] = 0
        p[64:128, 0:64] = 0.04
        p[128:192, 0:64] = 0.99
        truth[128:192, 0:64] = 1
        p[192:256, 0:64] = 1.0
        p[256:320, 0:64] = np.where(truth[256:320, 0:64], 0.5, 0.45)
        truth[448:, 448:] = 0
        p[448:, 448:] = 0.0
        scores.append(np.clip(p, 0, 1).astype(np.float32))
        truths.append(truth > 0)
    return np.stack(scores), np.stack(truths)


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def smoothed_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return ((mask & truth).sum() + 1) / ((mask | truth).sum() + 1)


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "optimal_thresholds*"))
def test_patch_thresholds_are_the_published_ones(fixture: Fixture) -> None:
    outputs, given = fixture.outputs, fixture.manifest["input"]
    tolerance = tolerance_number(fixture.manifest["tolerance"].split("IoU")[1])
    scores, truths = make_maps(given["seed"], given["n"])
    np.testing.assert_allclose(
        [scores.sum(dtype=np.float64), truths.sum()], outputs["input_checksum"], rtol=1e-9
    )
    sides = [int(k[1:].split("_")[0]) for k in outputs if k.endswith("_threshold") and k[0] == "p"]
    assert sides
    for side in sides:
        labels = unpack(outputs[f"p{side}_label_packed"], scores.shape)
        for i, (score, truth) in enumerate(zip(scores, truths, strict=True)):
            found = find_thresholds(score, truth, side)
            np.testing.assert_array_equal(
                found.thresholds.ravel(), outputs[f"p{side}_threshold"][i]
            )
            np.testing.assert_array_equal(found.labels, labels[i])
            iou = smoothed_iou(found.labels, truth)
            assert iou == pytest.approx(outputs[f"p{side}_image_iou"][i], abs=tolerance)
            curve = outputs.get(f"p{side}_iou_curve_image{i}")
            if curve is not None:
                np.testing.assert_allclose(found.curves.reshape(curve.shape), curve, atol=tolerance)


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "optimal_thresholds*"))
def test_image_thresholds_are_the_published_ones(fixture: Fixture) -> None:
    outputs, given = fixture.outputs, fixture.manifest["input"]
    scores, truths = make_maps(given["seed"], given["n"])
    labels = unpack(outputs["ist_label_packed"], scores.shape)
    for i, (score, truth) in enumerate(zip(scores, truths, strict=True)):
        threshold, iou = find_image_threshold(score, truth)
        assert threshold == outputs["ist_threshold"][i]
        assert iou == pytest.approx(outputs["ist_iou"][i], abs=1e-6)
        np.testing.assert_array_equal(score > threshold, labels[i])


def make_state(module: torch.nn.Module, weights: dict, entries: list | None = None) -> None:
    """Fills a module by the weight rule, scaled and shifted as a manifest says."""
    listed = [(key, tuple(value.shape)) for key, value in module.state_dict().items()]
    if entries is not None:
        assert listed == [(key, tuple(shape)) for key, shape, _ in entries]
    state = state_dict_by_rule(listed, {})
    for key, value in state.items():
        if value.ndim >= 2:
            factor = np.float32(weights["factor"]) * np.float32(
                weights.get("overrides", {}).get(key, 1)
            )
            state[key] = (value * factor).astype(np.float32)
        if key in weights.get("shift", {}):
            state[key] = (state[key] + np.float32(weights["shift"][key])).astype(np.float32)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})


def make_input(given: dict) -> torch.Tensor:
    """Makes the probability maps of the network fixtures."""
    n, _, h, w = given["shape"]
    g = pcg(given["seed"])
    low = g.random((n, 1, -(-h // 32), -(-w // 32)))
    fine = g.random((n, 1, h, w))
    coarse = np.kron(low, np.ones((1, 1, 32, 32)))[..., :h, :w]
    return torch.from_numpy((0.7 * coarse + 0.3 * fine).astype(np.float32))


def find_spec(fixture: Fixture) -> PRNSpec:
    """Finds the network that a fixture is about: its name holds p64, p4 or p0."""
    (name,) = [part for part in str(fixture).split("_") if part in SPECS]
    return SPECS[name]


def assert_near(made: np.ndarray, expected: np.ndarray, tolerance: float, name: str) -> None:
    np.testing.assert_allclose(made, expected, atol=tolerance, rtol=tolerance, err_msg=name)


def view(logits: torch.Tensor, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Shows a map as the fixtures store it."""
    array = (logits if "logit" in name else logits.sigmoid()).numpy()
    if name.endswith("_s8"):
        return array[..., 3::8, 3::8]
    if name.endswith("patchmean"):
        cells = shape[-1]
        side = array.shape[-1] // cells
        return array.reshape(*array.shape[:2], cells, side, cells, side).mean(axis=(3, 5))
    if name.endswith("row7_crop"):
        return array[:1, :1, 384:448, 0:64]
    if name.endswith("global_crop"):
        return array[:1, :1, 240:272, 240:272]
    return array


def check_maps(fixture: Fixture, maps: dict[str, torch.Tensor], tolerance: float) -> set[str]:
    """Compares every stored view of the maps; returns the names seen."""
    seen = set()
    for name, expected in fixture.outputs.items():
        branch = "local" if name.startswith("local") else "global"
        if "corrected" in name:
            branch = "corrected"
        is_view = name.startswith(("global", "local", "prob", "logit"))
        if is_view and branch in maps:
            made = view(maps[branch], name, expected.shape)
            assert_near(made, expected, tolerance, name)
            seen.add(name)
    return seen


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "prn_p*_eval"))
def test_the_networks_give_the_published_maps(fixture: Fixture) -> None:
    manifest, spec = fixture.manifest, find_spec(fixture)
    network = PRN(spec).eval()
    make_state(network, manifest["weights"], manifest["state_dict"])
    tolerance = tolerance_number(manifest["tolerance"].split("<=")[1])
    scores = make_input(manifest["input"])
    with torch.inference_mode():
        whole, local = network(scores, has_row_quirk=True)
        maps = {"global": whole}
        if local is not None:
            maps["local"] = local
            maps["corrected"] = network(scores)[1]
    assert check_maps(fixture, maps, tolerance)
    if "final_mask_packed" in fixture.outputs:
        merged = merge_branches(whole.sigmoid().numpy(), local.sigmoid().numpy())
        expected = unpack(fixture.outputs["final_mask_packed"], merged.shape)
        np.testing.assert_array_equal(merged, expected)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "prn_p*_batchstat"))
def test_batch_statistics_are_those_of_each_cell(fixture: Fixture) -> None:
    manifest, outputs = fixture.manifest, fixture.outputs
    network = PRN(find_spec(fixture)).train()
    make_state(network, manifest["weights"])
    tolerance = tolerance_number(manifest["tolerance"])
    with torch.no_grad():
        whole, local = network(make_input(manifest["input"]), has_row_quirk=True)
    assert check_maps(fixture, {"global": whole, "local": local}, tolerance)
    state = network.state_dict()
    for kind in ("running_mean", "running_var"):
        made = [state[key.replace("running_mean", kind)].mean() for key in manifest["bn_keys"]]
        assert_near(np.array(made), outputs[f"{kind}_avg"], tolerance, kind)
    counts = [
        int(state[key.replace("running_mean", "num_batches_tracked")])
        for key in manifest["bn_keys"]
    ]
    np.testing.assert_array_equal(counts, outputs["num_batches_tracked"])


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "postprocess*"))
def test_branches_are_merged_as_published(fixture: Fixture) -> None:
    outputs, values = fixture.outputs, fixture.manifest["values"]
    merged = merge_branches(outputs["global"], outputs["local"])
    expected = outputs["final_mask"].transpose(0, 3, 1, 2) > 0
    np.testing.assert_array_equal(merged, expected)
    truth = outputs["gt"].transpose(0, 3, 1, 2) > 0
    iou = ((merged & truth).sum() + 1) / ((merged | truth).sum() + 1)
    assert iou == pytest.approx(values["iou_final"], abs=1e-6)


def make_block(name: str, entries: list) -> torch.nn.Module:
    """Builds a block with the channels that its state dict has."""
    shapes = {key: tuple(shape) for key, shape, _ in entries}
    if name == "rrcnn":
        out, given = shapes["Conv_1x1.weight"][:2]
        return RecurrentResidual(given, out)
    if name == "residual":
        return Recurrent(shapes["conv.0.weight"][0])
    if name == "attention":
        inner, gate = shapes["W_g.0.weight"][:2]
        return AttentionGate(gate, shapes["W_x.0.weight"][1], inner)
    if name == "psp":
        return PyramidPooling(shapes["stages.0.1.weight"][0], shapes["bottleneck.weight"][0])
    if name == "up_conv":
        out, given = shapes["up.1.weight"][:2]
        return Upsample(given, out)
    return Encoder() if name == "encoder" else Decoder(shapes["Up.up.1.weight"][1])


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "prn_modules*"))
def test_blocks_give_the_published_features(fixture: Fixture) -> None:
    manifest, outputs = fixture.manifest, fixture.outputs
    tolerance = tolerance_number(manifest["tolerance"].split("<=")[1])
    generator = pcg(manifest["seed"])
    for name, given in manifest["modules"].items():
        module = make_block(name, given["state_dict"]).eval()
        make_state(module, given, given["state_dict"])
        draw = generator.random if "uniform" in given["desc"] else generator.standard_normal
        inputs = [torch.from_numpy(draw(shape).astype(np.float32)) for shape in given["inputs"]]
        with torch.inference_mode():
            found = module(*inputs)
        for i, made in enumerate(found if isinstance(found, list) else [found]):
            expected = outputs[f"{name}_{i}"]
            stride = made.shape[1] // expected.shape[1]
            assert_near(made.numpy()[:, ::stride], expected, tolerance, f"{name}_{i}")


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "losses*"))
def test_losses_are_those_that_were_meant(fixture: Fixture) -> None:
    outputs, values = fixture.outputs, fixture.manifest["values"]
    y1, y2 = (torch.from_numpy(outputs[k]) for k in ("y1", "y2"))
    tolerance = tolerance_number(fixture.manifest["tolerance"])

    def check(name: str, compute) -> None:
        pg, pl = (torch.from_numpy(outputs[k]).requires_grad_() for k in ("pg", "pl"))
        loss = compute(pg, pl)
        assert loss.item() == pytest.approx(values[name], rel=tolerance), name
        loss.backward()
        for key, tensor in (("pg", pg), ("pl", pl)):
            expected = outputs.get(f"{name}_grad_{key}")
            if expected is not None:
                limit = tolerance * np.abs(expected).max()
                np.testing.assert_allclose(tensor.grad, expected, atol=limit, err_msg=name)

    check("region_intended", lambda pg, pl: region_loss(pg, y1))
    check("reg_intended", lambda pg, pl: truth_loss(pg, y2))
    check("total_two_branch_intended", lambda pg, pl: total_loss([pg, pl], y1, y2))
    check("total_p0_intended", lambda pg, pl: total_loss([pg], y1, y2))
    for name, mask in (("edge_of_y1", y1), ("edge_of_pg", torch.from_numpy(outputs["pg"]))):
        np.testing.assert_allclose(edges_of(mask), outputs[name], atol=1e-5)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "prn_train_step*"))
def test_one_training_step_is_the_meant_one(fixture: Fixture) -> None:
    manifest, outputs = fixture.manifest, fixture.outputs
    network = PRN(SPECS["p0"]).train()
    make_state(network, manifest["weights"])
    names = [name for name, _ in network.named_parameters()]
    assert names == manifest["param_names"]
    said = re.search(r"lr ([\d.e-]+)", manifest["what"])
    optimizer = torch.optim.Adam(network.parameters(), lr=float(said[1]))
    y1, y2 = (torch.from_numpy(outputs[k].astype(np.float32)) for k in ("y1", "y2"))
    probability = network(make_input(manifest["input"]))[0].sigmoid()
    losses = [region_loss(probability, y1), truth_loss(probability, y2)]
    losses.append(total_loss([probability], y1, y2))
    made = [loss.item() for loss in losses]
    rel, grad_rel, after = (float(n) for n in re.findall(r"\d+e-\d+", manifest["tolerance"]))
    np.testing.assert_allclose(made, outputs["loss"], rtol=rel)
    losses[-1].backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    norms = np.array([gradients[name].norm().item() for name in names])
    noise = np.finfo(np.float32).eps * norms.max()  # biases before a norm have no gradient but this
    np.testing.assert_allclose(norms, outputs["grad_norm"], rtol=grad_rel, atol=noise)
    optimizer.step()
    parameters = dict(network.named_parameters())
    for key, expected in outputs.items():
        if key.startswith("after16__"):
            name = key.removeprefix("after16__")
            is_clear = np.abs(outputs[f"grad16__{name}"]) > 1e-6
            moved = parameters[name].detach().flatten()[: len(expected)].numpy()
            np.testing.assert_allclose(moved[is_clear], expected[is_clear], atol=after)
    state = network.state_dict()
    for kind in ("running_var", "running_mean"):
        keys = [key.replace("running_var", kind) for key in manifest["bn_keys"]]
        averages = [state[key].mean().item() for key in keys]
        np.testing.assert_allclose(averages, outputs[f"{kind}_avg"], rtol=1e-4, atol=1e-5)
