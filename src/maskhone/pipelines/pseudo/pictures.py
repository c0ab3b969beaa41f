"""What each stage from image labels to masks does with one picture: files in, a file out.

Every function writes its result whole or not at all. K classes of the picture.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskhone.contracts import Scores
from maskhone.data.array_files import save_arrays
from maskhone.data.class_maps import Cams, load_class_arrays, read_cams, write_cams
from maskhone.data.images import read_image, read_label_map, write_image
from maskhone.data.tagged_images import TaggedImage
from maskhone.data.voc import write_voc_labels
from maskhone.errors import InputError
from maskhone.methods.perimeterfit.config import PerimeterFitConfig
from maskhone.methods.perimeterfit.labels import label_maps, make_affinity_labels
from maskhone.methods.perimeterfit.network import AffinityNet, predict_edges
from maskhone.methods.perimeterfit.perimeter import combine
from maskhone.methods.perimeterfit.refine import draw_perimeter, fit
from maskhone.methods.perimeterfit.segments import part_picture
from maskhone.methods.perimeterfit.walk import Edges, enlarge, walk
from maskhone.ops.dense_crf import infer, unary_from_probabilities
from maskhone.segmenters.classifier import Classifier, make_cams
from maskhone.segmenters.deeplabv3plus import DeepLabV3Plus, predict_scores

KINDS = ("slic", "quick")
"""Of superpixels; each picture has segments of both."""

Bits = NDArray[np.bool_]
Folders = Mapping[str, Path]


def write_class_maps(
    item: TaggedImage,
    *,
    network: Classifier,
    scales: Sequence[float],
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Writes where the classes of a picture are."""
    cams = make_cams(
        network,
        read_image(item.image_path),
        item.classes,
        scales=scales,
        device=device,
        dtype=dtype,
    )
    write_cams(folder / f"{item.id}.npz", cams)


def write_segments(
    item: TaggedImage, *, folder: Path, settings: Mapping[str, Any], device: torch.device
) -> None:
    """Writes the segments of a picture by both kinds of superpixels: labels below 32."""
    image = read_image(item.image_path)
    for kind in KINDS:
        path = folder / f"{item.id}.{kind}.png"
        if not path.exists():
            write_image(path, part_picture(image, kind, device=device, **settings))


def write_perimeters(
    item: TaggedImage, *, config: PerimeterFitConfig, source: Path, folder: Path
) -> None:
    """Writes the perimeters of the segments of both kinds: 0 and 255."""
    for kind in KINDS:
        segments = read_label_map(source / f"{item.id}.{kind}.png")
        write_image(folder / f"{item.id}.{kind}.png", draw_perimeter(segments, config))


def write_fits(
    item: TaggedImage, *, config: PerimeterFitConfig, folders: Folders, folder: Path
) -> None:
    """Writes which segments lie in the support of each class, for both kinds, in packed bits."""
    cams = read_cams(folders["cam"] / f"{item.id}.npz")
    found: dict[str, NDArray[Any]] = {"shape": np.array(cams.hr_cam.shape, dtype=np.int64)}
    for kind in config.kinds:
        name = f"{item.id}.{kind}.png"
        segments = read_label_map(folders["segments"] / name)
        if segments.shape != cams.size_hw:
            raise InputError(
                f"{folders['segments'] / name}: {segments.shape}, but the class maps of {item.id} "
                f"are {cams.size_hw}; make both again from one picture"
            )
        lines = read_label_map(folders["perimeters"] / name).astype(np.uint8)
        found[kind] = np.packbits(fit(segments, lines, cams.hr_cam, kind, config))
    save_arrays(folder / f"{item.id}.npz", found)


def read_fits(path: Path) -> dict[str, Bits]:
    """Reads what `write_fits` wrote: `(K, H, W)` for each kind."""
    found = load_class_arrays(path)
    shape = tuple(found.pop("shape").tolist())
    count = int(np.prod(shape))
    return {
        kind: np.unpackbits(bits, count=count).reshape(shape).astype(np.bool_)
        for kind, bits in found.items()
    }


def write_combined(item: TaggedImage, *, folders: Folders, folder: Path) -> None:
    """Writes class maps that are doubled where both fits agree."""
    cams = read_cams(folders["cam"] / f"{item.id}.npz")
    fits = read_fits(folders["fit"] / f"{item.id}.npz")
    if fits["slic"].shape != cams.hr_cam.shape:
        raise InputError(
            f"{folders['fit'] / item.id}.npz: fits of {fits['slic'].shape}, but the class maps of "
            f"{item.id} are {cams.hr_cam.shape}; make both again from one picture"
        )
    combined = Cams(
        keys=cams.keys,
        cam=combine(cams.cam, fits["slic"], fits["quick"]),
        hr_cam=combine(cams.hr_cam, fits["slic"], fits["quick"]),
    )
    write_cams(folder / f"{item.id}.npz", combined)


def write_affinity_labels(
    item: TaggedImage,
    *,
    source: Path,
    folder: Path,
    fg_threshold: float,
    bg_threshold: float,
    crf_iterations: int,
) -> None:
    """Writes what is surely of a class, surely background (0), or unknown (255)."""
    image = read_image(item.image_path)
    cams = read_cams(source / f"{item.id}.npz", size_hw=image.shape[:2])
    labels = make_affinity_labels(
        image,
        cams.hr_cam,
        cams.keys,
        fg_threshold=fg_threshold,
        bg_threshold=bg_threshold,
        crf_iterations=crf_iterations,
    )
    write_voc_labels(folder / f"{item.id}.png", labels)


def find_edges(
    item: TaggedImage,
    *,
    network: AffinityNet,
    device: torch.device,
    dtype: torch.dtype,
    canvas_px: int,
) -> Edges:
    """Finds how likely each cell of a picture is an edge."""
    image = read_image(item.image_path)
    return predict_edges(network, image, device=device, dtype=dtype, canvas_px=canvas_px)


def write_walked(
    item: TaggedImage,
    edges: Edges,
    *,
    source: Path,
    folder: Path,
    radius: int,
    beta: float,
    exp_times: int,
) -> None:
    """Writes class maps that have spread over the picture, but not across its edges."""
    cams = read_cams(source / f"{item.id}.npz")
    if edges.shape != cams.cam.shape[1:]:
        raise InputError(
            f"{source / item.id}.npz: class maps of a picture of {cams.size_hw}, but "
            f"{item.image_path} has another size; make them again"
        )
    walked = walk(cams.cam, edges, radius=radius, beta=beta, exp_times=exp_times)
    rw = enlarge(walked, cams.size_hw).astype(np.float32)
    save_arrays(folder / f"{item.id}.npz", {"keys": cams.keys, "rw": rw})


def write_pseudo_labels(
    item: TaggedImage, *, source: Path, folder: Path, threshold: float, crf_iterations: int
) -> None:
    """Writes the label map that a segmenter learns from."""
    found = load_class_arrays(source / f"{item.id}.npz")
    labels = label_maps(
        read_image(item.image_path),
        found["rw"],
        found["keys"],
        threshold=threshold,
        crf_iterations=crf_iterations,
    )
    write_voc_labels(folder / f"{item.id}.png", labels)


def segment_picture(
    item: TaggedImage,
    *,
    network: DeepLabV3Plus,
    scales: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
) -> Scores:
    """Finds the probabilities of the labels that the trained segmenter sees."""
    image = read_image(item.image_path)
    return predict_scores(network, image, scales=scales, device=device, dtype=dtype)


def write_mask(item: TaggedImage, scores: Scores, *, crf_iterations: int, folder: Path) -> None:
    """Writes the label map of the segmenter's probabilities, after a dense CRF."""
    if crf_iterations:
        image = read_image(item.image_path)
        scores = infer(unary_from_probabilities(scores), image, iterations=crf_iterations)
    write_voc_labels(folder / f"{item.id}.png", scores.argmax(axis=0).astype(np.uint8))
