import numpy as np
import pytest
import torch

from maskhone.contracts import Segmenter
from maskhone.errors import InputError, UsageError, WeightsError
from maskhone.segmenters.aliases import AFFINITY_ALIASES, add_aliases, remove_aliases
from maskhone.segmenters.class_models import ClassModel, describe_tensors
from maskhone.segmenters.classifier import Classifier, ClassifierSegmenter, make_cams
from maskhone.segmenters.deeplabv3plus import DeepLabSegmenter, DeepLabV3Plus, predict_scores
from maskhone.segmenters.scales import scale_image

LITE = "efficientnet_lite0"
SIZES = [(1, 1), (3, 40), (33, 50)]


def draw(size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Classifier(LITE, 3).eval()


@pytest.fixture(scope="module")
def deeplab():
    torch.manual_seed(0)
    return DeepLabV3Plus(LITE, 4).eval()


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("present", [[], [1], [2, 0]])
def test_class_maps_of_any_size_and_any_number_of_classes(classifier, size_hw, present):
    image = draw(size_hw)
    before = image.copy()
    cams = make_cams(classifier, image, present, scales=(0.5, 1.0))
    assert cams.keys.tolist() == [0, *(c + 1 for c in sorted(present))]
    assert cams.hr_cam.shape == (len(present), *size_hw)
    assert cams.cam.shape == (len(present), *(-(-n // 4) for n in size_hw))
    assert cams.cam.dtype == cams.hr_cam.dtype == np.float32
    for maps in (cams.cam, cams.hr_cam):
        assert ((maps >= 0) & (maps <= 1)).all()
    np.testing.assert_array_equal(image, before)


def test_class_maps_do_not_depend_on_what_else_is_in_the_picture(classifier):
    image = draw((33, 50))
    both = make_cams(classifier, image, [0, 2], scales=(1.0,))
    one = make_cams(classifier, image, [2], scales=(1.0,))
    np.testing.assert_array_equal(both.cam[1], one.cam[0])
    np.testing.assert_array_equal(both.hr_cam[1], one.hr_cam[0])


def test_a_mirrored_picture_has_mirrored_maps(classifier):
    image = draw((32, 48))
    maps = make_cams(classifier, image, [0, 1], scales=(1.0,)).hr_cam
    mirrored = make_cams(
        classifier, np.ascontiguousarray(image[:, ::-1]), [0, 1], scales=(1.0,)
    ).hr_cam
    np.testing.assert_allclose(mirrored[..., ::-1], maps, atol=1e-4)
    assert maps.std() > 0.01


def test_a_class_that_is_nowhere_seen_has_an_empty_map():
    network = Classifier(LITE, 1).eval()
    torch.nn.init.zeros_(network.classifier.weight)
    cams = make_cams(network, draw((20, 20)), [0], scales=(1.0,))
    assert not cams.cam.any()
    assert not cams.hr_cam.any()


def test_logits_are_the_means_of_the_maps(classifier):
    x = torch.randn(2, 3, 40, 56)
    with torch.inference_mode():
        logits, maps = classifier.find_maps(x)
        plain = classifier(x)
    assert maps.shape == (2, 3, 3, 4)
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_the_segmenter_scores_the_classes_that_are_there(classifier):
    image = draw((33, 50))
    assert isinstance(ClassifierSegmenter(network=classifier), Segmenter)
    everything = ClassifierSegmenter(network=classifier, scales=(1.0,), least_probability=0.0)
    scores = everything.segment(image)
    cams = make_cams(classifier, image, [0, 1, 2], scales=(1.0,))
    np.testing.assert_array_equal(scores, cams.hr_cam)
    nothing = ClassifierSegmenter(network=classifier, scales=(1.0,), least_probability=1.0)
    assert nothing.segment(image).shape == (3, 33, 50)
    assert not nothing.segment(image).any()


@pytest.mark.parametrize("size_hw", SIZES)
def test_scores_of_any_size_are_probabilities(deeplab, size_hw):
    image = draw(size_hw)
    scores = DeepLabSegmenter(network=deeplab, scales=(0.5, 1.0)).segment(image)
    assert scores.shape == (4, *size_hw)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=0), 1, atol=1e-5)


def test_logits_of_all_views_are_summed():
    def constant(x):
        return torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(len(x), 2, 3, 3)

    scores = predict_scores(constant, draw((4, 6)), scales=(0.5, 1.0, 2.0))
    np.testing.assert_allclose(scores[1], 1 / (1 + np.exp(-6.0)), rtol=1e-5)


@pytest.mark.parametrize("uses_group_norm", [True, False])
def test_new_layers_are_normalised_as_asked(uses_group_norm):
    with torch.device("meta"):
        network = DeepLabV3Plus(LITE, 2, uses_group_norm=uses_group_norm)
    assert isinstance(network.aspp.bn1, torch.nn.GroupNorm) == uses_group_norm
    assert describe_tensors(network.state_dict()) == ClassModel(
        kind="deeplabv3plus", architecture=LITE, num_classes=2, uses_group_norm=uses_group_norm
    )


def test_a_picture_is_trained_on_alone_because_statistics_are_fixed():
    network = DeepLabV3Plus(LITE, 2, uses_group_norm=False).train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    network(torch.randn(1, 3, 32, 32)).sum().backward()
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert network.decoder.bn1.weight.grad is not None


def test_foreign_classes_scales_and_pictures_are_refused(classifier, deeplab):
    with pytest.raises(UsageError, match="the network knows 0 to 2"):
        make_cams(classifier, draw((8, 8)), [3])
    for scales in ((), (0.0,)):
        with pytest.raises(UsageError, match="scales are"):
            make_cams(classifier, draw((8, 8)), [0], scales=scales)
    with pytest.raises(InputError, match="float64"):
        predict_scores(deeplab, np.zeros((8, 8, 3)))
    with pytest.raises(UsageError, match="num_classes is 0"):
        Classifier(LITE, 0)
    with pytest.raises(UsageError, match="background among them"):
        DeepLabV3Plus(LITE, 1)


def test_sides_are_rounded_half_to_even():
    assert scale_image(draw((5, 7)), 0.5).shape == (2, 4, 3)
    assert scale_image(draw((1, 1)), 0.25).shape == (1, 1, 3)


@pytest.fixture
def tensors():
    return {
        "model.conv1.weight": torch.randn(2, 3),
        "model.layer2.0.bn1.bias": torch.randn(2),
        "fc_edge6.bias": torch.randn(1),
    }


def test_second_names_are_added_and_removed(tensors):
    with_all = add_aliases(tensors, AFFINITY_ALIASES)
    assert list(with_all) == [
        "model.conv1.weight",
        "model.layer2.0.bn1.bias",
        "stage1.0.weight",
        "stage3.0.0.bn1.bias",
        "fc_edge6.bias",
        "backbone.0.0.weight",
        "backbone.2.0.0.bn1.bias",
        "edge_layers.5.bias",
    ]
    assert remove_aliases(with_all, AFFINITY_ALIASES) == tensors
    assert remove_aliases(tensors, AFFINITY_ALIASES) == tensors


def test_second_names_that_do_not_agree_are_refused(tensors):
    with_all = add_aliases(tensors)
    changed = {**with_all, "stage1.0.weight": with_all["stage1.0.weight"] + 1}
    with pytest.raises(WeightsError, match=r"a\.pth: stage1\.0\.weight and model\.conv1\.weight"):
        remove_aliases(changed, source="a.pth")
    shorter = {key: v for key, v in with_all.items() if key != "stage3.0.0.bn1.bias"}
    with pytest.raises(WeightsError, match=r"but not stage3\.0\.0\.bn1\.bias \(1 such\)"):
        remove_aliases(shorter)
    orphan = {key: v for key, v in with_all.items() if key != "model.conv1.weight"}
    with pytest.raises(WeightsError, match=r"but model\.conv1\.weight is missing"):
        remove_aliases(orphan)
