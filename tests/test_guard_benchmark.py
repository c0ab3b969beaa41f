"""The benchmark of the guard: what it measures and fits, and that it goes on where it stopped."""

import importlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskhone.data.images import write_image
from maskhone.ops.guard import TRUST_OFFSET, TRUST_WEIGHTS, Looks, judge

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SIDE_PX = 40
KNOWN = ("ccp_person", "davis", "cwfid")
"""Sets whose pictures the fake refiner knows: there it gives the truth, elsewhere noise."""


@pytest.fixture(scope="module")
def program():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("guard")


class Fake:
    """Finds bright red objects; in any other picture it says anything, and never the same."""

    def __init__(self):
        self.calls = 0

    def refine(self, image, masks):
        self.calls += 1
        red = image[..., 0].astype(np.float32) / 255
        if red.max() > 0.9:
            return np.broadcast_to((red > 0.5).astype(np.float32), masks.shape).copy()
        noise = np.random.default_rng(self.calls).random(masks.shape, dtype=np.float32)
        return np.clip(masks + (noise - 0.5) * 1.2, 0, 1).astype(np.float32)


class FakeThatLooksAgain(Fake):
    def look_again(self, image, masks):
        return [self.refine(image, masks)]


def draw_set(root, *, is_known, coarse, value):
    for name in ("images", "masks", coarse):
        (root / name).mkdir(parents=True, exist_ok=True)
    ids = [f"p{i}" for i in range(3)]
    (root / "train.txt").write_text("\n".join(ids))
    for i, each in enumerate(ids):
        disc = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
        cv2.circle(disc, (18 + i, 20), 10, 1, -1)
        image = np.full((SIDE_PX, SIDE_PX, 3), 60, dtype=np.uint8)
        image[..., 0] += disc * np.uint8(190 if is_known else 20)
        soft = cv2.GaussianBlur(np.roll(disc, 2, axis=1).astype(np.float32), (0, 0), 1.0)
        truth = disc * np.uint8(255 if value is None else value)
        if value is not None:
            truth[:4] = 255  # not labelled
        write_image(root / "images" / f"{each}.jpg", image)
        write_image(root / "masks" / f"{each}.png", truth)
        write_image(root / coarse / f"{each}.png", (soft * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(program, tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for name, (coarse, value) in program.SETS.items():
        draw_set(root / name, is_known=name in KNOWN, coarse=coarse, value=value)
    return root


def run(program, monkeypatch, refiner, *words):
    monkeypatch.setattr(program, "load", lambda method, weights=None: refiner)
    monkeypatch.setattr(sys, "argv", ["guard.py", *map(str, words)])
    program.main()


def test_a_run_fits_numbers_that_trust_what_the_refiner_knows(
    program, data, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "guard.json"
    words = (data, "--count", 2, "--methods", "guided", "--json", out, "--looks", tmp_path / "l")
    refiner = FakeThatLooksAgain()
    run(program, monkeypatch, refiner, *words)
    found = json.loads(out.read_text())["guided"]
    assert refiner.calls == 6 * 2 * 2 * 2  # sets, pictures, soft and hard, looks
    assert set(found["trust"]) == {*program.SETS, "all"}
    assert all(each >= 0 for name, each in found["trust"]["all"].items() if name != "offset")
    assert len(found["masks"]) == 6 * 2 * 2
    for name in program.SETS:
        cell = found["tables"]["soft"]["trust 0.5"][name]
        assert cell["trusted"] == (name in KNOWN)
        assert cell["worse"] == 0
        assert (found["tables"]["soft"]["off"][name]["worse"] > 0) == (name not in KNOWN)
    printed = capsys.readouterr().out
    assert "TRUST_WEIGHTS = {" in printed
    assert "### guided, hard masks" in printed

    first, n_calls = out.read_text(), refiner.calls
    run(program, monkeypatch, refiner, *words)
    assert refiner.calls == n_calls, "the second run takes the looks from the folder"
    assert json.loads(out.read_text()) == json.loads(first)


def test_a_method_without_looks_of_its_own_is_only_put_to_the_vote(
    program, data, tmp_path, monkeypatch
):
    out = tmp_path / "guard.json"
    out.write_text(json.dumps({"davis": {"0.5": 1.0}, "crf": {"masks": []}}))
    words = (data, "--count", 1, "--methods", "guided", "--json", out)
    run(program, monkeypatch, Fake(), *words)
    known = json.loads(out.read_text())
    assert list(known) == ["crf", "guided"], "methods stay, other things do not"
    found = known["guided"]
    assert found["trust"] == found["votes"] == {}
    assert {"off", "safe", "strict", "vote 0.5"} <= set(found["tables"]["hard"])
    assert found["tables"]["hard"]["safe"]["davis"]["trusted"] == 0


def test_what_is_not_labelled_is_not_scored(program, data):
    cases = [case for case in program.find_cases(data, 1) if case.set == "camvid"]
    assert [case.input for case in cases] == ["soft", "hard"]
    assert cases[0].ignore[:4].all()
    assert not cases[0].ignore[4:].any()
    assert set(np.unique(cases[1].coarse)) == {0, 1}
    wrong = np.where(cases[0].ignore, 1 - cases[0].truth, cases[0].truth).astype(np.float32)
    mask, _ = program.measure(cases[0], Looks(scores=(wrong, wrong)))
    assert mask["scores"]["off"] == [1.0, 1.0]
    davis = next(case for case in program.find_cases(data, 1) if case.set == "davis")
    assert not davis.ignore.any(), "255 is the object there"


@pytest.mark.parametrize("guard", ["safe", "strict"])
@pytest.mark.parametrize("second", [0.0, 0.3, 0.49])
def test_the_tables_judge_as_the_guard_does(program, data, guard, second):
    case = next(iter(program.find_cases(data, 1)))
    refined = case.truth.astype(np.float32)
    noise = np.random.default_rng(0).random(refined.shape, dtype=np.float32)
    looks = Looks(scores=(refined, np.abs(refined - second * noise)), can_be_trusted=True)
    verdict = judge(case.image, case.coarse, looks, guard=guard)
    mask, _ = program.measure(case, looks)
    tables = sys.modules["guard_tables"]
    now = tables.Trust(weights=TRUST_WEIGHTS, offset=TRUST_OFFSET)
    key, is_trusted = tables.decide(mask, now, program.RULES[guard])
    assert verdict.signs is not None
    assert now.of(mask["signs"]) == pytest.approx(verdict.signs.trust)
    assert is_trusted == verdict.is_trusted
    assert mask["scores"][key] == program._score(case, verdict.scores)


def test_a_logistic_regression_finds_what_made_the_lines(program):
    fit = sys.modules["guard_fit"].fit_logistic
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 3))
    odds = values @ np.array([2.0, 0.5, -1.0]) - 1.0
    is_true = rng.random(4000) < 1 / (1 + np.exp(-odds))
    weights, offset = fit(values[:, :2], is_true, np.ones(4000), penalty=0.0)
    assert weights == pytest.approx([1.7, 0.43], abs=0.2)  # the third sign is noise to them
    assert offset == pytest.approx(-0.85, abs=0.2)
    weights, offset = fit(values, is_true, np.ones(4000), penalty=0.0, has_offset=False)
    assert weights[2] == 0, "no weight is negative"
    assert offset == 0


def test_sets_count_the_same_however_many_masks_they_have(program):
    fit_trust = sys.modules["guard_fit"].fit_trust
    good, bad = (
        {
            "set": name,
            "input": "soft",
            "signs": {"unanimity": u, "certainty": 0.5, "likeness": 0.1},
            "scores": {"average": [gain, 0], "vote 0.5": [0.5, 0], "coarse": [0.5, 0]},
        }
        for name, u, gain in (("davis", 0.9, 0.6), ("vessel", 0.2, 0.4))
    )
    once = fit_trust([good, bad], vote="vote 0.5")
    often = fit_trust([good, *[bad] * 9], vote="vote 0.5")
    assert once.of(good["signs"]) > 0.5 > once.of(bad["signs"])
    assert often.of(good["signs"]) > 0.5
