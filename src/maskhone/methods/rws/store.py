"""Mixing maps and slice features on disk: only the cells that a map may ask for.

L layers, C channels, N cells. Features lie in one raw file of half floats per layer and are read
through a memory map, so memory does not grow with the data set. Source: RWS section 5.2, storage.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from maskhone.data.files import replace_when_done
from maskhone.errors import InputError
from maskhone.methods.rws.fusion import NO_SLICE, Cells, MixingMaps, View, sample_cells
from maskhone.methods.rws.slices import Slice

_HALF = np.finfo(np.float16).max
_INDEX = "index.json"


class MixWriter:
    """Writes maps and features; the folder counts only once the block has ended well."""

    def __init__(self, folder: Path, *, layers: int) -> None:
        self.folder, self.layers = folder, layers
        self._pictures: dict[str, dict[str, Any]] = {}
        self._files: list[IO[bytes]] = []
        self._counts = [0] * layers
        self._channels = [0] * layers

    def __enter__(self) -> "MixWriter":
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _INDEX).unlink(missing_ok=True)
        self._files = [_layer_file(self.folder, i).open("wb") for i in range(self.layers)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        if kind is None:
            index = {
                "layers": self.layers,
                "channels": self._channels,
                "counts": self._counts,
                "pictures": self._pictures,
            }
            with replace_when_done(self.folder / _INDEX) as unfinished:
                unfinished.write_text(json.dumps(index), encoding="utf-8")

    def add(
        self,
        id: str,
        maps: MixingMaps,
        boxes: Sequence[Sequence[int]],
        features: dict[int, list[tuple[NDArray[np.int64], NDArray[np.float32], tuple[int, int]]]],
    ) -> None:
        """Adds a picture.

        Args:
            id: of the picture.
            maps: of the picture; winners are indices into `boxes`.
            boxes: of the picture's slices.
            features: for the slices that win anywhere, by index: of each layer the flat cells
                `(N,)`, their features `(N, C)`, and the size of the grid.
        """
        place = np.flatnonzero(maps.winners != NO_SLICE)
        arrays: dict[str, NDArray[Any]] = {
            "place": _shorten(place),
            "share": maps.shares.reshape(-1)[place],
            "winner": _shorten(maps.winners.reshape(-1)[place]),
        }
        slices: dict[str, Any] = {}
        for j, of_layers in features.items():
            entries = []
            for layer, (cells, values, grid_hw) in enumerate(of_layers):
                arrays[f"cells-{j}-{layer}"] = _shorten(cells)
                halves = np.clip(values, -_HALF, _HALF).astype(np.float16)
                self._files[layer].write(np.ascontiguousarray(halves).tobytes())
                entries.append([self._counts[layer], *grid_hw])
                self._counts[layer] += len(cells)
                self._channels[layer] = values.shape[1]
            slices[str(j)] = entries
        number = len(self._pictures)
        np.savez(self.folder / f"{number}.npz", **arrays)  # type: ignore[arg-type]
        self._pictures[id] = {
            "number": number,
            "shape": list(maps.winners.shape),
            "boxes": [list(map(int, box)) for box in boxes],
            "slices": slices,
        }


class MixStore:
    """Reads what a `MixWriter` has finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        self._features: list[NDArray[np.float16]] | None = None
        self._load = lru_cache(8)(self._read)
        self._maps = lru_cache(2)(self.read_maps)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def __contains__(self, id: str) -> bool:
        return id in self._index["pictures"]

    def __len__(self) -> int:
        return len(self._index["pictures"])

    @property
    def ids(self) -> list[str]:
        """Pictures into which something is mixed."""
        return list(self._index["pictures"])

    def read_maps(self, id: str) -> MixingMaps:
        """Reads the maps of a picture."""
        arrays, shape = self._load(id), tuple(self._index["pictures"][id]["shape"])
        shares = np.ones(shape, dtype=np.float32)
        winners = np.full(shape, NO_SLICE, dtype=np.int32)
        shares.reshape(-1)[arrays["place"]] = arrays["share"]
        winners.reshape(-1)[arrays["place"]] = arrays["winner"]
        return MixingMaps(shares=shares, winners=winners)

    def sample(self, id: str, layer: int, view: View, grid_hw: Sequence[int]) -> Cells:
        """Brings one layer's maps of a picture onto a grid; see `sample_cells`.

        `view` may be of a picture of another size: positions are then relative.
        """
        entry = self._index["pictures"][id]
        size_hw = tuple(entry["shape"][1:])
        if view.size_hw != size_hw:
            view = View(**{**asdict(view), "size_hw": size_hw})
        grids_hw = [
            entry["slices"].get(str(j), [(0, 0, 0)] * self._index["layers"])[layer][1:]
            for j in range(len(entry["boxes"]))
        ]
        return sample_cells(
            self._maps(id),
            layer,
            view,
            grid_hw,
            boxes=entry["boxes"],
            grids_hw=grids_hw,
            channels=self._index["channels"][layer],
            fetch=lambda j, cells: self._fetch(id, layer, j, cells),
        )

    def _fetch(self, id: str, layer: int, j: int, cells: NDArray[np.int64]) -> NDArray[np.float32]:
        known = self._load(id)[f"cells-{j}-{layer}"]
        rows = np.searchsorted(known, cells)
        assert (known[rows] == cells).all(), "a cell that was not stored"
        start = self._index["pictures"][id]["slices"][str(j)][layer][0]
        return np.asarray(self._open()[layer][start + rows], dtype=np.float32)

    def _open(self) -> list[NDArray[np.float16]]:
        if self._features is None:
            shapes = zip(self._index["counts"], self._index["channels"], strict=True)
            self._features = [
                np.memmap(_layer_file(self.folder, i), np.float16, "r", shape=shape)
                if shape[0]
                else np.zeros((0, max(shape[1], 1)), np.float16)
                for i, shape in enumerate(shapes)
            ]
        return self._features

    def _read(self, id: str) -> dict[str, NDArray[Any]]:
        with np.load(self.folder / f"{self._index['pictures'][id]['number']}.npz") as stored:
            return {name: stored[name] for name in stored.files}


def _shorten(numbers: NDArray[Any]) -> NDArray[Any]:
    """Stores whole numbers from 0 in the fewest bytes that hold them."""
    return numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))


def is_finished(folder: Path) -> bool:
    """Says whether a folder holds what a `MixWriter` wrote to its end."""
    return (folder / _INDEX).is_file()


def save_slices(path: Path, slices: Sequence[Slice]) -> Path:
    """Writes slices, one JSON record a line, whole or not at all."""
    with replace_when_done(path) as unfinished:
        unfinished.write_text(
            "".join(json.dumps(asdict(one)) + "\n" for one in slices), encoding="utf-8"
        )
    return path


def load_slices(path: Path) -> list[Slice]:
    """Reads what `save_slices` wrote.

    Raises:
        InputError: missing, or not such a file.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Slice(**{**record, "box": tuple(record["box"])}) for record in records]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: cannot read the slices ({error}); find them again") from error


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer}.f16"
