import json

import pytest

from maskhone.errors import InputError, UsageError
from maskhone.pipelines.stages import MANIFEST, Stage, describe_files, run_stages


@pytest.fixture
def work(tmp_path):
    """Three stages, `mill` and `oven` on the result of `field`; writes down which were done."""

    class Work:
        out = tmp_path / "out"
        source = tmp_path / "seed.txt"

        def __init__(self):
            self.source.write_text("seed")
            self.did, self.broken = [], ""

        def run(self, **parameters):
            options = {k: parameters.pop(k) for k in ("first", "last") if k in parameters}
            self.did = []
            stages = [
                self.stage("field", (), parameters, find_inputs=lambda: {"seed": [self.source]}),
                self.stage("mill", ("field",), parameters),
                self.stage("oven", ("mill",), parameters),
            ]
            return run_stages(stages, self.out, **options)

        def stage(self, name, after, parameters, **options):
            def make(folder):
                self.did.append(name)
                (folder / "1.txt").write_text(name)
                if self.broken == name:
                    raise KeyboardInterrupt
                (folder / "2.txt").write_text(name)

            mine = {"heat": parameters.get(name, 0)}
            return Stage(name=name, make=make, parameters=mine, after=after, **options)

    return Work()


def test_a_second_run_does_nothing(work):
    assert [report.is_new for report in work.run()] == [True] * 3
    assert work.did == ["field", "mill", "oven"]
    assert [report.is_new for report in work.run()] == [False] * 3
    assert work.did == []


@pytest.mark.parametrize(
    ("changed", "done"),
    [("field", ["field", "mill", "oven"]), ("mill", ["mill", "oven"]), ("oven", ["oven"])],
)
def test_a_changed_parameter_does_that_stage_and_the_later_ones_anew(work, changed, done):
    work.run()
    work.run(**{changed: 9})
    assert work.did == done
    assert (work.out / f"{changed}.before" / "1.txt").exists()
    work.run(**{changed: 9})
    assert work.did == []


def test_a_changed_input_is_seen(work):
    work.run()
    work.source.write_text("another")
    work.run()
    assert work.did == ["field", "mill", "oven"]


@pytest.mark.parametrize("broken", ["field", "mill", "oven"])
def test_a_stopped_stage_goes_on_and_keeps_what_it_had(work, broken):
    work.broken = broken
    with pytest.raises(KeyboardInterrupt):
        work.run()
    before = (work.out / broken / "1.txt").stat().st_ino
    work.broken = ""
    work.run()
    assert work.did == ["field", "mill", "oven"][["field", "mill", "oven"].index(broken) :]
    assert (work.out / broken / "1.txt").stat().st_ino == before
    assert not (work.out / broken / ".begun.json").exists()


def test_a_stopped_stage_with_other_parameters_begins_anew(work):
    work.broken = "mill"
    with pytest.raises(KeyboardInterrupt):
        work.run()
    (work.out / "mill" / "stale.txt").write_text("of the first go")
    work.broken = ""
    work.run(mill=2)
    assert not (work.out / "mill" / "stale.txt").exists()


def test_a_missing_or_cut_result_is_made_again_without_the_later_stages(work):
    work.run()
    (work.out / "mill" / "2.txt").unlink()
    (work.out / "mill" / "1.txt").write_text("m")
    work.run()
    assert work.did == ["mill"]
    assert (work.out / "mill" / "1.txt").read_text() == "mill"


def test_files_that_others_add_do_not_matter(work):
    work.run()
    (work.out / "mill" / "Thumbs.db").write_text("x")
    work.run()
    assert work.did == []


def test_the_manifest_says_what_the_stage_depended_on(work):
    work.run(field=7)
    manifest = json.loads((work.out / "field" / MANIFEST).read_text())
    assert manifest["parameters"] == {"heat": 7}
    assert manifest["inputs"]["seed"]["files"] == 1
    assert manifest["files"] == {"1.txt": 5, "2.txt": 5}
    assert {"maskhone", "torch", "numpy", "python"} <= manifest["versions"].keys()
    assert manifest["seconds"] >= 0


def test_stages_can_be_chosen(work):
    work.run(last="mill")
    assert work.did == ["field", "mill"]
    work.source.unlink()
    work.run(first="oven")
    assert work.did == ["oven"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"last": "shop"}, "no stage is called 'shop'"),
        ({"first": "oven", "last": "mill"}, "in order"),
        ({"first": "mill"}, "field: is not done yet"),
    ],
)
def test_a_wrong_choice_of_stages_is_refused(work, options, said):
    with pytest.raises(UsageError, match=said):
        work.run(**options)


def test_a_folder_of_something_else_is_left_alone(work):
    (work.out / "mill").mkdir(parents=True)
    (work.out / "mill" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        work.run()
    assert (work.out / "mill" / "thesis.txt").exists()


def test_several_processes_are_refused(work, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        work.run()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt"):
        describe_files([tmp_path / "gone.txt"])
