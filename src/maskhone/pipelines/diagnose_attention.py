"""Which stage of a network overlooks what: pictures, a table, and the slices that stay weak."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from maskhone.contracts import Image
from maskhone.data.images import write_image
from maskhone.engine.infer import choose_device
from maskhone.errors import InputError, UsageError
from maskhone.methods.rws.attention import find_missing_weights
from maskhone.methods.rws.config import RWSConfig
from maskhone.methods.rws.pictures import Colours, draw_missing_weights
from maskhone.methods.rws.rounds import ClassHeat, Sight, find_class_heat
from maskhone.methods.rws.slices import Slice, SliceConfig, find_weak_slices
from maskhone.methods.rws.store import load_slices
from maskhone.methods.rws.training_set import (
    LabelledData,
    LabelledItem,
    LabelMap,
    find_items,
    list_classes,
)
from maskhone.pipelines.attention_hosts import load_host
from maskhone.pipelines.attention_report import AttentionReport, Tally, sum_up, write_report

Progress = Callable[[int, int], None]
Key = tuple[str, int, int]  # picture, class, number of the window


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
        network: a name, a recipe, or `package.module:factory`; see `load_host`.
        weights: of the network.
        layers: names of its stages in their order, where they are not known.
        num_classes: outputs of the network; 0 takes what weights or recipe say, else 21.
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
    host = load_host(network, weights, layers, num_classes)
    sight = Sight(
        config=RWSConfig(heat_method=heat_method, heat_mask=heat_mask),  # type: ignore[arg-type]
        slicing=SliceConfig(slice_heat=slice_heat),
        data=LabelledData(
            images=str(images),
            labels=str(labels),
            classes=tuple(classes),
            label_shift=label_shift,
            picture_px=picture_px,
        ),
        layers=host.layers,
        num_classes=host.num_classes,
        device=choose_device(device),
        seed=0,
    )
    drawing = _Drawing(
        output=output, layers=host.layers, most=most_pictures, over=over, colours=colours
    )
    before = [{_key(one) for one in load_slices(path)} for path in earlier]
    report = look_at_pictures(
        sight,
        host.network.to(sight.device).eval(),
        find_items(sight.data, str(ids) if ids else ""),
        drawing,
        before=before,
        on_progress=on_progress,
    )
    write_report(output, report)
    return report


def look_at_pictures(
    sight: Sight,
    network: nn.Module,
    items: Sequence[LabelledItem],
    drawing: "_Drawing",
    *,
    before: Sequence[set[Key]],
    on_progress: Progress | None = None,
) -> AttentionReport:
    """Looks at one picture after another; one that cannot be used is said and left out.

    Raises:
        InputError: none of them has a class.
    """
    tallies: dict[int, Tally] = {}
    slices: list[Slice] = []
    persistent: list[Slice] = []
    problems: list[str] = []
    for done, item in enumerate(items, start=1):
        try:
            image, label = sight.read(item)
        except InputError as error:
            problems.append(str(error))
            continue
        present = list_classes(label)
        if present:
            found = find_class_heat(sight, network, image, label, present)
            for index, heat in found.heat.items():
                tally = tallies.setdefault(index, Tally(layers=len(sight.layers)))
                tally.add(heat, label == index, found.prediction == index)
            weak = _find_slices(item.id, found, label, sight.slicing)
            lasting = [one for one in weak if all(_key(one) in known for known in before)]
            slices += weak
            persistent += lasting if before else []
            drawing.add(item.id, found, image, label, lasting)
        if on_progress is not None:
            on_progress(done, len(items))
    absent = [index for index in sight.data.classes if index not in tallies]
    problems += [f"class {index}: in none of {len(items)} label maps" for index in absent]
    if not tallies:
        none = f"{sight.data.labels}: none of {len(items)} label maps has a class"
        raise InputError(problems[0] if problems else none)
    return sum_up(tallies, sight.layers, slices, persistent, problems)


def _find_slices(id: str, found: ClassHeat, label: LabelMap, slicing: SliceConfig) -> list[Slice]:
    if min(label.shape) * slicing.slice_step_share < 1:
        return []
    return [
        one
        for index, heat in found.heat.items()
        for one in find_weak_slices(id, index, heat[-1], label == index, slicing)
    ]


def _key(one: Slice) -> Key:
    return one.id, one.class_index, one.number


@dataclass(kw_only=True)
class _Drawing:
    """Draws the first pictures and slices.

    Attributes:
        output: folder to draw to.
        layers: names of the stages.
        most: of each kind to draw.
        over: what the heat is drawn over, `image` or `label`.
        colours: see `draw_missing_weights`.
    """

    output: Path
    layers: Sequence[str]
    most: int
    over: str
    colours: Colours
    pictures: int = 0
    slices: int = 0

    def add(
        self, id: str, found: ClassHeat, image: Image, label: LabelMap, slices: Sequence[Slice]
    ) -> None:
        """Draws a picture and its slices, unless enough are drawn."""
        if self.pictures < self.most:
            self.pictures += 1
            self._draw_missing(id, found, image, label)
        for one in slices[: self.most - self.slices]:
            self.slices += 1
            name = f"{one.id}-class{one.class_index}-{one.number}.png"
            write_image(self.output / "slices" / name, np.ascontiguousarray(one.crop(image)))

    def _draw_missing(self, id: str, found: ClassHeat, image: Image, label: LabelMap) -> None:
        """Draws what each layer misses of all classes of a picture; labels do not overlap."""
        missing = np.sum([find_missing_weights(heat) for heat in found.heat.values()], axis=0)
        kept = np.isin(label, list(found.heat))
        foreground = np.where(kept, label, np.uint8(0)).astype(np.uint8)
        base = image if self.over == "image" else None
        for i, (layer, one) in enumerate(
            zip(self.layers, missing.astype(np.float32), strict=True), 1
        ):
            drawn = draw_missing_weights(one, foreground, image=base, colours=self.colours)
            write_image(self.output / f"f{i}-{layer}" / f"{id}.png", drawn)
