import re
import shlex
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from maskhone.cli import main
from maskhone.engine.weights import BUNDLED_DIR

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder with the examples in it, as if it were the checkout."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_lines_run_and_change_the_mask(in_repository: Path) -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict = {}
    exec(block[1], names)
    assert names["better"].dtype == bool
    assert names["better"].shape == names["mask"].shape
    assert (names["better"] != names["mask"]).any()


def test_the_first_command_writes_a_mask_and_a_figure(
    in_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = re.search(r"^maskhone (refine examples.*)$", README, re.MULTILINE)
    assert line is not None
    monkeypatch.setattr(sys, "argv", ["maskhone", *shlex.split(line[1])])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert {"dog.png", "dog_compare.png"} <= {path.name for path in in_repository.iterdir()}


def test_every_command_and_flag_of_the_readme_exists(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = re.findall(r"^maskhone (\w+) ?([^#\n]*)", README, re.MULTILINE)
    assert {command for command, _ in lines} >= {"refine", "evaluate", "train", "methods"}
    for command, rest in lines:
        monkeypatch.setattr(sys, "argv", ["maskhone", command, "--help"])
        with pytest.raises(SystemExit):
            main()
        shown = capsys.readouterr().out
        for flag in re.findall(r"--[\w-]+", rest):
            assert flag in shown, f"maskhone {command} {flag}"


def test_every_file_the_readme_links_to_exists() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_wheel_holds_the_bundled_weights_and_the_parts_of_the_report(tmp_path: Path) -> None:
    builder = WheelBuilder(str(ROOT))
    wheel = next(builder.build(directory=str(tmp_path), versions=["standard"]))
    names = zipfile.ZipFile(wheel).namelist()
    bundled = [path.name for path in BUNDLED_DIR.glob("*.safetensors")]
    assert bundled
    for name in bundled:
        assert f"maskhone/weights/{name}" in names
    for part in ("page.html", "page.css", "page.js"):
        assert f"maskhone/pipelines/report_page/{part}" in names
    assert Path(wheel).stat().st_size < 25_000_000
