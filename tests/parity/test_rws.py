"""RWS against the outputs of the original code, and of our reference where the manifest says so."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.parity.golden import ROOT, Fixture, find_fixtures, tolerance_number, weight_by_rule

from maskhone.data.voc import VOC_CLASSES
from maskhone.data.voc_class_lists import read_voc_class_list
from maskhone.methods.rws.attention import (
    WEIGHINGS,
    explain,
    find_gradients,
    find_missing_weights,
    find_raw_maps,
    find_smooth_heat_map,
    keep_inside,
    observe,
    resize_heat,
    scale_to_unit,
    tap_layers,
)
from maskhone.methods.rws.fusion import (
    MixingMaps,
    View,
    compare_heat,
    make_mixing_maps,
    make_published_maps,
    mix_into,
    plan_published_groups,
    sample_cells,
)
from maskhone.methods.rws.loss import published_rate_factor, segmentation_loss
from maskhone.methods.rws.pictures import draw_missing_weights, keep_foreground, overlay
from maskhone.methods.rws.slices import (
    SliceConfig,
    find_weak_slices,
    measure_coverage,
    plan_windows,
)
from maskhone.metrics.region import ClassScores
from maskhone.segmenters.deeplabv3 import DeepLabV3, prepare_image

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONE = "backbone.layer"
METHODS = {"gradcampp": "gradcam++"}


def pcg(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def draw_input(text: str) -> torch.Tensor:
    """Draws what a manifest describes as `... PCG64(seed) ... shape [..]`."""
    seed = int(re.search(r"PCG64\((\d+)\)", text)[1])
    shape = [int(n) for n in re.search(r"shape \[([\d, ]+)\]", text)[1].split(",")]
    if "uniform" in text:
        return torch.from_numpy(pcg(seed).random(shape).astype(np.float32))
    return torch.from_numpy(pcg(seed).standard_normal(shape).astype(np.float32))


def make_network(backbone: str, *, has_auxiliary: bool, num_classes: int = 21) -> DeepLabV3:
    with torch.device("meta"):
        network = DeepLabV3(backbone, num_classes, has_auxiliary=has_auxiliary)
    state = {
        k: torch.from_numpy(weight_by_rule(k, tuple(v.shape)))
        for k, v in network.state_dict().items()
    }
    network.load_state_dict(state, assign=True)
    return network.eval()


def close(ours: np.ndarray | torch.Tensor, stored: np.ndarray, tolerance: float, name: str) -> None:
    """Compares relative to the largest value of what is stored."""
    ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else ours
    atol = tolerance * max(float(np.abs(stored).max()), 1e-12)
    np.testing.assert_allclose(ours, stored, atol=atol, rtol=0, err_msg=name)


def take_channels(feature: torch.Tensor, stored: np.ndarray) -> torch.Tensor:
    return feature[:, :: feature.shape[1] // stored.shape[1]]


class Checklist:
    """Says which stored outputs no check has asked for."""

    def __init__(self, outputs: dict[str, np.ndarray]) -> None:
        self.outputs, self.left = outputs, set(outputs)

    def __getitem__(self, name: str) -> np.ndarray:
        self.left.discard(name)
        return self.outputs[name]

    def __contains__(self, name: str) -> bool:
        return name in self.outputs


@pytest.mark.parametrize("fixture", find_fixtures("rws", "deeplabv3_*"))
def test_deeplabv3_is_torchvisions(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    given = manifest["args"]
    network = make_network(
        re.search(r"resnet\d+", manifest["what"])[0],
        has_auxiliary=given["aux_head"],
        num_classes=given["num_classes"],
    )
    listed = [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]
    assert listed == manifest["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == manifest["n_params"]
    layers = [f"{BACKBONE}{i}" for i in (1, 2, 3, 4)] + ["classifier"]
    with torch.no_grad(), tap_layers(network, layers) as found:
        logits = network(draw_input(manifest["input"]))
    tolerance = tolerance_number(manifest["tolerance"].split("<=")[1])
    for key in list(stored.outputs):
        if key.startswith("feat_layer"):
            feature = found[BACKBONE + key.removeprefix("feat_layer")[0]]
            close(take_channels(feature, stored[key]), stored[key], tolerance, key)
    close(found["classifier"], stored["out_lowres"], tolerance, "out_lowres")
    for name in ("out", "aux"):
        if name in logits:
            close(logits[name][..., ::2, ::2], stored[f"{name}_stride2"], tolerance, name)
    agree = logits["out"].argmax(dim=1).numpy() == stored["argmax_out"]
    assert agree.mean() > 0.999  # ties within the tolerance may fall either way
    assert not stored.left


@pytest.mark.parametrize("fixture", find_fixtures("rws", "mix_forward*"))
def test_mixing_by_hooks_is_the_published_forward(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    network = make_network(re.search(r"resnet\d+", manifest["state_dict"])[0], has_auxiliary=True)
    inputs = draw_input(manifest["input"])
    tolerance = tolerance_number(manifest["tolerance"])
    layers = [f"{BACKBONE}{rule.split('layer')[1][0]}" for rule in manifest["n_rule"]]
    cells = []
    for n_rule, f_rule in zip(manifest["n_rule"], manifest["f_rule"], strict=True):
        n = draw_input(n_rule)
        f = draw_input(f_rule)[0] * float(f_rule.rpartition("times")[2])
        rows, columns = np.indices(n.shape).reshape(2, -1)
        places = torch.from_numpy(np.stack([np.ones_like(rows), rows, columns], axis=1))
        cells.append((places, n.reshape(-1), f.flatten(1).T))
    with torch.no_grad():
        plain = network(inputs)
        with mix_into(network, layers, cells) as found:
            mixed = network(inputs)
    close(plain["out"][..., ::2, ::2], stored["out_plain_stride2"], tolerance, "plain")
    for name in ("out", "aux"):
        close(mixed[name][..., ::2, ::2], stored[f"{name}_mixed_stride2"], tolerance, name)
    np.testing.assert_array_equal(mixed["out"][0], plain["out"][0])
    for name in layers:
        key = f"feat_{name.rpartition('.')[2]}_mixed"
        close(take_channels(found[name], stored[key]), stored[key], tolerance, key)
    assert not stored.left
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("fixture", find_fixtures("rws", "seg_grad_cam*"))
def test_heat_maps_are_the_published(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    depth = re.search(r"ResNet-?(\d+)", manifest["what"])[1]
    network = make_network(f"resnet{depth}", has_auxiliary=False)
    inputs = draw_input(manifest["input"])
    height, width = inputs.shape[-2:]
    on_maps, on_raw = (tolerance_number(part) for part in manifest["tolerance"].split(";"))
    layers = [f"layer{i}" for i in (1, 2, 3, 4)]
    names = [f"backbone.{layer}" for layer in layers]
    seen = observe(network, inputs, names)
    assert (seen.prediction == stored["pred"]).mean() > 0.999
    category = manifest["category"]
    mask = stored["pred"] == category
    whole, rectangle = np.ones_like(mask), np.zeros_like(mask)
    rectangle[height // 4 : height // 2, width // 4 : width // 2] = True

    def compare(key: str, ours: np.ndarray) -> None:
        np.testing.assert_allclose(ours, stored[key], atol=on_maps, rtol=0, err_msg=key)

    keys = [key for key in stored.outputs if re.fullmatch(r"[a-z]+_layer\d", key)]
    raws = find_raw_maps(seen, category, mask=mask)
    heats = {
        method: explain(seen, category, mask=mask, method=METHODS.get(method, method))
        for method in {key.partition("_")[0] for key in keys} - {"rawcam"}
    }
    assert {METHODS.get(method, method) for method in heats} == WEIGHINGS.keys()
    for key in keys:
        method, _, layer = key.partition("_")
        if method == "rawcam":
            close(raws[layers.index(layer)][None], stored[key], on_raw, key)
        else:
            compare(key, heats[method][layers.index(layer)])
    gradients = find_gradients(seen, category, mask=mask)
    for layer, gradient in zip(layers, gradients, strict=True):
        key = next(k for k in stored.outputs if k.startswith(f"alpha_{layer}_every"))
        every = int(re.search(r"every(\d+)", key)[1])
        close(gradient.mean(dim=(2, 3))[:, ::every], stored[key], on_raw, key)
    keys = [key for key in stored.outputs if key.endswith("_rect")]
    indices = {int(key.split("_")[2].removeprefix("class")) for key in keys}
    raw_by_class = {index: find_raw_maps(seen, index, mask=rectangle) for index in indices}
    for key in keys:
        kind, layer, of_class, _ = key.split("_")
        index, place = int(of_class.removeprefix("class")), layers.index(layer)
        if kind == "rawcam":
            close(raw_by_class[index][place][None], stored[key], on_raw, key)
        else:
            ours = explain(seen, index, mask=rectangle)[place]
            compare(key, ours)
            np.testing.assert_array_equal(ours[stored[key] == 0] > on_maps, False)
    absent = explain(seen, manifest["absent_class"])[layers.index("layer4")]
    compare("gradcam_layer4_absentclass", absent)
    assert not absent.any()
    compare("gradcam_layer4_fullmask", explain(seen, category, mask=whole)[3])
    compare("gradcam_all4_mean", explain(seen, category, mask=mask, averages=True)[0])
    smooth = find_smooth_heat_map(network, inputs, names[3], category, mask=mask, flips_mask=False)
    compare("gradcam_layer4_augsmooth", smooth)
    for i, given in enumerate(stored["scale_in"]):
        scaled = scale_to_unit(given)
        np.testing.assert_allclose(scaled, stored["scale_nosize"][i], atol=on_maps)
        sized = resize_heat(scaled, stored["scale_out"].shape[1:])
        np.testing.assert_allclose(sized, stored["scale_out"][i], atol=on_maps)
    assert not stored.left


def to_yxhw(boxes: np.ndarray) -> list[list[int]]:
    return [[y1, x1, y2 - y1, x2 - x1] for x1, y1, x2, y2 in boxes.tolist()]


@pytest.mark.parametrize("fixture", find_fixtures("rws", "weak_slices*"))
def test_windows_are_the_published(fixture: Fixture) -> None:
    for name, grid in fixture.manifest["geometry"].items():
        height, width = (int(n) for n in name.split("x"))
        ours, listed = to_yxhw(plan_windows((height, width))), grid["windows_y0_x0_h_w"]
        assert len(ours) == len(listed) == grid["rows"] * grid["cols"]
        # The published helper reads its index as i * rows + j: it finds no window for some where
        # rows > cols, and one of two for some where cols > rows; ours counts i * cols + j.
        for k, window in enumerate(listed):
            meant = [
                ours[i * grid["cols"] + j]
                for i in range(grid["rows"])
                for j in range(grid["cols"])
                if i * grid["rows"] + j == k
            ]
            assert window in (meant or [None]), (name, k)
        if grid["rows"] == grid["cols"]:
            assert ours == listed


@pytest.mark.parametrize("fixture", find_fixtures("rws", "weak_slices*"))
def test_weak_slices_are_the_published(fixture: Fixture) -> None:
    stored = Checklist(fixture.outputs)
    for i, case in enumerate(fixture.manifest["cases"]):
        heat, label = stored[f"case{i}_cam"], stored[f"case{i}_label"]
        is_class = label != 0
        coverage = measure_coverage(heat != 0, is_class, plan_windows(heat.shape))
        np.testing.assert_allclose(coverage, stored[f"case{i}_iou"], atol=1e-6)
        config = SliceConfig(slice_coverage=case["T"])
        found = find_weak_slices("ID", 1, heat, is_class, config)
        assert [one.number for one in found] == case["selected_k"]
        assert [f"{one.id}_{r}" for r, one in enumerate(found)] == case["names"]
        files = [
            f"{folder}/{name}{ending}"
            for name in case["names"]
            for folder, ending in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png"))
        ]
        assert files[: len(case["files"])] == case["files"]  # the manifest lists the first ones
        assert bool(case["files"]) == bool(files)
    assert not stored.left


def list_slices(stored: Checklist, letter: str) -> list[int]:
    pattern = rf"slice(\d+)_{letter}1?"
    return sorted(int(m[1]) for key in stored.outputs if (m := re.fullmatch(pattern, key)))


def boxes_of(manifest: dict, key: str = "slice_positions") -> list[list[int]]:
    return [plan_windows(manifest["image"])[k].tolist() for k in manifest[key]]


@pytest.mark.parametrize("fixture", find_fixtures("rws", "mixing_maps*"))
def test_published_mixing_maps_are_the_published(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    tolerance = tolerance_number(manifest["tolerance"])
    layers = range(1, 1 + sum(key.startswith("large_A") for key in stored.outputs))
    large = np.stack([stored[f"large_A{i}"] for i in layers])
    slices = list_slices(stored, "a")
    smalls = [np.stack([stored[f"slice{s}_a{i}"] for i in layers]) for s in slices]
    features = [[stored[f"slice{s}_f{i}"] for i in layers] for s in slices]
    boxes = boxes_of(manifest)
    for s, (small, (x1, y1, x2, y2)) in enumerate(zip(smalls, boxes, strict=True)):
        assert list(small.shape[1:]) == manifest["slice"]
        _, share, order = compare_heat(large[:, y1:y2, x1:x2], small)
        for i in layers:
            for name, ours in (("map", share), ("order", order)):
                key = f"condition_{name}_s{s}_l{i}"
                np.testing.assert_allclose(ours[i - 1], stored[key], atol=tolerance, err_msg=key)
    for case, count in (("k1", 1), ("kall", len(slices))):
        found = make_published_maps(large, smalls[:count], boxes[:count], features[:count])
        for letter, arrays in zip("nf", found, strict=True):
            for i in layers:
                key = f"published_{case}_{letter}{i}"
                np.testing.assert_allclose(
                    arrays[i - 1], stored[key], atol=tolerance, rtol=tolerance, err_msg=key
                )
        if case == "kall":
            np.testing.assert_allclose(found[0][0], stored["published_top_img1_n1"], atol=tolerance)
    assert manifest["top_img0"] == [1, [0] * len(layers)]  # a picture without slices: nothing mixed
    nothing = make_mixing_maps(large, [], [])
    assert nothing.shares.min() == manifest["top_img0"][0]
    assert not stored.left


@pytest.mark.parametrize("fixture", find_fixtures("rws", "mixing_maps*"))
def test_aligned_maps_do_without_the_published_defects(fixture: Fixture) -> None:
    outputs, boxes = fixture.outputs, boxes_of(fixture.manifest)
    layers = range(1, 1 + sum(key.startswith("large_A") for key in outputs))
    large = np.stack([outputs[f"large_A{i}"] for i in layers])
    smalls = [
        np.stack([outputs[f"slice{s}_a{i}"] for i in layers])
        for s in range(len(fixture.manifest["slice_positions"]))
    ]
    maps = make_mixing_maps(large, smalls, boxes)
    is_mixed = maps.winners >= 0
    assert is_mixed.any()
    assert (maps.shares[~is_mixed] == 1).all()  # D2
    assert (maps.shares[is_mixed] <= 0.5 + 1e-6).all()  # D3: orders may be anything up to 1
    assert any((outputs[f"published_kall_n{i}"] > 0.5 + 1e-6).any() for i in layers)


@pytest.mark.parametrize("fixture", find_fixtures("rws", "aligned_variant*"))
def test_aligned_maps_are_the_reference(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    tolerance = tolerance_number(manifest["tolerance"])
    boxes, slices = boxes_of(manifest), list_slices(stored, "a")
    assert to_yxhw(np.array(boxes)) == manifest["windows"]
    large, smalls = stored["large_A"], [stored[f"slice{s}_a"] for s in slices]
    assert not large[:, stored["label"] == 0].any()
    maps = make_mixing_maps(large, smalls, boxes)
    np.testing.assert_array_equal(maps.winners, stored["winner"])
    np.testing.assert_allclose(maps.shares, stored["lambda"], atol=tolerance)
    strides = [int(n) for n in re.findall(r"ceil\(crop/(\d+)\)", manifest["grid"])]
    assert len(strides) == manifest["layers"]
    for number, changed in enumerate(manifest["augmentations"]):
        view = View(
            size_hw=tuple(manifest["image"]),
            resized_hw=tuple(changed["resized_H_W"]),
            is_mirrored=changed["flip"],
            crop_yxhw=tuple(changed["crop_y_x_h_w"]),
        )
        for i, stride in enumerate(strides, start=1):
            features = [stored[f"slice{s}_f{i}"] for s in slices]
            grid_hw = [-(-side // stride) for side in changed["crop_y_x_h_w"][2:]]
            n, f = sample(maps, i - 1, view, grid_hw, boxes, features)
            for ours, key in ((n, f"aug{number}_n{i}"), (f, f"aug{number}_f{i}")):
                np.testing.assert_allclose(ours, stored[key], atol=tolerance, err_msg=key)
    assert not stored.left


def sample(
    maps: MixingMaps,
    layer: int,
    view: View,
    grid_hw: list[int],
    boxes: list[list[int]],
    features: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    cells = sample_cells(
        maps,
        layer,
        view,
        grid_hw,
        boxes=boxes,
        grids_hw=[feature.shape[1:] for feature in features],
        channels=len(features[0]),
        fetch=lambda j, cells: features[j].reshape(len(features[j]), -1)[:, cells].T,
    )
    return cells.to_dense(grid_hw)


@pytest.mark.parametrize("fixture", find_fixtures("rws", "pipeline*"))
def test_one_picture_goes_the_published_way(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    on_heat, on_outputs = (tolerance_number(part) for part in manifest["tolerance"].split(";"))
    network = make_network(re.search(r"resnet\d+", manifest["network"])[0], has_auxiliary=False)
    index, addend = re.search(r"bias\[(\d+)\] \+= (\d+)", manifest["network"]).groups()
    with torch.no_grad():
        network.classifier[4].bias[int(index)] += float(addend)
    category, image = manifest["category"], stored["image"]
    layers = [f"{BACKBONE}{i}" for i in (1, 2, 3, 4)]
    is_class = stored["label"] == category
    assert is_class.any()

    inputs = torch.from_numpy(prepare_image(image))[None]
    seen = observe(network, inputs, layers)
    assert ((seen.prediction == category) == stored["pred_is_cat"].astype(bool)).mean() > 0.999
    heat = keep_inside(explain(seen, category), is_class)
    np.testing.assert_allclose(heat, stored["heat_large"], atol=on_heat)
    close(seen.logits_CHW[None, :, ::2, ::2], stored["out_plain_stride2"], on_outputs, "out_plain")
    config = SliceConfig(slice_coverage=manifest["T"])
    found = find_weak_slices("ID", category, heat[-1], is_class, config)
    assert [one.number for one in found] == manifest["selected_k_all"]
    is_hot = stored["heat_large"][-1] > 0
    np.testing.assert_array_equal(heat[-1] > 0, is_hot)  # zeros stay zeros
    coverage = measure_coverage(is_hot, is_class, plan_windows(is_class.shape))
    np.testing.assert_allclose(coverage, stored["iou_all_windows"], atol=1e-6)

    used = [one for one in found if one.number in manifest["used_k"]]
    smalls = []
    for s, one in enumerate(used):
        part = torch.from_numpy(prepare_image(np.ascontiguousarray(one.crop(image))))[None]
        small = keep_inside(explain(observe(network, part, layers), category), one.crop(is_class))
        np.testing.assert_allclose(small, stored[f"heat_slice{s}"], atol=on_heat)
        smalls.append(stored[f"heat_slice{s}"])

    boxes = [one.box for one in used]
    maps = make_mixing_maps(stored["heat_large"], smalls, boxes)
    np.testing.assert_allclose(maps.shares, stored["aligned_lambda"], atol=on_heat)
    np.testing.assert_array_equal(maps.winners, stored["aligned_winner"])

    features = find_features_at_image_size(network, used[0].crop(image), image.shape[:2], layers)
    n, f = make_published_maps(stored["heat_large"], smalls[:1], boxes[:1], [features])
    for i, ours in enumerate(n, start=1):
        key = f"published_k1_n{i}"
        np.testing.assert_allclose(ours, stored[key], atol=on_heat, err_msg=key)
    with (
        torch.no_grad(),
        mix_into(network, layers, [to_cells(*one) for one in zip(n, f, strict=True)]),
    ):
        mixed = network(inputs)["out"]
    key = "out_published_k1_stride2"
    close(mixed[..., ::2, ::2], stored[key], on_outputs, key)
    assert not stored.left


def find_features_at_image_size(
    network: DeepLabV3, crop: np.ndarray, size_hw: tuple[int, int], layers: list[str]
) -> list[np.ndarray]:
    """As the manifest says: the slice resized to the picture's size, so that grids agree."""
    import cv2

    sized = cv2.resize(np.ascontiguousarray(crop), size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    inputs = torch.from_numpy(prepare_image(sized))[None]
    return [output.detach().numpy() for output in observe(network, inputs, layers).outputs]


def to_cells(n: np.ndarray, f: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, columns = np.indices(n.shape).reshape(2, -1)
    places = torch.from_numpy(np.stack([np.zeros_like(rows), rows, columns], axis=1))
    return places, torch.from_numpy(n.reshape(-1)), torch.from_numpy(f[0]).flatten(1).T


@pytest.mark.parametrize("fixture", find_fixtures("rws", "missing_weights*"))
def test_pictures_of_missing_weights_are_the_published(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    on_omega = tolerance_number(manifest["tolerance"])
    label = stored["label"]
    assert set(np.unique(label)) <= {0, manifest["label_value"]}
    layers = range(1, 1 + sum(key.startswith("A") for key in stored.outputs))
    heat = keep_inside(np.stack([stored[f"A{i}"] for i in layers]), label != 0)
    for i, missing in zip(layers, find_missing_weights(heat), strict=True):
        np.testing.assert_allclose(missing, stored[f"omega{i}"], atol=on_omega)
        drawn = overlay(stored[f"omega{i}"], label)
        differs = np.abs(drawn.astype(int) - stored[f"overlay{i}"])
        assert differs.max() <= 1
        kept = keep_foreground(stored[f"overlay{i}"], label)
        np.testing.assert_array_equal(kept, stored[f"missing{i}"])
        whole = draw_missing_weights(stored[f"omega{i}"], label)
        assert np.abs(whole.astype(int) - stored[f"missing{i}"]).max() <= 1
    assert not stored.left


@pytest.mark.parametrize("fixture", find_fixtures("rws", "training_pieces*"))
def test_rate_and_loss_and_scores_are_the_published(fixture: Fixture) -> None:
    manifest, stored = fixture.manifest, Checklist(fixture.outputs)
    tolerance = tolerance_number(manifest["tolerance"])
    for case in manifest["lr"]:
        listed = case["lr_before_step_0_then_after_each_step"]
        warm = case["steps_per_epoch"] if case["warmup"] else 0
        total = case["steps_per_epoch"] * case["epochs"]
        assert len(listed) == total + 1
        for step, rates in enumerate(listed):
            factor = published_rate_factor(step, steps=total, warmup_steps=warm)
            ours = [factor * base for base in case["base_lr"]]
            np.testing.assert_allclose(ours, rates, rtol=tolerance, atol=1e-12)

    logits = {name: torch.from_numpy(stored[f"logits_{name}"]) for name in ("out", "aux")}
    target = torch.from_numpy(stored["target"])
    for given, key in (
        (logits, "loss_out_plus_half_aux"),
        ({"out": logits["out"]}, "loss_out_only"),
    ):
        ours = segmentation_loss(given, target).item()
        assert ours == pytest.approx(manifest[key], rel=tolerance)

    expected = manifest["confusion"]
    scores = ClassScores(expected["num_classes"])
    scores.update(stored["cm_pred"], stored["cm_gt"])
    np.testing.assert_array_equal(scores._counts[:, :-1], stored["cm_matrix"])
    found = scores.compute()
    assert found["aAcc"] == pytest.approx(expected["global_acc"], rel=tolerance)
    for name, key in (("acc", "row_acc"), ("iou", "iou")):
        listed = [np.nan if value is None else value for value in expected[key]]
        np.testing.assert_allclose(found[name], listed, rtol=tolerance)
    assert found["mIoU"] == pytest.approx(expected["nanmean_iou"], rel=tolerance)
    assert np.isnan(found["iou"].mean()) == (expected["published_mean_iou"] == "NaN")

    batch_size = int(re.search(r"batch (\d+)", manifest["batch_groups_note"])[1])
    for count, groups in manifest["batch_groups"].items():
        assert plan_published_groups(int(count), batch_size) == groups
    assert not stored.left


@pytest.mark.parametrize(
    "path", sorted((ROOT / "rws").glob("class_lists*.json")), ids=lambda path: path.stem
)
def test_the_lists_of_each_class_are_the_published(path: Path) -> None:
    for name, listed in json.loads(path.read_text())["classes"].items():
        assert VOC_CLASSES.index(name) + 1 == listed["index"]
        for split in ("train", "val"):
            assert read_voc_class_list(f"voc:{name}:{split}") == listed[split]
