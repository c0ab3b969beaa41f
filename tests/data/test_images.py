import numpy as np
import PIL.Image
import pytest

from maskhone.data import pictures
from maskhone.data.images import (
    check_mask_fits,
    read_image,
    read_label_map,
    read_mask,
    read_pair,
    write_image,
    write_mask,
)
from maskhone.errors import InputError

RED = (255, 0, 0)
ROTATED_BY_90 = 6  # EXIF: turn clockwise to see it upright
SQUARE = np.array([[0, 0, 0], [0, 1, 0]], dtype=np.uint8)


def save(array, path, **options):
    PIL.Image.fromarray(array).save(path, **options)
    return path


def save_rotated(path, size_wh=(3, 2)):
    exif = PIL.Image.Exif()
    exif[0x0112] = ROTATED_BY_90
    PIL.Image.new("RGB", size_wh, RED).save(path, exif=exif)
    return path


def save_palette(label_map, path, colours=((0, 0, 0), (200, 0, 0), (0, 200, 0))):
    picture = PIL.Image.fromarray(label_map)
    picture.putpalette([value for colour in colours for value in colour])
    picture.save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, ".png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [(mode, ".tif") for mode in ("1", "L", "RGB", "CMYK", "I;16", "I")],
)
def test_white_of_every_mode_reads_as_white_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"a{suffix}"
    white = {"CMYK": (0, 0, 0, 0), "I;16": 65535, "I": 65535}.get(mode)
    picture = PIL.Image.new("RGB", (3, 2), "white")
    PIL.Image.new(mode, (3, 2), white).save(path) if white else picture.convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (2, 3, 3)
    assert image.dtype == np.uint8
    assert image.min() == 255


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    path = save(np.array([[0, 257, 32896, 65535]], dtype=np.uint16), tmp_path / "a.png")
    assert read_image(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_an_exif_rotation_is_applied(tmp_path):
    path = tmp_path / "a.png"
    exif = PIL.Image.Exif()
    exif[0x0112] = ROTATED_BY_90
    stored = np.array([[[10] * 3, [20] * 3]], dtype=np.uint8)
    save(stored, path, exif=exif)
    assert read_image(path)[:, :, 0].tolist() == [[10], [20]]


def test_transparency_is_dropped(tmp_path):
    path = save(np.array([[[9, 8, 7, 0]]], dtype=np.uint8), tmp_path / "a.png")
    assert read_image(path).tolist() == [[[9, 8, 7]]]


def test_a_palette_with_transparency_reads_without_warning(tmp_path):
    path = tmp_path / "a.png"
    picture = PIL.Image.new("P", (2, 2), 1)
    picture.putpalette([0, 0, 0, 1, 2, 3])
    picture.save(path, transparency=b"\x00\x80")
    assert read_image(path)[0, 0].tolist() == [1, 2, 3]


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    path = tmp_path / "a.gif"
    frames = [PIL.Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == list(RED)


def test_pictures_above_pillows_limit_are_read_and_the_limit_stays(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", np.zeros((20, 30, 3), dtype=np.uint8))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(path).shape == (20, 30, 3)
    assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_a_header_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.png", np.zeros((20, 30, 3), dtype=np.uint8))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 599)
    with pytest.raises(InputError, match=r"a\.png: cannot read .*30x20 is above 599 pixels"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_mask, read_label_map])
def test_unreadable_files_give_one_line_with_the_name(tmp_path, read):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    whole = save(noise, tmp_path / "whole.png").read_bytes()
    contents = {"cut": whole[:-500], "header": whole[:20], "text": b"hello", "empty": b""}
    for name, content in contents.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(InputError, match=path.name):
            read(path)


def test_names_may_hold_any_letters(tmp_path):
    path = tmp_path / "größe 図.png"
    write_image(path, np.full((1, 1, 3), 7, dtype=np.uint8))
    assert read_image(path).tolist() == [[[7, 7, 7]]]


def test_unwritable_pictures_are_refused(tmp_path):
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"cannot write the format \.xyz; use one of"):
        write_image(tmp_path / "a.xyz", image)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_image(tmp_path / "file" / "a.png", image)


ROUND_TRIPS = [
    pytest.param("a.png", SQUARE, id="0/1"),
    pytest.param("a.png", SQUARE * 255, id="0/255"),
    pytest.param("a.bmp", SQUARE * 255, id="bmp"),
    pytest.param("a.png", SQUARE * 100, id="8-bit probability"),
    pytest.param("a.png", SQUARE.astype(np.uint16) * 40000, id="16-bit probability"),
    pytest.param("a.tif", SQUARE.astype(np.uint16) * 40000, id="16-bit tif"),
    pytest.param("a.png", SQUARE.astype(np.uint16) * 65535, id="16-bit binary"),
    pytest.param("a.png", SQUARE.astype(bool), id="1-bit"),
    pytest.param("a.npy", SQUARE.astype(bool), id="npy bool"),
    pytest.param("a.npy", SQUARE[None] * np.float32(0.3), id="npy stack"),
    pytest.param("a.npy", np.zeros((0, 2, 3), dtype=bool), id="npy no objects"),
    pytest.param("a.npy", SQUARE * np.float64(0.25), id="npy float64"),
    pytest.param("a.png", np.zeros((1, 1), dtype=np.uint8), id="one empty pixel"),
    pytest.param("a.png", np.full((1, 1), 255, dtype=np.uint8), id="one full pixel"),
]


@pytest.mark.parametrize(("name", "array"), ROUND_TRIPS)
def test_masks_are_written_in_the_kind_they_were_read(tmp_path, name, array):
    path, again = tmp_path / name, tmp_path / "out" / name
    is_array = path.suffix == ".npy"
    np.save(path, array) if is_array else save(array, path)
    mask_file = read_mask(path)
    assert mask_file.scores.ndim == 3
    assert write_mask(again, mask_file.scores, mask_file) == again
    back = np.load(again) if is_array else np.array(PIL.Image.open(again))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_a_palette_picture_is_a_label_map_and_keeps_its_colours(tmp_path):
    label_map = np.array([[0, 1, 2], [2, 2, 255]], dtype=np.uint8)
    path = save_palette(label_map, tmp_path / "a.png", [(0, 0, 0), (200, 0, 0), (0, 200, 0)] * 80)
    mask_file = read_mask(path)
    assert mask_file.labels.tolist() == [1, 2]
    assert mask_file.scores.sum(axis=(1, 2)).tolist() == [1, 3]
    write_mask(tmp_path / "b.png", mask_file.scores, mask_file)
    back = PIL.Image.open(tmp_path / "b.png")
    assert back.mode == "P"
    assert back.getpalette()[3:6] == [200, 0, 0]
    np.testing.assert_array_equal(np.array(back), label_map)


def test_a_label_map_without_labels_stays_as_it_is(tmp_path):
    path = save_palette(np.zeros((2, 2), dtype=np.uint8), tmp_path / "a.png")
    mask_file = read_mask(path)
    assert mask_file.scores.shape == (0, 2, 2)
    write_mask(path, mask_file.scores, mask_file)
    assert read_label_map(path).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("label_map", "colours"),
    [
        ([[0, 1]], [(0, 0, 0), (255, 255, 255)]),
        ([[1, 0]], [(255, 255, 255), (0, 0, 0)]),
        ([[0, 255]], [(n, n, n) for n in range(256)]),
    ],
)
def test_a_black_and_white_palette_means_what_one_sees(tmp_path, label_map, colours):
    path = save_palette(np.array(label_map, dtype=np.uint8), tmp_path / "a.png", colours)
    assert read_mask(path).scores.tolist() == [[[0.0, 1.0]]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_modes_with_equal_channels_are_grey(tmp_path, mode):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(SQUARE * 255).convert(mode).save(path)
    np.testing.assert_array_equal(read_mask(path).scores, SQUARE[None])


def test_jpeg_noise_is_a_probability(tmp_path):
    path = save(np.eye(24, dtype=np.uint8) * 255, tmp_path / "a.jpg", quality=60)
    mask_file = read_mask(path)
    assert not mask_file.kind.is_binary
    np.testing.assert_array_equal(mask_file.scores[0] > 0.5, np.eye(24, dtype=bool))


def test_npz_keeps_its_other_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, boxes=np.arange(4), masks=SQUARE[None].astype(bool))
    mask_file = read_mask(path)
    write_mask(path, 1 - mask_file.scores, mask_file)
    with np.load(path) as back:
        assert back["boxes"].tolist() == [0, 1, 2, 3]
        assert back["masks"].tolist() == (SQUARE[None] == 0).tolist()


def test_bad_masks_are_refused_with_a_remedy(tmp_path):
    coloured = np.zeros((2, 2, 3), dtype=np.uint8)
    coloured[0, 0] = RED
    half_clear = np.full((1, 2, 4), (255, 255, 255, 9), dtype=np.uint8)
    cases = {
        "colour.png": (coloured, "save one grey picture per object"),
        "alpha.png": (half_clear, "transparency"),
        "nan.npy": (np.array([[np.nan]]), "NaN"),
        "logits.npy": (np.array([[-4.0, 9.0]]), "sigmoid"),
        "objects.npy": (np.array([[None]]), "cannot read the array"),
    }
    for name, (array, said) in cases.items():
        path = tmp_path / name
        np.save(path, array) if path.suffix == ".npy" else save(array, path)
        with pytest.raises(InputError, match=said) as caught:
            read_mask(path)
        assert str(path) in str(caught.value)


def test_bad_array_files_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "two.npz", first=SQUARE, second=SQUARE)
    (tmp_path / "text.npy").write_bytes(b"hello")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:-30])
    for name in ("two.npz", "text.npy", "cut.npz", "missing.npy"):
        with pytest.raises(InputError, match=name):
            read_mask(tmp_path / name)


def test_a_mask_of_several_pages_is_refused(tmp_path):
    pages = [PIL.Image.new("L", (2, 2), n) for n in (0, 255)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="2 frames, expected one"):
        read_mask(tmp_path / "a.tif")


def test_grey_class_numbers_are_warned_about(tmp_path, caplog):
    read_mask(save(SQUARE * 3, tmp_path / "a.png"))
    assert "save a palette picture" in caplog.text


def test_binary_cuts_and_as_scores_deepens(tmp_path):
    scores = np.array([[[0.25, 0.75]]], dtype=np.float32)
    soft = read_mask(save(np.array([[0, 100, 255]], dtype=np.uint8), tmp_path / "soft.png"))
    write_mask(tmp_path / "cut.png", scores, soft, binary=True)
    assert read_label_map(tmp_path / "cut.png").tolist() == [[0, 255]]
    hard = read_mask(save(SQUARE * 255, tmp_path / "hard.bmp"))
    deep_path = write_mask(tmp_path / "deep.bmp", scores, hard, as_scores=True)
    assert deep_path.name == "deep.png"
    assert read_label_map(deep_path).tolist() == [[16384, 49151]]


def test_scores_of_a_label_map_go_to_an_npz_with_their_labels(tmp_path):
    path = save_palette(np.array([[0, 1, 2]], dtype=np.uint8), tmp_path / "a.png")
    mask_file = read_mask(path)
    written = write_mask(tmp_path / "b.png", mask_file.scores * 0.25, mask_file, as_scores=True)
    with np.load(written) as back:
        assert back["labels"].tolist() == [1, 2]
        assert back["scores"].max() == 0.25


def test_another_suffix_gets_the_nearest_kind(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.25, 1.0]]))
    soft = read_mask(tmp_path / "a.npy")
    write_mask(tmp_path / "a.png", soft.scores, soft)
    write_mask(tmp_path / "a.bmp", soft.scores, soft)
    assert read_label_map(tmp_path / "a.png").tolist() == [[16384, 65535]]
    assert read_label_map(tmp_path / "a.bmp").tolist() == [[64, 255]]
    with pytest.raises(InputError, match="2 masks do not fit one picture"):
        write_mask(tmp_path / "b.png", np.zeros((2, 1, 2), dtype=np.float32), soft)


def test_a_mask_of_another_size_is_refused_with_both_names(tmp_path):
    image_path = write_image(tmp_path / "photo.png", np.zeros((4, 6, 3), dtype=np.uint8))
    mask_path = save(SQUARE, tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png does not fit .*photo\.png.*4x6.*2x3.*resize"):
        read_pair(image_path, mask_path)


def test_a_mask_of_the_unrotated_image_is_told_so(tmp_path):
    image_path = save_rotated(tmp_path / "photo.jpg")
    mask_path = save(SQUARE, tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"image is 3x2 but mask is 2x3.*before its EXIF rotation"):
        read_pair(image_path, mask_path)
    upright = save(SQUARE.T.copy(), tmp_path / "upright.png")
    image, mask_file = read_pair(image_path, upright)
    check_mask_fits(mask_file, image, image_path=image_path)
    assert image.shape == (3, 2, 3)
