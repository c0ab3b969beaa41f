"""Mixing: where a slice's features are better than the picture's, and how they are put there.

L layers, C channels, H, W the picture, h, w a slice, gh, gw a layer's grid, N cells of it. A
layer's output x becomes n x + f: n is the share lambda that stays, f the slice's features times
1 - lambda. Source: RWS sections 5, 5.1 and 5.2.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from maskhone.errors import UsageError
from maskhone.methods.rws.attention import Heat, tap_layers

Floats = NDArray[np.float32]
Fetch = Callable[[int, NDArray[np.int64]], Floats]
"""Gives the features `(N, C)` of a slice, by its index, at the flat cells `(N,)` of its grid."""

_DELTA = np.float32(1e-8)
NO_SLICE = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class MixingMaps:
    """What is mixed where in one picture.

    Attributes:
        shares: `(L, H, W)` float32, lambda; 1 where nothing is mixed.
        winners: `(L, H, W)` int32, the index of the slice that is mixed in; -1 for none.
    """

    shares: Floats
    winners: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class View:
    """How a training sample was made of a picture: resized, then mirrored or not, then cropped.

    Attributes:
        size_hw: of the picture.
        resized_hw: after resizing.
        is_mirrored: left and right changed places after resizing.
        crop_yxhw: corner and size of the crop; it may reach beyond the picture.
    """

    size_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    is_mirrored: bool
    crop_yxhw: tuple[int, int, int, int]

    def locate(
        self, grid_hw: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Finds where in the picture the centres of a grid over the crop lie.

        Returns:
            Row `(gh, 1)` and column `(1, gw)` positions in pixels, and `(gh, gw)` whether the
            centre lies within the picture.

        Source: RWS section 5.2.
        """
        top, left, height, width = self.crop_yxhw
        y = (np.arange(grid_hw[0])[:, None] + 0.5) * height / grid_hw[0] + top
        x = (np.arange(grid_hw[1])[None, :] + 0.5) * width / grid_hw[1] + left
        if self.is_mirrored:
            x = self.resized_hw[1] - x
        y = y * self.size_hw[0] / self.resized_hw[0]
        x = x * self.size_hw[1] / self.resized_hw[1]
        is_inside = (y >= 0) & (y < self.size_hw[0]) & (x >= 0) & (x < self.size_hw[1])
        return y, x, is_inside


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells:
    """The mixed cells of one layer in a batch; all others stay as they are.

    Attributes:
        places: `(N, 3)` int64: number in the batch, row, column.
        keep: `(N,)` float32, n.
        add: `(N, C)` float32, f.
    """

    places: NDArray[np.int64]
    keep: Floats
    add: Floats

    def to_dense(self, grid_hw: Sequence[int]) -> tuple[Floats, Floats]:
        """Spreads the cells of the first picture: n `(gh, gw)` and f `(C, gh, gw)`."""
        n = np.ones(tuple(grid_hw), dtype=np.float32)
        f = np.zeros((self.add.shape[1], *grid_hw), dtype=np.float32)
        _, rows, columns = self.places.T
        n[rows, columns] = self.keep
        f[:, rows, columns] = self.add.T
        return n, f


def compare_heat(
    large: Heat, small: Heat, *, form: str = "relative"
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Compares the picture's heat with a slice's in the same window.

    A slice is used where it attends more, in itself and by its own best layer, and where the
    picture's layer is not the best one.

    Args:
        large: `(L, h, w)` of the picture, within the window, 0 outside the label.
        small: `(L, h, w)` of the slice, likewise.
        form: `relative` as the published code, `absolute` as the published figure, or `const:V`.

    Returns:
        Whether the slice is used, the share lambda that the picture keeps there, and the order by
        which slices compete; `(L, h, w)` each. Both numbers are 0 where the slice is not used.

    Source: RWS section 5; the code's comments call them equations 10 and 9.

    Example:
        >>> large = np.array([[[0.2]], [[0.8]]], dtype=np.float32)
        >>> use, share, _ = compare_heat(large, np.ones_like(large))
        >>> use.ravel().tolist(), round(float(share[0, 0, 0]), 3)
        ([True, False], 0.2)
    """
    best_large, best_small = large.max(axis=0), small.max(axis=0)
    is_relatively_more = small / (best_small + _DELTA) > large / (best_large + _DELTA)
    is_used = (small > large) & is_relatively_more & (best_large - large != 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        from_large, from_small = large / best_large, small / best_small
        shares = _SHARES[form.partition(":")[0]](large, small, from_large, from_small, form)
    order = np.where(is_used, from_small, np.float32(0)).astype(np.float32)
    return is_used, np.where(is_used, shares, np.float32(0)).astype(np.float32), order


def _relative(large: Heat, small: Heat, from_large: Heat, from_small: Heat, _: str) -> Any:
    return from_large / (from_large + from_small)


def _absolute(large: Heat, small: Heat, from_large: Heat, from_small: Heat, _: str) -> Any:
    return large / (large + small)


def _constant(large: Heat, small: Heat, from_large: Heat, from_small: Heat, form: str) -> Any:
    return np.full_like(large, float(form.partition(":")[2]))


_SHARES = {"relative": _relative, "absolute": _absolute, "const": _constant}


def check_share_form(form: str) -> None:
    """Refuses an unknown way to compute lambda."""
    kind, _, value = form.partition(":")
    if kind not in _SHARES or (kind == "const") != bool(value):
        raise UsageError(f"share_form is {form!r}; expected relative, absolute or const:V")
    if kind == "const":
        try:
            is_share = 0 <= float(value) <= 1
        except ValueError:
            is_share = False
        if not is_share:
            raise UsageError(f"share_form is {form!r}; expected const:V with V from 0 to 1")


def make_mixing_maps(
    large: Heat,
    smalls: Sequence[Heat],
    boxes: Sequence[Sequence[int]],
    *,
    larges: Sequence[Heat] | None = None,
    form: str = "relative",
) -> MixingMaps:
    """Decides, per layer and pixel, which slice is mixed in and how much of the picture stays.

    Of several slices that are used at a pixel the one with the highest order wins, the first among
    equals.

    Args:
        large: `(L, H, W)` heat of the picture, 0 outside the label.
        smalls: heat `(L, h, w)` of each slice, likewise.
        boxes: x1 y1 x2 y2 of each slice.
        larges: heat of the picture for each slice, where slices are of different classes.
        form: as for `compare_heat`.
    """
    shares = np.ones(large.shape, dtype=np.float32)
    winners = np.full(large.shape, NO_SLICE, dtype=np.int32)
    highest = np.zeros(large.shape, dtype=np.float32)
    for j, (small, (x1, y1, x2, y2)) in enumerate(zip(smalls, boxes, strict=True)):
        window = np.s_[:, y1:y2, x1:x2]
        of_picture = (large if larges is None else larges[j])[window]
        is_used, share, order = compare_heat(of_picture, small, form=form)
        wins = is_used & (order > highest[window])
        highest[window][wins] = order[wins]
        shares[window][wins] = share[wins]
        winners[window][wins] = j
    return MixingMaps(shares=shares, winners=winners)


def sample_cells(
    maps: MixingMaps,
    layer: int,
    view: View,
    grid_hw: Sequence[int],
    *,
    boxes: Sequence[Sequence[int]],
    grids_hw: Sequence[Sequence[int]],
    channels: int,
    fetch: Fetch,
    number: int = 0,
) -> Cells:
    """Brings the maps of one layer onto the grid of a changed picture: where the object went.

    Args:
        maps: of the unchanged picture.
        layer: index of the layer in the maps.
        view: how the picture was changed.
        grid_hw: of the layer's output for the crop.
        boxes: x1 y1 x2 y2 of each slice.
        grids_hw: of the layer's output for each slice.
        channels: of the layer.
        fetch: gives slice features.
        number: of the picture in its batch.

    Source: RWS section 5.2.
    """
    y, x, is_inside = view.locate(grid_hw)
    row = np.clip(np.floor(y), 0, view.size_hw[0] - 1).astype(np.int64)
    column = np.clip(np.floor(x), 0, view.size_hw[1] - 1).astype(np.int64)
    winner = np.where(is_inside, maps.winners[layer, row, column], NO_SLICE)
    u, v = np.nonzero(winner != NO_SLICE)
    keep = maps.shares[layer, row[u, 0], column[0, v]]
    add = np.zeros((len(u), channels), dtype=np.float32)
    for j in np.unique(winner[u, v]).tolist():
        of_slice = winner[u, v] == j
        x1, y1, x2, y2 = boxes[j]
        t_y = (y[u[of_slice], 0] - y1) / (y2 - y1) * grids_hw[j][0] - 0.5
        t_x = (x[0, v[of_slice]] - x1) / (x2 - x1) * grids_hw[j][1] - 0.5
        add[of_slice] = _interpolate(j, t_y, t_x, grids_hw[j], fetch)
    add *= (1 - keep)[:, None]
    places = np.stack([np.full_like(u, number), u, v], axis=1)
    return Cells(places=places, keep=keep.astype(np.float32), add=add)


def _interpolate(
    j: int,
    t_y: NDArray[np.float64],
    t_x: NDArray[np.float64],
    grid_hw: Sequence[int],
    fetch: Fetch,
) -> Floats:
    """Reads features between four cells, with the border's beyond it: `(N, C)`."""
    t_y, t_x = np.clip(t_y, 0, grid_hw[0] - 1), np.clip(t_x, 0, grid_hw[1] - 1)
    top, left = np.floor(t_y).astype(np.int64), np.floor(t_x).astype(np.int64)
    below, right = np.minimum(top + 1, grid_hw[0] - 1), np.minimum(left + 1, grid_hw[1] - 1)
    part_y, part_x = (
        (t - start).astype(np.float32)[:, None] for t, start in ((t_y, top), (t_x, left))
    )
    upper = fetch(j, top * grid_hw[1] + left) * (1 - part_x)
    upper = upper + fetch(j, top * grid_hw[1] + right) * part_x
    lower = fetch(j, below * grid_hw[1] + left) * (1 - part_x)
    lower = lower + fetch(j, below * grid_hw[1] + right) * part_x
    return np.asarray(upper * (1 - part_y) + lower * part_y, dtype=np.float32)


def list_needed_cells(
    winners: NDArray[np.int32], j: int, box: Sequence[int], grid_hw: Sequence[int]
) -> NDArray[np.int64]:
    """Lists the flat cells of a slice's grid that `sample_cells` may read for any view, sorted.

    Args:
        winners: `(H, W)` of one layer.
        j: the slice's index.
        box: x1 y1 x2 y2 of the slice.
        grid_hw: of the layer's output for the slice.
    """
    x1, y1, x2, y2 = box
    rows, columns = np.nonzero(winners[y1:y2, x1:x2] == j)
    low_y, high_y = _reach(rows, y2 - y1, grid_hw[0])
    low_x, high_x = _reach(columns, x2 - x1, grid_hw[1])
    is_needed = np.zeros(tuple(grid_hw), dtype=np.bool_)
    for dy in range(int((high_y - low_y).max(initial=-1)) + 1):
        for dx in range(int((high_x - low_x).max(initial=-1)) + 1):
            is_needed[np.minimum(low_y + dy, high_y), np.minimum(low_x + dx, high_x)] = True
    return np.flatnonzero(is_needed)


def _reach(
    pixels: NDArray[np.int64], side: int, cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the first and last cell that a point anywhere in each pixel is interpolated from."""
    low = np.floor(pixels / side * cells - 0.5).astype(np.int64)
    high = np.floor((pixels + 1) / side * cells - 0.5).astype(np.int64) + 1
    low = np.clip(low, 0, cells - 1)
    return low, np.clip(np.maximum(high, low + 1), 0, cells - 1)


@contextmanager
def mix_into(
    network: nn.Module, layers: Sequence[str], cells: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """Mixes slice features into layers while the block runs; yields the mixed outputs.

    What follows a layer, heads among that, sees the mixed output. Gradients flow through n x.

    Args:
        network: any module.
        layers: names of modules.
        cells: for each layer `places` `(N, 3)`, `keep` `(N,)` and `add` `(N, C)`, see `Cells`.

    Source: RWS section 5.3.
    """

    def make_mix(places: Tensor, keep: Tensor, add: Tensor) -> Callable[[Tensor], Tensor]:
        def mix(x: Tensor) -> Tensor:
            if not len(places):
                return x
            b, u, v = places.unbind(dim=1)
            old = x.permute(0, 2, 3, 1)[b, u, v]
            new = keep[:, None].to(x.dtype) * old + add.to(x.dtype)
            return x.permute(0, 2, 3, 1).index_put((b, u, v), new).permute(0, 3, 1, 2)

        return mix

    replace = {name: make_mix(*one) for name, one in zip(layers, cells, strict=True)}
    with tap_layers(network, layers, replace=replace) as found:
        yield found


def make_published_maps(
    large: Heat,
    smalls: Sequence[Heat],
    boxes: Sequence[Sequence[int]],
    features: Sequence[Sequence[Floats]],
) -> tuple[list[Floats], list[Floats]]:
    """Makes one picture's n and f as the published code does, with its defects.

    Inside a window lambda is 0 where the slice is not used; a slice's features are laid over the
    whole grid; and n of several slices is gathered from a list that mixes orders and lambdas.
    `make_mixing_maps` and `sample_cells` are what is meant.

    Args:
        large: `(L, H, W)`.
        smalls: `(L, h, w)` of each slice; one or more.
        boxes: x1 y1 x2 y2 of each slice.
        features: of each slice, for each layer `(1, C, gh, gw)`; one grid for all slices.

    Returns:
        For each layer n `(gh, gw)` and f `(1, C, gh, gw)`.

    Source: RWS section 5.1; defects D2, D3 and D6 of its section 8.
    """
    found_n, found_f = [], []
    for layer in range(len(large)):
        shares, orders, ratios = [], [], []
        for small, (x1, y1, x2, y2), feature in zip(smalls, boxes, features, strict=True):
            _, share, order = compare_heat(large[:, y1:y2, x1:x2], small)
            canvases = np.ones((2, *large.shape[1:]), dtype=np.float64)
            canvases[1] = 0
            canvases[:, y1:y2, x1:x2] = share[layer], order[layer]
            share_canvas, order_canvas = shrink_nearest(canvases, feature[layer].shape[-2:])
            shares.append(share_canvas)
            orders.append(order_canvas)
            ratios.append((1 - share_canvas) * feature[layer])
        first = np.argmax(orders, axis=0)
        gathered = np.stack([*orders[:-1], shares[-1]])  # D3
        found_n.append(np.take_along_axis(gathered, first[None], axis=0)[0].astype(np.float32))
        chosen = np.take_along_axis(np.stack(ratios), first[None, None, None], axis=0)[0]
        found_f.append(chosen.astype(np.float32))
    return found_n, found_f


def plan_published_groups(n_pictures: int, batch_size: int) -> list[list[int]]:
    """Lists, for each batch, the pictures whose maps the published loop hands over: the first ones.

    Source: RWS section 8, defect D7.

    Example:
        >>> plan_published_groups(5, 4)
        [[0, 1, 2, 3], [0, 1, 2, 3]]
    """
    first = list(range(min(batch_size, n_pictures)))
    return [first] * math.ceil(n_pictures / batch_size)


def shrink_nearest(values: NDArray[np.float64], size_hw: Sequence[int]) -> NDArray[np.float64]:
    """Takes every so-manyth pixel of `(..., H, W)`: number floor(i * in / out)."""
    rows, columns = (
        np.arange(out) * given // out for out, given in zip(size_hw, values.shape[-2:], strict=True)
    )
    return values[..., rows[:, None], columns]
