"""The small pictures of a report: what they show, and that they stay small."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from maskhone.pipelines.report_pictures import MOST_BYTES, draw_change

ORANGE, BLUE = (238, 119, 51), (51, 187, 238)


def decode(address):
    kind, _, code = address.partition(";base64,")
    assert kind == "data:image/webp"
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(code)))
    return np.asarray(picture.convert("RGBA")).astype(int)


def find(drawing, colour):
    return (np.abs(drawing[..., :3] - colour).max(axis=2) < 3) & (drawing[..., 3] > 100)


def count_bytes(pictures):
    return sum(map(len, (pictures.crop, pictures.before, pictures.after, pictures.changes)))


@pytest.fixture
def scores():
    """An object of 60 x 40 pixels that grows by ten columns and loses ten rows."""
    before, after = np.zeros((2, 200, 300), dtype=np.float32)
    before[50:110, 100:140] = 1
    after[60:110, 100:150] = 1
    return before, after


def test_the_pictures_are_cut_to_the_object(scores):
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    pictures = draw_change(image, *scores)
    margin_px = round(0.12 * 60)
    assert decode(pictures.crop).shape[:2] == (60 + 2 * margin_px, 50 + 2 * margin_px)
    assert decode(pictures.changes).shape[1::-1] == pictures.size_wh
    assert max(pictures.size_wh) == 384


def test_removed_pixels_are_orange_and_added_ones_blue(scores):
    pictures = draw_change(None, *scores)
    changes = decode(pictures.changes)
    scale = pictures.scale
    assert find(changes, ORANGE).sum() == pytest.approx(10 * 40 * scale**2, rel=0.05)
    assert find(changes, BLUE).sum() == pytest.approx(10 * 50 * scale**2, rel=0.05)
    assert find(decode(pictures.before), ORANGE).any()
    assert not find(decode(pictures.before), BLUE).any()
    assert find(decode(pictures.after), BLUE).any()
    assert not find(decode(pictures.after), ORANGE).any()


def test_the_inside_of_an_outline_is_clear(scores):
    outline = decode(draw_change(None, *scores).before)
    assert outline[outline.shape[0] // 2, outline.shape[1] // 3, 3] == 0


def test_a_thin_object_is_painted():
    strand = np.zeros((400, 400), dtype=np.float32)
    strand[100:103, 20:380] = 1
    pictures = draw_change(None, strand, strand)
    painted = find(decode(pictures.before), ORANGE)
    assert painted.sum() == pytest.approx(3 * 360 * pictures.scale**2, rel=0.4)


def test_without_picture_the_scores_before_are_shown():
    ramp = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1))
    crop = decode(draw_change(None, ramp, ramp).crop)
    assert crop[50, 5, 0] < crop[50, -5, 0] - 80


@pytest.mark.parametrize("fill", [0, 1])
def test_empty_and_full_masks_show_the_whole_picture(fill):
    image = np.full((50, 70, 3), 90, dtype=np.uint8)
    mask = np.full((50, 70), fill, dtype=np.float32)
    assert decode(draw_change(image, mask, mask).crop).shape[:2] == (50, 70)


@pytest.mark.parametrize("is_noisy", [True, False])
def test_even_noise_stays_within_its_bytes(is_noisy):
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (370, 370, 3), dtype=np.uint8)
    before, after = random.random((2, 370, 370), dtype=np.float32)
    pictures = draw_change(image, before, after if is_noisy else before * 0 + 1)
    assert count_bytes(pictures) <= MOST_BYTES
    plain = draw_change(image, before * 0 + 1, before * 0 + 1)
    assert count_bytes(plain) <= MOST_BYTES


def test_specks_of_a_large_object_are_not_lost():
    before = np.zeros((1500, 1500), dtype=np.float32)
    before[5:1490, 5:1490] = 1
    after = before.copy()
    after[700, 700] = 0
    assert find(decode(draw_change(None, before, after).changes), ORANGE).sum() == 1
