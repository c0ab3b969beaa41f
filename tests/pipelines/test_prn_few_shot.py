import json

import numpy as np
import pytest

MISUSED = 2


@pytest.fixture
def classes(tmp_path, save_picture):
    """Two classes of squares; the scores of each are too low by the same share everywhere."""
    random = np.random.default_rng(0)
    root = tmp_path / "classes"
    for name, strength in (("ant", 0.35), ("bee", 0.4)):
        for use, count in (("support", 3), ("query", 2)):
            for i in range(count):
                truth = np.zeros((32, 32), dtype=bool)
                y, x = random.integers(0, 16, 2)
                truth[y : y + 14, x : x + 14] = True
                scores = np.rint(255 * (0.05 + strength * truth)).astype(np.uint8)
                save_picture(root / name / use / "scores" / f"{i}.png", scores)
                save_picture(
                    root / name / use / "targets" / f"{i}.png", truth.astype(np.uint8) * 255
                )
    return root


@pytest.fixture
def recipe(tmp_path, classes, run_cli):
    """A recipe, with weights of a residual network that changes nothing yet."""
    first = tmp_path / "first.toml"
    first.write_text(
        'method = "prn"\nname = "tiny"\nnetwork = "grid"\ncells = 2\nwidth = 4\nmap_px = 32\n'
        'bn = "batch"\nresidual = true\nmerge = "global"\nwatch = "iou"\niterations = 1\n'
        "batch_size = 1\nepoch_iterations = 1\nworkers = 0\nlearning_rate = 1e-9\n"
        f'min_learning_rate = 0.0\nheld_share = 0.4\nscores = "{classes}/ant/support/scores"\n'
        f'targets = "{classes}/ant/support/targets"\n'
    )
    said = run_cli("train", first, "-o", tmp_path / "first")
    assert said.code == 0, said.err
    path = tmp_path / "few.toml"
    path.write_text(
        f'method = "prn-few-shot"\nname = "few"\nroot = "{classes}"\nshots = 2\niterations = 12\n'
        f'weights = "{tmp_path}/first/tiny.safetensors"\nlearning_rate = 0.02\nbatch_size = 2\n'
        'device = "cpu"\n'
    )
    return path


def test_support_teaches_and_the_report_is_kept(run_cli, recipe, tmp_path):
    said = run_cli("train", recipe, "-o", tmp_path / "out")
    assert said.code == 0, said.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())["classes"]
    assert list(report) == ["ant", "bee"]
    for scores in report.values():
        assert scores["base"] == scores["PRN as it is"] == 0  # all scores are below one half
        assert scores["PRN after support"] > 0.5
    assert "mean of classes" in said.out
    listed = (tmp_path / "out" / "bee" / "support.txt").read_text()
    assert listed == "0\n1\n"

    checkpoint = tmp_path / "out" / "ant" / "checkpoint.pt"
    written = checkpoint.stat().st_mtime_ns
    assert run_cli("train", recipe, "-o", tmp_path / "out").out == said.out
    assert checkpoint.stat().st_mtime_ns == written
    other = run_cli("train", recipe, "-o", tmp_path / "out", "--option", "shots=1")
    assert (other.code, "other settings" in other.err) == (MISUSED, True)


def test_without_shots_nothing_is_learnt(run_cli, recipe, tmp_path):
    said = run_cli("train", recipe, "-o", tmp_path / "out", "--option", "shots=0")
    assert said.code == 0, said.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())["classes"]
    assert set(report["ant"]) == {"base", "PRN as it is"}


def test_a_class_without_its_folders_is_named(run_cli, recipe, classes, tmp_path):
    (classes / "cow").mkdir()
    said = run_cli("train", recipe, "-o", tmp_path / "out", "--dry-run")
    assert said.code != 0
    assert "cow: has no folder support/scores" in said.err.replace("\n", "")
