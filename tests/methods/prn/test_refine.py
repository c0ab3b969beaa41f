from dataclasses import replace

import numpy as np
import pytest
import torch

from maskhone.errors import UsageError, WeightsError
from maskhone.methods.catalogue import load
from maskhone.methods.prn.config import PRESETS, PRNConfig
from maskhone.methods.prn.merge import MERGES, merge_branches, merge_scores
from maskhone.methods.prn.network import PRN, SPECS, choose_statistics
from maskhone.methods.prn.refine import PRNRefiner, build_network, plan_tiles

TINY = PRNConfig(network="grid", cells=2, width=4, map_px=32)
PICTURE = np.zeros((32, 32, 3), dtype=np.uint8)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return PRN(TINY.spec).eval()


@pytest.fixture
def maps():
    return np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)


@pytest.fixture
def refine(network, maps):
    def run(scores=maps, **options):
        refiner = PRNRefiner(network=network, config=replace(TINY, **options))
        return refiner.refine(np.zeros((*scores.shape[1:], 3), np.uint8), scores)

    return run


@pytest.mark.parametrize("rule", MERGES)
def test_a_map_of_the_networks_size_comes_straight_from_it(network, maps, refine, rule):
    with torch.inference_mode():
        whole, local = network(torch.from_numpy(maps)[:, None])
    branches = (whole.sigmoid().numpy()[:, 0], local.sigmoid().numpy()[:, 0])
    expected = np.stack([merge_scores(*pair, rule) for pair in zip(*branches, strict=True)])
    np.testing.assert_allclose(refine(merge=rule), expected, atol=1e-6)


def test_above_one_half_of_the_published_merge_is_the_published_mask():
    whole, local = np.random.default_rng(1).random((2, 40, 50), dtype=np.float32)
    whole[::7], local[::5] = 0.5, 0.5
    merged = merge_scores(whole, local, "published")
    np.testing.assert_array_equal(merged > 0.5, merge_branches(whole, local))
    assert ((merged > 0.5) != (whole > 0.5)).any()


def test_the_merges_are_what_they_are_called():
    whole, local = (np.full((1, 1), x, np.float32) for x in (0.25, 0.75))
    found = {rule: float(merge_scores(whole, local, rule)[0, 0]) for rule in MERGES}
    assert found == {
        "published": 0.25, "global": 0.25, "local": 0.75, "mean": 0.5, "and": 0.25, "or": 0.75,
    }  # fmt: skip


def test_the_picture_is_not_looked_at(network, maps):
    refiner = PRNRefiner(network=network, config=TINY)
    noise = np.random.default_rng(0).integers(0, 256, PICTURE.shape, dtype=np.uint8)
    np.testing.assert_array_equal(refiner.refine(PICTURE, maps), refiner.refine(noise, maps))


@pytest.mark.parametrize("bn", ["eval", "batch"])
@pytest.mark.parametrize("value", [0.3, 1.0])
def test_constant_maps_give_scores(refine, bn, value):
    found = refine(np.full((1, 20, 30), value, np.float32), bn=bn)
    assert ((found >= 0) & (found <= 1)).all()


def test_only_the_empty_map_stays_empty(refine, maps):
    maps[1] = 0
    found = refine(maps)
    assert found.any(axis=(1, 2)).tolist() == [True, False, True]


def test_statistics_of_each_map_are_those_of_training_one_by_one(network, maps):
    scores = torch.from_numpy(maps)[:, None].double()
    choose_statistics(network.double(), of_each_map=True)
    with torch.no_grad():
        together = network(scores)
        network.train()
        alone = [network(one[None]) for one in scores]
    for i, branch in enumerate(together):
        expected = torch.cat([each[i] for each in alone])
        torch.testing.assert_close(branch, expected)


def test_training_with_statistics_of_each_map_is_training_one_by_one(network, maps):
    scores = torch.from_numpy(maps)[:, None].double()
    found = []
    for of_each_map in (False, True):
        choose_statistics(network.double().train(), of_each_map=of_each_map)
        parts = [scores] if of_each_map else scores.split(1)
        made = [network(part) for part in parts]
        loss = sum(branch.square().sum() for pair in made for branch in pair)
        network.zero_grad()
        loss.backward()
        found.append([p.grad.clone() for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_running_statistics_are_kept_for_both_ways(network, maps):
    scores = torch.from_numpy(maps)[:, None]
    norm = network.get_submodule("decode3_local.Up.up.2")
    for of_each_map in (False, True):
        before = norm.running_mean.clone()
        choose_statistics(network.train(), of_each_map=of_each_map)
        network(scores)
        assert not torch.equal(norm.running_mean, before)
        before = norm.running_mean.clone()
        network.eval()(scores)
        assert torch.equal(norm.running_mean, before)


def test_a_small_map_gives_what_the_enlarged_one_gives(refine):
    small = np.random.default_rng(0).random((1, 16, 16), dtype=np.float32)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    assert refine(small).shape == small.shape
    halved = refine(large).reshape(1, 16, 2, 16, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(refine(small), halved, atol=1e-5)


def test_tiles_cover_a_large_map_at_full_size(refine):
    scores = np.random.default_rng(0).random((1, 50, 80), dtype=np.float32)
    tiled, shrunk = refine(scores, tile=True), refine(scores)
    assert tiled.shape == scores.shape
    assert not np.allclose(tiled, shrunk)
    corner = refine(np.ascontiguousarray(scores[:, :32, :32]))
    np.testing.assert_allclose(tiled[:, :18, :20], corner[:, :18, :20], atol=1e-5)


@pytest.mark.parametrize("size_hw", [(5, 7), (8, 8), (9, 8), (20, 51)])
def test_tiles_leave_nothing_out(size_hw):
    boxes = plan_tiles(size_hw, 8)
    covered = np.zeros(size_hw, dtype=int)
    for x1, y1, x2, y2 in boxes:
        covered[y1:y2, x1:x2] += 1
    assert covered.all()
    assert (boxes[:, :2] >= 0).all()


RESIDUAL = replace(TINY, residual=True, merge="mean")


def test_a_new_residual_network_changes_nothing(maps):
    refiner = PRNRefiner(network=PRN(RESIDUAL.spec).eval(), config=RESIDUAL)
    wide = np.random.default_rng(0).uniform(0, 1, (2, 50, 70)).astype(np.float32)
    wide[0, :2] = [[0], [1]]
    np.testing.assert_allclose(refiner.refine(None, wide), wide, atol=1e-5)


def test_a_change_is_brought_to_the_maps_own_size():
    """A network that adds 1 to every logit does so to every pixel; fine detail stays."""
    network = PRN(RESIDUAL.spec).eval()
    for name in RESIDUAL.spec.head_names:
        torch.nn.init.ones_(network.get_submodule(name)[0].bias)
    wide = np.random.default_rng(0).uniform(0.1, 0.9, (1, 50, 70)).astype(np.float32)
    refined = PRNRefiner(network=network, config=RESIDUAL).refine(None, wide)
    np.testing.assert_allclose(refined, 1 / (1 + (1 - wide) / wide / np.e), atol=1e-4)


def test_the_global_map_alone_needs_no_cells(network, maps):
    wanted, local = network(torch.from_numpy(maps[:, None]))
    assert local is not None
    found, none = network(torch.from_numpy(maps[:, None]), needs_local=False)
    assert none is None
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", SPECS)
def test_the_published_networks_can_be_chosen(name):
    config = PRNConfig(network=name)
    assert config.spec == SPECS[name]
    assert 512 % config.label_cells == 0


def test_published_weights_have_the_slip_of_the_seventh_row_and_new_ones_do_not():
    assert all(config.has_row_quirk for config in PRESETS.values())
    assert not PRNConfig().has_row_quirk


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"network": "p16"}, "network"),
        ({"map_px": 100}, "multiple of 64"),
        ({"network": "p0", "map_px": 8}, "16 or more"),
        ({"network": "grid"}, "cells"),
        ({"cells": 4}, "network grid"),
        ({"width": 8}, "network grid"),
        ({"network": "p0", "merge": "local"}, "merge"),
        ({"network": "p4", "has_row_quirk": True}, "only p64"),
        ({"merge": "best"}, "merge"),
        ({"bn": "train"}, "bn"),
        ({"resize": "cubic"}, "resize"),
        ({"residual": True}, "adds a rim"),
    ],
)
def test_contradictions_are_refused_by_name(options, word):
    with pytest.raises(UsageError, match=word):
        PRNConfig(**options)


def test_weights_of_another_network_are_refused(network):
    with pytest.raises(WeightsError, match="not weights of the p0 network"):
        build_network(network.state_dict(), PRNConfig(network="p0"), source="a")


def test_options_reach_the_refiner(prn_weights, maps):
    found = [
        load("prn", weights=prn_weights, device="cpu", dtype="fp32", **options).refine(
            PICTURE, maps
        )
        for options in ({"merge": "and"}, {"merge": "or"}, {"merge": "or", "bn": "batch"})
    ]
    assert (found[0] <= found[1]).all()
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[1], found[2])
    with pytest.raises(UsageError, match="merge"):
        load("prn", weights=prn_weights, merge="nope")


def test_half_precision_is_close(prn_weights, maps):
    full, half = (
        load("prn", weights=prn_weights, device="cpu", dtype=dtype, bn="batch").refine(
            PICTURE, maps
        )
        for dtype in ("fp32", "bf16")
    )
    assert np.abs(full - half).mean() < 0.05
