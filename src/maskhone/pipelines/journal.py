"""Entries of a json as they come, so that a stopped run can go on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskhone.data.files import replace_when_done
from maskhone.pipelines.refine_run import Run, refuse_other_settings


class Journal:
    """Refined entries as they come, beside the output, so that a stopped run can go on."""

    def __init__(self, run: Run) -> None:
        self.path = run.output.with_name(f".{run.output.name}.unfinished.jsonl")
        self.refined: dict[int, dict[str, Any]] = {}
        settings = {
            **asdict(run.settings),
            "masks": str(run.masks.resolve()),
            "recompute_boxes": run.recompute_boxes,
        }
        if run.resume and self.path.exists():
            self._read(run.output, settings)
        else:
            self._write_new(settings)
        self.file = self.path.open("a", encoding="utf-8")

    def _write_new(self, settings: dict[str, Any]) -> None:
        with replace_when_done(self.path) as unfinished:
            unfinished.write_text(json.dumps(settings, default=str) + "\n", encoding="utf-8")

    def _read(self, output: Path, settings: dict[str, Any]) -> None:
        lines = self.path.read_text(encoding="utf-8").split("\n")
        refuse_other_settings(output, json.loads(lines[0]), settings)
        whole = lines[1:-1]  # after a stop the last line may be torn
        for line in whole:
            index, entry = json.loads(line)
            self.refined[index] = entry
        with replace_when_done(self.path) as unfinished:
            unfinished.write_text("\n".join([lines[0], *whole, ""]), encoding="utf-8")

    def add(self, index: int, entry: dict[str, Any]) -> None:
        """Writes down what an entry became."""
        self.refined[index] = entry
        self.file.write(json.dumps([index, entry]) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Closes the file; it stays until the run is done."""
        self.file.close()
