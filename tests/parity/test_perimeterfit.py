"""Segments, perimeters and the dense CRF (spec perimeterfit.md, 3 to 6 and 7.1)."""

import copy
import re

import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures, state_dict_by_rule, tolerance_number

from maskhone.methods.perimeterfit.perimeter import (
    SETTINGS,
    blur,
    combine,
    find_edges,
    fit_pictures,
    fit_segments,
    make_grey,
)
from maskhone.methods.perimeterfit.segments import (
    SegmentsNet,
    find_segments,
    learn_labels,
    make_network,
    make_palette,
    paint,
    pass_through_jpeg,
)
from maskhone.ops.dense_crf import (
    LABEL_PARAMETERS,
    SOFTMAX_PARAMETERS,
    CRFParameters,
    infer,
    unary_from_labels,
    unary_from_probabilities,
)
from maskhone.ops.superpixels import find_quickshift, find_slic


def cases_of(fixture: Fixture, ending: str) -> list[tuple[str, str, str, int]]:
    """Lists (array name, image name, label or softmax, iterations) from the names of the arrays."""
    pattern = re.compile(rf"(\w+?)_(label|softmax)_t(\d+)_{ending}")
    found = [(key, pattern.fullmatch(key)) for key in fixture.outputs]
    cases = [(key, m[1], m[2], int(m[3])) for key, m in found if m]
    assert cases
    return cases


def unary_of(fixture: Fixture, name: str, use: str) -> np.ndarray:
    if use == "softmax":
        return unary_from_probabilities(fixture.outputs[f"{name}_probs"])
    n_labels = len(fixture.outputs[f"{name}_probs"])
    return unary_from_labels(fixture.outputs[f"{name}_labels"], n_labels)


PARAMETERS = {"label": LABEL_PARAMETERS, "softmax": SOFTMAX_PARAMETERS}


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "crf*"))
def test_probabilities_are_those_of_the_library(fixture: Fixture) -> None:
    tolerance = fixture.manifest["tolerance"]["pydensecrf"]
    cases = cases_of(fixture, "pydensecrf_Q")
    cases += [c for c in cases_of(fixture, "pydensecrf") if c[2] == "softmax"]
    for key, name, use, iterations in cases:
        ours = infer(
            unary_of(fixture, name, use),
            fixture.outputs[f"{name}_image"],
            parameters=PARAMETERS[use],
            iterations=iterations,
        )
        stored = fixture.outputs[key]
        np.testing.assert_allclose(ours, stored, rtol=0, atol=tolerance["atol"], err_msg=key)
        agreement = (ours.argmax(axis=0) == stored.argmax(axis=0)).mean()
        assert agreement >= tolerance["argmax_agreement"], key


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "crf*"))
def test_label_maps_are_those_of_the_library(fixture: Fixture) -> None:
    least = fixture.manifest["tolerance"]["pydensecrf"]["argmax_agreement"]
    for key, name, use, iterations in cases_of(fixture, "pydensecrf"):
        if use == "label":
            ours = infer(
                unary_of(fixture, name, use),
                fixture.outputs[f"{name}_image"],
                parameters=PARAMETERS[use],
                iterations=iterations,
            ).argmax(axis=0)
            assert (ours == fixture.outputs[key]).mean() >= least, key


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "crf*"))
def test_the_energy_is_that_of_the_exact_mean_field(fixture: Fixture) -> None:
    tolerance = fixture.manifest["tolerance"]["bruteforce"]
    for key, name, use, iterations in cases_of(fixture, "bruteforce_Q"):
        exact = exact_mean_field(
            unary_of(fixture, name, use).astype(np.float64),
            fixture.outputs[f"{name}_image"],
            PARAMETERS[use],
            iterations,
        )
        np.testing.assert_allclose(exact, fixture.outputs[key], **tolerance, err_msg=key)


def exact_mean_field(
    unary: np.ndarray, image: np.ndarray, parameters: CRFParameters, iterations: int
) -> np.ndarray:
    """Mean field with all pairs of pixels, from the energy in the spec and our constants."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].reshape(2, -1).astype(np.float64)
    place = np.stack([x, y], axis=1)
    colour = image.reshape(-1, 3).astype(np.float64)
    near = np.concatenate(
        [place / parameters.colour_position_px, colour / parameters.colour_range], axis=1
    )
    kernels = [
        (parameters.position_weight, gaussian(place / parameters.position_px)),
        (parameters.colour_weight, gaussian(near)),
    ]
    cost = unary.reshape(len(unary), -1)
    q = softmax(-cost)
    for _ in range(iterations):
        q = softmax(-cost + sum(weight * (q @ kernel) for weight, kernel in kernels))
    return q.reshape(unary.shape)


def gaussian(features: np.ndarray) -> np.ndarray:
    squared = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    kernel = np.exp(-squared / 2)
    scale = 1 / np.sqrt(kernel.sum(axis=1))
    return scale[:, None] * kernel * scale[None]


def softmax(energy: np.ndarray) -> np.ndarray:
    powers = np.exp(energy - energy.max(axis=0))
    return powers / powers.sum(axis=0)


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "uss*"))
def test_superpixels_are_those_of_the_original(fixture: Fixture) -> None:
    # The order blue, green, red, read as if it were red, green, blue, as published.
    image = fixture.outputs["image_bgr"]
    np.testing.assert_array_equal(find_slic(image), fixture.outputs["slic"])
    np.testing.assert_array_equal(find_quickshift(image), fixture.outputs["quickshift"])


SUPERPIXELS = {"slic": "slic", "quick": "quickshift"}  # names of runs, and of their superpixels


def find_runs(fixture: Fixture, kind: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Lists (name, RGB picture, superpixels) of the stored runs of a kind: `rule` or `seed43`."""
    found = [re.fullmatch(rf"(\w+)_({kind})_losses", key) for key in fixture.outputs]
    runs = [(f"{m[1]}_{m[2]}", m[1]) for m in found if m]
    assert runs
    image = fixture.outputs["image_bgr"][..., ::-1]
    return [(run, image, fixture.outputs[SUPERPIXELS[name]]) for run, name in runs]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "uss*"))
def test_segments_are_learnt_as_in_the_original(fixture: Fixture) -> None:
    tolerance, palette = fixture.manifest["tolerance"], fixture.outputs["palette_bgr"]
    for run, image, superpixels in find_runs(fixture, "rule"):
        network = SegmentsNet()
        entries = [(key, tuple(shape)) for key, shape, _ in fixture.manifest["state_dict"]]
        assert [(k, tuple(v.shape)) for k, v in network.state_dict().items()] == entries
        state = state_dict_by_rule(entries, {})
        network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
        first = copy.deepcopy(network).train()
        bgr = np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), dtype=np.float32) / 255
        with torch.inference_mode():
            output = first(torch.from_numpy(bgr)[None])[0].permute(1, 2, 0)[::4, ::4]
        stored = {key: fixture.outputs[f"{run}_{key}"] for key in ("output0", "targets", "losses")}
        np.testing.assert_allclose(output, stored["output0"], **tolerance["output0"])

        steps = len(stored["losses"])
        rounds = list(learn_labels(network, image, superpixels, iterations=steps, min_labels=0))
        for number, (done, expected) in enumerate(zip(rounds, stored["targets"], strict=True)):
            least = tolerance["targets_first3" if number < 3 else "targets_rest"]
            assert (done.labels == expected).mean() >= least, (run, number)
        np.testing.assert_allclose([r.loss for r in rounds], stored["losses"], rtol=1e-4)
        colours = paint(stored["targets"][-1], palette[:, ::-1])[..., ::-1]
        np.testing.assert_array_equal(colours, fixture.outputs[f"{run}_show_bgr"])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "uss*"))
def test_whole_seeded_runs_end_as_in_the_original(fixture: Fixture) -> None:
    least = fixture.manifest["tolerance"]["targets_rest"]
    for run, image, superpixels in find_runs(fixture, r"seed\d+"):
        seed, n_labels = int(run.split("seed")[1]), fixture.manifest["info"][run]["labels_last"]
        rounds = list(learn_labels(make_network(seed), image, superpixels))
        expected = fixture.outputs[f"{run}_final_target"]
        assert len(rounds) == fixture.manifest["info"][run]["iterations"]
        assert len(np.unique(expected)) == n_labels
        assert (rounds[-1].labels == expected).mean() >= least, run
        np.testing.assert_array_equal(
            rounds[-1].labels, find_segments(image, superpixels, seed=seed)
        )
        losses = [done.loss for done in rounds]
        np.testing.assert_allclose(losses, fixture.outputs[f"{run}_losses"], rtol=1e-3)
        colours = paint(expected)[..., ::-1]
        np.testing.assert_array_equal(colours, fixture.outputs[f"{run}_show_bgr"])


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "uss*"))
def test_first_weights_and_colours_are_those_of_the_published_seed(fixture: Fixture) -> None:
    found = [re.fullmatch(r"seed(\d+)_first_weights", key) for key in fixture.manifest["info"]]
    seeds = [(int(m[1]), fixture.manifest["info"][m[0]]) for m in found if m]
    assert seeds
    for seed, stored in seeds:
        first = make_network(seed).seq[0].weight.detach().numpy().ravel()
        np.testing.assert_allclose(first[: len(stored)], stored, rtol=1e-6)
    np.testing.assert_array_equal(make_palette()[:, ::-1], fixture.outputs["palette_bgr"])


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "edges*"))
def test_edges_are_those_of_the_original(fixture: Fixture) -> None:
    names = [k.removesuffix("_input_bgr") for k in fixture.outputs if k.endswith("_input_bgr")]
    assert names
    most = tolerance_number(fixture.manifest["tolerance"]["decoded"])
    for name in names:
        stored = {key: fixture.outputs[f"{name}_{key}"] for key in ("gray", "blur", "canny")}
        picture = np.ascontiguousarray(fixture.outputs[f"{name}_input_bgr"][..., ::-1])
        np.testing.assert_array_equal(make_grey(picture), stored["gray"], name)
        np.testing.assert_array_equal(blur(stored["gray"]), stored["blur"], name)
        np.testing.assert_array_equal(find_edges(picture), stored["canny"], name)
        decoded = pass_through_jpeg(stored["canny"]).astype(np.int64)
        assert np.abs(decoded - fixture.outputs[f"{name}_decoded"]).max() <= most


def with_background(class_maps: np.ndarray) -> np.ndarray:
    """Puts a map in front that supports nothing: channel 0 of the original's results."""
    return np.concatenate([np.zeros_like(class_maps[:1]), class_maps])


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "perimeterfit_lossless*"))
def test_both_forms_fit_lossless_segments_as_the_original(fixture: Fixture) -> None:
    stored = fixture.outputs
    class_maps = with_background(stored["hr_cam"])
    np.testing.assert_array_equal(find_edges(stored["segment_rgb"]), stored["perimeter"])
    for name, setting in SETTINGS.items():
        fits = fit_segments(stored["labels"], stored["perimeter"] > 0, class_maps, setting)
        np.testing.assert_array_equal(fits, stored[f"{name}_fit"], name)
        fits = fit_pictures(stored["segment_rgb"], stored["perimeter"], class_maps, setting)
        np.testing.assert_array_equal(fits, stored[f"{name}_fit"], name)


def find_images(fixture: Fixture) -> list[dict[str, np.ndarray]]:
    """Lists the arrays of each image of a chain, by their names without `i0_`."""
    prefixes = sorted({key.partition("_")[0] for key in fixture.outputs})
    assert prefixes
    return [
        {k.partition("_")[2]: v for k, v in fixture.outputs.items() if k.startswith(f"{prefix}_")}
        for prefix in prefixes
    ]


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "chain_perimeterfit*"))
def test_perimeters_are_fitted_to_jpeg_pictures_as_in_the_original(fixture: Fixture) -> None:
    for stored in find_images(fixture):
        class_maps = with_background(stored["hr_cam"])
        for name, setting in SETTINGS.items():
            pictures = (stored[f"{name}_seg_rgb"], stored[f"{name}_perimeter"])
            fits = fit_pictures(*pictures, class_maps, setting)
            np.testing.assert_array_equal(fits, stored[f"{name}_fit"], name)


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "chain_perimeterfit*"))
def test_class_maps_are_doubled_as_in_the_original(fixture: Fixture) -> None:
    tolerance = fixture.manifest["tolerance"]["combined"]
    for stored in find_images(fixture):
        fits = [stored[f"{name}_fit"][1:] for name in ("slic", "quick")]
        for name in ("cam", "hr_cam"):
            combined = combine(stored[name], *fits)
            np.testing.assert_allclose(combined, stored[f"combined_{name}"], **tolerance)
        np.testing.assert_array_equal(stored["combined_keys"], stored["keys"])
