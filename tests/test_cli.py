"""The command line says what the functions behind it say."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import maskhone
from maskhone import cli
from maskhone.engine.weights import load_weights
from maskhone.errors import UsageError
from maskhone.methods.classic.guided import GuidedRefiner
from maskhone.ops.masks import near_outline
from maskhone.pipelines.coarse import make_coarse_files
from maskhone.pipelines.evaluate import evaluate_files
from maskhone.pipelines.refine import refine_files
from maskhone.pipelines.train import train_recipe

ONLY_IN_PYTHON = {"on_progress"}
ONLY_ON_THE_COMMAND_LINE = {"as_json"}


def list_parameters(function):
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.name not in ONLY_IN_PYTHON | ONLY_ON_THE_COMMAND_LINE
    }


def run_python(code):
    """Runs code in a fresh interpreter; returns the last line it prints."""
    source_dir = str(Path(maskhone.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": source_dir}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (cli.refine, refine_files),
        (cli.evaluate, evaluate_files),
        (cli.train, train_recipe),
        (cli.coarse, make_coarse_files),
    ],
)
def test_the_flags_are_the_parameters_of_the_function(command, function):
    flags, parameters = list_parameters(command), list_parameters(function)
    assert flags.keys() == parameters.keys()
    needed = {name for name, default in parameters.items() if default is inspect.Parameter.empty}
    assert {n: flags[n] for n in flags.keys() - needed} == {
        n: parameters[n] for n in parameters.keys() - needed
    }


def test_importing_maskhone_imports_no_torch():
    assert run_python("import sys, maskhone; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("arguments", [["--help"], ["refine", "--help"], ["methods"]], ids=" ".join)
def test_asking_for_help_imports_no_torch(arguments):
    code = (
        "import sys; from maskhone.cli import main\n"
        f"sys.argv = ['maskhone', *{arguments}]\n"
        "try: main()\n"
        "except SystemExit as stopped: code = stopped.code\n"
        "print(code, 'torch' in sys.modules)"
    )
    assert run_python(code) == "0 False"


def test_help_names_every_command(run_cli):
    said = run_cli("--help")
    assert said.code == 0
    for command in ("refine", "evaluate", "train", "methods", "weights"):
        assert command in said.out


def test_version_is_printed(run_cli):
    assert run_cli("--version").out.strip() == maskhone.__version__


def test_methods_are_listed(run_cli):
    said = run_cli("methods")
    assert said.code == 0
    for name in maskhone.METHODS:
        assert name in said.out


def test_weights_that_can_be_imported_are_listed(run_cli):
    said = run_cli("weights", "list")
    assert said.code == 0
    assert "hrnet18s" in said.out


def test_weights_show_what_they_say_of_themselves(run_cli, bpr_weights):
    shown = json.loads(run_cli("weights", "show", bpr_weights).out)
    state, header = load_weights(bpr_weights)
    assert shown["config"] == header["config"]
    assert shown["bytes"] == bpr_weights.stat().st_size
    assert shown["parameters"] > 0.9 * sum(v.numel() for v in state.values())


def test_refine_writes_and_says_where(run_cli, folders):
    image, mask = folders.images / "a.png", folders.masks / "a.png"
    out = folders.out / "new.png"
    said = run_cli("refine", image, mask, "-o", out, "--method", "guided")
    assert said.code == 0
    assert f"wrote {out}" in said.out
    assert said.err.strip() == ""


@pytest.fixture
def refined_with(run_cli, folders):
    """Refines with an option of the method; returns the bytes of the probabilities."""

    def run(option):
        paths = [folders.images / "a.png", folders.masks / "a.png", "-o", folders.out / "o.png"]
        said = run_cli("refine", *paths, "--scores", "--method", "guided", "--option", option)
        assert said.code == 0
        return (folders.out / "o-scores.png").read_bytes()

    return run


def test_options_reach_the_method(refined_with):
    assert refined_with("radius_px=1") != refined_with("radius_px=9")


def test_evaluate_prints_json_for_machines(run_cli, folders):
    said = run_cli("evaluate", folders.masks, folders.masks, "--json")
    assert json.loads(said.out)["rows"][0]["iou"] == 1.0


def test_evaluate_prints_a_table_for_people(run_cli, folders):
    assert "1.0000" in run_cli("evaluate", folders.masks, folders.masks).out


def test_evaluate_prints_the_many_scores_of_maps_below_one_another(run_cli, folders, save_picture):
    masks, empty = folders.masks, folders.masks.parent / "empty"
    save_picture(empty / "a.png", np.zeros((40, 48), np.uint8))  # its outline has no accuracy
    arguments = ("evaluate", masks, masks, "--coarse", masks, "--saliency")
    said = [line.split() for line in run_cli(*arguments).out.splitlines()]
    assert said[0] == ["masks", "coarse", "refined", "difference"]
    assert ["s_measure", "1.0000", "1.0000", "0.0000"] in said
    said = run_cli("evaluate", empty, empty, "--coarse", empty, "--saliency").out
    assert "without mba" in said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=0.5", 0.5),
        ("a=true", True),
        ("a=text", "text"),
        ('a=["x"]', ["x"]),
        ("a=b=c", "b=c"),
    ],
)
def test_an_option_is_read_as_toml_or_text(text, value):
    assert cli.parse_options([text]) == {"a": value}


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_an_option_without_name_or_value_is_refused(text):
    with pytest.raises(UsageError, match="NAME=VALUE"):
        cli.parse_options([text])


def test_a_band_limits_what_may_change(run_cli, folders):
    paths = [folders.images / "a.png", folders.masks / "a.png", "-o"]
    free = ["--method", "grabcut", "--guard", "off"]
    for name, band in (("wide", 0), ("narrow", 1)):
        out = folders.out / f"{name}.png"
        assert run_cli("refine", *paths, out, *free, "--band", band).code == 0
    coarse, wide, narrow = (
        np.asarray(PIL.Image.open(path)) > 127
        for path in (paths[1], folders.out / "wide.png", folders.out / "narrow.png")
    )
    assert 0 < np.count_nonzero(narrow != coarse) < np.count_nonzero(wide != coarse)
    is_near = near_outline(coarse, 1)
    assert not ((narrow != coarse) & ~is_near).any()


def test_a_negative_band_is_misuse(run_cli, folders):
    paths = [folders.images, folders.masks, "-o", folders.out]
    said = run_cli("refine", *paths, "--method", "guided", "--band", -3)
    assert said.code == 2
    assert "-3 px" in said.err


@pytest.mark.parametrize(
    "words", [["--guard", "on"], ["--guard", "--resume"], ["--guard", "--band", 3]], ids=str
)
def test_another_guard_is_misuse_in_one_line(run_cli, folders, words):
    paths = [folders.images, folders.masks, "-o", folders.out]
    said = run_cli("refine", *paths, "--method", "guided", *words)
    assert said.code == 2
    assert len(said.err.strip().splitlines()) == 1
    assert "off, safe, strict" in said.err


def test_the_guard_says_what_it_undid(run_cli, folders, monkeypatch):
    monkeypatch.setattr(GuidedRefiner, "refine", lambda self, image, masks: masks * 0)
    paths = [folders.images / "a.png", folders.masks / "a.png", "-o", folders.out / "o.png"]
    said = run_cli("refine", *paths, "--method", "guided")
    assert "a.png: put to the vote" in said.out
    assert "the guard undid" in said.out
    said = run_cli("refine", *paths, "--method", "guided", "--guard", "off")
    assert "the guard" not in said.out


def test_methods_without_patches_refuse_a_limit_of_them(run_cli, folders):
    paths = [folders.images, folders.masks, "-o", folders.out]
    said = run_cli("refine", *paths, "--method", "guided", "--max-patches", 3)
    assert said.code == 2
    assert "max_patches" in said.err


def test_patches_can_be_limited(run_cli, folders, segrefiner_weights):
    paths = [folders.images, folders.masks, "-o", folders.out, "--weights", segrefiner_weights]
    options = ["--method", "segrefiner-lite", "--option", "scope=picture", "--max-patches", 3]
    assert run_cli("refine", *paths, *options).code == 0
