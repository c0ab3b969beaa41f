import numpy as np
import pytest
import torch

from maskhone.methods.perimeterfit.affinity import find_losses, sort_pairs
from maskhone.methods.perimeterfit.pairs import index_paths, list_directions, measure_affinities


@pytest.mark.parametrize(("radius", "count"), [(2, 4), (5, 34), (10, 152)])
def test_a_half_disc_of_directions(radius, count):
    directions = list_directions(radius)
    assert len(directions) == len({tuple(d) for d in directions.tolist()}) == count
    assert not {(-y, -x) for y, x in directions.tolist()} & {tuple(d) for d in directions.tolist()}


def test_a_grid_without_room_has_no_pairs():
    assert index_paths(5, (4, 9)).destinations.shape == (34, 0)
    assert index_paths(5, (5, 8)).destinations.shape == (34, 0)
    assert index_paths(5, (5, 9)).destinations.shape == (34, 1)


def test_an_affinity_is_what_the_strongest_edge_leaves():
    edges = torch.zeros(1, 1, 5)
    edges[..., 3] = 0.75
    index = index_paths(3, (3, 5))
    affinities = measure_affinities(edges.repeat(1, 3, 1), index)[0, :, 0]
    by_step = {tuple(p[0].tolist()): a for p, a in zip(index.paths, affinities, strict=True)}
    assert by_step[0, 1] == by_step[0, 2] == 0.25  # from column 2 over 3
    assert by_step[1, 0] == by_step[1, -2] == 1


def test_only_the_strongest_edge_is_taught():
    edges = torch.tensor([[[0.0, 0.0, 0.2, 0.6, 0.1]] * 3]).requires_grad_()
    index = index_paths(3, (3, 5))
    direction = next(i for i, path in enumerate(index.paths) if path[0].tolist() == [0, 2])
    measure_affinities(edges, index)[0, direction].sum().backward()
    expected = torch.zeros(1, 3, 5)
    expected[0, 0, 3] = -1
    assert torch.equal(edges.grad, expected)


def test_pairs_with_an_unknown_end_are_of_no_kind():
    labels = torch.tensor([[[0, 0, 255], [7, 7, 0]]])
    index = index_paths(2, (2, 3))  # from the upper middle: right, left below, below, right below
    kinds = sort_pairs(labels, index)
    steps = [path[0].tolist() for path in index.paths]
    assert steps == [[0, 1], [1, 0], [1, -1], [1, 1]]
    assert kinds.background.ravel().tolist() == [False, False, False, True]
    assert kinds.foreground.ravel().tolist() == [False] * 4
    assert kinds.different.ravel().tolist() == [False, True, True, False]


def test_classes_beyond_those_of_voc_are_classes():
    labels = torch.full((1, 2, 3), 80)
    assert sort_pairs(labels, index_paths(2, (2, 3))).foreground.all()


def test_without_known_pairs_there_is_nothing_to_learn():
    index = index_paths(2, (2, 3))
    edges = torch.full((1, 2, 3), 0.5, requires_grad=True)
    losses = find_losses(
        measure_affinities(edges, index), sort_pairs(torch.full((1, 2, 3), 255), index)
    )
    losses.total.backward()
    assert losses.total == 0
    assert not edges.grad.any()


def test_certain_and_right_costs_next_to_nothing():
    labels = torch.tensor([[[1, 1, 0, 0, 0]] * 5])
    edges = torch.zeros(1, 5, 5)
    edges[..., 2] = 1  # the border itself parts what it touches
    index = index_paths(2, (5, 5))
    losses = find_losses(measure_affinities(edges, index), sort_pairs(labels, index))
    assert losses.different < 1e-4
    assert losses.foreground < 1e-4
    assert np.isfinite(losses.total.item())


def test_sure_and_wrong_is_finite():
    labels = torch.tensor([[[0, 0, 1], [0, 0, 1]]])
    index = index_paths(2, (2, 3))
    losses = find_losses(measure_affinities(torch.zeros(1, 2, 3), index), sort_pairs(labels, index))
    assert losses.different == pytest.approx(-np.log(1e-5), rel=1e-2)
