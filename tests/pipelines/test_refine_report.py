"""`maskhone refine --report`: one page that says what changed, for every form of input."""

import base64
import hashlib
import json
import re
import shlex
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from maskhone.errors import UsageError
from maskhone.methods.classic.guided import GuidedRefiner
from maskhone.pipelines.refine import refine_files
from maskhone.pipelines.report_html import MaskRecord, ReportWriter


class Page(HTMLParser):
    """The elements of a page, and what its scripts and styles hold."""

    def __init__(self, path):
        super().__init__()
        self.path, self.elements, self.texts, self.is_open = path, [], [], False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style", "title"):
            self.texts.append([tag, dict(attributes), ""])
            self.is_open = True

    def handle_endtag(self, tag):
        self.is_open = False

    def handle_data(self, text):
        if self.is_open:
            self.texts[-1][2] += text

    def find(self, tag, **wanted):
        return [t for n, a, t in self.texts if n == tag and wanted.items() <= a.items()]

    @property
    def run(self):
        return json.loads(self.find("script", id="run")[0])

    @property
    def facts(self):
        return json.loads(self.find("script", id="index")[0])

    @property
    def masks(self):
        return [json.loads(text) for text in self.find("script", **{"class": "mask"})]

    @property
    def names(self):
        return [each["mask"] for each in self.facts]


@pytest.fixture
def report_of(tmp_path):
    """Refines with a report; returns its page."""

    def run(images, masks, out, **options):
        path = tmp_path / "report.html"
        refine_files(images, masks, out, report=path, **{"method": "guided", **options})
        return Page(path)

    return run


@pytest.fixture
def refined_by_a_column(monkeypatch):
    """Makes the method one that moves every mask right by a pixel."""
    monkeypatch.setattr(
        GuidedRefiner, "refine", lambda self, image, masks: np.roll(masks, 1, axis=2)
    )


# every form of input


def test_one_picture(report_of, folders, refined_by_a_column):
    one = [folders.images / "a.png", folders.masks / "a.png", folders.out / "o.png"]
    page = report_of(*one, guard="off")
    assert [(f["picture"], f["mask"]) for f in page.facts] == [("a.png", "a.png")]
    (facts,) = page.facts
    assert facts["before_px"] == facts["after_px"] == 317
    assert facts["added_px"] == facts["removed_px"] == 21


def test_a_folder(report_of, folders):
    page = report_of(folders.images, folders.masks, folders.out)
    assert sorted(page.names) == ["a.png", "b.png", "c.png"]


def test_several_masks_of_a_file_are_told_apart(report_of, folders, disc, save_picture):
    np.save(folders.masks / "a_0.npy", np.stack([disc, ~disc]))
    page = report_of(folders.images, folders.masks, folders.out)
    named = {(f["picture"], f["mask"]) for f in page.facts}
    assert {("a", "a_0.npy mask 0"), ("a", "a_0.npy mask 1"), ("a", "a.png")} < named


def test_a_json(report_of, results):
    page = report_of(results.images, results.masks, results.out)
    assert sorted((f["picture"], f["mask"]) for f in page.facts) == [
        ("1.png", "entry 1, id 17"),
        ("1.png", "entry 2, category 7"),
        ("2.png", "entry 0, category 5"),
    ]


def test_cityscapes(report_of, tmp_path, photo, disc, save_picture):
    save_picture(tmp_path / "i" / "x" / "x_0_0_leftImg8bit.png", photo)
    save_picture(tmp_path / "m" / "0.png", disc.astype(np.uint8) * 255)
    (tmp_path / "m" / "x_0_0_leftImg8bit_pred.txt").write_text("0.png 24 0.5\n")
    page = report_of(tmp_path / "i", tmp_path / "m", tmp_path / "o", format="cityscapes")
    assert [(f["picture"], f["mask"]) for f in page.facts] == [("x_0_0", "0.png")]


def test_big(report_of, tmp_path, photo, disc, save_picture):
    save_picture(tmp_path / "i" / "cat_im.jpg", photo)
    save_picture(tmp_path / "i" / "cat_seg.png", disc.astype(np.uint8) * 255)
    page = report_of(tmp_path / "i", tmp_path / "i", tmp_path / "o", format="big")
    assert [(f["picture"], f["mask"]) for f in page.facts] == [("cat", "cat_seg.png")]


@pytest.mark.parametrize("is_folder", [True, False])
def test_maps_without_pictures(report_of, tmp_path, disc, prn_weights, is_folder):
    (tmp_path / "m").mkdir()
    np.save(tmp_path / "m" / "a.npy", disc.astype(np.float32))
    end = "" if is_folder else "a.npy"
    options = {"method": "prn", "weights": str(prn_weights), "device": "cpu"}
    page = report_of(tmp_path / "m" / end, None, tmp_path / "o" / end, **options)
    assert page.names == ["a.npy"]


# what the page says


def test_what_the_guard_kept_is_told(report_of, folders, monkeypatch):
    monkeypatch.setattr(GuidedRefiner, "refine", lambda self, image, masks: masks * 0)
    page = report_of(folders.images, folders.masks, folders.out)
    assert all(0.95 < f["kept"] <= 1 and f["share"] < 0.05 for f in page.facts)
    assert (page.run["summary"]["guarded"], page.run["summary"]["kept"]) == (3, 3)
    assert all("put to the vote" in each["facts"]["note"] for each in page.masks)


def test_without_a_guard_nothing_is_told_of_one(report_of, folders):
    page = report_of(folders.images, folders.masks, folders.out, guard="off")
    assert [f["kept"] for f in page.facts] == [None] * 3
    assert page.run["summary"]["guarded"] == 0


def test_the_summary_counts(report_of, folders, refined_by_a_column):
    summary = report_of(folders.images, folders.masks, folders.out, guard="off").run["summary"]
    assert summary == {
        "masks": 3, "pictures": 3, "changed": 3, "median_share": round(42 / 317, 5),
        "guarded": 0, "kept": 0,
    }  # fmt: skip


def test_what_failed_is_told(report_of, folders):
    (folders.masks / "b.png").write_bytes(b"no picture")
    page = report_of(folders.images, folders.masks, folders.out)
    assert sorted(page.names) == ["a.png", "c.png"]
    assert "b.png" in page.run["problems"][0]


@pytest.mark.parametrize("guard", ["off", "safe", "strict"])
def test_the_command_asks_for_the_same_run(run_cli, folders, tmp_path, guard):
    path = tmp_path / "report of.html"
    first = run_cli(
        "refine", folders.images, folders.masks, "-o", folders.out, "--method", "guided",
        "--guard", guard, "--band", 3, "--option", "radius_px=2", "--binary", "--report", path,
    )  # fmt: skip
    assert first.code == 0, first.err
    before = Page(path)
    command = shlex.split(before.run["command"])
    path.unlink()
    assert command[0] == "maskhone"
    assert run_cli(*command[1:]).code == 0
    after = Page(path)
    assert (before.run["settings"], before.facts) == (after.run["settings"], after.facts)


# the page itself


NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028é"


@pytest.fixture
def write_report(tmp_path):
    """Writes a report of masks of a few names, and of growing changes."""

    def write(names, *, path=tmp_path / "r.html", output="o", **options):
        image = np.full((20, 30, 3), 90, dtype=np.uint8)
        before = np.zeros((20, 30), dtype=np.float32)
        before[5:15, 5:25] = 1
        about = {"output": output, "command": NASTY, "settings": {"method": NASTY}, "version": "1"}
        with ReportWriter(path, about=about, same={"masks": "m"}, resume=False) as report:
            for step, name in enumerate(names):
                after = before.copy()
                after[5:15, 5 : 5 + step] = 0
                report.add(
                    MaskRecord(
                        picture=name, mask=name, image=image, before=before, after=after, **options
                    )
                )
            report.finish(problems=[NASTY])
        return Page(path)

    return write


def test_names_are_never_markup(write_report):
    plain, nasty = write_report(["a"]), write_report([NASTY], output=NASTY, note=NASTY)
    assert [e[0] for e in nasty.elements] == [e[0] for e in plain.elements]
    assert nasty.facts[0]["mask"] == nasty.facts[0]["note"] == NASTY
    assert nasty.run["problems"] == [NASTY]
    assert "innerHTML" not in nasty.find("script")[-1]


def test_a_name_that_is_no_text_is_shown_as_well_as_it_can(write_report):
    assert write_report(["\udcff.png"], output="\udcff").names == ["\udcff.png"]


def test_only_the_page_s_own_script_and_style_may_run(write_report):
    page = write_report(["a"])
    (policy,) = [
        a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = [t for n, a, t in page.texts if n == "script" and "type" not in a]
    for (text,), directive in ((scripts, "script-src"), (page.find("style"), "style-src")):
        code = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{code}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_page_fetches_nothing(write_report):
    page = write_report(["a"])
    assert {"src", "srcset", "data", "action", "poster"}.isdisjoint(
        key for _, attributes in page.elements for key in attributes
    )
    assert [a["href"] for _, a in page.elements if "href" in a] == ["#list"]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", page.path.read_text("utf-8"))


def test_the_masks_to_look_at_come_first_and_pictures_go_with_their_numbers(write_report):
    page = write_report(["none", "little", "more", "most"])
    assert page.names == ["most", "more", "little", "none"]
    assert [mask["facts"] for mask in page.masks] == page.facts
    assert {key for mask in page.masks for key in mask["pictures"]} == {
        "crop", "before", "after", "changes", "size_wh", "scale",
    }  # fmt: skip


def test_every_part_of_the_script_finds_its_element(write_report):
    page = write_report(["a"])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'byId\("([\w-]+)"\)', page.find("script")[-1])) <= set(ids)
    labelled = [
        attributes["aria-labelledby"]
        for _, attributes in page.elements
        if "aria-labelledby" in attributes
    ]
    assert set(labelled) <= set(ids)


def test_no_picture_is_kept_in_memory(tmp_path):
    """What stays of a mask is its numbers."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = np.ones((64, 64), dtype=np.float32)
    about = {"output": "o", "settings": {}}
    with ReportWriter(tmp_path / "r.html", about=about, same={}, resume=False) as report:
        report.add(MaskRecord(picture="a", mask="a", image=image, before=mask, after=mask))
        (line,) = report.lines.values()
        assert len(json.dumps(line.facts)) < 600
        assert line.length > 2000


# where it lies, and runs that were stopped


@pytest.mark.parametrize(
    "name", ["images/a.png", "report.txt", "masks/report.html", "images/report.html", "out"]
)
def test_a_report_that_is_no_page_or_lies_among_the_inputs_is_refused(folders, name):
    (folders.out).mkdir()
    before = (folders.images / "a.png").read_bytes()
    with pytest.raises(UsageError, match=r"report"):
        refine_files(
            folders.images, folders.masks, folders.out,
            method="guided", report=folders.images.parent / name,
        )  # fmt: skip
    assert (folders.images / "a.png").read_bytes() == before


def test_a_report_never_overwrites_an_input_or_output(results, tmp_path):
    link = tmp_path / "link.html"
    link.symlink_to(results.masks)
    hard = tmp_path / "hard.html"
    hard.hardlink_to(results.masks)
    before = results.masks.read_bytes()
    for report, options in (
        (link, {}),
        (hard, {}),
        (tmp_path / "o.html", {"compare": tmp_path / "o.html"}),
    ):
        with pytest.raises(UsageError, match="overwrite"):
            refine_files(
                results.images, results.masks, results.out,
                method="guided", report=report, **options,
            )  # fmt: skip
    assert results.masks.read_bytes() == before


def test_a_dry_run_writes_no_report(folders, tmp_path, list_files):
    before = list_files(tmp_path)
    done = refine_files(
        folders.images, folders.masks, folders.out,
        method="guided", report=tmp_path / "r.html", dry_run=True,
    )  # fmt: skip
    assert "would write the report" in done.lines[-1]
    assert list_files(tmp_path) == before


def stop_after_first_picture(job, report):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine_files(
            job.images, job.masks, job.out, method="guided", report=report, on_progress=stop
        )


@pytest.mark.parametrize("form", ["folders", "results"])
def test_a_resumed_run_shows_the_masks_of_the_stopped_one(
    request, form, report_of, tmp_path, list_files
):
    job = request.getfixturevalue(form)
    whole = report_of(job.images, job.masks, job.out)
    report, unfinished = tmp_path / "report.html", tmp_path / ".report.html.unfinished"
    report.unlink()
    for path in [*job.out.iterdir()] if job.out.is_dir() else [job.out]:
        path.unlink()
    stop_after_first_picture(job, report)
    assert not report.exists()
    unfinished.write_bytes(unfinished.read_bytes() + b'<script type="application/json" class="ma')
    page = report_of(job.images, job.masks, job.out, resume=True)
    assert page.facts == whole.facts
    assert [m["facts"] for m in page.masks] == page.facts
    assert page.run["not_shown"] == 0
    assert not unfinished.exists()


def test_a_mask_that_is_done_again_is_shown_once(folders, report_of):
    report_of(folders.images, folders.masks, folders.out)
    (folders.out / "b.png").unlink()
    page = report_of(folders.images, folders.masks, folders.out, resume=True)
    assert sorted(page.names) == ["a.png", "b.png", "c.png"]
    assert len(page.masks) == 3


def test_masks_of_a_run_without_report_are_said_not_to_be_shown(folders, report_of):
    refine_files(folders.images, folders.masks, folders.out, method="guided")
    (folders.out / "b.png").unlink()
    page = report_of(folders.images, folders.masks, folders.out, resume=True)
    assert page.names == ["b.png"]
    assert page.run["not_shown"] == 2


def test_without_resume_an_older_report_is_replaced(folders, report_of):
    report_of(folders.images, folders.masks, folders.out)
    (folders.masks / "b.png").unlink()
    page = report_of(folders.images, folders.masks, folders.out)
    assert sorted(page.names) == ["a.png", "c.png"]


def test_a_report_of_another_run_is_not_gone_on_with(folders, report_of):
    report_of(folders.images, folders.masks, folders.out)
    other = SimpleNamespace(**{**vars(folders), "out": folders.out.with_name("other")})
    page = report_of(other.images, other.masks, other.out, resume=True)
    assert len(page.masks) == 3
    assert page.run["output"] == str(other.out)


def test_a_run_that_fails_leaves_an_older_report(folders, report_of, tmp_path):
    report_of(folders.images, folders.masks, folders.out)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(UsageError, match="band_px"):
        report_of(folders.images, folders.masks, folders.out, resume=True, band_px=2)
    assert (tmp_path / "report.html").read_bytes() == before
