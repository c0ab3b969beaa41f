"""Which stage of a network overlooks what: pictures, a table, and the slices that stay weak."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from maskhone.contracts import Image
from maskhone.data.files import replace_when_done
from maskhone.data.images import write_image
from maskhone.engine.infer import choose_device
from maskhone.engine.weights import read_header
from maskhone.errors import InputError, UsageError
from maskhone.methods.rws.attention import Heat, find_missing_weights
from maskhone.methods.rws.config import RWSConfig
from maskhone.methods.rws.host import (
    build_host,
    choose_layers,
    load_matching,
    measure_outputs,
    read_tensors,
)
from maskhone.methods.rws.pictures import Colours, draw_missing_weights
from maskhone.methods.rws.rounds import ClassHeat, Sight, find_class_heat
from maskhone.methods.rws.slices import Slice, SliceConfig, find_weak_slices
from maskhone.methods.rws.store import load_slices, save_slices
from maskhone.methods.rws.training_set import (
    LabelledData,
    LabelMap,
    find_items,
    list_classes,
    load_item,
)

Progress = Callable[[int, int], None]

_CHECK_PX = 64  # a picture to try the layers on


@dataclass(frozen=True, kw_only=True)
class AttentionReport:
    """What the stages of a network miss.

    Attributes:
        rows: one for each class and layer: `class`, `layer`; `missing`, the mean missing weight
            over the class's label; `best`, the share of its pixels where no layer attends more;
            `heat`, the mean heat.
        classes: one for each class: `class`, `pictures`, `pixels`, `iou` of the prediction,
            `slices` that are weak, and of these `persistent`.
        slices: the weak slices; the persistent ones are those that were weak before, too.
        persistent: see `slices`.
        problems: a line for each picture that could not be used.
    """

    rows: list[dict[str, Any]]
    classes: list[dict[str, Any]]
    slices: list[Slice]
    persistent: list[Slice]
    problems: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Tally:
    """Sums over the pictures of one class."""

    layers: int
    pictures: int = 0
    pixels: int = 0
    shared: int = 0
    either: int = 0
    missing: Any = field(init=False)
    heat: Any = field(init=False)
    best: Any = field(init=False)

    def __post_init__(self) -> None:
        self.missing, self.heat, self.best = (np.zeros(self.layers) for _ in range(3))

    def add(self, heat: Heat, is_class: Any, is_predicted: Any) -> None:
        """Adds one picture."""
        inside = heat[:, is_class].astype(np.float64)
        highest = inside.max(axis=0)
        self.pictures += 1
        self.pixels += inside.shape[1]
        self.shared += int((is_class & is_predicted).sum())
        self.either += int((is_class | is_predicted).sum())
        self.missing += (highest - inside).sum(axis=1)
        self.heat += inside.sum(axis=1)
        self.best += ((inside == highest) & (highest > 0)).sum(axis=1)


def diagnose_attention(
    images: Path,
    labels: Path,
    output: Path,
    *,
    network: str = "",
    weights: Path | None = None,
    layers: Sequence[str] = (),
    num_classes: int = 0,
    ids: Path | None = None,
    classes: Sequence[int] = (),
    label_shift: int = 0,
    picture_px: int = 0,
    heat_method: str = "gradcam",
    heat_mask: str = "pred",
    slice_heat: float = 0.0,
    earlier: Sequence[Path] = (),
    most_pictures: int = 50,
    over: str = "image",
    colours: Colours = "natural",
    device: str = "auto",
    on_progress: Progress | None = None,
) -> AttentionReport:
    """Looks at every stage of a network and writes what it misses to a folder.

    `output` receives `report.json`, `report.txt`, `slices.jsonl`; a folder of heat maps of missing
    weights for each layer, `f1-NAME/ID.png` and so on; and `slices/`, crops of the weak slices,
    of the persistent ones where `earlier` is given.

    Args:
        images: folder of pictures.
        labels: folder of label maps of the same names; 0 background, 255 void.
        output: folder to write to.
        network: `deeplabv3_resnet50`, `deeplabv3_resnet101`, or `package.module:factory`, called
            with `num_classes`; empty takes what the weights are of.
        weights: maskhone file, or `.pth` of the network's tensors; None asks the network as the
            factory returns it.
        layers: names of its stages in their order; DeepLabv3's, and those of weights that RWS
            trained, are known.
        num_classes: outputs of the network; 0 takes what the weights say, else 21.
        ids: text file, one id a line; only these are used.
        classes: labels to ask about; empty asks about all.
        label_shift: added to every label but 255.
        picture_px: make the shorter side of pictures this small; 0 leaves them.
        heat_method: see `RWSConfig`.
        heat_mask: see `RWSConfig`; `label` also explains objects that are missed completely.
        slice_heat: what counts as attended to, see `SliceConfig`.
        earlier: `slices.jsonl` of earlier diagnoses or rounds of training.
        most_pictures: of each kind to draw; 0 draws none.
        over: what the heat is drawn over: the `image`, or as published the `label`.
        colours: `natural`, or `swapped` as published.
        device: `auto`, `cpu`, `cuda`, ...
        on_progress: called with finished and planned pictures.

    Raises:
        UsageError: an unknown network or layer, or options that contradict each other.
        InputError: pictures or label maps are missing, or none of them has a class.
        WeightsError: weights are missing or of another network.

    Source: RWS section 9.
    """
    if over not in ("image", "label") or colours not in ("natural", "swapped"):
        raise UsageError(
            f"over is {over!r} and colours {colours!r}; expected image or label, natural or swapped"
        )
    host, names, outputs = _load_network(network, weights, layers, num_classes)
    data = LabelledData(
        images=str(images),
        labels=str(labels),
        classes=tuple(classes),
        label_shift=label_shift,
        picture_px=picture_px,
    )
    slicing = SliceConfig(slice_heat=slice_heat)
    config = RWSConfig(heat_method=heat_method, heat_mask=heat_mask)  # type: ignore[arg-type]
    chosen = choose_device(device)
    sight = Sight(
        config=config,
        slicing=slicing,
        data=data,
        layers=names,
        num_classes=outputs,
        device=chosen,
        seed=0,
    )
    host = host.to(chosen).eval()
    before = [{_key(one) for one in load_slices(path)} for path in earlier]
    items = find_items(data, str(ids) if ids else "")
    tallies: dict[int, _Tally] = {}
    slices: list[Slice] = []
    problems: list[str] = []
    folders = [output / f"f{i}-{name}" for i, name in enumerate(names, start=1)]
    drawn = 0
    for done, item in enumerate(items, start=1):
        try:
            image, label = load_item(item, data, outputs)
        except InputError as error:
            problems.append(str(error))
            continue
        present = list_classes(label)
        if present:
            found = find_class_heat(sight, host, image, label, present)
            for index, heat in found.heat.items():
                tally = tallies.setdefault(index, _Tally(layers=len(names)))
                tally.add(heat, label == index, found.prediction == index)
            weak = _find_slices(item.id, found, label, slicing)
            slices += weak
            if drawn < most_pictures:
                drawn += 1
                _draw(folders, item.id, found, image, label, over=over, colours=colours)
            kept = [one for one in weak if all(_key(one) in known for known in before)]
            for one in kept:
                _draw_slice(output / "slices", one, image, most=most_pictures)
        if on_progress is not None:
            on_progress(done, len(items))
    if not tallies:
        raise InputError(
            problems[0] if problems else f"{labels}: none of {len(items)} label maps has a class"
        )
    persistent = [one for one in slices if before and all(_key(one) in known for known in before)]
    report = _sum_up(tallies, names, slices, persistent, problems)
    write_report(output, report)
    return report


def _load_network(
    network: str, weights: Path | None, layers: Sequence[str], num_classes: int
) -> tuple[nn.Module, tuple[str, ...], int]:
    """Builds the network and finds its layers, before any picture is read."""
    header: dict[str, Any] = {}
    if weights is not None and weights.suffix == ".safetensors":
        header = read_header(weights)
    name = network or str(header.get("method", ""))
    if not name:
        raise UsageError("name the network, or give weights that maskhone wrote")
    config = header.get("config", {})
    outputs = num_classes or int(config.get("num_classes", 21))
    host = build_host(name, outputs)
    if weights is not None:
        load_matching(host, read_tensors(weights), num_classes=outputs, source=str(weights))
    names = choose_layers(name, layers or config.get("layers", ()))
    measure_outputs(host.eval(), names, _CHECK_PX)
    return host, names, outputs


def _find_slices(id: str, found: ClassHeat, label: LabelMap, slicing: SliceConfig) -> list[Slice]:
    if min(label.shape) * slicing.slice_step_share < 1:
        return []
    return [
        one
        for index, heat in found.heat.items()
        for one in find_weak_slices(id, index, heat[-1], label == index, slicing)
    ]


def _key(one: Slice) -> tuple[str, int, int]:
    return one.id, one.class_index, one.number


def _draw(
    folders: Sequence[Path],
    id: str,
    found: ClassHeat,
    image: Image,
    label: LabelMap,
    *,
    over: str,
    colours: Colours,
) -> None:
    """Draws what each layer misses of all classes of a picture; labels do not overlap."""
    missing = np.sum([find_missing_weights(heat) for heat in found.heat.values()], axis=0)
    foreground = np.where(np.isin(label, list(found.heat)), label, np.uint8(0)).astype(np.uint8)
    base = image if over == "image" else None
    for folder, one in zip(folders, missing.astype(np.float32), strict=True):
        write_image(
            folder / f"{id}.png",
            draw_missing_weights(one, foreground, image=base, colours=colours),
        )


def _draw_slice(folder: Path, one: Slice, image: Image, *, most: int) -> None:
    if folder.is_dir() and len(list(folder.iterdir())) >= most:
        return
    if most:
        name = f"{one.id}-class{one.class_index}-{one.number}.png"
        write_image(folder / name, np.ascontiguousarray(one.crop(image)))


def _sum_up(
    tallies: dict[int, _Tally],
    names: Sequence[str],
    slices: list[Slice],
    persistent: list[Slice],
    problems: Sequence[str],
) -> AttentionReport:
    rows, classes = [], []
    weak, lasting = (Counter(one.class_index for one in some) for some in (slices, persistent))
    for index, tally in sorted(tallies.items()):
        for layer, name in enumerate(names):
            rows.append(
                {
                    "class": index,
                    "layer": name,
                    "missing": round(float(tally.missing[layer] / tally.pixels), 4),
                    "best": round(float(tally.best[layer] / tally.pixels), 4),
                    "heat": round(float(tally.heat[layer] / tally.pixels), 4),
                }
            )
        classes.append(
            {
                "class": index,
                "pictures": tally.pictures,
                "pixels": tally.pixels,
                "iou": round(tally.shared / tally.either, 4),
                "slices": weak[index],
                "persistent": lasting[index],
            }
        )
    return AttentionReport(
        rows=rows,
        classes=classes,
        slices=slices,
        persistent=persistent,
        problems=tuple(problems),
    )


def write_report(output: Path, report: AttentionReport) -> None:
    """Writes `report.json`, `report.txt` and `slices.jsonl`."""
    save_slices(output / "slices.jsonl", report.slices)
    facts = {
        "rows": report.rows,
        "classes": report.classes,
        "persistent": [asdict(one) for one in report.persistent],
        "problems": list(report.problems),
    }
    with replace_when_done(output / "report.json") as unfinished:
        unfinished.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    with replace_when_done(output / "report.txt") as unfinished:
        unfinished.write_text(to_text(report), encoding="utf-8")


def to_text(report: AttentionReport) -> str:
    """Makes the tables, one line for each class and layer, and one for each class."""
    width = max(len(row["layer"]) for row in report.rows)
    lines = [f"{'class':>5}  {'layer':<{width}}  missing   best   heat"]
    for row in report.rows:
        lines.append(
            f"{row['class']:>5}  {row['layer']:<{width}}  {row['missing']:7.3f} {row['best']:6.3f} "
            f"{row['heat']:6.3f}"
        )
    lines += ["", "class  pictures    pixels    IoU  weak slices  persistent"]
    for row in report.classes:
        lines.append(
            f"{row['class']:>5}  {row['pictures']:>8} {row['pixels']:>9}  {row['iou']:.3f} "
            f"{row['slices']:>12} {row['persistent']:>11}"
        )
    return "\n".join(lines) + "\n"
