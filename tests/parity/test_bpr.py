"""BPR against the outputs of the original code (../shared/spec/bpr.md section 9 lists them)."""

import ast
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures, state_dict_by_rule, tolerance_number

from maskhone.contracts import FOREGROUND
from maskhone.data.cityscapes import (
    find_cityscapes_items,
    load_cityscapes_item,
    to_coco_entries,
    write_cityscapes_sample,
)
from maskhone.data.coco import from_rle, load_results, refined_entry
from maskhone.data.images import read_label_map
from maskhone.engine.train import poly_learning_rate
from maskhone.methods.bpr.boundary import boundary_score, plan_boundary_patches
from maskhone.methods.bpr.config import BPRConfig
from maskhone.methods.bpr.matching import Match, keep_good, match_detections, sample_detections
from maskhone.methods.bpr.network import HRNETS, BPRNetwork, resize
from maskhone.methods.bpr.patches import cut_image_patches, cut_mask_patches
from maskhone.methods.bpr.refine import BPRRefiner
from maskhone.methods.bpr.train import patch_loss
from maskhone.metrics.region import ClassScores
from maskhone.ops.boxes import nms
from maskhone.ops.patches import crop, paste_average


def boxes_of_mask(mask: np.ndarray, patch_px: int, nms_iou: float) -> np.ndarray:
    return plan_boundary_patches(
        mask.astype(bool), patch_px=patch_px, nms_iou=nms_iou, edge_rule="published"
    )[0]


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "boundary_boxes*"))
def test_boundary_scores_are_the_published(fixture: Fixture) -> None:
    stored = [key for key in fixture.outputs if key.startswith("score")]
    assert stored
    for key in stored:
        kind, name = key.split("/")
        window_px = int(kind.removeprefix("score_w")) if "_w" in kind else 3
        ours = boundary_score(fixture.outputs[f"mask/{name}"].astype(bool), window_px=window_px)
        np.testing.assert_allclose(ours, fixture.outputs[key], atol=1e-6, rtol=0, err_msg=key)


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "boundary_boxes*"))
def test_boundary_boxes_are_the_published(fixture: Fixture) -> None:
    for case in fixture.manifest["cases"]:
        mask = fixture.outputs[f"mask/{case['mask']}"].astype(bool)
        is_skipped = case.get("skipped", False)
        boxes, scores = plan_boundary_patches(
            mask,
            patch_px=case["patch_size"],
            nms_iou=case["iou_thresh"] or 0.0,
            edge_rule="published",
        )
        expected = np.zeros((0, 5)) if is_skipped else fixture.outputs[case["key"]]
        np.testing.assert_array_equal(boxes, expected[:, :4], err_msg=str(case))
        np.testing.assert_allclose(scores, expected[:, 4], atol=1e-6, rtol=0, err_msg=str(case))


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "nms*"))
def test_nms_keeps_the_published_boxes(fixture: Fixture) -> None:
    for case in fixture.manifest["cases"]:
        boxes, scores = (fixture.outputs[f"{case['set']}/{name}"] for name in ("boxes", "scores"))
        kept = nms(boxes, scores, case["iou"], offset_px=case["offset"])
        np.testing.assert_array_equal(kept, fixture.outputs[case["key"]], err_msg=str(case))


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "crop*"))
def test_cropped_patches_are_the_published(fixture: Fixture) -> None:
    out = fixture.outputs
    for case in fixture.manifest["cases"]:
        padding = case["padding"]
        boxes = out[f"boxes_pad{padding}"].astype(np.int64)
        assert len(boxes) == case["n_boxes"]
        reach = np.array([-padding, -padding, padding, padding])
        for name, whole in (("img", "image_bgr"), ("dt", "mask"), ("gt", "gt")):
            stored = out[f"{name}_pad{padding}"]
            patches = crop(out[whole], boxes[: len(stored)] + reach)
            if name != "img" and stored.max() > patches.max():
                patches = patches * 255
            np.testing.assert_array_equal(patches, stored, err_msg=f"{name}, padding {padding}")


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "pipeline*"))
def test_network_inputs_are_the_published(fixture: Fixture) -> None:
    out, tolerance = fixture.outputs, tolerance_number(fixture.manifest["tolerance"])
    networks = sorted({key.split("/")[0] for key in out if key.endswith("/input4")})
    assert networks
    side = out["patch_bgr"].shape[0]
    image = np.ascontiguousarray(out["patch_bgr"][..., ::-1])
    mask = (out["mask"] > 0).astype(np.float32)
    box = np.array([[0, 0, side, side]])
    for name in networks:
        input_px = int(name.rsplit("_", 1)[1])
        config = BPRConfig(patch_px=side, input_px=input_px)
        rgb = torch.from_numpy(cut_image_patches(image, box, config)).permute(0, 3, 1, 2).float()
        score = torch.from_numpy(cut_mask_patches(mask, box, config)).unsqueeze(1)
        ours = BPRNetwork(HRNETS[name.split("_")[0]]).prepare(rgb, score).numpy()
        stored = out[f"{name}/input4"]
        stride = input_px // stored.shape[-1]
        np.testing.assert_allclose(ours[:, :, ::stride, ::stride], stored, atol=tolerance, rtol=0)
        corner = out[f"{name}/corner"]
        here = ours[:, :, : corner.shape[2], : corner.shape[3]]
        np.testing.assert_allclose(here, corner, atol=tolerance, rtol=0)
        n_pixels = input_px * input_px
        sums = ours.astype(np.float64).sum(axis=(2, 3))
        np.testing.assert_allclose(sums, out[f"{name}/sum"], atol=tolerance * n_pixels, rtol=0)


def network_of(manifest: dict, name: str) -> BPRNetwork:
    network = BPRNetwork(HRNETS[name])
    own = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    if "state_dict" in manifest:
        assert own == [(key, tuple(shape)) for key, shape, _ in manifest["state_dict"]]
    drawn = state_dict_by_rule(own, manifest["weights"])
    network.load_state_dict({key: torch.from_numpy(np.asarray(v)) for key, v in drawn.items()})
    return network.eval()


def input_of(manifest: dict) -> torch.Tensor:
    rule = manifest["input"]
    generator = np.random.Generator(np.random.PCG64(rule["seed"]))
    x = generator.standard_normal(rule["shape"]).astype(np.float32)
    x[:, 3] = np.where(x[:, 3] > 0, 1, -1)
    return torch.from_numpy(x)


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "net_*"))
def test_network_outputs_are_the_published(fixture: Fixture) -> None:
    manifest, out = fixture.manifest, fixture.outputs
    network = network_of(manifest, manifest["config"].split("_")[0])
    assert sum(p.numel() for p in network.parameters()) == manifest["n_parameters"]
    x = input_of(manifest)
    with torch.inference_mode():
        branches = network.backbone(x)
        logits = network.decode_head(branches)
        full = resize(logits, x.shape[2:])
        again = resize(full, out["prob_rescaled"].shape[1:])
        ours = {
            "stem": network.backbone.stem(x),
            "logits_quarter": logits,
            "logits_full": full,
            **{f"stage_out{i}": branch for i, branch in enumerate(branches)},
        }
    relative = tolerance_number(manifest["tolerance"])
    for name, array in ours.items():
        stride = array.shape[-1] // out[name].shape[-1]
        difference = np.abs(array.numpy()[..., ::stride, ::stride] - out[name]).max()
        assert difference <= relative * np.abs(out[name]).max(), name
    loose = tolerance_number(manifest["tolerance"].split("prob")[1])
    probability = again.softmax(dim=1)[:, 1].numpy()
    np.testing.assert_allclose(probability, out["prob_rescaled"], atol=loose, rtol=0)
    is_clear = np.abs(out["prob_rescaled"] - 0.5) >= loose
    assert is_clear.any()
    labels = again.argmax(dim=1).numpy()
    np.testing.assert_array_equal(labels[is_clear], out["label_rescaled"][is_clear])


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "merge*"))
def test_reassembled_masks_are_the_published(fixture: Fixture) -> None:
    out, share = fixture.outputs, tolerance_number(fixture.manifest["tolerance"])
    for case in fixture.manifest["cases"]:
        where = f"{case['mask']}/pad{case['padding']}"
        boxes, coarse = out[f"{where}/boxes"].astype(np.int64), out[f"{case['mask']}/coarse"]
        patches = formula_patches(boxes, case)
        mean, is_covered = paste_average(patches, boxes, coarse.shape)
        refined = np.where(is_covered, mean > FOREGROUND, coarse > 0)
        stored = out[f"{where}/refined"] > 0
        assert (refined != stored).mean() <= share, where


def formula_patches(boxes: np.ndarray, case: dict) -> np.ndarray:
    a, b, c = case["prob_coef"]
    padding = case["padding"]
    side = int(boxes[0, 2] - boxes[0, 0]) + 2 * padding
    j, y, x = np.meshgrid(np.arange(len(boxes)), np.arange(side), np.arange(side), indexing="ij")
    patches = (0.5 + 0.5 * np.sin(a * x + b * y + c * j)).astype(np.float32)
    return patches[:, padding : side - padding, padding : side - padding]


class StubNetwork(torch.nn.Module):
    """Stands for the network with the formula of the manifest, over logits (0, log odds)."""

    def __init__(self, formula: str) -> None:
        super().__init__()
        terms = dict.fromkeys("RGBM", 0.0)
        body = formula[formula.index("(") + 1 : formula.index(")")].split()
        sign = 1.0
        for token, following in zip(body, [*body[1:], ""], strict=True):
            if token in "+-":
                sign = -1.0 if token == "-" else 1.0
            elif token[-1].isdigit():
                terms[following] = sign * float(token)
                sign = 1.0
        self.weights = torch.tensor([terms[k] for k in "RGBM"]).view(1, 4, 1, 1)

    prepare = BPRNetwork.prepare
    rgb_mean = BPRNetwork(HRNETS["hrnet18s"]).rgb_mean
    rgb_std = BPRNetwork(HRNETS["hrnet18s"]).rgb_std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        odds = (x * self.weights).sum(dim=1, keepdim=True)
        return torch.cat([torch.zeros_like(odds), odds], dim=1)


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "demo_split_merge*"))
def test_single_image_path_is_the_published(fixture: Fixture) -> None:
    out, manifest = fixture.outputs, fixture.manifest
    numbers = demo_arguments(manifest["what"])
    config = BPRConfig(
        **numbers, edge_rule="published", rounds_resized_image=False, resizes_probabilities=True
    )
    image = np.ascontiguousarray(out["image_bgr"][..., ::-1])
    masks = (out["masks"] > 0).astype(np.float32)
    planned = [boxes_of_mask(mask, config.patch_px, config.nms_iou) for mask in masks]
    for i, boxes in enumerate(planned):
        np.testing.assert_array_equal(boxes, out[f"boxes{i}"][:, :4])
    network = StubNetwork(manifest["stub"])
    inputs = np.concatenate(
        [demo_inputs(network, image, m, b, config) for m, b in zip(masks, planned, strict=True)]
    )
    patch_tolerance = tolerance_number(manifest["tolerance"].split("patches")[1])
    first = out["patches_first3"]
    stride = inputs.shape[-1] // first.shape[-1]
    np.testing.assert_allclose(
        inputs[: len(first), :, ::stride, ::stride], first, atol=patch_tolerance, rtol=0
    )
    sums = inputs.astype(np.float64).sum(axis=(2, 3))
    allowed = patch_tolerance * inputs.shape[-1] ** 2
    np.testing.assert_allclose(sums, out["patches_sum"], atol=allowed, rtol=0)
    share = tolerance_number(manifest["tolerance"].split("refined")[1])
    refined = BPRRefiner(network=network, config=config).refine(image, masks) > FOREGROUND
    for ours, stored in zip(refined, out["refined"] > 0, strict=True):
        assert (ours != stored).mean() <= share


def demo_arguments(text: str) -> dict:
    """Reads `boundary width 3, iou 0.25, patch 64, input 128` out of the manifest's sentence."""
    names = {"width": "window_px", "iou": "nms_iou", "patch": "patch_px", "input": "input_px"}
    words = text.replace(",", " ").replace("(", " ").replace(")", " ").split()
    found = {}
    for word, following in pairwise(words):
        if word in names and following[0].isdigit():
            value = float(following)
            found[names[word]] = value if word == "iou" else int(value)
    assert set(found) == set(names.values()), text
    return found


def demo_inputs(network, image, mask, boxes, config) -> np.ndarray:
    rgb = torch.from_numpy(cut_image_patches(image, boxes, config)).permute(0, 3, 1, 2)
    score = torch.from_numpy(cut_mask_patches(mask, boxes, config)).unsqueeze(1)
    return network.prepare(rgb, score).numpy()


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "train_bits*"))
def test_learning_rates_are_the_published(fixture: Fixture) -> None:
    formula = fixture.manifest["lr"]  # (start-end)*(1-i/iterations)^power+end
    start, rest = formula.strip("(").split("-", 1)
    end = rest.split(")")[0]
    iterations = formula.split("i/")[1].split(")")[0]
    power = formula.split("^")[1].split("+")[0]
    ours = [
        poly_learning_rate(
            int(i),
            iterations=int(iterations),
            start=float(start),
            end=float(end),
            power=float(power),
        )
        for i in fixture.outputs["lr_iters"]
    ]
    tolerance = tolerance_number(fixture.manifest["tolerance"].split("lr")[1])
    np.testing.assert_allclose(ours, fixture.outputs["lr"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("fixture", find_fixtures("bpr", "train_bits*"))
def test_loss_and_gradients_are_the_published(fixture: Fixture, mode: str) -> None:
    manifest, out = fixture.manifest, fixture.outputs
    network = network_of(manifest, architecture_in(manifest["input"]["rule"])).train(
        mode == "train"
    )
    target = torch.from_numpy(out["gt"][:, 0].astype(np.int64))
    prepared = input_of(manifest)

    class Prepared(torch.nn.Module):
        """Hands the loss the input of the manifest, which is normalised already."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def prepare(self, rgb: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
            return prepared

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.logits = self.inner(x)
            return self.logits

    model = Prepared()
    loss = patch_loss(model, {"rgb": target, "score": target, "target": target})["loss"]
    tolerance = tolerance_number(manifest["tolerance"].split("loss")[1])
    assert loss.item() == pytest.approx(float(out[f"loss_{mode}_bn"]), rel=tolerance)
    predicted = resize(model.logits, target.shape[1:]).argmax(dim=1)
    accuracy = 100 * (predicted == target).float().mean().item()
    assert accuracy == pytest.approx(float(out[f"acc_{mode}_bn"]), rel=tolerance)
    if mode == "train":  # the stored gradients are those with batch statistics
        loss.backward()
        check_gradients(network, out, tolerance_number(manifest["tolerance"].split("gradients")[1]))


def check_gradients(network: BPRNetwork, out: dict, relative: float) -> None:
    parameters = dict(network.named_parameters())
    stored = [key for key in out if key.startswith("grad/")]
    assert stored
    for key in stored:
        difference = np.abs(parameters[key.removeprefix("grad/")].grad.numpy() - out[key]).max()
        assert difference <= relative * np.abs(out[key]).max(), key


def architecture_in(text: str) -> str:
    """Finds the network that a sentence of a manifest names, as in `as net_hrnet18s_128`."""
    named = [name for name in HRNETS if name in text]
    assert len(named) == 1, text
    return named[0]


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "train_bits*"))
def test_patch_scores_are_the_published(fixture: Fixture) -> None:
    out = fixture.outputs
    metric = ClassScores(len(out["iou"]))
    metric.update(out["miou_pred"], out["miou_gt"])
    scores = metric.compute()
    tolerance = tolerance_number(fixture.manifest["tolerance"].split("acc")[1])
    for name in ("aAcc", "acc", "iou"):
        np.testing.assert_allclose(scores[name], out[name], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "match_filter*"))
def test_matching_filter_and_sampling_are_the_published(fixture: Fixture) -> None:
    out, manifest = fixture.outputs, fixture.manifest
    detections = load_results(fixture.path / "dt.json").entries
    truths = load_results(fixture.path / "gt.json")
    matches: list[Match | None] = [None] * len(detections)
    areas = np.zeros(len(detections), dtype=np.int64)
    for image_id, row in truths.images.items():
        size_hw = (row["height"], row["width"])
        mine = [i for i, entry in enumerate(detections) if entry["image_id"] == image_id]
        own = [entry for entry in truths.entries if entry["image_id"] == image_id]
        found = match_detections([detections[i] for i in mine], own, size_hw)
        for i, match in zip(mine, found, strict=True):
            matches[i] = match
            if match.annotation is not None:
                truth = from_rle(own[match.annotation]["segmentation"], size_hw=size_hw)
                areas[i] = truth.sum()
    tolerance = tolerance_number(manifest["tolerance"].removeprefix("IoU"))
    ious = [match.iou for match in matches]
    np.testing.assert_allclose(ious, out["max_iou"], rtol=0, atol=tolerance)
    np.testing.assert_array_equal(areas, out["matched_gt_area"])
    np.testing.assert_array_equal(keep_good(matches), out["kept"])
    seed = int(manifest["sample_rule"].split("seed ")[1].split(":")[0])
    draws = [key for key in out if key.startswith("sample_")]
    assert draws
    for key in draws:
        n, wanted = (int(number) for number in key.split("_")[1:])
        drawn = sample_detections(n, wanted, with_replacement=True, seed=seed)
        np.testing.assert_array_equal(drawn, out[key])


@pytest.mark.parametrize("fixture", find_fixtures("bpr", "e2e_cityscapes*"))
def test_the_whole_cityscapes_pipeline_is_the_published(fixture: Fixture, tmp_path: Path) -> None:
    manifest, out, inputs = fixture.manifest, fixture.outputs, fixture.path / "inputs"
    listed = json.loads((inputs / "gt.json").read_text())["images"]
    assert to_coco_entries(inputs / "coarse", listed) == manifest["coarse_json"]

    config = e2e_config(manifest["what"])
    refiner = BPRRefiner(
        network=network_of(manifest, architecture_in(manifest["what"])), config=config
    )
    items, problems = find_cityscapes_items(inputs / "coarse", inputs / "leftImg8bit/val")
    assert not problems
    refined, planned, probabilities = [], [], []
    for item in items:
        sample = load_cityscapes_item(item)
        scores = refiner.refine(sample.image, sample.masks)
        write_cityscapes_sample(tmp_path, sample, scores, published=True)
        refined += list(scores > FOREGROUND)
        for mask in sample.masks:
            boxes = boxes_of_mask(mask > FOREGROUND, config.patch_px, config.nms_iou)
            planned.append((boxes, mask.shape))
            patches = (
                cut_image_patches(sample.image, boxes, config),
                cut_mask_patches(mask, boxes, config),
            )
            with torch.inference_mode():
                probabilities.append(
                    refiner._predict(*(torch.from_numpy(patch) for patch in patches)).numpy()
                )
    check_details(planned, manifest["details"])
    stored = out["probs_sub"]
    ours = np.concatenate(probabilities)
    assert len(ours) == manifest["n_patches"]
    stride = ours.shape[-1] // stored.shape[-1]
    loose = tolerance_number(manifest["tolerance"].split("probs")[1])
    np.testing.assert_allclose(ours[:, ::stride, ::stride], stored, rtol=0, atol=loose)
    share = tolerance_number(manifest["tolerance"].split("refined")[1])
    for mask, expected, (boxes, size_hw) in zip(refined, out["refined"], planned, strict=True):
        _, is_covered = paste_average(
            np.zeros((len(boxes), config.patch_px, config.patch_px), np.float32), boxes, size_hw
        )
        assert (mask != (expected > 0)).sum() <= share * is_covered.sum()
    check_refined_json(manifest, refined, out["refined"] > 0)
    assert written_folder(tmp_path) == manifest["refined_folder"]


def e2e_config(text: str) -> BPRConfig:
    """Reads `IOU_THRESH 0.25, patch 64` out of the manifest's sentence."""
    words = text.replace(",", " ").split()
    return BPRConfig(
        nms_iou=float(words[words.index("IOU_THRESH") + 1]),
        patch_px=int(words[words.index("patch") + 1]),
        edge_rule="published",
    )


def check_details(planned: list, details: dict) -> None:
    assert len(planned) == len(details)
    for (boxes, _), text in zip(planned, details.values(), strict=True):
        detail = ast.literal_eval(text)
        x, y, side = boxes[:, 0], boxes[:, 1], boxes[:, 2] - boxes[:, 0]
        assert detail["hlist"] == list(zip(y.tolist(), side.tolist(), strict=True))
        assert detail["wlist"] == list(zip(x.tolist(), side.tolist(), strict=True))


def check_refined_json(manifest: dict, refined: list, stored: np.ndarray) -> None:
    """Our entries are the published ones; the code too wherever the masks agree to the pixel."""
    for i, (coarse, expected) in enumerate(
        zip(manifest["coarse_json"], manifest["refined_json"], strict=True)
    ):
        ours = refined_entry(coarse, refined[i])
        if (refined[i] != stored[i]).any():
            ours = {**ours, "segmentation": expected["segmentation"]}
        assert ours == expected


def written_folder(folder: Path) -> dict:
    """Lists a folder as the manifest does: texts, and the numbers that occur in pictures."""
    return {
        path.name: path.read_text()
        if path.suffix == ".txt"
        else np.unique(read_label_map(path)).tolist()
        for path in sorted(folder.iterdir())
    }
