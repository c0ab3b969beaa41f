"""Training, scores and tables of the PerimeterFit pipeline (spec perimeterfit.md, 1.4-1.8, 9)."""

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.parity.golden import ROOT, Fixture, find_fixtures, weight_by_rule

from maskhone.data.class_maps import find_grid_hw
from maskhone.data.splits import read_ids
from maskhone.data.voc import VOC_CLASSES, VOC_LISTS, hash_ids, make_voc_palette, read_voc_list
from maskhone.engine.train import ParameterGroup, Schedule, fit, learning_rate
from maskhone.methods.perimeterfit.augment import (
    PublishedDraws,
    Views,
    shrink_labels,
    view_at_random,
    view_top_left,
)
from maskhone.methods.perimeterfit.puzzle import (
    Puzzle,
    classification_loss,
    confidence_loss,
    cut,
    find_alpha,
    join,
    reconstruction_loss,
    scale_to_one,
)
from maskhone.methods.perimeterfit.train_classifier import Passes, make_puzzle_loss
from maskhone.methods.perimeterfit.training import group_for_poly
from maskhone.methods.perimeterfit.training_set import collate
from maskhone.metrics.semantic import (
    OVER,
    UNDER,
    SemanticScores,
    ThresholdScores,
    choose_thresholds,
)
from maskhone.segmenters import classifier
from maskhone.segmenters.classifier import Classifier

N_LABELS = len(VOC_CLASSES) + 1


def numbers_in(text: str, pattern: str) -> list[float]:
    """Reads the numbers of the groups of a pattern out of a manifest's prose."""
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text!r}"
    return [float(group) for group in found.groups()]


# Scores


def images_of(fixture: Fixture) -> list[str]:
    names = sorted(key.removesuffix("_gt") for key in fixture.outputs if key.endswith("_gt"))
    assert names
    return names


def score_predictions(fixture: Fixture) -> SemanticScores:
    metric = SemanticScores(len(fixture.outputs["T"]))
    for name in images_of(fixture):
        metric.update(fixture.outputs[f"{name}_pred"], fixture.outputs[f"{name}_gt"])
    return metric


def sweep_maps(fixture: Fixture, thresholds: list[float]) -> list[dict[str, float]]:
    metric = ThresholdScores(len(fixture.outputs["T"]), thresholds)
    out = fixture.outputs
    for name in images_of(fixture):
        metric.update(out[f"{name}_cam"], out[f"{name}_keys"], out[f"{name}_gt"])
    return metric.compute()


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "metrics*"))
def test_pixels_are_counted_as_by_the_original(fixture: Fixture) -> None:
    for ours, key in zip(score_predictions(fixture).count(), ("P", "T", "TP"), strict=True):
        np.testing.assert_array_equal(ours, fixture.outputs[key], err_msg=key)


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "metrics*"))
def test_scores_are_those_of_the_original(fixture: Fixture) -> None:
    rtol = fixture.manifest["tolerance"]["rtol"]
    metric = score_predictions(fixture)
    found = metric.compute()
    ours = [100 * found["miou"], 100 * found["miou_foreground"], found["fp_all"], found["fn_all"]]
    np.testing.assert_allclose(ours, fixture.manifest["calculator"], rtol=rtol)
    stored = fixture.manifest["iou"]
    assert list(stored) == ["background", *VOC_CLASSES]
    np.testing.assert_allclose(100 * metric.compute_each()["iou"], list(stored.values()), rtol=rtol)


def say(row: dict[str, float], *, title: str = "Th", has_fn: bool = True) -> str:
    text = f"{title}={row['threshold']:.2f}, " if "threshold" in row else ""
    text += f"mIoU={100 * row['miou']:.3f}%, FP={row['fp']:.4f}"
    return text + (f", FN={row['fn']:.4f}" if has_fn else "")


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "metrics*"))
def test_the_evaluation_says_what_the_original_prints(fixture: Fixture) -> None:
    for name, lines in fixture.manifest["printed"].items():
        swept = [float(t) for line in lines for t in re.findall(r"^Th=([\d.]+)", line)]
        if not swept:
            assert "png" in name
            ours = [say(score_predictions(fixture).compute())]
        elif any(line.startswith("Over") for line in lines):
            rows = sweep_maps(fixture, swept)
            choice = choose_thresholds(rows)
            over, under = OVER * choice.best["fp"], UNDER * choice.best["fp"]
            ours = [say(row, has_fn=False) for row in rows]
            ours += [f"Over FP : {over:.4f}, Under FP : {under:.4f}"]
            ours += [
                say(row, title=title, has_fn=False)
                for title, row in (
                    ("Best Th", choice.best),
                    ("Over Th", choice.over),
                    ("Under Th", choice.under),
                )
            ]
        else:
            rows = sweep_maps(fixture, swept)
            ours = [say(row) for row in rows]
            if len(rows) > 1:
                best = choose_thresholds(rows).best
                ours += [say(best, title="Best Th").partition(", FP")[0]]
        assert ours == lines, name


# Tables


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "tables*"))
def test_the_palette_is_vocs(fixture: Fixture) -> None:
    np.testing.assert_array_equal(make_voc_palette()[:, ::-1], fixture.outputs["color_map_bgr"])


class SeesNothing:
    """A classifier without layers, quick at any size."""

    num_classes, training = 1, False

    def find_maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(x), 1), torch.zeros(len(x), 1, 2, 2)


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "tables*"))
def test_sizes_are_rounded_up(fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fixture.outputs
    asked = []

    def resize_maps(maps: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
        asked.append(tuple(size_hw))
        return maps.new_zeros((len(maps), *size_hw))

    monkeypatch.setattr(classifier, "resize_maps", resize_maps)
    for size, grid, padded in zip(out["sizes"], out["strided4"], out["strided_up16"], strict=True):
        asked.clear()
        image = np.zeros((*size, 3), dtype=np.uint8)
        classifier.make_cams(SeesNothing(), image, [0], scales=(1.0,))
        assert asked == [tuple(grid), tuple(padded)]
        assert find_grid_hw(tuple(size)) == tuple(grid)


LISTS = sorted((ROOT / "perimeterfit" / "voc_lists").glob("*.txt"))
NO_LISTS = pytest.param(
    None, marks=pytest.mark.skip(reason="perimeterfit/voc_lists is not in this fixture set")
)


@pytest.mark.parametrize("path", LISTS or [NO_LISTS], ids=lambda path: getattr(path, "stem", "-"))
def test_the_id_lists_of_the_package_are_the_published_ones(path) -> None:
    ids = read_ids(path)
    assert read_voc_list(path.stem) == ids
    assert hash_ids(ids) == VOC_LISTS[path.stem]


# Random changes


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "augment*"))
def test_views_are_those_of_the_original_under_its_seeds(fixture: Fixture) -> None:
    out, what = fixture.outputs, fixture.manifest["what"]
    least, most = numbers_in(what, r"integer in \[(\d+), ?(\d+)\]")
    seeds = {int(m[1]) for m in (re.fullmatch(r"s(\d+)_\w+", key) for key in out) if m}
    assert seeds
    for seed in seeds:
        stored = {key: out[f"s{seed}_{key}"] for key in ("image", "mask", "cls_image")}
        views = Views(
            image_px=stored["image"].shape[-1], min_image_px=int(least), max_image_px=int(most)
        )
        for labels, key in ((out["mask"], "image"), (None, "cls_image")):
            draws = PublishedDraws(random.Random(seed))
            image, seen = view_at_random(out["image"], labels, draws, views)
            check(image, stored[key], fixture, f"s{seed}_{key}")
            if seen is not None:
                ours = shrink_labels(seen, stored["mask"].shape)
                np.testing.assert_array_equal(ours, stored["mask"], err_msg=f"s{seed}_mask")


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "augment*"))
def test_the_top_left_view_is_that_of_the_original(fixture: Fixture) -> None:
    out = fixture.outputs
    image, labels = view_top_left(out["image"], out["mask"], out["tl_image"].shape[-1])
    check(image, out["tl_image"], fixture, "tl_image")
    np.testing.assert_array_equal(labels, out["tl_mask"])


def check(ours: torch.Tensor, stored: np.ndarray, fixture: Fixture, name: str) -> None:
    tolerance = fixture.manifest["tolerance"]
    rtol, atol = tolerance.get("rtol", 0), tolerance.get("atol", 0)
    np.testing.assert_allclose(ours.numpy(), stored, rtol=rtol, atol=atol, err_msg=name)


# The puzzle


def draw(what: str, text: str, shape: tuple[int, ...], *, kind: str = "standard_normal"):
    """Draws an input that the manifest names; the seed follows the name."""
    found = re.search(rf"{what} (?:= )?PCG64\((\d+)\)", text)
    assert found, f"{what!r} is not in {text!r}"
    generator = np.random.Generator(np.random.PCG64(int(found[1])))
    return getattr(generator, kind)(shape)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "puzzle"))
def test_pieces_are_cut_and_joined_as_by_the_original(fixture: Fixture) -> None:
    manifest, out = fixture.manifest, fixture.outputs
    (pieces,) = numbers_in(manifest["what"], r"\((\d+) pieces\)")
    sizes = re.search(r"of a ([\dx]+) tensor", manifest["what"])
    assert sizes
    x = as_tensor(draw("x", manifest["input"], tuple(int(side) for side in sizes[1].split("x"))))
    tiled = cut(x, int(pieces))
    check(tiled, out["tiled"], fixture, "tiled")
    factor, offset = numbers_in(manifest["what"], r"\(tiles\*(\d+)\+(\d+)\)")
    check(join(tiled * factor + offset, int(pieces)), out["merged"], fixture, "merged")


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "puzzle"))
def test_losses_of_the_puzzle_are_those_of_the_original(fixture: Fixture) -> None:
    text, out = fixture.manifest["input"], fixture.outputs
    shape = tuple(out["make_cam"].shape)
    maps = as_tensor(draw("features", text, shape))
    joined = as_tensor(draw("merged features", text, shape))
    (least,) = numbers_in(text, r"random\([\d(), ]+\) < ([\d.]+)")
    tags = as_tensor(draw("labels", text, shape[:2], kind="random") < least)
    names = re.search(r"\[(class, [^\]]+)\]", fixture.manifest["what"])
    assert names
    found = {
        "class": classification_loss(maps.mean(dim=(2, 3)), tags),
        "part-class": classification_loss(joined.mean(dim=(2, 3)), tags),
        "Shannon entropy": confidence_loss(joined.mean(dim=(2, 3))),
    }
    for name in names[1].split(", "):
        distance, _, masking = name.partition(" ")
        if name not in found:
            found[name] = reconstruction_loss(
                maps, joined, tags, distance=distance.lower(), masking=masking
            )
    ours = torch.stack([found[name] for name in names[1].split(", ")])
    check(ours, out["losses"], fixture, "losses")
    check(scale_to_one(maps), out["make_cam"], fixture, "make_cam")


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "puzzle"))
def test_the_weight_of_the_reconstruction_rises_as_published(fixture: Fixture) -> None:
    what = fixture.manifest["what"]
    alpha, schedule, steps = numbers_in(
        what, r"alpha=([\d.]+), schedule=([\d.]+), max_iteration=(\d+)"
    )
    at = re.search(r"at iterations ([\d,]+\d)", what)
    assert at
    puzzle = Puzzle(alpha=alpha, alpha_schedule=schedule)
    ours = [find_alpha(puzzle, int(step), steps=int(steps)) for step in at[1].split(",")]
    check(torch.tensor(ours, dtype=torch.float64), fixture.outputs["alpha"], fixture, "alpha")


# The optimiser


class Bowl(torch.nn.Module):
    """The weights and the bias of the fixture's loss."""

    def __init__(self, w: list[float], b: float) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(w))
        self.b = torch.nn.Parameter(torch.tensor(b))


def descend(network: torch.nn.Module, _: object) -> dict[str, torch.Tensor]:
    total = network.w.sum() + network.b
    return {"loss": 0.5 * network.w.square().sum() + total.square()}


@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "poly_optimizer*"))
def test_the_optimiser_goes_the_way_of_the_original(fixture: Fixture, tmp_path: Path) -> None:
    what, trace = fixture.manifest["what"], fixture.outputs["trace"]
    assert "loss 0.5*sum(w^2)+(sum(w)+b)^2" in what
    start = re.search(r"w0=\(([^)]+)\)", what)
    assert start
    b, rate, decay, steps = numbers_in(
        what, r"b0=([-\d.]+), lr=([\d.]+) \(b: 2\*lr\), weight_decay=([\d.]+) .*max_step=(\d+)"
    )
    momentum, power = numbers_in(what, r"SGD momentum is ([\d.]+), .*momentum \(([\d.]+)\)")
    network = Bowl([float(value) for value in start[1].split(",")], b)
    schedule = Schedule(
        iterations=int(steps),
        batch_size=1,
        learning_rate=rate,
        min_learning_rate=0.0,
        power=power,
        momentum=momentum,
        nesterov="nesterov" in what,
        weight_decay=decay,
        workers=0,
    )
    rows = []

    def note(done: int, _: int) -> None:
        ours = [*network.w.tolist(), network.b.item(), learning_rate(schedule, done - 1)]
        rows.append(ours)

    fit(
        network,
        descend,
        range(int(steps)),
        lambda numbers: {"number": torch.tensor(numbers)},
        schedule=schedule,
        groups=lambda network: [
            ParameterGroup(parameters=(network.w,)),
            ParameterGroup(parameters=(network.b,), rate_factor=2.0, weight_decay=0.0),
        ],
        out_dir=tmp_path,
        on_progress=note,
    )
    check(torch.tensor(rows[: len(trace)]), trace, fixture, "trace")


# One step


def draw_tensor(key: str, shape: tuple[int, ...], rule: str) -> torch.Tensor:
    """Draws one tensor by the common rule, damped as the manifest says."""
    multiplied = re.search(r"every key ending in '([^']+)' is multiplied by ([\d.]+)", rule)
    assert multiplied, f"no damping in {rule!r}"
    value = weight_by_rule(key, shape)
    if key.endswith(multiplied[1]):
        value = (value * np.float32(multiplied[2])).astype(value.dtype)
    return torch.from_numpy(value)


def read_shape(text: str, pattern: str) -> tuple[int, ...]:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} is not in {text!r}"
    return tuple(int(side) for side in found[1].split(","))


class Stored:
    """Sample i of the step is row i."""

    def __init__(self, images: torch.Tensor, tags: torch.Tensor, first: int) -> None:
        self.images, self.tags, self.first = images, tags, first

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        return self.first + index, self.images[index], self.tags[index]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("fixture", find_fixtures("perimeterfit", "puzzle_step*"))
def test_a_step_of_training_is_that_of_the_original(fixture: Fixture, tmp_path: Path) -> None:
    manifest, out = fixture.manifest, fixture.outputs
    what, text = manifest["what"], manifest["input"]
    tolerance = manifest["tolerance"]
    batch, pieces, alpha, schedule_share, step, steps, rate = numbers_in(
        what,
        r"batch (\d+), .*?(\d+) pieces, .*alpha ([\d.]+), schedule ([\d.]+), "
        r"iteration (\d+) of (\d+), lr ([\d.]+)",
    )
    (decay,) = numbers_in(what, r"wd ([\d.e-]+)")
    compared = re.search(r"(masking|selection|none) (L\d)", what)
    named = re.search(r"\((\w+), mode '(\w+)'", what)
    assert compared, what
    assert named, what
    architecture, mode = named.groups()
    image_shape = read_shape(text, r"images PCG64\(\d+\)\.standard_normal\(\(([\d, ]+)\)\)")
    tag_shape = read_shape(text, r"labels PCG64\(\d+\)\.random\(\(([\d, ]+)\)\)")
    (least,) = numbers_in(text, r"random\([\d(), ]+\) < ([\d.]+)")
    images = as_tensor(draw("images", text, image_shape))
    tags = as_tensor(draw("labels", text, tag_shape, kind="random") < least)

    network = Classifier(architecture, tag_shape[1], fixes_norms=mode == "fix")
    network.load_state_dict(
        {
            key: draw_tensor(key, tuple(value.shape), manifest["weights"])
            for key, value in network.state_dict().items()
        }
    )
    puzzle = Puzzle(
        pieces=int(pieces),
        alpha=alpha,
        alpha_schedule=schedule_share,
        masking=compared[1],
        distance=compared[2].lower(),
    )
    first = int(step) * int(batch)
    loss_of = make_puzzle_loss(puzzle, steps=int(steps), batch_size=int(batch))
    found: dict[str, torch.Tensor] = {}

    def remember(network: torch.nn.Module, batch: dict[str, torch.Tensor]):
        found.update(loss_of(network, batch))
        return found

    whole = Schedule(
        iterations=int(steps),
        batch_size=int(batch),
        learning_rate=rate,
        min_learning_rate=0.0,
        momentum=decay,
        nesterov=True,
        weight_decay=decay,
        workers=0,
    )
    fit(
        Passes(network, puzzle.pieces),
        remember,
        Stored(images, tags, first),
        collate,
        schedule=replace(whole, iterations=1),
        rate_of=lambda _: learning_rate(whole, int(step)),
        groups=group_for_poly,
        out_dir=tmp_path,
    )
    losses = [found[name] for name in ("classes", "part_classes", "reconstruction")]
    losses += [torch.tensor(find_alpha(puzzle, int(step), steps=int(steps))), found["loss"]]
    np.testing.assert_allclose(
        torch.stack([loss.detach().cpu() for loss in losses]), out["losses"], **tolerance["losses"]
    )
    groups = group_for_poly(network)
    assert [len(group.parameters) for group in groups] == out["group_sizes"].tolist()
    norms = [
        sum(p.grad.double().square().sum().item() for p in group.parameters) ** 0.5
        for group in groups
    ]
    np.testing.assert_allclose(norms, out["grad_norms"], **tolerance["losses"])

    state = network.cpu().state_dict()
    checked = out.keys() - {"losses", "grad_norms", "group_sizes"}
    assert checked
    for name in checked:
        ours = find_state(state, name)
        while ours.ndim > out[name].ndim:  # a 1x1 convolution is stored as a matrix
            ours = ours.squeeze(-1)
        part = ours[tuple(slice(side) for side in out[name].shape)]
        np.testing.assert_allclose(part, out[name], **tolerance["parameters"], err_msg=name)


def find_state(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Finds what the fixture calls `bn1_num_batches`: `model.bn1.num_batches_tracked`."""
    flat = {key.removeprefix("model.").replace(".", "_"): key for key in state}
    (key,) = [key for short, key in flat.items() if short == name] or [
        key for short, key in flat.items() if short.startswith(name)
    ]
    return state[key].detach().reshape(-1) if state[key].ndim == 0 else state[key].detach()
