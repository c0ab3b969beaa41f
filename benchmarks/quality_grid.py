"""A grid of pictures: the coarse mask and what each method makes of it, side by side."""

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from quality_sets import Inputs, as_folder, gather, spread

from maskhone.contracts import FOREGROUND, Image
from maskhone.data.images import read_image, read_label_map, read_mask
from maskhone.metrics.region import iou
from maskhone.ops.masks import IGNORE_LABEL, surround
from maskhone.pipelines.figure import outline
from maskhone.pipelines.refine import refine_files

_CELL_HW = (168, 132)
_CAPTION_PX = 16
_GAP_PX = 3
_QUALITY = 82  # of a JPEG
_MARGIN_SHARE = 0.08  # around the object, of the longer side of the picture


def write_grid(
    path: Path, data: Path, sets: list[str], methods: dict[str, dict[str, Any]], n_rows: int
) -> Path:
    """Writes a picture with one row a mask and one column a method; IoU is below each.

    The masks are evenly spaced in the val list, so that nobody chooses them.

    Args:
        path: picture to write.
        data: folder of the sets.
        sets: names of the sets.
        methods: name of the column -> what `refine_files` is told.
        n_rows: masks of each set.
    """
    rows = [_draw_heads(["truth", "coarse", *methods])]
    for name in sets:
        with tempfile.TemporaryDirectory() as folder:
            inputs = gather(data, name, "val", n_rows, Path(folder))
            rows += _draw_set(inputs, methods, n_rows)
    gap = np.full((_GAP_PX, rows[0].shape[1], 3), 255, dtype=np.uint8)
    grid = np.concatenate([part for row in rows for part in (row, gap)])
    PIL.Image.fromarray(grid).save(path, quality=_QUALITY, optimize=True)
    return path


def _draw_set(inputs: Inputs, methods: dict[str, dict[str, Any]], n_rows: int) -> list[Image]:
    folders = {"coarse": as_folder(inputs, inputs.coarse)}
    for number, (method, settings) in enumerate(methods.items()):
        output = inputs.coarse.with_name(f"refined{number}{inputs.coarse.suffix}")
        refine_files(inputs.images, inputs.coarse, output, image_list=inputs.image_list, **settings)
        folders[method] = as_folder(inputs, output)
    ids = spread(inputs.ids.read_text().split(), n_rows)
    return [_draw_row(inputs, each, folders) for each in ids]


def _draw_row(inputs: Inputs, name: str, folders: dict[str, Path]) -> Image:
    truth, ignored = _read_truth(inputs, name)
    masks = {
        column: read_mask(folder / f"{name}.png").scores[0] > FOREGROUND
        for column, folder in folders.items()
    }
    image = read_image(_find_picture(inputs, name))
    margin_px = round(_MARGIN_SHARE * max(truth.shape))
    window = surround(truth | masks["coarse"], margin_px) or (slice(None), slice(None))
    cells = [_draw_cell(image[window], truth[window], "")]
    for mask in masks.values():
        caption = f"{100 * iou(mask, truth, ignore=ignored):.1f}"
        cells.append(_draw_cell(image[window], mask[window], caption))
    return _join(cells)


def _read_truth(inputs: Inputs, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    path = inputs.truth / f"{name}.png"
    if inputs.target_value is None:
        return read_mask(path).scores[0] > FOREGROUND, None
    numbers = read_label_map(path)
    return numbers == inputs.target_value, numbers == IGNORE_LABEL


def _find_picture(inputs: Inputs, name: str) -> Path:
    stem = name if inputs.pairs is None else f"{int(name.split('-')[0]):012d}"
    return next(iter(sorted(inputs.images.glob(f"{stem}.*"))))


def _draw_cell(image: Image, mask: NDArray[np.bool_], caption: str) -> Image:
    """Shrinks a picture and its mask into a cell, with a line of text below."""
    height, width = _CELL_HW
    scale = min(height / image.shape[0], width / image.shape[1])
    size_wh = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(image, size_wh, interpolation=kind), dtype=np.uint8)
    share = cv2.resize(mask.astype(np.float32), size_wh, interpolation=kind)
    cell = np.full((size_wh[1] + _CAPTION_PX, width, 3), 255, dtype=np.uint8)
    cell[: size_wh[1], : size_wh[0]] = outline(small, share > FOREGROUND)
    return _write(cell, caption, size_wh[1] + _CAPTION_PX - 4)


def _draw_heads(names: list[str]) -> Image:
    blank = np.full((_CAPTION_PX + 4, _CELL_HW[1], 3), 255, dtype=np.uint8)
    return _join([_write(blank.copy(), name, _CAPTION_PX - 2) for name in names])


def _write(cell: Image, text: str, y: int) -> Image:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(cell, text, (2, y), font, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return cell


def _join(cells: list[Image]) -> Image:
    gap = np.full((cells[0].shape[0], _GAP_PX, 3), 255, dtype=np.uint8)
    return np.concatenate([part for cell in cells for part in (cell, gap)], axis=1)
