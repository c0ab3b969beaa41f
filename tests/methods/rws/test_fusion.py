import numpy as np
import pytest
import torch
from tests.methods.rws.hosts import LAYERS, make_seeded
from torch import nn

from maskhone.errors import UsageError
from maskhone.methods.rws.fusion import (
    View,
    check_share_form,
    compare_heat,
    list_needed_cells,
    make_mixing_maps,
    make_published_maps,
    mix_into,
    plan_published_groups,
    sample_cells,
)
from maskhone.methods.rws.slices import plan_windows
from maskhone.methods.rws.training_set import apply_view

SIZE = (60, 80)
BOXES = [plan_windows(SIZE)[k].tolist() for k in (6, 7, 12)]
PLAIN = View(size_hw=SIZE, resized_hw=SIZE, is_mirrored=False, crop_yxhw=(0, 0, *SIZE))


def draw_maps(seed=0, layers=3):
    random = np.random.default_rng(seed)
    label = np.zeros(SIZE, dtype=bool)
    label[10:45, 15:60] = True
    large = random.random((layers, *SIZE)).astype(np.float32) * label
    smalls = [
        random.random((layers, 30, 40)).astype(np.float32) * label[y1:y2, x1:x2]
        for x1, y1, x2, y2 in BOXES
    ]
    return large, smalls, label


def sample(maps, view, grid_hw, features, layer=0):
    return sample_cells(
        maps,
        layer,
        view,
        grid_hw,
        boxes=BOXES,
        grids_hw=[feature.shape[1:] for feature in features],
        channels=len(features[0]),
        fetch=lambda j, cells: features[j].reshape(len(features[j]), -1)[:, cells].T,
    )


def make_position_features(grid_hw):
    """Features that say where in the picture they are: row and column of each cell's centre."""
    features = []
    for x1, y1, x2, y2 in BOXES:
        rows = y1 + (np.arange(grid_hw[0]) + 0.5) * (y2 - y1) / grid_hw[0]
        columns = x1 + (np.arange(grid_hw[1]) + 0.5) * (x2 - x1) / grid_hw[1]
        features.append(np.stack(np.meshgrid(rows, columns, indexing="ij")).astype(np.float32))
    return features


def test_shares_are_at_most_half_where_used_and_one_elsewhere():
    large, smalls, label = draw_maps()
    maps = make_mixing_maps(large, smalls, BOXES)
    is_mixed = maps.winners >= 0
    assert is_mixed.any()
    assert maps.shares[is_mixed].max() <= 0.5 + 1e-6
    assert (maps.shares[~is_mixed] == 1).all()
    covered = np.zeros(SIZE, dtype=bool)
    for x1, y1, x2, y2 in BOXES:
        covered[y1:y2, x1:x2] = True
    assert not is_mixed[:, ~(label & covered)].any()
    assert not is_mixed[large == large.max(axis=0)].any()  # no layer that misses nothing


def test_the_pictures_own_windows_bring_nothing():
    large, _, _ = draw_maps()
    smalls = [large[:, y1:y2, x1:x2] for x1, y1, x2, y2 in BOXES]
    maps = make_mixing_maps(large, smalls, BOXES)
    assert (maps.winners == -1).all()
    assert (maps.shares == 1).all()


def test_the_highest_order_wins_and_the_first_among_equals():
    large, smalls, _ = draw_maps()
    maps = make_mixing_maps(large, smalls, BOXES)
    highest = np.zeros(large.shape)
    winner = np.full(large.shape, -1)
    for j, (x1, y1, x2, y2) in enumerate(BOXES):
        window = np.s_[:, y1:y2, x1:x2]
        use, _, order = compare_heat(large[window], smalls[j])
        for place in np.argwhere(use):
            at = (place[0], place[1] + y1, place[2] + x1)
            if order[tuple(place)] > highest[at]:
                highest[at], winner[at] = order[tuple(place)], j
    np.testing.assert_array_equal(maps.winners, winner)
    twice = make_mixing_maps(large, [smalls[0], smalls[0]], [BOXES[0], BOXES[0]])
    assert set(np.unique(twice.winners)) == {-1, 0}


def test_forms_of_the_share():
    large = np.array([[[0.2]], [[0.4]]], dtype=np.float32)
    small = np.array([[[0.6]], [[0.6]]], dtype=np.float32)
    assert compare_heat(large, small)[1][0] == pytest.approx(0.5 / 1.5)
    assert compare_heat(large, small, form="absolute")[1][0] == pytest.approx(0.2 / 0.8)
    assert compare_heat(large, small, form="const:0.25")[1].ravel().tolist() == [0.25, 0.0]
    for form in ("best", "const:", "const:2", "const:x", "relative:1"):
        with pytest.raises(UsageError, match="share_form"):
            check_share_form(form)


def test_a_planted_quadrant_is_replaced_at_the_right_place():
    """Large heat is 0 in one quadrant, a slice's heat is 1 there: n 0, and the slice's features."""
    large = np.full((2, *SIZE), 0.5, dtype=np.float32)
    large[1] = 0.6
    large[0, 12:27, 16:36] = 0.0
    x1, y1, x2, y2 = BOXES[2]  # rows 12 to 42, columns 16 to 56
    small = np.zeros((2, y2 - y1, x2 - x1), dtype=np.float32)
    small[0, :15, :20] = 1.0
    maps = make_mixing_maps(large, [small] * 3, [BOXES[2]] * 3)
    is_mixed = maps.winners[0] >= 0
    assert is_mixed[12:27, 16:36].all()
    assert is_mixed.sum() == 15 * 20
    assert not (maps.winners[1] >= 0).any()
    features = [make_position_features((15, 20))[2]] * 3
    cells = sample_cells(
        maps,
        0,
        PLAIN,
        (30, 40),
        boxes=[BOXES[2]] * 3,
        grids_hw=[(15, 20)] * 3,
        channels=2,
        fetch=lambda j, cells: features[j].reshape(2, -1)[:, cells].T,
    )
    n, f = cells.to_dense((30, 40))
    assert (n == 0).sum() == len(cells.places)
    rows, columns = np.nonzero(n == 0)
    inner = (rows >= 7) & (columns >= 9)  # beyond, borders are clamped
    np.testing.assert_allclose(f[0, rows, columns][inner], rows[inner] * 2 + 1, atol=1e-4)
    np.testing.assert_allclose(f[1, rows, columns][inner], columns[inner] * 2 + 1, atol=1e-4)


def test_mirroring_the_picture_mirrors_what_is_mixed():
    large, smalls, _ = draw_maps()
    maps = make_mixing_maps(large, smalls, BOXES)
    features = make_position_features((8, 10))
    mirrored = View(size_hw=SIZE, resized_hw=SIZE, is_mirrored=True, crop_yxhw=(0, 0, *SIZE))
    grid_hw = (20, 16)  # centres within pixels, not on their borders
    n, f = sample(maps, PLAIN, grid_hw, features).to_dense(grid_hw)
    n_mirrored, f_mirrored = sample(maps, mirrored, grid_hw, features).to_dense(grid_hw)
    assert (n < 1).any()
    np.testing.assert_array_equal(n, n_mirrored[:, ::-1])
    np.testing.assert_allclose(f, f_mirrored[..., ::-1], atol=1e-4)


def test_cropping_the_picture_crops_what_is_mixed():
    large, smalls, _ = draw_maps()
    maps = make_mixing_maps(large, smalls, BOXES)
    features = make_position_features((8, 10))
    n, f = sample(maps, PLAIN, (20, 16), features).to_dense((20, 16))
    part = View(size_hw=SIZE, resized_hw=SIZE, is_mirrored=False, crop_yxhw=(15, 20, 30, 40))
    n_part, f_part = sample(maps, part, (10, 8), features).to_dense((10, 8))
    assert (n_part < 1).any()
    np.testing.assert_array_equal(n_part, n[5:15, 4:12])
    np.testing.assert_allclose(f_part, f[:, 5:15, 4:12], atol=1e-4)


def test_published_maps_have_the_defects_that_ours_have_not():
    """D2: nothing of the picture stays where a slice loses. D6: features at places of their own."""
    large, smalls, _ = draw_maps()
    grid_hw, (x1, y1, x2, y2) = (30, 40), BOXES[0]
    ones = [np.ones((1, 2, *grid_hw), np.float32)] * len(large)
    positions = np.stack(np.indices(grid_hw)).astype(np.float32)[None]
    use, _, _ = compare_heat(large[:, y1:y2, x1:x2], smalls[0])
    n, f = make_published_maps(large, smalls[:1], BOXES[:1], [ones])
    window = n[0][y1 // 2 : y2 // 2, x1 // 2 : x2 // 2]
    loses = ~use[0][::2, ::2]
    assert loses.any()
    assert (window[loses] == 0).all()
    assert (f[0][0, :, y1 // 2 : y2 // 2, x1 // 2 : x2 // 2][:, loses] == 1).all()
    _, f = make_published_maps(large, smalls[:1], BOXES[:1], [[positions] * len(large)])
    inside = f[0][0, :, y1 // 2 : y2 // 2, x1 // 2 : x2 // 2][:, loses]
    rows, columns = np.nonzero(loses)
    np.testing.assert_array_equal(inside, np.stack([rows + y1 // 2, columns + x1 // 2]))
    ours = make_mixing_maps(large, smalls[:1], BOXES[:1])
    assert (ours.shares[0, y1:y2, x1:x2][~use[0]] == 1).all()


def test_a_view_says_where_the_pixels_of_a_crop_come_from():
    """Rows and columns written into a picture come out where `locate` says they do."""
    rows, columns = np.indices((40, 50))
    image = np.stack([rows * 4, columns * 4, rows * 0], axis=-1).astype(np.uint8)
    for is_mirrored in (False, True):
        view = View(
            size_hw=(40, 50), resized_hw=(80, 100), is_mirrored=is_mirrored,
            crop_yxhw=(7, 30, 48, 90),
        )  # fmt: skip
        seen, target = apply_view(image, np.zeros((40, 50), np.uint8), view)
        y, x, inside = view.locate((48, 90))
        assert seen.shape == (48, 90, 3)
        np.testing.assert_array_equal(target == 255, ~inside)
        centre = inside & (x > 1) & (x < 49) & (y > 1) & (y < 39)
        assert centre.any()
        wanted_y, wanted_x = np.broadcast_arrays((y - 0.5) * 4, (x - 0.5) * 4)
        assert np.abs(seen[..., 0] - wanted_y)[centre].max() <= 1
        assert np.abs(seen[..., 1] - wanted_x)[centre].max() <= 1


@pytest.mark.parametrize("grid_hw", [(3, 5), (8, 10), (30, 40), (47, 61)])
def test_every_cell_that_may_be_read_is_kept(grid_hw):
    large, smalls, _ = draw_maps()
    maps = make_mixing_maps(large, smalls, BOXES)
    random = np.random.default_rng(1)
    kept = [list_needed_cells(maps.winners[0], j, BOXES[j], grid_hw) for j in range(3)]
    asked = [set(), set(), set()]

    def fetch(j, cells):
        asked[j].update(cells.tolist())
        assert np.isin(cells, kept[j]).all()
        return np.zeros((len(cells), 1), dtype=np.float32)

    for _ in range(20):
        height, width = int(random.integers(30, 200)), int(random.integers(30, 200))
        top, left = int(random.integers(0, 30)), int(random.integers(0, 30))
        view = View(
            size_hw=SIZE,
            resized_hw=(height, width),
            is_mirrored=bool(random.integers(2)),
            crop_yxhw=(top, left, 48, 64),
        )
        sample_cells(
            maps, 0, view, (24, 31), boxes=BOXES, grids_hw=[grid_hw] * 3, channels=1, fetch=fetch
        )
    assert all(asked)
    if grid_hw == (47, 61):
        assert all(len(cells) < np.prod(grid_hw) for cells in kept)


def test_nothing_mixed_is_the_plain_network():
    network = make_seeded().eval()
    x = torch.randn(2, 3, 24, 24)
    widths = (8, 12, 12)
    empty = [
        (torch.zeros(0, 3, dtype=torch.long), torch.zeros(0), torch.zeros(0, c)) for c in widths
    ]
    with mix_into(network, LAYERS, empty):
        mixed = network(x)
    assert torch.equal(mixed, network(x))
    keeping = [(torch.tensor([[1, 2, 3]]), torch.ones(1), torch.zeros(1, c)) for c in widths]
    with mix_into(network, LAYERS, keeping):
        assert torch.equal(network(x), mixed)  # n = 1 and f = 0


def test_only_the_cells_change_and_gradients_flow_by_what_stays():
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    network = nn.Sequential(nn.Identity())
    places = torch.tensor([[1, 2, 3], [0, 5, 5]])
    keep, add = torch.tensor([0.25, 0.5]), torch.ones(2, 3)
    with mix_into(network, ["0"], [(places, keep, add)]):
        y = network(x)
    expected = x.detach().clone()
    expected[1, :, 2, 3] = 0.25 * expected[1, :, 2, 3] + 1
    expected[0, :, 5, 5] = 0.5 * expected[0, :, 5, 5] + 1
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    assert x.grad[1, 0, 2, 3] == 0.25
    assert x.grad[0, 0, 5, 5] == 0.5
    assert x.grad[0, 0, 0, 0] == 1


@pytest.mark.parametrize("places", [[[0, 99, 0]], [[5, 0, 0]]])
def test_hooks_of_mixing_go_when_the_network_fails(places):
    network = make_seeded().eval()
    x = torch.randn(2, 3, 24, 24)
    before = network(x)
    cells = [(torch.tensor(places), torch.ones(1), torch.zeros(1, width)) for width in (8, 12, 12)]
    with pytest.raises(IndexError), mix_into(network, LAYERS, cells):
        network(x)
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(KeyboardInterrupt), mix_into(network, LAYERS, cells):
        raise KeyboardInterrupt
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(network(x), before)


def test_the_published_loop_hands_the_first_maps_to_all_batches():
    assert plan_published_groups(3, 4) == [[0, 1, 2]]
    assert plan_published_groups(9, 4) == [[0, 1, 2, 3]] * 3
