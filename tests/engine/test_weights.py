import pytest
import torch
from safetensors.torch import save_file

from maskhone.engine.weights import (
    average_weights,
    find_weights,
    hash_content,
    list_bundled,
    load_weights,
    read_header,
    save_weights,
)
from maskhone.errors import WeightsError

STATE = {"a.weight": torch.tensor([[0.5, -2.0]]), "a.steps": torch.tensor(3)}


def test_what_is_saved_is_loaded(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", STATE, {"name": "w", "config": {"side": 3}})
    state, header = load_weights(path)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)
    assert header["config"] == {"side": 3}


def test_floats_are_stored_as_half_and_loaded_as_single(tmp_path):
    third = {"a": torch.tensor([1 / 3])}
    small = save_weights(tmp_path / "s.safetensors", third, {})
    whole = save_weights(tmp_path / "w.safetensors", third, {}, half=False)
    assert load_weights(small)[0]["a"].dtype == torch.float32
    assert load_weights(small)[0]["a"].item() == torch.tensor(1 / 3).half().item()
    assert torch.equal(load_weights(whole)[0]["a"], third["a"])


def test_a_value_too_large_for_half_is_kept(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", {"a": torch.tensor([1e6])}, {})
    assert load_weights(path)[0]["a"].item() == 1e6


def test_another_content_than_the_hash_says_is_refused(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", STATE, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="hash"):
        load_weights(path)


def test_the_hash_sees_names_types_shapes_and_values():
    tensor = torch.tensor([1.0, 2.0])
    others = [
        {"b": tensor},
        {"a": tensor.double()},
        {"a": tensor.view(1, 2)},
        {"a": tensor.flip(0)},
    ]
    hashes = {hash_content(state, {}) for state in [{"a": tensor}, *others]}
    assert len(hashes) == 5


def test_the_hash_does_not_depend_on_the_order():
    backwards = dict(reversed(STATE.items()))
    assert hash_content(STATE, {"a": 1, "b": 2}) == hash_content(backwards, {"b": 2, "a": 1})


def test_the_hash_sees_the_header_but_not_the_scores():
    one, other, scored = (
        hash_content(STATE, header)
        for header in ({"name": "a"}, {"name": "b"}, {"name": "a", "scores": {"iou": 1}})
    )
    assert one == scored
    assert one != other


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", STATE, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, STATE, {"bad": object()})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_another_maker_is_refused(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="did not write"):
        read_header(tmp_path / "w.safetensors")


def test_something_else_than_safetensors_is_sent_to_import(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02" * 50)
    with pytest.raises(WeightsError, match=r"weights import w\.pth"):
        read_header(tmp_path / "w.pth")


def test_an_unknown_name_lists_the_bundled_ones():
    with pytest.raises(WeightsError, match=r"nope.*bundled"):
        find_weights("nope")


def test_bundled_weights_are_found_by_name_and_whole():
    for name, path in list_bundled().items():
        assert find_weights(name) == path
        _, header = load_weights(path)
        assert header["name"] == name


def test_weights_of_one_kind_are_averaged(tmp_path):
    header = {"name": "one", "method": "bpr", "config": {"patch_px": 64}, "scores": {"iou": 1}}
    first, second = (
        {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(4)},
        {
            "w": torch.tensor([2.0, -1.0]),
            "n": torch.tensor(6),
        },
    )
    paths = [
        save_weights(tmp_path / "a.safetensors", first, header),
        save_weights(tmp_path / "b.safetensors", second, {**header, "name": "two"}),
    ]
    state, found = load_weights(average_weights(paths, tmp_path / "c.safetensors", name="both"))
    assert state["w"].tolist() == [1.5, 1.0]
    assert state["n"].item() == 6
    assert found["name"] == "both"
    assert [each.split()[0] for each in found["average_of"]] == ["one", "two"]
    assert "scores" not in found


def test_weights_without_a_name_are_called_as_their_files(tmp_path):
    paths = [
        save_weights(tmp_path / f"{stem}.safetensors", {"w": torch.zeros(2)}, {}) for stem in "ab"
    ]
    found = read_header(average_weights(paths, tmp_path / "c.safetensors"))
    assert found["name"] == "c"
    assert [each.split()[0] for each in found["average_of"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("state", "header"),
    [
        ({"w": torch.zeros(3)}, {"method": "bpr", "config": {}}),
        ({"w": torch.zeros(2)}, {"method": "segrefiner-lite", "config": {}}),
        ({"w": torch.zeros(2)}, {"method": "bpr", "config": {"patch_px": 32}}),
    ],
)
def test_weights_of_other_kinds_are_not_averaged(tmp_path, state, header):
    facts = {"name": "one", "method": "bpr", "config": {}}
    paths = [
        save_weights(tmp_path / "a.safetensors", {"w": torch.zeros(2)}, facts),
        save_weights(tmp_path / "b.safetensors", state, {**facts, **header}),
    ]
    with pytest.raises(WeightsError, match="another method, network or configuration"):
        average_weights(paths, tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match="two or more"):
        average_weights(paths[:1], tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()
