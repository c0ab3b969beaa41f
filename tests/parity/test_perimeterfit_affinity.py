"""Affinities, the random walk and the labels around them against the original's own outputs."""

import hashlib
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures, state_dict_by_rule, tolerance_number

from maskhone.methods.perimeterfit.affinity import find_losses, sort_pairs
from maskhone.methods.perimeterfit.convert import import_checkpoint, load_affinity_net
from maskhone.methods.perimeterfit.labels import label_maps, make_affinity_labels
from maskhone.methods.perimeterfit.network import AffinityNet, find_edges, predict_edges
from maskhone.methods.perimeterfit.pairs import PathIndex, index_paths, measure_affinities
from maskhone.methods.perimeterfit.walk import enlarge, pad_edges, walk
from maskhone.segmenters.aliases import AFFINITY_ALIASES, add_aliases

METHOD = "perimeterfit"
IMAGE = "_image"  # how the names of the pictures in a fixture end


def number_after(text: str, name: str) -> float:
    """Reads the number that a manifest gives after a name, such as `radius 5` or `radius=5`."""
    found = re.search(rf"\b{name}[ =(]*(\d+(?:\.\d+)?)", text)
    assert found, f"no {name} in {text!r}"
    return float(found[1])


def seeds_and_shapes(text: str) -> tuple[list[int], list[tuple[int, ...]]]:
    """Reads the generators of a manifest's input, in order, and the shapes they are drawn in."""
    seeds = [int(seed) for seed in re.findall(r"PCG64\((\d+)\)", text)]
    drawn = re.findall(r"(?:random|standard_normal)\(+([\d, ]+)\)", text)
    return seeds, [tuple(int(n) for n in shape.split(",") if n.strip()) for shape in drawn]


def pcg(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def draw_state(entries: list[tuple[str, tuple[int, ...]]], rule: str) -> dict[str, torch.Tensor]:
    """Draws tensors by the common rule and the damping that a manifest describes."""
    damped = re.findall(r"ending in '([\w.]+)' is multiplied by ([\d.]+)", rule)
    multiply = [(rf"{re.escape(ending)}$", float(factor), "any") for ending, factor in damped]
    drawn = state_dict_by_rule(entries, {"then_multiply": multiply})
    return {key: torch.from_numpy(value) for key, value in drawn.items()}


def architecture_of(fixture: Fixture) -> str:
    found = re.search(r"AffinityNet (\w+)", fixture.manifest["what"])
    assert found
    return found[1]


@cache
def make_network(architecture: str, rule: str) -> AffinityNet:
    """Builds an AffinityNet with the weights of the rule under our own names."""
    network = AffinityNet(architecture).eval()
    entries = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    network.load_state_dict(draw_state(entries, rule))
    return network


def canonical(key: str, aliases: dict[str, str]) -> str:
    """Follows the aliases of a manifest to the name by which a tensor was drawn."""
    for alias, name in aliases.items():
        if key.startswith(f"{alias}."):
            return canonical(name + key.removeprefix(alias), aliases)
    return key


def names_of(fixture: Fixture) -> list[str]:
    """Lists the pictures of a fixture."""
    names = [key.removesuffix(IMAGE) for key in fixture.outputs if key.endswith(IMAGE)]
    assert names
    return names


def group_by_length(index: PathIndex) -> list[list[int]]:
    """Lists the directions of each length of path, as the original keeps them."""
    groups: dict[int, list[int]] = {}
    for direction, path in enumerate(index.paths):
        groups.setdefault(len(path), []).append(direction)
    return list(groups.values())


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array, dtype="<i8").tobytes()).hexdigest()


def indices_of(index: PathIndex, group: list[int]) -> np.ndarray:
    return np.stack([index.index_path(direction).numpy() for direction in group])


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "path_index*"))
def test_pairs_and_paths_are_the_published_ones(fixture: Fixture) -> None:
    checked = set()
    for grid, info in fixture.manifest["info"].items():
        radius, height, width = map(int, re.findall(r"\d+", grid))
        index = index_paths(radius, (height, width))
        groups = group_by_length(index)
        n_sources = len(index.sources)
        shapes = [[len(group), len(index.paths[group[0]]), n_sources] for group in groups]
        assert shapes == info["groups"]
        assert (len(index.paths), n_sources) == (info["n_paths"], info["src_len"])
        assert list(index.destinations.shape) == info["dst_shape"]
        flat = np.concatenate([indices_of(index, group).ravel() for group in groups])
        assert sha256(flat) == info["sha256_paths"]
        assert sha256(index.sources.numpy()) == info["sha256_src"]
        assert sha256(index.destinations.numpy()) == info["sha256_dst"]
        ours = {
            "search_dst": np.array([path[0] for path in index.paths]),
            "src": index.sources.numpy(),
            "dst_first_col": index.destinations[:, 0].numpy(),
        }
        for number, group in enumerate(groups):
            ours[f"paths{number}"] = np.stack([index.paths[direction] for direction in group])
            ours[f"index{number}"] = indices_of(index, group)
        for key in fixture.outputs:
            if key.startswith(f"{grid}_"):
                np.testing.assert_array_equal(
                    ours[key.removeprefix(f"{grid}_")], fixture.outputs[key]
                )
                checked.add(key)
    assert checked == set(fixture.outputs)


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "affinity_labels*"))
def test_pairs_are_sorted_and_weighed_as_published(fixture: Fixture) -> None:
    text, stored = fixture.manifest["what"], dict(fixture.outputs)
    labels = torch.from_numpy(stored.pop("segm"))[None].long()
    index = index_paths(int(number_after(text, "radius")), (labels.shape[1], labels.shape[2]))
    kinds = sort_pairs(labels, index)
    for key, kind in {
        "bg": kinds.background,
        "fg": kinds.foreground,
        "neg": kinds.different,
    }.items():
        np.testing.assert_array_equal(kind[0].numpy(), stored.pop(key))
    [seed], _ = seeds_and_shapes(text)
    affinities = pcg(seed).random(kinds.background.shape[1:]).astype(np.float32)
    losses = torch.stack(find_losses(torch.from_numpy(affinities)[None], kinds))
    np.testing.assert_allclose(
        losses.numpy(), stored.pop("losses"), rtol=fixture.manifest["tolerance"]["rtol"]
    )
    assert not stored


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "random_walk*"))
def test_the_walk_is_the_dense_one(fixture: Fixture) -> None:
    text, given = fixture.manifest["what"], fixture.manifest["input"]
    stored, atol = dict(fixture.outputs), fixture.manifest["tolerance"]["atol"]
    radius = int(number_after(text, "radius"))
    seeds, shapes = seeds_and_shapes(given)
    maps, [edges] = (
        pcg(s).random(n).astype(np.float32) for s, n in zip(seeds, shapes, strict=True)
    )
    factor = re.search(r"\* *float32\(([\d.]+)\)", given)
    edges = edges * np.float32(factor[1] if factor else 1)

    padded = pad_edges(edges, radius)
    index = index_paths(radius, (padded.shape[1], padded.shape[2]))
    affinities = measure_affinities(padded, index)
    np.testing.assert_allclose(affinities, stored.pop("sparse_affinity"), rtol=0, atol=atol)

    walked = walk(
        maps,
        edges,
        radius=radius,
        beta=number_after(text, "beta"),
        exp_times=int(number_after(text, "exp_times")),
    )
    expected = stored.pop("rw")
    np.testing.assert_allclose(walked, expected.reshape(walked.shape), rtol=0, atol=atol)

    expected = stored.pop("rw_up")
    ours = enlarge(walked, expected.shape[1:])
    np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)
    assert not stored


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "chain_perimeterfit*"))
def test_affinity_labels_are_the_published_ones(fixture: Fixture) -> None:
    text = fixture.manifest["what"].partition("make_affinity_labels")[2]
    iterations = re.search(r"(\d+) iterations", text)
    assert iterations
    least = tolerance_number(fixture.manifest["tolerance"]["affinity_label"])
    for name in names_of(fixture):
        ours = make_affinity_labels(
            fixture.outputs[f"{name}_image"],
            fixture.outputs[f"{name}_combined_hr_cam"],
            fixture.outputs[f"{name}_combined_keys"],
            fg_threshold=number_after(text, "fg"),
            bg_threshold=number_after(text, "bg"),
            crf_iterations=int(iterations[1]),
        )
        agreement = (ours == fixture.outputs[f"{name}_affinity_label"]).mean()
        assert agreement >= least, f"{name}: {agreement}"


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "affinitynet_*"))
def test_a_published_checkpoint_is_read_whole(fixture: Fixture, tmp_path: Path) -> None:
    manifest = fixture.manifest
    published: dict[str, torch.Tensor] = {}
    drawn: dict[str, torch.Tensor] = {}
    for key, shape, dtype in manifest["state_dict"]:
        name = canonical(key, manifest["aliases"]["prefix"])
        if key.startswith("path_indices_"):
            published[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        if name not in drawn:
            drawn |= draw_state([(name, tuple(shape))], manifest["weights"])
        assert (list(drawn[name].shape), str(drawn[name].dtype)) == (shape, f"torch.{dtype}")
        published[key] = drawn[name]
    torch.save(published, tmp_path / "published.pth")
    network = load_affinity_net(import_checkpoint(tmp_path / "published.pth"))
    assert network.architecture == architecture_of(fixture)
    ours = network.state_dict()
    assert list(ours) == list(drawn)
    names = [key for key in published if not key.startswith("path_indices_")]
    assert list(add_aliases(ours, AFFINITY_ALIASES)) == names
    assert all(torch.equal(ours[key], value) for key, value in drawn.items())


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "affinitynet_*"))
def test_the_network_finds_the_published_edges(fixture: Fixture) -> None:
    manifest, text = fixture.manifest, fixture.manifest["what"]
    stored = dict(fixture.outputs)
    network = make_network(architecture_of(fixture), manifest["weights"])
    drawn = zip(*seeds_and_shapes(manifest["input"]), strict=True)
    batch, image = (
        torch.from_numpy(pcg(seed).standard_normal(shape).astype(np.float32))
        for seed, shape in drawn
    )
    with torch.no_grad():
        logits = network(batch)
    np.testing.assert_allclose(logits, stored.pop("edge_logits"), **manifest["tolerance"])

    size = re.search(r"size=\((\d+), (\d+)\)", text)
    assert size
    index = index_paths(int(number_after(text, "radius")), (int(size[1]), int(size[2])))
    buffers = [shape for key, shape, _ in manifest["state_dict"] if key.startswith("path_indices_")]
    groups = group_by_length(index)
    assert [list(indices_of(index, group).shape) for group in groups] == buffers
    affinities = measure_affinities(logits.sigmoid()[:, 0], index)
    np.testing.assert_allclose(affinities, stored.pop("aff"), **manifest["tolerance"])

    canvas = re.search(r"zero-padded to (\d+)x\1", text)
    assert canvas
    edges = find_edges(network, image, canvas_px=int(canvas[1]))
    np.testing.assert_allclose(edges[None], stored.pop("get_edge"), **manifest["tolerance"])
    assert not stored


@pytest.mark.parametrize("fixture", find_fixtures(METHOD, "rw_inference*"))
def test_pictures_walk_to_the_published_maps_and_labels(fixture: Fixture) -> None:
    manifest, text = fixture.manifest, fixture.manifest["what"]
    network = make_network(architecture_of(fixture), manifest["weights"])
    checked = set()
    for name in names_of(fixture):
        image, cam, keys = (fixture.outputs[f"{name}_{key}"] for key in ("image", "cam", "keys"))
        edges = predict_edges(network, image, canvas_px=int(number_after(text, "padding to")))
        walked = walk(
            cam,
            edges,
            radius=int(number_after(text, "radius")),
            beta=number_after(text, "beta"),
            exp_times=int(number_after(text, "exp_times")),
        )
        maps = enlarge(walked, image.shape[:2])
        expected = fixture.outputs[f"{name}_rw"]
        atol = manifest["tolerance"]["rw"]["atol"]
        np.testing.assert_allclose(maps, expected, rtol=0, atol=atol, err_msg=name)
        labels = label_maps(
            image,
            maps,
            keys,
            threshold=number_after(text, "threshold"),
            crf_iterations=int(number_after(text, "crf_iteration")),
        )
        agreement = (labels == fixture.outputs[f"{name}_pseudo_label"]).mean()
        assert agreement >= tolerance_number(manifest["tolerance"]["pseudo_label"]), name
        checked |= {f"{name}_{key}" for key in ("image", "cam", "keys", "rw", "pseudo_label")}
    assert checked == set(fixture.outputs)
