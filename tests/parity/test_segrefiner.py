"""SegRefiner against the original's own outputs: network, diffusion, refinement, scores."""

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

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
    draw_all,
    evaluate,
    find_columns,
    find_holding,
    find_numbers,
    find_runs,
    holds,
    make_network,
    prefix_of,
    spec_of,
    unpack,
)

from maskhone.contracts import FOREGROUND
from maskhone.data.lvis import SYNSETS, to_coco
from maskhone.methods.segrefiner.config import UNETS, SegRefinerConfig
from maskhone.methods.segrefiner.convert import split_state
from maskhone.methods.segrefiner.diffusion import (
    DiffusionSchedule,
    draw_mask,
    raise_fine_probability,
    run_backwards,
)
from maskhone.methods.segrefiner.loss import sobel_kernel
from maskhone.methods.segrefiner.network import DenoisingUNet, UNetSpec, embed_in_sines
from maskhone.methods.segrefiner.objects import crop_object, plan_crops
from maskhone.methods.segrefiner.pictures import (
    choose_patches,
    enlarge_map,
    find_uncertain,
    suppress,
)
from maskhone.methods.segrefiner.refine import SegRefiner
from maskhone.metrics.average_precision import average_precision
from maskhone.metrics.boundary import band_radii_px, mean_boundary_accuracy
from maskhone.metrics.region import RegionScores, count_overlap
from maskhone.ops.boxes import fit_boxes
from maskhone.ops.patches import crop, paste_average

TEXTURE_KEYS = [f"loss_texture.sobel.conv_{axis}.weight" for axis in "xy"]
PUBLISHED_PARAMETERS = 118_604_673  # SegRefiner section 2.1


@lru_cache(maxsize=1)  # the published one is large, and several runs in a row use it
def shared_network(fixture: Fixture) -> DenoisingUNet:
    return freeze(make_network(fixture.manifest["config"], fixture.manifest["state_dict"]))


def network_of(fixture: Fixture, run: dict) -> DenoisingUNet:
    if "state_dict" in fixture.manifest:
        return shared_network(fixture)
    return freeze(make_network(run["config"], run["state_dict"]))


def freeze(network: DenoisingUNet) -> DenoisingUNet:
    network.freeze()  # what users run
    return network


def schedule_of(fixture: Fixture, run: dict) -> DiffusionSchedule:
    """Reads the schedule of stub runs, as published where the manifest does not say.

    The longest run of a fixture takes all steps, so that the highest step in it is T - 1.
    """
    runs = fixture.manifest["runs"]
    listed = [t for each in runs for t in each.get("indices", [])]
    listed += [t for each in runs for _, t in each.get("stub_calls", [])]
    said = {"num_timesteps": max(listed) + 1} if listed else {}
    stated = {name: run[name] for name in ("start", "stop", "num_timesteps") if name in run}
    return DiffusionSchedule(**{**said, **stated})


class Stub:
    """The denoiser of the fixtures; remembers how it was called."""

    def __init__(self, rule: str) -> None:
        (self.formula,) = re.findall(r"logits = ([^,]+)", rule)
        self.calls: list[list] = []

    def normalise(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb

    def __call__(self, x: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        self.calls.append([list(x.shape), int(step[0])])
        channels = dict(zip("RGBm", x.split(1, dim=1), strict=True))
        return evaluate(self.formula, **channels, t=step.view(-1, 1, 1, 1).float())


class CountedNoise:
    """The k-th call draws from a generator of its own."""

    def __init__(self, run: dict) -> None:
        self.rule, self.seed, self.calls = run["noise"], run["noise_seed"], 0

    def __call__(self, shape: torch.Size) -> torch.Tensor:
        drawn = draw(self.rule, noise_seed=self.seed, k=self.calls, shape=tuple(shape))
        self.calls += 1
        return torch.from_numpy(drawn)


def smooth_image(run: dict) -> np.ndarray:
    """Makes the `(H, W, 3)` image of the fixtures."""
    height, width = run["hw"]
    u, n = draw_all(run["image"], seed=run["image_seed"], h=height, w=width)
    (formula,) = re.findall(r"channel c = (.+?), n =", run["image"])
    y, x = np.mgrid[:height, :width]
    waves = [evaluate(formula, c=c, u=u, n=n, x=x, y=y) for c in range(len(n))]
    return np.stack(waves, axis=-1).astype(np.float32)


@pytest.mark.parametrize(
    ("fixture", "run"),
    [
        *find_runs("unet_*", "config", "state_dict"),
        *find_runs("loop*", "config", "state_dict"),
    ],
)
def test_the_networks_keys_are_those_of_the_original(fixture: Fixture, run: dict) -> None:
    entries, prefix = run["state_dict"], prefix_of(run["state_dict"])
    with torch.device("meta"):
        network = DenoisingUNet(spec_of(run["config"], entries))
    made = list_entries(network, prefix)
    assert made == [each for each in entries if each[0] not in TEXTURE_KEYS]
    assert sum(p.numel() for p in network.parameters()) == run.get(
        "parameters", run.get("parameters_net", sum(int(np.prod(s)) for _, s, _ in made))
    )
    if "elements_state_dict" in run:
        assert sum(int(np.prod(shape)) for _, shape, _ in entries) == run["elements_state_dict"]


def list_entries(network: DenoisingUNet, prefix: str) -> list:
    return [
        [prefix + key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]


def is_published(fixture: Fixture) -> bool:
    return fixture.manifest.get("parameters_net") == PUBLISHED_PARAMETERS


@pytest.mark.parametrize("fixture", find_holding("unet_*", is_published))
def test_our_preset_takes_every_key_of_the_published_checkpoints(fixture: Fixture) -> None:
    entries = fixture.manifest["state_dict"]
    with torch.device("meta"):
        network = DenoisingUNet(UNETS["published"])
        state = {key: torch.empty(shape) for key, shape, _ in entries}
    assert list_entries(network, PREFIX) == [e for e in entries if e[0] not in TEXTURE_KEYS]
    kernel = sobel_kernel(torch.zeros(()))
    for key, value in zip(TEXTURE_KEYS, (kernel, kernel.mT), strict=True):
        assert state[key].shape == value.shape
        state[key] = value
    assert list(split_state(Path("published.pth"), state)) == list(network.state_dict())


@pytest.mark.parametrize(("fixture", "run"), find_runs("unet_*", "config", "state_dict", "input"))
def test_the_network_gives_the_published_logits(fixture: Fixture, run: dict) -> None:
    network, tolerance = network_of(fixture, run), abs_tolerance(run["tolerance"])
    statistics = run.get("intermediate_mean_std_maxabs", {})
    with torch.inference_mode():
        logits, seen = watch(network, list(statistics), draw_input(run), torch.tensor(run["t"]))
    start, stride = 0, 1
    if "every" in run.get("stored", ""):
        stride, start = find_numbers(r"every (\d+).* starting at (\d+)", run["stored"])
    compare(fixture, {run["name"]: logits[..., start::stride, start::stride]}, tolerance)
    for name, expected in statistics.items():
        value = seen[name]
        made = [value.mean().item(), value.std().item(), value.abs().max().item()]
        # these reach thousands, where float32 is coarser than the tolerance of the logits
        np.testing.assert_allclose(made, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def draw_input(run: dict) -> torch.Tensor:
    given = draw(run["input"])
    for channel, again, threshold in re.findall(
        r"channel (\d+) replaced by \(channel(\d+) ?> ?([\d.]+)\)", run["input"]
    ):
        given[:, int(channel)] = given[:, int(again)] > float(threshold)
    return as_tensor(given)


def watch(
    network: DenoisingUNet, names: list[str], given: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Runs a network and remembers what some of its parts gave."""
    seen: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    hooks = [network.get_submodule(n).register_forward_hook(remember(n)) for n in names]
    logits = network(given, steps)
    for hook in hooks:
        hook.remove()
    return logits, seen


@pytest.mark.parametrize("fixture", find_holding("unet_*", holds("timestep_embedding_")))
def test_steps_are_embedded_in_sines(fixture: Fixture) -> None:
    tables = {k: v for k, v in fixture.outputs.items() if k.startswith("timestep_embedding_")}
    made = {
        name: embed_in_sines(torch.arange(len(table)), int(name.rsplit("_", 1)[1]))
        for name, table in tables.items()
    }
    compare(fixture, made, abs_tolerance(fixture.manifest["tolerance"]))


@pytest.mark.parametrize("fixture", find_holding("diffusion*", holds("schedules")))
def test_the_schedule_is_the_published_one(fixture: Fixture) -> None:
    made = {}
    for given in fixture.manifest["schedules"]:
        schedule = DiffusionSchedule(given["start"], given["stop"], given["num_timesteps"])
        made |= {
            f"cumprod_{given['suffix']}_f64": schedule.fine_T,
            f"cumprod_prev_{given['suffix']}_f64": schedule.fine_before_T,
            f"betas_{given['suffix']}_f64": schedule.stay_fine_T,
        }
    compare(fixture, made, abs_tolerance(fixture.manifest["tolerance"]))


def list_schedules(manifest: dict, count: int) -> list[DiffusionSchedule]:
    """Lists the schedules of so many steps; the manifest does not say which of them was used."""
    given = [(s["start"], s["stop"], s["num_timesteps"]) for s in manifest.get("schedules", [])]
    listed = [*(DiffusionSchedule(*each) for each in given), DiffusionSchedule()]
    return [schedule for schedule in listed if schedule.num_timesteps == count]


@pytest.mark.parametrize("fixture", find_holding("diffusion*", holds("p_sample")))
def test_one_step_back_is_the_published_one(fixture: Fixture) -> None:
    expected = fixture.outputs["p_sample_fine_probs"]
    logits, before = (as_tensor(drawn) for drawn in draw_all(fixture.manifest["p_sample"]))
    errors = []
    for schedule in list_schedules(fixture.manifest, len(expected)):
        pairs = zip(schedule.fine_T.tolist(), schedule.fine_before_T.tolist(), strict=True)
        raised = [raise_fine_probability(logits, before, now=n, before=b) for n, b in pairs]
        errors.append(np.abs(torch.stack(raised).numpy() - expected).max())
    assert min(errors) <= abs_tolerance(fixture.manifest["tolerance"])


@pytest.mark.parametrize("fixture", find_holding("diffusion*", holds("q_sample")))
def test_one_step_forward_is_the_published_one(fixture: Fixture) -> None:
    manifest, expected = fixture.manifest, fixture.outputs["q_sample"]
    shape, rule = expected.shape, manifest["q_sample"]
    fine, coarse, noise = (as_tensor(drawn) for drawn in draw_all(rule, same=shape, shape=shape))
    steps = torch.tensor(find_numbers(r"t=\[([\d, ]+)\]", rule))
    count = len(fixture.outputs.get("p_sample_fine_probs", range(int(steps.max()) + 1)))
    drawn = [
        draw_mask(fine, coarse, steps, schedule, lambda _: noise).numpy()
        for schedule in list_schedules(manifest, count)
    ]
    assert any(np.array_equal(each, expected) for each in drawn)


@pytest.mark.parametrize(("fixture", "run"), find_runs("loop*", "stub"))
def test_the_loop_goes_back_as_published(fixture: Fixture, run: dict) -> None:
    noise, stub = CountedNoise(run), Stub(run["stub"])
    height, width = run["hw"]
    found = []
    for i, n in enumerate(run["chunks"]):
        values = {"seed": run["seed"], "i": i, "n": n, "h": height, "w": width}
        coarse, image = (as_tensor(drawn) for drawn in draw_all(run["inputs"], **values))
        fine = [as_tensor(drawn) for drawn in draw_all(run["initial_fine_probs"], **values)]
        found.append(
            run_backwards(
                stub,
                image,
                coarse,
                steps=run["indices"],
                schedule=schedule_of(fixture, run),
                noise=noise,
                fine_probability=fine[0] if fine else None,
                ends_soft=run["use_last_step"],
            )
        )
    assert noise.calls == run["noise_calls"]
    result, fine_probability = (torch.cat(parts) for parts in zip(*found, strict=True))
    assert_alike(fixture, run, {"res": result, "fine": fine_probability})


def assert_alike(fixture: Fixture, run: dict, made: dict[str, torch.Tensor]) -> None:
    """Allows a few pixels to differ, where a draw falls within rounding of a probability."""
    for kind, value in made.items():
        expected = fixture.outputs[f"{kind}_{run['name']}" if "name" in run else kind]
        assert value.shape == expected.shape
        differs = np.abs(value.numpy() - expected) > abs_tolerance(run["tolerance"])
        assert np.count_nonzero(differs) <= allowed_pixels(run["tolerance"], differs.size), kind


@pytest.mark.parametrize(("fixture", "run"), find_runs("loop*", "config"))
def test_the_loop_with_a_real_network(fixture: Fixture, run: dict) -> None:
    network = network_of(fixture, run)
    mask, image = (as_tensor(drawn) for drawn in draw_all(run["inputs"]))
    schedule = DiffusionSchedule(num_timesteps=network.spec.num_timesteps)
    with torch.inference_mode():
        result, fine_probability = run_backwards(
            network,
            image,
            mask,
            steps=run.get("indices", range(schedule.num_timesteps - 1, -1, -1)),
            schedule=schedule,
            noise=CountedNoise(run),
        )
    assert_alike(fixture, run, {"res": result, "fine": fine_probability})


def make_config(side_px: int, **fields: Any) -> SegRefinerConfig:
    """Makes a configuration for the stub, which takes any size; networks do not."""
    config = SegRefinerConfig(**fields)
    object.__setattr__(config, "model_px", side_px)
    return config


@pytest.mark.parametrize(("fixture", "run"), find_runs("instance*", "test_cfg"))
def test_objects_are_cropped_as_published(fixture: Fixture, run: dict) -> None:
    name, config = run["name"], config_of_objects(fixture, run)
    coarse, image, side = unpack_objects(fixture, run), smooth_image(run), config.model_px
    chosen, boxes = plan_crops(coarse, config)
    np.testing.assert_array_equal(boxes, stored_boxes(fixture, f"object_coors_{name}"))
    if not chosen:
        return
    crops = [crop_object(image, coarse[i], box, side) for i, box in zip(chosen, boxes, strict=True)]
    images, masks = (np.stack(parts) for parts in zip(*crops, strict=True))
    expected = unpack(fixture, f"object_masks_packed_{name}", masks.shape)
    np.testing.assert_array_equal(masks, expected)
    key, stride = find_strided(fixture, "object_imgs", name)
    made = images[:, ::stride, ::stride].transpose(0, 3, 1, 2)
    compare(fixture, {key: made}, abs_tolerance(run["tolerance"]))


def stored_boxes(fixture: Fixture, name: str) -> np.ndarray:
    """Reads `(N, 4)` boxes; without any, they may not be stored at all."""
    return fixture.outputs.get(name, np.zeros(0, dtype=np.int64)).reshape(-1, 4)


def find_strided(fixture: Fixture, kind: str, name: str) -> tuple[str, int]:
    """Finds an output such as `<kind>_sub7_<name>`, of which every 7th pixel is stored."""
    pattern = rf"{kind}_sub(\d+)_{re.escape(name)}"
    (key,) = (key for key in fixture.outputs if re.fullmatch(pattern, key))
    (stride,) = find_numbers(pattern, key)
    return key, stride


@pytest.mark.parametrize(("fixture", "run"), find_runs("instance*", "test_cfg"))
def test_objects_are_refined_as_published(fixture: Fixture, run: dict) -> None:
    outputs, name, config = fixture.outputs, run["name"], config_of_objects(fixture, run)
    coarse = unpack_objects(fixture, run)
    refiner, stub, noise = refine_with_stub(config, run)
    scores = refiner.refine(smooth_image(run), coarse.astype(np.float32))
    assert stub.calls == run["stub_calls"]
    assert noise.calls == run["noise_calls"]
    chosen, _ = plan_crops(coarse, config)
    if chosen:
        key, stride = find_strided(fixture, "paste_prob", name)
        pasted = scores[chosen][:, ::stride, ::stride]
        compare(fixture, {key: pasted}, abs_tolerance(run["tolerance"]))

    columns = find_columns(run["arrays_note"], "dt_bboxes")
    rows = outputs["dt_bboxes_f64"]
    labels = rows[:, columns.index("label")]
    large_first = [*chosen, *(i for i in range(len(coarse)) if i not in chosen)]
    by_class = sorted(large_first, key=lambda i: labels[i])
    np.testing.assert_array_equal(labels[by_class], outputs[f"labels_by_class_{name}"])
    boxes = np.delete(rows, columns.index("label"), axis=1)[by_class]
    np.testing.assert_array_equal(boxes, outputs[f"bboxes_by_class_{name}_f64"])
    expected = unpack(fixture, f"masks_by_class_packed_{name}", coarse.shape)
    for i, goal in zip(by_class, expected, strict=True):
        differs = (scores[i] >= FOREGROUND) != goal
        assert np.count_nonzero(differs) <= allowed_pixels(run["tolerance"], goal.size)


def config_of_objects(fixture: Fixture, run: dict) -> SegRefinerConfig:
    count, given = schedule_of(fixture, run).num_timesteps, run["test_cfg"]
    return make_config(
        given["model_size"],
        context_px=given["pad_width"],
        least_area_px=given["area_thr"],
        num_timesteps=count,
        steps=min(run.get("step", count), count),
        truncates_steps=True,
        fades_at_crop=True,
    )


def unpack_objects(fixture: Fixture, run: dict) -> np.ndarray:
    return unpack(fixture, "coarse_packed", (run["num_instances"], *run["hw"]))


def refine_with_stub(config: SegRefinerConfig, run: dict) -> tuple[SegRefiner, Stub, CountedNoise]:
    """Makes a refiner around the stub, and gives its stub and its noise."""
    stub, noise = Stub(run["stub"]), CountedNoise(run)
    refiner = SegRefiner(
        network=stub,
        config=config,
        batch_size=run["test_cfg"]["batch_max"],
        make_noise=lambda keys: noise,
    )
    return refiner, stub, noise


@pytest.mark.parametrize(("fixture", "run"), find_runs("semantic*", "test_cfg"))
def test_pictures_are_refined_as_published(fixture: Fixture, run: dict) -> None:
    outputs, name, given = fixture.outputs, run["name"], run["test_cfg"]
    size_hw, count = tuple(run["hw"]), schedule_of(fixture, run).num_timesteps
    config = make_config(
        given["model_size"],
        scope="picture",
        fine_share=given["fine_prob_thr"],
        nms_iou=given["iou_thr"],
        num_timesteps=count,
        steps=count,
        picks_nearest=True,
        drops_small=True,
    )
    coarse = unpack(fixture, f"coarse_packed_{name}", size_hw)
    refiner, stub, noise = refine_with_stub(config, run)
    seen = spy_on(refiner)
    (scores,) = refiner.refine(smooth_image(run), coarse[None].astype(np.float32))
    assert stub.calls == run["stub_calls"]
    assert noise.calls == run["noise_calls"]
    allowed = allowed_pixels(run["tolerance"], coarse.size)
    final = unpack(fixture, f"final_packed_{name}", size_hw)
    # `result_dtype` is the original's; we always return float32 scores
    assert np.count_nonzero((scores >= FOREGROUND) != final) <= allowed
    assert ("fine" in seen) == (run["candidates"] is not None)
    if not seen:
        return
    key = f"fine_probs_{name}"
    stride = 1
    if outputs[key].shape != seen["fine"].shape:
        (stride,) = find_numbers(r"fine_probs: .*every (\d+)\w* pixel", run["arrays_note"])
    made = seen["fine"][::stride, ::stride]
    compare(fixture, {key: made}, abs_tolerance(run["tolerance"]))
    whole = unpack(fixture, f"global_mask_packed_{name}", size_hw)
    assert np.count_nonzero((seen["whole"] >= FOREGROUND) != whole) <= allowed
    boxes, uncertainty = find_uncertain(seen["fine"], size_hw, config)
    assert len(boxes) == run["candidates"]
    thinned = boxes[suppress(boxes, uncertainty, config)]
    kept = choose_patches(boxes, uncertainty, whole, config)
    assert (len(thinned), len(kept)) == (run["nms_kept"], run["patches_refined"])
    np.testing.assert_array_equal(thinned, stored_boxes(fixture, f"nms_boxes_{name}"))
    np.testing.assert_array_equal(kept, stored_boxes(fixture, f"kept_boxes_{name}"))


def spy_on(refiner: SegRefiner) -> dict[str, np.ndarray]:
    """Remembers the first result of the look at the whole picture."""
    run, look = refiner._run, refiner._look_at_whole
    seen: dict[str, np.ndarray] = {}

    def spied_run(steps: list, items: Any, **options: Any) -> Any:
        for found in run(steps, items, **options):
            seen.setdefault("fine", found[1])
            yield found

    def spied_look(parts: list) -> list:
        plans = look(parts)
        for part in parts:
            seen["whole"] = part.scores.copy()
        return plans

    object.__setattr__(refiner, "_run", spied_run)
    object.__setattr__(refiner, "_look_at_whole", spied_look)
    return seen


@pytest.mark.parametrize(("fixture", "run"), find_runs("patches*", "seed"))
def test_uncertain_patches_are_chosen_and_merged_as_published(fixture: Fixture, run: dict) -> None:
    outputs, name, side = fixture.outputs, run["name"], run["model_size"]
    size_hw, count = tuple(run["hw"]), run["kept"]
    config = make_config(
        side,
        scope="picture",
        picks_nearest=True,
        fine_share=run["fine_prob_thr"],
        nms_iou=run["iou_thr"],
    )
    ranks, local = draw_all(run["inputs"], seed=run["seed"], ms=side, kept=count)
    (value,) = re.findall(r"value (\S+) float32", run["inputs"])
    fine = evaluate(value, p=ranks.reshape(side, side), ms=side).astype(np.float32)
    mask = unpack(fixture, f"mask_packed_{name}", size_hw)
    boxes, uncertainty = find_uncertain(fine, size_hw, config)
    assert len(boxes) == outputs[f"ncand_{name}"]
    for centres in stored_centres(fixture, name):
        start = centres - side // 2
        expected = fit_boxes(np.concatenate([start, start + side], axis=1), size_hw)
        np.testing.assert_array_equal(boxes[: len(expected)], expected)
    thinned = boxes[suppress(boxes, uncertainty, config)]
    np.testing.assert_array_equal(thinned, stored_boxes(fixture, f"nms_{name}"))
    kept = choose_patches(boxes, uncertainty, mask, config)
    np.testing.assert_array_equal(kept, stored_boxes(fixture, f"kept_{name}"))
    assert len(kept) == count
    merged = mask
    if count:
        enlarged = crop(enlarge_map(fine, size_hw, config), kept[:1])[0]
        np.testing.assert_array_equal(enlarged, outputs[f"patch_fine_first_{name}"])
        masks = unpack(fixture, f"patch_masks_packed_{name}", (count, side, side))
        np.testing.assert_array_equal(crop(mask, kept), masks)
        mean, is_covered = paste_average(local[:, 0].astype(np.float32), kept, size_hw)
        merged = np.where(is_covered, mean >= FOREGROUND, mask)
    np.testing.assert_array_equal(merged, unpack(fixture, f"merged_packed_{name}", size_hw))


def stored_centres(fixture: Fixture, name: str) -> list[np.ndarray]:
    """Lists the stored beginnings of the candidates, `(N, 2)` x and y of their centres."""
    keys = [k for k in fixture.outputs if re.fullmatch(rf"cand_xy_first\d+_{re.escape(name)}", k)]
    return [fixture.outputs[key].reshape(-1, 2).astype(np.int64) for key in keys]


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "normalize*"))
def test_pictures_are_normalised_as_published(fixture: Fixture) -> None:
    rgb = fixture.outputs["bgr"][..., ::-1].transpose(2, 0, 1)
    network = DenoisingUNet(UNetSpec(channel_mult=(1,), num_res_blocks=1))
    made = network.normalise(as_tensor(rgb)[None])[0]
    compare(fixture, {"normalized": made}, abs_tolerance(fixture.manifest["tolerance"]))


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "metrics*"))
def test_iou_and_mba_are_those_of_the_scripts(fixture: Fixture) -> None:
    images, dataset = fixture.manifest["images"], fixture.manifest["dataset"]
    tolerance = abs_tolerance(fixture.manifest["tolerance"])
    for kind in (key.removeprefix("iou_") for key in dataset if key.startswith("iou_")):
        region, accuracies = RegionScores(), []
        for i, image in enumerate(images):
            target, prediction = (unpack(fixture, f"{k}_{i}", image["hw"]) for k in ("gt", kind))
            assert list(count_overlap(prediction, target)) == image[f"inter_union_{kind}"]
            accuracies.append(mean_boundary_accuracy(prediction, target))
            region.update(prediction, target)
        expected = [image[f"mba_{kind}"] for image in images]
        np.testing.assert_allclose(accuracies, expected, rtol=0, atol=tolerance)
        pooled = region.compute()["pooled_iou"]
        assert pooled == pytest.approx(dataset[f"iou_{kind}"], abs=tolerance)
        mean = dataset[f"mba_{kind}"]
        assert np.mean(accuracies) == pytest.approx(mean, abs=tolerance, nan_ok=True)


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "metrics*"))
def test_bands_along_the_outline_are_those_of_the_scripts(fixture: Fixture) -> None:
    """One wrong pixel on the outline lies in every band, and costs one of its pixels."""
    for i, image in enumerate(fixture.manifest["images"]):
        target = unpack(fixture, f"gt_{i}", image["hw"])
        assert list(band_radii_px(target.shape)) == image["radii"]
        prediction = target.copy()
        row, column = np.argwhere(target[:, 1:] != target[:, :-1])[0]
        prediction[row, column] ^= True
        expected = np.mean([(pixels - 1) / pixels for pixels in image["region_pixels"]])
        assert mean_boundary_accuracy(prediction, target) == expected


LVIS_NAMES = {
    "APs": "AP_small", "APm": "AP_medium", "APl": "AP_large",
    "APr": "AP_rare", "APc": "AP_common", "APf": "AP_frequent",
    "AR": "AR", "ARs": "AR_small", "ARm": "AR_medium", "ARl": "AR_large",
}  # fmt: skip


def load_named(fixture: Fixture) -> list[Any]:
    """Reads the json files that a manifest names, in its order."""
    names = re.findall(r"\w+\.json", fixture.manifest["what"])
    return [json.loads((fixture.path / name).read_text()) for name in names]


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "lvis_ap*"))
def test_lvis_ap_is_that_of_the_published_tool(fixture: Fixture) -> None:
    files = load_named(fixture)
    (results,) = (each for each in files if isinstance(each, list))
    (truth,) = (each for each in files if isinstance(each, dict))
    tolerance = abs_tolerance(fixture.manifest["tolerance"])
    for kind, expected in fixture.manifest["results"].items():
        scores = average_precision(results, truth, kind=kind)
        for name, goal in expected.items():
            short = name.split("@")[0]
            made = scores[LVIS_NAMES.get(short, short)]
            goal = np.nan if goal == -1 else goal
            assert made == pytest.approx(goal, abs=tolerance, nan_ok=True), (kind, name)


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "cocofy*"))
def test_lvis_becomes_coco_as_published(fixture: Fixture) -> None:
    lvis, coco, expected = load_named(fixture)
    assert to_coco(lvis, coco) == expected
    assert len(SYNSETS) == fixture.manifest["num_synsets_in_table"]
