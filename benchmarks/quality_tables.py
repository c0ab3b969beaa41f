"""The tables of quality: from the results to Markdown, and into the page of the documentation."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs" / "quality.md"
MARKERS = ("<!-- written by benchmarks/quality.py -->", "<!-- end -->")

COLUMNS = ("set", "method", "mask", "iou", "mba", "boundary_iou")
LOST = 0.01
"""A mask counts as worse when its IoU falls by more than one point."""

Known = dict[str, Any]


def read_masks(path: Path) -> list[dict[str, str]]:
    """Reads the lines of a file of scores of single masks."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_masks(path: Path, name: str, method: str, masks: list[dict[str, str]]) -> None:
    """Puts the scores of the masks of a set and method into a file, in place of older ones.

    Args:
        path: CSV; made when it is missing.
        name: of the set.
        method: the row of the table.
        masks: lines of `maskhone evaluate --per-mask`, before (`coarse`) and after (`refined`).
    """
    called = {"coarse": "coarse", "refined": method}
    fresh = [{**line, "set": name, "method": called[line["set"]]} for line in masks]
    old = read_masks(path) if path.exists() else []
    kept = [x for x in old if x["set"] != name or x["method"] not in called.values()]
    lines = [{key: _shorten(line[key]) for key in COLUMNS} for line in (*kept, *fresh)]
    lines.sort(key=lambda line: (line["set"], line["method"], line["mask"]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _shorten(text: str) -> str:
    try:
        return f"{float(text):.5f}".rstrip("0").rstrip(".") if "." in text else text
    except ValueError:
        return text


def compare(masks: list[dict[str, str]]) -> dict[str, float]:
    """Compares each mask with what it was: who loses, and how sure the gain is.

    Args:
        masks: lines with `set` (`coarse` or `refined`), `mask` and `iou`.

    Returns:
        `worse`: share of masks whose IoU falls by more than `LOST`; `any_loss`: share whose IoU
        falls at all; `worst`: the greatest fall, as a number below 0, or 0; `iou_gain_se`:
        standard error of the mean change of IoU.
    """
    of = {kind: {x["mask"]: float(x["iou"]) for x in masks if x["set"] == kind} for kind in _KINDS}
    changes = [of["refined"][mask] - of["coarse"][mask] for mask in of["coarse"]]
    n = len(changes)
    mean = sum(changes) / n
    spread = math.sqrt(sum((change - mean) ** 2 for change in changes) / max(n - 1, 1))
    return {
        "worse": sum(change < -LOST for change in changes) / n,
        "any_loss": sum(change < 0 for change in changes) / n,
        "worst": min(0.0, *changes),
        "iou_gain_se": spread / math.sqrt(n),
    }


_KINDS = ("coarse", "refined")


def to_markdown(known: Known) -> str:
    """Makes one table that compares, and one for each set with everything.

    Args:
        known: the results, as in `results/quality.json`.
    """
    parts = ["### All sets", _to_overview(known)]
    for name, rows in known["sets"].items():
        parts += [f"### {name}, {rows['coarse']['n']} masks", _to_table(rows)]
    return "\n\n".join(parts)


def _to_overview(known: Known) -> str:
    """Tells the change against the coarse masks, and who pays for it."""
    sets = known["sets"]
    methods = _list_methods(known)
    lines = [_line("method", sets), _line("---", ["---"] * len(sets))]
    coarse = [
        f"{_percent(r['coarse'], 'iou')} / {_percent(r['coarse'], 'mba')}" for r in sets.values()
    ]
    lines.append(_line("coarse: IoU / mBA", coarse))
    for method in methods:
        cells = [_change(rows["coarse"], rows.get(method)) for rows in sets.values()]
        lines.append(_line(method, cells))
    return "\n".join(lines)


def _list_methods(known: Known) -> list[str]:
    """Lists the rows in the order of the set that has most of them."""
    fullest = max(known["sets"].values(), key=len)
    return [method for method in fullest if method != "coarse"]


def _change(before: Known, after: Known | None) -> str:
    if after is None:
        return "-"
    gains = [f"{100 * (after[key] - before[key]):+.1f}" for key in ("iou", "mba")]
    return f"{gains[0]} / {gains[1]} / {100 * after['worse']:.0f} %"


def _to_table(rows: dict[str, Known]) -> str:
    has_ap = "AP" in rows["coarse"]
    heads = ["IoU", "mBA", "boundary IoU", *(["AP", "boundary AP"] if has_ap else [])]
    heads += ["worse", "any loss", "worst", "CPU s", "commit"]
    lines = [_line("method", heads), _line("---", ["---"] * len(heads))]
    keys = ["iou", "mba", "boundary_iou", *(["AP", "boundary AP"] if has_ap else [])]
    for method, row in rows.items():
        cells = [_percent(row, key) for key in keys]
        if "worse" in row:
            cells += [f"{100 * row[key]:.0f} %" for key in ("worse", "any_loss")]
            cells += [f"{100 * row['worst']:.1f}", f"{row['cpu_seconds']:.2f}", row["commit"]]
        else:
            cells += [""] * 5
        lines.append(_line(method, cells))
    return "\n".join(lines)


def _percent(row: Known, key: str) -> str:
    return "-" if row[key] is None else f"{100 * row[key]:.1f}"


def _line(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"


def write_docs(path: Path, known: Known) -> None:
    """Replaces the tables between the markers of a page."""
    path.write_text(replace_tables(path.read_text(encoding="utf-8"), known), encoding="utf-8")


def replace_tables(page: str, known: Known) -> str:
    """Returns a page with the tables between its markers made anew.

    Raises:
        ValueError: the page lacks a marker.
    """
    start, end = MARKERS
    before, _ = page.split(start)
    _, after = page.split(end)
    return f"{before}{start}\n\n{to_markdown(known)}\n\n{end}{after}"
