import json

import numpy as np
import pytest

from maskhone.methods.rws.config import StageConfig
from maskhone.methods.rws.fusion import MixingMaps, View, list_needed_cells, sample_cells
from maskhone.methods.rws.store import MixStore, MixWriter
from maskhone.methods.rws.train import train
from maskhone.methods.rws.training_set import (
    LabelledData,
    Mixing,
    StageSource,
    collate,
    find_items,
)


def make_store(folder, features, winners, boxes):
    shares = np.where(winners >= 0, np.float32(0.25), np.float32(1))
    maps = MixingMaps(shares=shares, winners=winners)
    cells = np.arange(features.shape[1] * features.shape[2])
    entry = (cells, features.reshape(len(features), -1).T, features.shape[1:])
    with MixWriter(folder, layers=1) as writer:
        writer.add("other", maps, boxes, {0: [entry]})
        writer.add("a/b", maps, boxes, {0: [entry]})
    return maps


def test_the_store_gives_back_what_was_put_in(tmp_path):
    random = np.random.default_rng(0)
    winners = np.full((1, 20, 30), -1, dtype=np.int32)
    winners[0, 5:12, 3:20] = 0
    boxes = [(2, 4, 24, 16)]
    features = random.standard_normal((5, 6, 11)).astype(np.float16).astype(np.float32)
    maps = make_store(tmp_path, features, winners, boxes)
    store = MixStore(tmp_path)
    assert len(store) == 2
    assert "a/b" in store
    assert "c" not in store
    found = store.read_maps("a/b")
    np.testing.assert_array_equal(found.winners, maps.winners)
    np.testing.assert_array_equal(found.shares, maps.shares)
    view = View(size_hw=(20, 30), resized_hw=(40, 60), is_mirrored=True, crop_yxhw=(3, 5, 32, 32))
    ours = store.sample("a/b", 0, view, (8, 8))
    direct = sample_cells(
        maps,
        0,
        view,
        (8, 8),
        boxes=boxes,
        grids_hw=[(6, 11)],
        channels=5,
        fetch=lambda j, cells: features.reshape(5, -1)[:, cells].T,
    )
    assert len(ours.places)
    np.testing.assert_array_equal(ours.places, direct.places)
    np.testing.assert_allclose(ours.add, direct.add, atol=1e-6)
    larger = View(size_hw=(40, 60), resized_hw=(40, 60), is_mirrored=True, crop_yxhw=(3, 5, 32, 32))
    np.testing.assert_array_equal(store.sample("a/b", 0, larger, (8, 8)).places, ours.places)


def test_only_the_cells_that_are_needed_are_stored_as_half_floats(recipe, pictures):
    train(recipe, out_dir=pictures / "run")
    folder = pictures / "run" / "cycle-1" / "maps"
    index = json.loads((folder / "index.json").read_text())
    store = MixStore(folder)
    for layer, (count, channels) in enumerate(zip(index["counts"], index["channels"], strict=True)):
        assert (folder / f"layer-{layer}.f16").stat().st_size == 2 * count * channels
        needed = whole = 0
        for id, entry in index["pictures"].items():
            winners = store.read_maps(id).winners[layer]
            for j, places in entry["slices"].items():
                grid_hw = places[layer][1:]
                box = entry["boxes"][int(j)]
                needed += len(list_needed_cells(winners, int(j), box, grid_hw))
                whole += grid_hw[0] * grid_hw[1]
        assert count == needed < whole
    assert store._open()[0].base is not None
    assert isinstance(store._open()[0], np.memmap)


def test_an_unfinished_store_does_not_count(tmp_path):
    with pytest.raises(RuntimeError), MixWriter(tmp_path, layers=1):
        raise RuntimeError
    assert not (tmp_path / "index.json").exists()


def test_batches_know_whose_cells_they_hold(recipe, pictures):
    train(recipe, out_dir=pictures / "run")
    data = LabelledData(images=recipe["images"], labels=recipe["labels"])
    store = MixStore(pictures / "run" / "cycle-1" / "maps")
    source = StageSource(
        [(item, None) for item in find_items(data, "") if item.id in store],
        data,
        StageConfig(base_px=40, scale_range=(1.0, 1.0), crop_px=52, mirrors=False),
        num_classes=3,
        batch_size=2,
        seed=[0, 1],
        mixing=Mixing(
            store=store,
            shapes=[(8, 26, 26), (12, 13, 13), (12, 13, 13)],
            layers=range(3),
            probability=1.0,
            ids={},
        ),
    )
    samples = [source[0], source[1]]
    batch = collate(samples)
    for layer in range(3):
        places = batch[f"places-{layer}"]
        assert len(places) == len(batch[f"keep-{layer}"]) == len(batch[f"add-{layer}"])
        for b, one in enumerate(samples):
            own = places[places[:, 0] == b]
            np.testing.assert_array_equal(own[:, 1:], one.cells[layer].places[:, 1:])
            rows, columns = own[:, 1].numpy(), own[:, 2].numpy()
            stride = 52 // [26, 13, 13][layer]
            labels = one.target[rows * stride + stride // 2, columns * stride + stride // 2]
            assert (labels > 0).all()  # only the object is mixed, wherever it went
