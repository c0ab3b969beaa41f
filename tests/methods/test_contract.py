"""What every refiner of the catalogue promises."""

import numpy as np
import pytest

from maskhone.contracts import LooksAgain, Refiner
from maskhone.engine.weights import read_header
from maskhone.errors import UsageError, WeightsError
from maskhone.methods.catalogue import METHODS, load

ODD_SIZES_HW = [(1, 1), (1, 9), (9, 1), (2, 3), (13, 17), (33, 15)]


@pytest.fixture(params=METHODS)
def refiner(request, weights_by_method):
    weights = weights_by_method.get(request.param)
    return load(request.param, weights=weights, device="cpu", dtype="fp32")


@pytest.fixture
def masks(disc):
    """A disc shifted right, and a soft one shifted down."""
    right = np.roll(disc, 3, axis=1).astype(np.float32)
    down = np.roll(disc, 2, axis=0).astype(np.float32) * np.float32(0.9)
    return np.stack([right, down])


def draw_case(size_hw):
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (*size_hw, 3)).astype(np.uint8)
    return image, random.random((2, *size_hw), dtype=np.float32)


def assert_scores(scores, shape):
    assert scores.shape == shape
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()  # false for NaN too


def test_it_is_a_refiner(refiner):
    assert isinstance(refiner, Refiner)


def test_it_changes_a_coarse_mask(refiner, photo, masks):
    assert not np.array_equal(refiner.refine(photo, masks), masks)


@pytest.mark.parametrize("size_hw", ODD_SIZES_HW, ids=str)
def test_the_result_has_the_size_of_the_masks(refiner, size_hw):
    image, masks = draw_case(size_hw)
    assert_scores(refiner.refine(image, masks), masks.shape)


@pytest.mark.parametrize("size_hw", [(1, 1), (8, 8), (40, 48)], ids=str)
def test_an_empty_mask_stays_empty(refiner, size_hw):
    image, masks = draw_case(size_hw)
    assert not refiner.refine(image, np.zeros_like(masks)).any()


@pytest.mark.parametrize("size_hw", [(1, 1), (8, 8), (40, 48)], ids=str)
def test_a_full_mask_gives_scores(refiner, size_hw):
    image, masks = draw_case(size_hw)
    assert_scores(refiner.refine(image, np.ones_like(masks)), masks.shape)


def test_no_masks_give_no_masks(refiner, photo):
    nothing = np.zeros((0, *photo.shape[:2]), dtype=np.float32)
    assert_scores(refiner.refine(photo, nothing), nothing.shape)


def test_the_arguments_are_left_as_they_were(refiner, photo, masks):
    image_before, masks_before = photo.copy(), masks.copy()
    refined = refiner.refine(photo, masks)
    refined[:] = 0
    np.testing.assert_array_equal(photo, image_before)
    np.testing.assert_array_equal(masks, masks_before)


def test_the_same_call_gives_the_same_answer(refiner, photo, masks):
    np.testing.assert_array_equal(refiner.refine(photo, masks), refiner.refine(photo, masks))


def test_the_order_of_the_results_is_that_of_the_masks(refiner, photo, masks):
    forward, backward = refiner.refine(photo, masks), refiner.refine(photo, masks[::-1])
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-4)


def test_objects_together_are_refined_as_one_by_one(refiner, photo, masks):
    alone = np.concatenate([refiner.refine(photo, mask[None]) for mask in masks])
    np.testing.assert_allclose(refiner.refine(photo, masks), alone, atol=1e-4)


LOOKING = ("bpr",)


@pytest.fixture
def looking(weights_by_method):
    """Loads a method that looks again."""
    return lambda name: load(name, weights=weights_by_method[name], device="cpu", dtype="fp32")


def test_no_other_method_looks_again(refiner, request):
    assert isinstance(refiner, LooksAgain) == (request.node.callspec.params["refiner"] in LOOKING)


@pytest.mark.parametrize("name", LOOKING)
def test_a_second_look_is_the_answer_to_the_mirrored_picture(looking, photo, masks, name):
    refiner = looking(name)
    (look,) = refiner.look_again(photo, masks)
    mirrored = refiner.refine(photo[:, ::-1].copy(), masks[:, :, ::-1].copy())
    assert_scores(look, masks.shape)
    np.testing.assert_allclose(look, mirrored[:, :, ::-1], atol=1e-5)


@pytest.mark.parametrize("name", LOOKING)
def test_of_a_symmetric_picture_both_looks_mirror_each_other(looking, photo, masks, name):
    left, half = photo[:, :24], masks[:, :, :24]
    image = np.concatenate([left, left[:, ::-1]], axis=1)
    symmetric = np.concatenate([half, half[:, :, ::-1]], axis=2)
    refiner = looking(name)
    (look,) = refiner.look_again(image, symmetric)
    np.testing.assert_allclose(look[:, :, ::-1], refiner.refine(image, symmetric), atol=1e-5)


@pytest.mark.parametrize("name", LOOKING)
def test_no_masks_are_looked_at_again_for_nothing(looking, photo, name):
    nothing = np.zeros((0, *photo.shape[:2]), dtype=np.float32)
    (look,) = looking(name).look_again(photo, nothing)
    assert_scores(look, nothing.shape)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.uses_weights])
def test_the_batch_size_does_not_matter(weights_by_method, photo, masks, name):
    one, many = (
        load(
            name, weights=weights_by_method[name], device="cpu", dtype="fp32", batch_size=n
        ).refine(photo, masks)
        for n in (1, 32)
    )
    np.testing.assert_allclose(one, many, atol=1e-4)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.uses_weights])
def test_weights_of_another_method_are_refused(weights_by_method, name):
    own = read_header(weights_by_method[name])["method"]
    others = [p for p in weights_by_method.values() if read_header(p)["method"] != own]
    assert others
    for path in others:
        with pytest.raises(WeightsError, match="not of"):
            load(name, weights=path)


@pytest.mark.parametrize(
    "name", [name for name, m in METHODS.items() if m.uses_weights and not m.bundled]
)
def test_methods_without_bundled_weights_say_how_to_get_some(name):
    with pytest.raises(UsageError, match="--weights"):
        load(name)
