import errno
import json
import os
from contextlib import suppress

import pytest

from maskhone.errors import InputError, UsageError
from maskhone.pipelines.stage_folders import MANIFEST
from maskhone.pipelines.stages import Stage, StageReport, describe_files, run_stages


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
            options = {
                k: parameters.pop(k)
                for k in ("first", "last", "others", "on_stage")
                if k in parameters
            }
            self.did = []
            given = {"notes": parameters.pop("notes", {})}
            given["find_inputs"] = lambda: {"seed": [self.source]}
            stages = [
                self.stage("field", (), parameters, **given),
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
                if self.broken == "full" and name == "mill":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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


def test_a_copied_or_touched_input_changes_nothing(work, tmp_path):
    work.run()
    os.utime(work.source, ns=(5, 5))
    work.run()
    assert work.did == []
    (tmp_path / "elsewhere").mkdir()
    work.source = work.source.rename(tmp_path / "elsewhere" / "seed.txt")
    work.run()
    assert work.did == []


def test_going_back_to_the_former_parameters_takes_the_former_folder(work):
    work.run()
    (work.out / "mill" / "1.txt").write_text("MILL")  # of the same size, so that it is known again
    work.run(mill=2)
    assert work.did == ["mill", "oven"]
    work.run()
    assert work.did == []
    assert (work.out / "mill" / "1.txt").read_text() == "MILL"
    work.run(mill=2)
    assert work.did == []


def test_a_former_folder_that_was_not_finished_goes_on(work):
    work.broken = "mill"
    with pytest.raises(KeyboardInterrupt):
        work.run()
    (work.out / "mill" / "1.txt").unlink()
    (work.out / "mill" / "0.txt").write_text("of the first go")
    work.broken = ""
    work.run(mill=2)
    work.run()
    assert work.did == ["mill", "oven"]
    assert (work.out / "mill" / "0.txt").exists()


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3, 4, 5])
def test_a_run_killed_while_it_exchanges_folders_finds_its_way(work, monkeypatch, killed_after):
    work.run()
    work.run(mill=2)
    calls = []

    class Killed(BaseException):
        pass

    def rename(self, target):
        if len(calls) == killed_after:
            raise Killed
        calls.append(self)
        self.replace(target)
        return target

    with monkeypatch.context() as patch:
        patch.setattr(type(work.out), "rename", rename)
        with suppress(Killed):
            work.run()
    work.run()
    assert work.did == []
    work.run(mill=2)
    assert work.did == []
    assert not list(work.out.glob(".*.swapped"))


def test_what_another_run_has_done_is_copied(work, tmp_path):
    work.run()
    first, work.out = work.out, tmp_path / "second"
    reports = work.run(oven=3, others=[tmp_path / "none", first])
    assert work.did == ["oven"]
    assert [report.is_new for report in reports] == [False, False, True]
    assert (work.out / "mill" / "1.txt").read_text() == "mill"
    (first / "mill" / "1.txt").write_text("cut off")
    work.out = tmp_path / "third"
    work.run(others=[first])
    assert work.did == ["mill"]


def test_notes_are_written_again_without_the_later_stages(work):
    work.run(notes={"licence": "none"})
    kept = work.out / "field" / "kept.txt"
    kept.write_text("what the stage had besides")
    work.run(notes={"licence": "MIT"})
    assert work.did == ["field"]
    assert kept.exists()
    work.run(notes={"licence": "MIT"})
    assert work.did == []


def test_a_full_disk_is_a_clear_error_and_what_is_done_stays(work):
    work.run(last="field")
    work.broken = "full"
    with pytest.raises(InputError, match=r"mill.*No space left.*goes on"):
        work.run()
    assert (work.out / "field" / MANIFEST).exists()
    work.broken = ""
    work.run()
    assert work.did == ["mill", "oven"]


def test_the_rate_counts_only_what_was_made_now():
    report = StageReport(name="cam", is_new=True, seconds=30.0, made=10)
    assert report.describe() == "cam: 30.0 s for 10, 20 a minute"


def test_a_damaged_list_of_hashes_counts_as_none(work):
    work.run()
    (work.out / ".hashes.json").write_text("{")
    work.run()
    assert work.did == []


def test_stages_that_are_done_now_are_told_as_they_begin(work):
    work.run(last="field")
    told = []
    work.run(on_stage=told.append)
    assert told == ["mill", "oven"]
