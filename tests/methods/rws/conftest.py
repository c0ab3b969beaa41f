import numpy as np
import PIL.Image
import pytest

CLASSES = (1, 2)


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of squares in two colours, their label maps with a void strip, two lists."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for i in range(6):
        image = random.integers(0, 60, (40, 52, 3)).astype(np.uint8)
        label = np.zeros((40, 52), np.uint8)
        for index in CLASSES:
            if (i, index) == (3, 2):
                continue
            y, x = random.integers(2, 20, 2)
            label[y : y + 16, x : x + 20] = index
            image[y : y + 16, x : x + 20, index] = 200
        label[:2] = 255
        PIL.Image.fromarray(image).save(tmp_path / "images" / f"p{i}.png")
        PIL.Image.fromarray(label).save(tmp_path / "labels" / f"p{i}.png")
    (tmp_path / "train.txt").write_text("p0\np1\np2\np3\np4\n")
    (tmp_path / "val.txt").write_text("p5\n")
    return tmp_path


@pytest.fixture
def recipe(pictures):
    """A training of seconds."""
    return {
        "method": "rws",
        "name": "tiny.rws",
        "network": "tests.methods.rws.hosts:make_tiny",
        "layers": ["one", "two", "three"],
        "num_classes": 3,
        "images": str(pictures / "images"),
        "labels": str(pictures / "labels"),
        "train_list": str(pictures / "train.txt"),
        "validation_list": str(pictures / "val.txt"),
        "pretrain_epochs": 6,
        "epochs": 2,
        "cycles": 1,
        "slice_heat": 0.3,
        "slice_most": 2,
        "base_px": 40,
        "scale_range": [0.8, 1.25],
        "crop_px": 32,
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "rate": "schedule",
        "batch_size": 4,
        "log_every": 100,
        "workers": 0,
    }
