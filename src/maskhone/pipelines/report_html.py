"""Writes what changed as one HTML file: a picture and a few numbers for every mask.

A mask is measured and drawn as soon as it is refined, and its line written to an unfinished file
beside the report; only the numbers stay in memory. At the end the lines are put in order, the ones
that a person should look at first, into a page that needs no server, network or foreign file. An
interrupted run leaves the unfinished file, and a resumed one goes on with it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

from maskhone.contracts import FOREGROUND, Image, Scores
from maskhone.data.files import replace_when_done
from maskhone.errors import InputError
from maskhone.ops.changes import measure_change
from maskhone.pipelines.report_pictures import draw_change

_RUN_LINE = b'<script type="application/json" id="run">'
_MASK_LINE = b'<script type="application/json" class="mask">'
_LINE_END = b"</script>\n"
_MASKS_COME = b"<!-- masks -->\n"
_MOST_NOTE_LETTERS = 300


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskRecord:
    """One refined mask, as a report shows it.

    Attributes:
        picture: name of the picture.
        mask: name of the mask, unique among those of the picture.
        image: `(H, W, 3)` uint8 RGB; None where there is no picture.
        before: `(H, W)` scores.
        after: likewise.
        note: a line of text, such as what was chosen for the mask and why; or empty.
        kept: share of the changed pixels that the guard gave back, None without a guard.
    """

    picture: str
    mask: str
    image: Image | None
    before: Scores
    after: Scores
    note: str = ""
    kept: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Where the line of a mask lies in the unfinished file, and its numbers."""

    start: int
    length: int
    facts: Mapping[str, Any]


class ReportWriter:
    """Writes a report mask by mask; `with` closes it, `finish` makes the page.

    Args:
        path: the HTML file.
        about: what the page says of the run: `command`, `settings`, `masks`, `output`, ...
        same: what must agree for a resumed run to go on with an earlier report.
        resume: keep the masks of an earlier report of the same run.
    """

    def __init__(
        self, path: Path, *, about: Mapping[str, Any], same: Mapping[str, Any], resume: bool
    ) -> None:
        self.path = path
        self.unfinished = path.with_name(f".{path.name}.unfinished")
        self.about = about
        self.same = json.loads(json.dumps(same, default=str))
        self.resume = resume
        self.lines: dict[tuple[str, str], _Line] = {}
        self.earlier: set[str] = set()
        self.file: BinaryIO | None = None

    def __enter__(self) -> "ReportWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, record: MaskRecord) -> None:
        """Measures and draws a mask and writes its line; a later one of its name replaces it."""
        change = measure_change(record.before > FOREGROUND, record.after > FOREGROUND)
        facts = {
            "picture": record.picture,
            "mask": record.mask,
            "note": record.note[:_MOST_NOTE_LETTERS],
            "kept": record.kept,
            **{k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(change).items()},
        }
        pictures = draw_change(record.image, record.before, record.after)
        file = self.file or self._open()
        self._append(file, {"facts": facts, "pictures": asdict(pictures)})
        self.earlier.discard(record.picture)

    def finish(self, *, skipped: int = 0, problems: Sequence[str] = ()) -> None:
        """Puts the page together, and removes the unfinished file.

        Args:
            skipped: pictures that an earlier run had done.
            problems: a line for each image or mask that failed.
        """
        file = self.file or self._open()
        lines = sorted(self.lines.values(), key=_rank)
        facts = [line.facts for line in lines]
        about = {
            **self.about,
            "same": self.same,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "summary": _summarise(facts),
            "not_shown": max(skipped - len(self.earlier), 0),
            "problems": list(problems),
        }
        with replace_when_done(self.path) as unfinished, unfinished.open("wb") as page:
            for part in _fill_page(about, facts):
                page.write(part)
                if part == _MASKS_COME:
                    page.writelines(_read_again(file, line) for line in lines)
        file.close()
        self.unfinished.unlink()

    def _open(self) -> BinaryIO:
        """Begins the unfinished file, with the lines of an earlier report where there are some."""
        earlier = self._find_earlier() if self.resume else None
        with replace_when_done(self.unfinished) as path, path.open("wb") as file:
            file.write(_RUN_LINE + _to_json({"same": self.same}) + _LINE_END)
            if earlier is not None:
                self._take_over(earlier, file)
        self.file = self.unfinished.open("r+b")
        self.file.seek(0, 2)
        return self.file

    def _find_earlier(self) -> Path | None:
        """Finds the unfinished file or the report of an earlier run of the same settings."""
        for path in (self.unfinished, self.path):
            if path.is_file():
                about = next(_read_json(path, _RUN_LINE), None)
                if isinstance(about, dict) and about.get("same") == self.same:
                    return path
        return None

    def _take_over(self, earlier: Path, file: BinaryIO) -> None:
        for line in _read_json(earlier, _MASK_LINE):
            self._append(file, line)
            self.earlier.add(line["facts"]["picture"])

    def _append(self, file: BinaryIO, line: Mapping[str, Any]) -> None:
        facts, start = line["facts"], file.tell()
        file.write(_MASK_LINE + _to_json(line) + _LINE_END)
        file.flush()
        name = (facts["picture"], facts["mask"])
        self.lines[name] = _Line(start=start, length=file.tell() - start, facts=facts)


def _read_again(file: BinaryIO, line: _Line) -> bytes:
    file.seek(line.start)
    return file.read(line.length)


def _read_json(path: Path, beginning: bytes) -> Iterator[Any]:
    """Reads the whole lines of a report that begin so; one torn by a stop is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.startswith(beginning) and line.endswith(_LINE_END):
                try:
                    yield json.loads(line[len(beginning) : -len(_LINE_END)])
                except ValueError as error:
                    raise InputError(f"{path}: damaged; remove it, or name another") from error


def _rank(line: _Line) -> tuple[float, float, float, str, str]:
    """Orders masks by how much a person should look."""
    facts = line.facts
    seen = -facts["attention"], -facts["share"], -(facts["kept"] or 0)
    return *seen, facts["picture"], facts["mask"]


def _summarise(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares = [each["share"] for each in facts]
    kept = [each["kept"] for each in facts if each["kept"] is not None]
    return {
        "masks": len(facts),
        "pictures": len({each["picture"] for each in facts}),
        "changed": sum(share > 0 for share in shares),
        "median_share": round(median(shares), 5) if shares else None,
        "guarded": len(kept),
        "kept": sum(share > 0 for share in kept),
    }


def _fill_page(about: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yields the page in parts; after the part `_MASKS_COME` belong the lines of the masks."""
    page, style, script = (_read_part(name) for name in ("page.html", "page.css", "page.js"))
    title = f"What changed: {Path(str(about['output'])).name}"
    filled = {
        "title": escape(title).encode("utf-8", "replace"),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "style": style,
        "script": script,
        "run": _RUN_LINE + _to_json(about) + _LINE_END,
        "index": _to_json(facts),
        "masks": _MASKS_COME,
    }
    for position, part in enumerate(re.split(r"\{\{(\w+)\}\}", page.decode("utf-8"))):
        yield filled[part] if position % 2 else part.encode("utf-8")


def _read_part(name: str) -> bytes:
    """Reads a part of the page; a browser counts only plain line ends into the hash."""
    part = resources.files("maskhone.pipelines") / "report_page" / name
    return part.read_bytes().replace(b"\r\n", b"\n")


def _hash(content: bytes) -> bytes:
    """Names a script or style in the page's content security policy: no other one may run."""
    return b"'sha256-" + base64.b64encode(hashlib.sha256(content).digest()) + b"'"


def _to_json(value: Any) -> bytes:
    """Writes JSON that cannot end the element it lies in, whatever the names of files hold."""
    text = json.dumps(value, default=str, separators=(",", ":"))
    return text.replace("<", "\\u003c").encode("ascii")
