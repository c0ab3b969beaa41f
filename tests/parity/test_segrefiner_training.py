"""SegRefiner against the original's own outputs: coarse masks, crops, losses, one training step."""

import re

import cv2
import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures
from tests.parity.segrefiner_rules import (
    METHOD,
    PREFIX,
    abs_tolerance,
    allowed_pixels,
    as_tensor,
    compare,
    draw,
    evaluate,
    find_holding,
    find_numbers,
    find_runs,
    holds,
    make_network,
    spec_of,
    unpack,
)

from maskhone.methods.segrefiner.coarse import (
    CoarseRule,
    Draws,
    draw_kernel,
    make_coarse,
    make_kernel,
)
from maskhone.methods.segrefiner.crops import (
    draw_object_crop,
    draw_outline_patch,
    draw_patch_coarse,
    draw_wide_crop,
)
from maskhone.methods.segrefiner.diffusion import DiffusionSchedule, draw_mask, draw_steps
from maskhone.methods.segrefiner.loss import (
    batch_iou,
    edge_strength,
    mask_loss,
    sobel_kernel,
    texture_loss,
)
from maskhone.methods.segrefiner.network import DenoisingUNet
from maskhone.ops.masks import tight_box


def rule_of(given: dict) -> CoarseRule:
    return CoarseRule(
        cut_share=given["regional_sample_rate"],
        keep_share=given["sample_rate"],
        move_rate=given["move_rate"],
        iou_target=given["iou_target"],
    )


@pytest.mark.parametrize(("fixture", "run"), find_runs("perturb*", "mask", "seed"))
def test_coarse_masks_are_made_as_published(fixture: Fixture, run: dict) -> None:
    mask = unpack(fixture, f"mask_packed_{run['mask']}", run["hw"])
    draws = Draws(run["seed"])
    coarse = make_coarse(mask, draws, rule_of({**run["defaults"], **run}))
    expected = unpack(fixture, f"out_packed_{run['mask']}_s{run['seed']}", run["hw"])
    allowed = allowed_pixels(run["tolerance"], mask.size)
    assert np.count_nonzero(coarse != expected) <= allowed
    assert abs(np.count_nonzero(coarse) - run["output_area"]) <= allowed
    assert draws.numpy.random_sample() == run["next_numpy_random"]
    assert draws.python.random() == run["next_python_random"]


def unpack_mask(fixture: Fixture, name: str) -> np.ndarray:
    """Reads a mask of the `perturb` family, whose size its runs tell."""
    runs = fixture.manifest["runs"]
    size_hw = next((run["hw"] for run in runs if run["mask"] == name), runs[0]["hw"])
    return unpack(fixture, f"mask_packed_{name}", size_hw)


@pytest.mark.parametrize("fixture", find_holding("perturb*", holds("elementary")))
def test_elementary_disturbances_are_the_published_ones(fixture: Fixture) -> None:
    elementary = fixture.manifest["elementary"]
    mask = unpack_mask(fixture, elementary["mask"])
    for seed in elementary["seeds"]:
        for name, operation in (("dilate", cv2.MORPH_DILATE), ("erode", cv2.MORPH_ERODE)):
            kernel = draw_kernel(np.random.RandomState(seed))
            made = cv2.morphologyEx(mask.astype(np.uint8) * 255, operation, kernel) > 0
            expected = unpack(fixture, f"{name}_packed_s{seed}", mask.shape)
            np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("fixture", find_holding("perturb*", holds("structure")))
def test_structuring_elements_are_the_published_ones(fixture: Fixture) -> None:
    for name in (key for key in fixture.outputs if key.startswith("structure")):
        side, seed = find_numbers(r"structure(\d+)_s(\d+)", name)
        kind = np.random.RandomState(seed).randint(1, 5)  # of four; SegRefiner section 6.5
        made = make_kernel(side, kind)
        np.testing.assert_array_equal(made, fixture.outputs[name])


@pytest.mark.parametrize("fixture", find_holding("perturb*", holds("offline")))
def test_offline_masks_differ_only_where_the_original_loses_them(fixture: Fixture) -> None:
    """The offline script wraps 255 to 1, so that masks without a long contour come out empty."""
    manifest, offline = fixture.manifest, fixture.manifest["offline"]
    (fewest,) = find_numbers(r"has (\d+) or more points", offline["note"])
    for name in offline["masks"]:
        mask = unpack_mask(fixture, name)
        expected = unpack(fixture, f"offline_out_packed_{name}", mask.shape)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        if max(map(len, contours), default=0) >= fewest:
            coarse = make_coarse(mask, Draws(offline["seed"]), rule_of(manifest["defaults"]))
            differs = np.count_nonzero(coarse != expected)
            assert differs <= allowed_pixels(manifest["tolerance"], mask.size)
        else:
            assert not expected.any()


@pytest.mark.parametrize("fixture", find_holding("crops*", holds("object_crop_f64")))
def test_crops_of_objects_are_the_published_ones(fixture: Fixture) -> None:
    manifest = fixture.manifest
    size_hw = tuple(manifest["hw"])
    (margin,) = find_numbers(r"pad_size (\d+)", manifest["object_crop"])
    for index, seed, *box, following in fixture.outputs["object_crop_f64"]:
        mask = unpack(fixture, f"gt_packed_{int(index)}", size_hw)
        numbers = np.random.RandomState(int(seed))
        crop_box = draw_object_crop(find_box(mask), size_hw, numbers, margin_px=margin)
        assert list(crop_box) == box
        assert numbers.random_sample() == following


@pytest.mark.parametrize("fixture", find_holding("crops*", holds("hr_crop_f64")))
def test_crops_of_pictures_are_the_published_ones(fixture: Fixture) -> None:
    manifest = fixture.manifest
    size_hw = tuple(manifest["hw"])
    (side,) = find_numbers(r"patch_size (\d+)", manifest["hr_crop"])
    for index, seed, *boxes, is_stored, following in fixture.outputs["hr_crop_f64"]:
        mask = unpack(fixture, f"gt_packed_{int(index)}", size_hw)
        draws = Draws(int(seed))
        wide = draw_wide_crop(find_box(mask), size_hw, draws.numpy)
        patch = draw_outline_patch(mask, draws.numpy, side_px=side)
        assert [*wide, *patch] == boxes
        x1, y1, x2, y2 = patch
        stored = ~mask[y1:y2, x1:x2]
        coarse = draw_patch_coarse(mask[y1:y2, x1:x2], stored, draws)
        assert np.array_equal(coarse, stored) == bool(is_stored)
        assert draws.numpy.random_sample() == following


@pytest.mark.parametrize("fixture", find_holding("crops*", holds("hr_small_image_patch_f64")))
def test_patches_of_small_pictures_are_half_as_large(fixture: Fixture) -> None:
    said = fixture.manifest["hr_small_image_patch"]
    height, width, side = find_numbers(r"image (\d+)x(\d+) with patch_size (\d+)", said)
    mask = unpack(fixture, "gt_small_packed", (height, width))
    for seed, *box in fixture.outputs["hr_small_image_patch_f64"].astype(int).tolist():
        numbers = np.random.RandomState(seed)
        assert list(draw_outline_patch(mask, numbers, side_px=side)) == box


def find_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    box = tight_box(mask)
    assert box is not None
    x, y, width, height = box
    return x, y, x + width, y + height


@pytest.mark.parametrize("fixture", find_holding("diffusion*", holds("uniform_sampler")))
def test_steps_to_train_on_are_drawn_as_published(fixture: Fixture) -> None:
    rule = fixture.manifest["uniform_sampler"]
    (seed,) = find_numbers(r"seed\((\d+)\)", rule)
    (count,) = find_numbers(r"size=\(?(\d+)", rule)
    choices = evaluate(re.findall(r"arange\([^()]*\)", rule)[0])
    made = draw_steps(np.random.RandomState(seed), len(choices), count)
    np.testing.assert_array_equal(made, fixture.outputs["uniform_sampler"])


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "losses*"))
def test_losses_are_the_published_ones(fixture: Fixture) -> None:
    logits = as_tensor(draw(fixture.manifest["logits"])).requires_grad_()
    target = as_tensor(fixture.outputs["target"])
    losses = mask_loss(logits, target), texture_loss(logits, target)
    sum(losses).backward()
    made = {
        "loss_mask": losses[0],
        "loss_texture": losses[1],
        "sobel_pred": edge_strength(logits.sigmoid()),
        "sobel_target": edge_strength(target),
        "grad_logits": logits.grad,
        "iou": batch_iou(logits, target),
        "sobel_kx": sobel_kernel(logits),
        "sobel_ky": sobel_kernel(logits).mT,
    }
    compare(fixture, made, abs_tolerance(fixture.manifest["tolerance"]))


@pytest.mark.parametrize("fixture", find_holding("losses*", holds("training")))
def test_one_training_step_is_the_published_one(fixture: Fixture) -> None:
    outputs, given = fixture.outputs, fixture.manifest["training"]
    image = as_tensor(draw(given["image"]))
    shape = tuple(find_numbers(r"shape [(\[]([\d, ]+)", given["gt_and_coarse"]))
    target, coarse = (
        as_tensor(unpack(fixture, f"train_{name}_packed", shape)) for name in ("gt", "coarse")
    )
    network = make_trained_network(fixture)
    seed, count = find_numbers(r"seed\((\d+)\).* (\d+) draws", given["t"])
    schedule = DiffusionSchedule(num_timesteps=network.spec.num_timesteps)
    drawn = draw_steps(np.random.RandomState(seed), schedule.num_timesteps, count)
    np.testing.assert_array_equal(drawn, outputs["train_t"])
    steps = torch.from_numpy(drawn)
    noise = as_tensor(draw(given["q_noise"]))
    mask = draw_mask(target, coarse, steps, schedule, lambda _: noise)
    logits = network(torch.cat([image, mask], dim=1), steps)
    losses = mask_loss(logits, target), texture_loss(logits, target)
    sum(losses).backward()
    gradients = {PREFIX + name: p.grad for name, p in network.named_parameters()}
    made = {
        "train_loss_mask": losses[0],
        "train_loss_texture": losses[1],
        "train_total": sum(losses),
        "train_iou": batch_iou(logits, target).mean(),
        "grad_norms": [gradients[key].norm().item() for key in given["grad_norm_keys"]],
    }
    if network.spec.learn_time_embd:
        made["grad_time_embed_rows"] = network.time_embed.weight.grad.norm(dim=1)
    compare(fixture, made, abs_tolerance(fixture.manifest["tolerance"]))


def make_trained_network(fixture: Fixture) -> DenoisingUNet:
    """Builds the network of the training step, whose keys the manifest does not list."""
    config = fixture.manifest["training"]["config"]
    rows = fixture.outputs.get("grad_time_embed_rows", [])
    counted = {"num_timesteps": len(rows)} if len(rows) else {}
    with torch.device("meta"):
        bare = DenoisingUNet(spec_of({**counted, **config}, []))
    entries = [[PREFIX + key, list(value.shape), ""] for key, value in bare.state_dict().items()]
    return make_network(config, entries)
