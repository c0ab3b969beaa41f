"""The dense CRF against pydensecrf and the exact mean field (spec perimeterfit.md, 7.1)."""

import re

import numpy as np
import pytest
from tests.parity.golden import Fixture, find_fixtures

from maskhone.ops.dense_crf import (
    LABEL_PARAMETERS,
    SOFTMAX_PARAMETERS,
    CRFParameters,
    infer,
    unary_from_labels,
    unary_from_probabilities,
)


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
