import numpy as np
import PIL.Image
import pytest

from maskhone.data.davis import (
    DavisObjects,
    find_davis_sequences,
    find_davis_void,
    list_davis_objects,
    load_davis_frame,
)
from maskhone.errors import InputError, UsageError
from maskhone.metrics.video import SequenceScores
from maskhone.pipelines.evaluate_davis import evaluate_davis


@pytest.fixture
def davis(tmp_path, save_picture):
    """Two sequences of two frames; an object 1 on the left, and in `dogs` an object 2 below."""
    for name in ("dogs", "bus"):
        for i in range(2):
            label = np.zeros((24, 32), np.uint8)
            label[4:12, 4 + i : 12 + i] = 255 if name == "bus" else 1
            if name == "dogs":
                label[16:22, 10:20] = 2
            image = np.repeat((label > 0).astype(np.uint8)[..., None] * 200, 3, axis=2)
            save_picture(tmp_path / "JPEGImages" / "480p" / name / f"{i:05}.jpg", image)
            save_picture(tmp_path / "Annotations" / "480p" / name / f"{i:05}.png", label)
    lists = tmp_path / "ImageSets"
    (lists / "2017").mkdir(parents=True)
    (lists / "480p").mkdir()
    (lists / "2017" / "val.txt").write_text("dogs\nbus\n")
    lines = [f"/JPEGImages/480p/bus/{i:05}.jpg /Annotations/480p/bus/{i:05}.png" for i in range(2)]
    (lists / "480p" / "val.txt").write_text("\n".join(lines))
    return tmp_path


class Bright:
    """Calls bright pixels class 1."""

    def segment(self, image):
        is_bright = image[..., 0] > 100
        return np.stack([~is_bright, is_bright]).astype(np.float32)


def test_sequences_come_in_the_order_of_the_list(davis):
    found = find_davis_sequences(davis)
    assert [(one.name, len(one.frames)) for one in found] == [("dogs", 2), ("bus", 2)]
    assert [frame.number for frame in found[0].frames] == ["00000", "00001"]


def test_the_lists_of_2016_name_files(davis):
    assert [one.name for one in find_davis_sequences(davis, year="2016")] == ["bus"]


def test_objects_are_joined(davis):
    frame = find_davis_sequences(davis)[0].frames[0]
    _, every = load_davis_frame(frame)
    _, second = load_davis_frame(frame, objects=(2,))
    assert every.sum() == 64 + 60
    assert second.sum() == 60


def draw_void(davis):
    """Marks a strip of the second frame's object 2 as void."""
    path = davis / "Annotations" / "480p" / "dogs" / "00001.png"
    label = np.array(PIL.Image.open(path))
    label[16:18, 10:20] = 255
    PIL.Image.fromarray(label).save(path)


def test_255_beside_object_numbers_is_void(davis):
    draw_void(davis)
    dogs, bus = find_davis_sequences(davis, names=("dogs", "bus"))
    assert list_davis_objects(dogs) == DavisObjects(numbers=(1, 2), has_void=True)
    assert list_davis_objects(bus) == DavisObjects(numbers=(255,), has_void=False)
    assert load_davis_frame(dogs.frames[1])[1].sum() == 64 + 40
    assert [find_davis_void(frame).sum() for frame in dogs.frames] == [0, 20]


class Cut(Bright):
    """Calls the rows from 16 to 18 background."""

    def segment(self, image):
        scores = super().segment(image)
        scores[:, 16:18] = np.array([1, 0])[:, None, None]
        return scores


@pytest.mark.parametrize("segmenter", [Bright(), Cut()])
def test_what_is_predicted_where_it_is_void_does_not_count(davis, segmenter):
    """As background, 20 of 124 pixels were wrong for one; as foreground, for the other."""
    draw_void(davis)
    first, second = evaluate_davis(segmenter, davis, {"dogs": 1})["frames"]
    assert second["j"] > 0.95
    assert (first["j"] > 0.95) == (type(segmenter) is Bright)


def test_objects_that_no_frame_has_are_refused(davis):
    with pytest.raises(InputError, match="bus: no frame has object 1; its label maps hold 255"):
        evaluate_davis(Bright(), davis, {"bus": 1}, objects={"bus": (1,)})
    draw_void(davis)
    with pytest.raises(InputError, match="object 255; its label maps hold 1, 2, and 255, which is"):
        evaluate_davis(Bright(), davis, {"dogs": 1}, objects={"dogs": (255,)})


def test_scores_are_by_frame_and_by_sequence(davis):
    report = evaluate_davis(
        Bright(), davis, {"dogs": 1, "bus": 1}, objects={"dogs": (1,)}, output=davis / "out"
    )
    assert report["sequences"]["bus"]["j"] > 0.9  # a JPEG's edges
    assert report["sequences"]["dogs"]["j"] == pytest.approx(64 / 124, abs=0.05)
    assert report["j"] == pytest.approx(np.mean([one["j"] for one in report["sequences"].values()]))
    assert [(row["sequence"], row["frame"]) for row in report["frames"]][:2] == [
        ("dogs", "00000"), ("dogs", "00001"),
    ]  # fmt: skip
    assert (davis / "out" / "dogs" / "00001.png").is_file()


def test_long_sequences_count_no_more_than_short_ones():
    scores = SequenceScores()
    mask, nothing = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    for i in range(3):
        scores.update("long", str(i), mask, mask)
    scores.update("short", "0", nothing, mask)
    assert scores.compute()["j"] == 0.5
    scores.reset()
    assert np.isnan(scores.compute()["f"])


def test_what_is_missing_is_said(davis):
    with pytest.raises(InputError, match="no sequence cat"):
        find_davis_sequences(davis, names=("cat",))
    with pytest.raises(InputError, match="no such list"):
        find_davis_sequences(davis, "train")
    with pytest.raises(UsageError, match="no sequences"):
        evaluate_davis(Bright(), davis, {})
    with pytest.raises(UsageError, match="class 5 asked for, but the segmenter has 2"):
        evaluate_davis(Bright(), davis, {"bus": 5})
    (davis / "Annotations" / "480p" / "bus" / "00001.png").unlink()
    with pytest.raises(InputError, match=r"00001\.png: no such file"):
        find_davis_sequences(davis)
