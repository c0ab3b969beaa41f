"""What a diagnosis of attention found: sums over pictures, tables, files."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.data.files import replace_when_done
from maskhone.methods.rws.attention import Heat
from maskhone.methods.rws.slices import Slice, count_coverage
from maskhone.methods.rws.store import save_slices


@dataclass(frozen=True, kw_only=True)
class AttentionReport:
    """What the stages of a network miss.

    Attributes:
        rows: one for each class and layer: `class`, `layer`; `missing`, the mean missing weight
            over the class's label; `best`, the share of its pixels where no layer attends more;
            `heat`, the mean heat.
        classes: one for each class: `class`, `pictures`, `pixels`, `iou` of the prediction,
            `slices` that are weak, of these `persistent`, and `coverage_in_tenths`: how many of the
            weak ones are covered 0 to 0.1, 0.1 to 0.2 and so on.
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
class Tally:
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


def sum_up(
    tallies: Mapping[int, Tally],
    names: Sequence[str],
    slices: list[Slice],
    persistent: list[Slice],
    problems: Sequence[str],
) -> AttentionReport:
    """Makes the tables of the sums over each class."""
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
                "coverage_in_tenths": count_coverage(s for s in slices if s.class_index == index),
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
    ends = "".join(f"{tenth / 10:7.1f}" for tenth in range(1, 11))
    lines += ["", "weak slices by coverage, up to", f"class{ends}"]
    for row in report.classes:
        counts = "".join(f"{count:7}" for count in row["coverage_in_tenths"])
        lines.append(f"{row['class']:>5}{counts}")
    return "\n".join(lines) + "\n"
