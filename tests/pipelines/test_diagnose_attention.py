import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tests.methods.rws.hosts import LAYERS, make_tiny

from maskhone.engine.weights import save_weights
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.methods.rws.attention import pick_logits
from maskhone.methods.rws.pictures import draw_missing_weights
from maskhone.methods.rws.store import load_slices, save_slices
from maskhone.pipelines.attention_hosts import load_host
from maskhone.pipelines.attention_report import to_text
from maskhone.pipelines.diagnose_attention import diagnose_attention
from maskhone.segmenters import dlinknet, pfanet, resunetpp
from maskhone.segmenters.catalogue import build_network
from maskhone.segmenters.deeplabv3 import prepare_image

RECIPES = Path(__file__).parents[2] / "recipes"
HOST = "tests.methods.rws.hosts:make_tiny"


@pytest.fixture
def scene(tmp_path):
    """Three pictures with a square of class 1; the third one also has class 2."""
    random = np.random.default_rng(0)
    for i in range(3):
        image = random.integers(0, 80, (40, 60, 3)).astype(np.uint8)
        label = np.zeros((40, 60), np.uint8)
        label[8:30, 10:40] = 1
        image[8:30, 10:40, 0] = 220
        if i == 2:
            label[32:38, 44:58] = 2
        for folder, array in (("images", image), ("labels", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            PIL.Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def diagnose(scene, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = {"network": HOST, "layers": LAYERS, "num_classes": 3, "heat_mask": "label"}
        given = {**chosen, "slice_heat": 0.3, "device": "cpu", **options}
        return diagnose_attention(scene / "images", scene / "labels", scene / "out", **given)


def test_the_table_has_a_row_for_each_class_and_stage(scene):
    report = diagnose(scene)
    assert [(row["class"], row["layer"]) for row in report.rows] == [
        (index, name) for index in (1, 2) for name in LAYERS
    ]
    for row in report.rows:
        assert 0 <= row["missing"] <= 1
        assert 0 <= row["best"] <= 1
    for index in (1, 2):
        rows = [row for row in report.rows if row["class"] == index]
        highest = {round(row["missing"] + row["heat"], 3) for row in rows}
        assert max(highest) - min(highest) < 2e-3  # what is missing is missing to the same maximum
    assert [(row["pictures"], row["pixels"]) for row in report.classes] == [(3, 3 * 660), (1, 84)]
    stored = json.loads((scene / "out" / "report.json").read_text())
    assert stored["rows"] == report.rows
    assert (scene / "out" / "report.txt").read_text() == to_text(report)
    assert load_slices(scene / "out" / "slices.jsonl") == report.slices


def test_the_table_counts_weak_slices_by_coverage(scene):
    report = diagnose(scene)
    for row in report.classes:
        own = [one.coverage for one in report.slices if one.class_index == row["class"]]
        tenths = [sum(int(c * 10) == tenth for c in own) for tenth in range(10)]
        assert row["coverage_in_tenths"] == tenths
        assert sum(tenths) == row["slices"]
        line = [str(number) for number in (row["class"], *tenths)]
        assert line in [text.split() for text in to_text(report).splitlines()]
    assert report.slices


def test_pictures_show_the_object_and_nothing_else(scene):
    diagnose(scene)
    for i, name in enumerate(LAYERS, start=1):
        drawn = np.array(PIL.Image.open(scene / "out" / f"f{i}-{name}" / "0.png"))
        assert drawn.shape == (40, 60, 3)
        outside = np.ones((40, 60), dtype=bool)
        outside[8:30, 10:40] = False
        assert not drawn[outside].any()
        assert drawn[~outside].any()


def test_slices_that_were_weak_before_are_persistent(scene):
    first = diagnose(scene)
    assert first.slices
    assert first.persistent == []
    half = first.slices[::2]
    earlier = save_slices(scene / "earlier.jsonl", half)
    again = diagnose(scene, earlier=[earlier])
    assert again.persistent == half
    assert sum(row["persistent"] for row in again.classes) == len(half)


def test_few_pictures_are_drawn_where_asked(scene, list_files):
    diagnose(scene, most_pictures=1)
    files = list_files(scene / "out")
    assert sum(name.startswith("f1-") for name in files) == 1
    assert sum(name.startswith("slices/") for name in files) == 1


def test_weights_know_their_network_and_stages(scene):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = make_tiny(3).state_dict()
    config = {"num_classes": 3, "layers": list(LAYERS)}
    header = {"name": "a", "method": HOST, "licence": "none", "config": config}
    path = save_weights(scene / "a.safetensors", state, header, half=False)
    known = diagnose(scene, weights=path, network="", layers=(), num_classes=0)
    assert known.rows == diagnose(scene).rows


def test_a_recipe_knows_its_network_and_stages(scene):
    recipe = scene / "own.toml"
    recipe.write_text(
        f'method = "rws"\nnetwork = "{HOST}"\nlayers = {list(LAYERS)}\nnum_classes = 3\n'
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = scene / "own.pth"
        torch.save(make_tiny(3).state_dict(), weights)
    known = diagnose(scene, network=str(recipe), weights=weights, layers=(), num_classes=0)
    assert known.rows == diagnose(scene).rows
    with pytest.raises(UsageError, match=r"own\.toml: .* give its weights"):  # else: fresh ones
        diagnose(scene, network=str(recipe), layers=(), num_classes=0)


STAGES = {
    "dlinknet34": ["encoder1", "encoder2"],
    "pfanet": ["vgg16.8", "vgg16.15"],
    "resunetpp": ["input_layer", "residual_conv1"],
}


@pytest.mark.parametrize("name", STAGES)
def test_base_models_of_one_class_can_be_asked(scene, name):
    """What they see is what their segmenters show them, but for the size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(name).eval()
    header = {"name": "a", "method": name, "licence": "none", "config": {}}
    path = save_weights(scene / "a.safetensors", network.state_dict(), header, half=False)
    host = load_host("", path, STAGES[name])
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    with torch.no_grad():
        ours = pick_logits(host.network.eval()(torch.from_numpy(prepare_image(image))[None]))
        prepare = {"dlinknet34": dlinknet, "pfanet": pfanet, "resunetpp": resunetpp}[name]
        direct = prepare.prepare_image(image, 64)
        theirs = pick_logits(network(torch.from_numpy(direct)[None]))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    report = diagnose(scene, network="", weights=path, layers=STAGES[name], classes=[1])
    assert [row["layer"] for row in report.rows] == STAGES[name]


def test_one_class_can_be_asked_about(scene):
    assert {row["class"] for row in diagnose(scene, classes=[2]).rows} == {2}
    report = diagnose(scene, classes=[2, 7])
    assert {row["class"] for row in report.rows} == {2}
    assert report.problems == ("class 7: in none of 3 label maps",)


def test_a_picture_that_cannot_be_used_is_said_and_left_out(scene):
    PIL.Image.fromarray(np.full((40, 60), 9, np.uint8)).save(scene / "labels" / "1.png")
    report = diagnose(scene)
    assert report.classes[0]["pictures"] == 2
    assert "has label 9" in report.problems[0]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"layers": ["one", "tow"]}, UsageError, "nearest: two"),
        ({"layers": ["one.3"]}, UsageError, "no layer"),
        ({"layers": ()}, UsageError, "name its stages"),
        ({"network": ""}, UsageError, "name the network"),
        ({"layers": (), "network": HOST}, UsageError, "parts are one, two, three, head"),
        ({"network": "resnet"}, UsageError, "expected deeplabv3_resnet50, "),
        ({"network": "deeplabv3_resnet50"}, UsageError, "give its weights"),
        ({"network": "none.toml"}, InputError, "no such file"),
        ({"network": str(RECIPES / "segrefiner_hr.toml")}, UsageError, "is of segrefiner-hr"),
        ({"over": "nothing"}, UsageError, "over"),
        ({"heat_mask": "truth"}, UsageError, "heat_mask"),
        ({"classes": [7]}, InputError, "class 7: in none of 3 label maps"),
    ],
)
def test_what_cannot_be_is_refused(scene, options, error, said):
    with pytest.raises(error, match=said):
        diagnose(scene, **options)


def test_missing_weight_files_are_refused(scene):
    with pytest.raises(WeightsError):
        diagnose(scene, weights=scene / "none.safetensors")


def test_published_colours_are_ours_with_red_and_blue_swapped():
    missing = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    label = np.full((3, 4), 255, np.uint8)
    label[0, 0] = 0
    ours = draw_missing_weights(missing, label)
    published = draw_missing_weights(missing, label, colours="swapped")
    np.testing.assert_array_equal(ours, published[..., ::-1])
    assert not ours[0, 0].any()
    assert ours[0, 1, 2] > ours[0, 1, 0]  # little is missing: blue
    assert ours[-1, -1, 0] > ours[-1, -1, 2]  # much: red
