"""PatchRefineNet's scores, splits and schedule against the original's own outputs."""

import re

import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures, tolerance_number

from maskhone.data.splits import split_like_published
from maskhone.engine.plateau import PUBLISHED_RULES, Plateau
from maskhone.methods.prn.thresholds import find_image_threshold
from maskhone.metrics.region import ForegroundScores


def find_number(fixture: Fixture, pattern: str) -> float:
    """Reads a number out of what the manifest says was done."""
    found = re.search(pattern, fixture.manifest["what"])
    assert found is not None, pattern
    return float(found[1])


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "metrics*"))
def test_every_definition_of_the_score_is_the_published_one(fixture: Fixture) -> None:
    scores, truths = fixture.outputs["prob"][..., 0], fixture.outputs["gt"][..., 0] > 0
    plain, torch_like = ForegroundScores(), ForegroundScores(keeps_equal=True)
    each = []
    for score, truth in zip(scores, truths, strict=True):
        each.append(plain.update(score, truth)["iou_acc"])
        torch_like.update(score, truth)
    oracle = [find_image_threshold(s, t)[1] for s, t in zip(scores, truths, strict=True)]
    found = plain.compute()
    made = {
        "accumulated_iou_base": found["iou_acc"],
        "script_deepglobe": found["iou_acc"],
        "script_DUTS": found["iou_acc"],
        "mean_per_image_iou": np.mean(each),
        "torch_int_uni_ge05": torch_like.compute()["iou_acc"],
        "mae": found["mae"],
        "kvasir_base_script_mean_oracle_image_threshold": np.mean(oracle),
        "script_kvasir": np.mean(oracle),
    }
    tolerance = tolerance_number(fixture.manifest["tolerance"])
    assert made == pytest.approx(fixture.manifest["values"], abs=tolerance)
    expected = fixture.outputs["kvasir_per_image_oracle_iou"]
    np.testing.assert_allclose(oracle, expected, atol=tolerance)


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "splits*"))
def test_the_splits_hold_the_published_pictures(fixture: Fixture) -> None:
    seed = int(find_number(fixture, r"RandomState\((\d+)\)"))
    share = find_number(fixture, r"ceil\(([\d.]+) n\)")
    made = {}
    for name, sizes in fixture.manifest["sizes"].items():
        first, held = split_like_published(sizes["n"], share=share, seed=seed)
        second_first, second_held = split_like_published(len(held), share=share, seed=seed)
        made |= {f"{name}_first": first, f"{name}_held": held}
        made |= {f"{name}_val": held[second_first], f"{name}_test": held[second_held]}
        parts = {
            "first": first,
            "held": held,
            "second_first": second_first,
            "second_held": second_held,
        }
        assert {k: len(v) for k, v in parts.items()} == {k: sizes[k] for k in parts}
    for key, expected in fixture.outputs.items():
        np.testing.assert_array_equal(made[key], expected, err_msg=key)


@pytest.mark.parametrize("fixture", find_fixtures("patchrefinenet", "schedule*"))
def test_the_rate_falls_and_the_best_weights_return_as_published(fixture: Fixture) -> None:
    outputs, runs = fixture.outputs, fixture.manifest["runs"]
    start = find_number(fixture, r"start lr ([\d.e-]+)")
    n_epochs = int(find_number(fixture, r"at most (\d+) epochs"))
    factor = find_number(fixture, r"([\d.]+)\*d\(mean sigmoid")
    rate_tolerance, weight_tolerance = (
        float(number) for number in re.findall(r"\d+e-\d+", fixture.manifest["tolerance"])
    )
    assert {key.removesuffix("_loss") for key in outputs if key.endswith("_loss")} == set(runs)
    for name, expected in runs.items():
        plateau = Plateau(PUBLISHED_RULES["prn"], start)
        rates, weights = train_on(outputs[f"{name}_loss"][:n_epochs].tolist(), plateau, factor)
        assert len(rates) == expected["last_epoch"], name
        assert plateau.learning_rate == pytest.approx(expected["final_lr"], rel=rate_tolerance)
        np.testing.assert_allclose(rates, outputs[f"{name}_lr"], rtol=rate_tolerance, err_msg=name)
        stored = outputs[f"{name}_weight_before_epoch"]
        np.testing.assert_allclose(weights, stored, atol=weight_tolerance, err_msg=name)


def train_on(
    losses: list[float], plateau: Plateau, factor: float
) -> tuple[list[float], list[float]]:
    """Trains one weight on scripted losses: one step of Adam an epoch."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([weight], lr=plateau.learning_rate)
    best, rates, weights = weight.detach().clone(), [], []
    for loss in losses:
        rates.append(plateau.learning_rate)
        weights.append(weight.item())
        optimizer.zero_grad()
        (factor * weight.sigmoid()).backward()
        optimizer.step()
        match plateau.report(loss):
            case "improved":
                best = weight.detach().clone()
            case "reload":
                weight.data.copy_(best)
                optimizer.param_groups[0]["lr"] = plateau.learning_rate
            case "stop":
                break
    return rates, weights
