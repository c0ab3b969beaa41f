"""What the tests of SegRefiner share: reading manifests, and networks with weights by the rule.

Manifests say in sentences how inputs are drawn and how far outputs may be off. A rule such as
`2*PCG64(seed+3).random((n,1,h,w))>0.6` is an expression: it is evaluated with the values of the
manifest for its names.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.golden import Fixture, find_fixtures, state_dict_by_rule, tolerance_number

from maskhone.methods.segrefiner.network import DenoisingUNet, UNetSpec

METHOD = "segrefiner"
PREFIX = "denoise_model."

_DRAW = re.compile(
    r"(?:\d+(?:\.\d+)? ?\* ?)?"  # factor
    r"PCG64\([^()]*\)\.\w+\((?:[^()]|\([^()]*\))*\)"  # generator, and what it draws
    r"(?: ?> ?\d+(?:\.\d+)?)?"  # threshold
)


def pcg(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def evaluate(expression: str, **values: Any) -> Any:
    """Computes an expression of a manifest."""
    known = {"PCG64": pcg, "float32": np.float32, "cos": np.cos, "pi": np.pi, "arange": np.arange}
    return eval(expression, {"__builtins__": {}, **known, **values})


def draw_all(text: str, **values: Any) -> list[Any]:
    """Evaluates every rule with `PCG64` in a sentence."""
    return [evaluate(rule, **values) for rule in _DRAW.findall(text)]


def draw(text: str, **values: Any) -> np.ndarray:
    """Evaluates the only rule in a sentence, as float32."""
    (drawn,) = draw_all(text, **values)
    return drawn.astype(np.float32)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def find_numbers(pattern: str, text: str) -> list[int]:
    """Reads the whole numbers in the groups of a pattern that must occur."""
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern!r} in {text!r}"
    return [int(n) for group in found.groups() for n in re.findall(r"\d+", group)]


def abs_tolerance(text: str) -> float:
    """Reads `... abs 1e-4 ...`; a sentence without it must say `exact`."""
    return tolerance_number(text.split("abs", 1)[1] if "abs" in text else text)


def allowed_pixels(text: str, count: int) -> int:
    """Reads `up to 2 differing pixels` or `at most 0.01% of pixels`: how many of `count`."""
    found = re.search(r"(?:up to|at most) ([\d.]+%?)", text)
    if found is None:
        return 0
    if found[1].endswith("%"):
        return math.floor(tolerance_number(found[1]) * count)
    return int(found[1])


def find_columns(note: str, name: str) -> list[str]:
    """Reads `name: x1,y1,x2,y2,score;` into its column names."""
    found = re.search(rf"{name}: ([\w,]+)", note)
    assert found is not None, f"no columns of {name} in {note!r}"
    return found[1].split(",")


def unpack(fixture: Fixture, name: str, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.unpackbits(fixture.outputs[name], count=int(np.prod(shape)))
    return bits.reshape(shape).astype(bool)


def compare(fixture: Fixture, made: dict[str, Any], tolerance: float) -> None:
    """Compares what was made with what is stored, of which there must be some."""
    stored = [name for name in made if name in fixture.outputs]
    assert stored, f"{fixture} stores none of {', '.join(made)}"
    for name in stored:
        value, expected = made[name], fixture.outputs[name]
        value = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        assert np.shape(value) == expected.shape, name
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance, err_msg=name)


def holds(*words: str) -> Callable[[Fixture], bool]:
    """Says of a fixture whether its manifest or its outputs have entries that begin like these."""

    def has_all(fixture: Fixture) -> bool:
        entries = [*fixture.manifest, *fixture.outputs]
        return all(any(entry.startswith(word) for entry in entries) for word in words)

    return has_all


def find_holding(pattern: str, has: Callable[[Fixture], bool]) -> list[Any]:
    """Lists the fixtures of a family of which something is true."""
    found = find_fixtures(METHOD, pattern)
    kept = [each for each in found if each.values[0] is None or has(each.values[0])]
    return kept or [_skip(f"no {METHOD}/{pattern} of this set holds what this test needs", 1)]


def find_runs(pattern: str, *words: str) -> list[Any]:
    """Lists fixtures with their runs; a run also has the entries of its manifest.

    A manifest without runs is one run itself. Runs that lack one of the words are left out.
    """
    runs = []
    for each in find_fixtures(METHOD, pattern):
        (fixture,) = each.values
        if fixture is None:
            return [pytest.param(None, None, marks=each.marks, id="absent")]
        given = {k: v for k, v in fixture.manifest.items() if k != "runs"}
        for i, run in enumerate(fixture.manifest.get("runs", [{}])):
            merged = {**given, **run}
            if all(word in merged for word in words):
                runs.append(pytest.param(fixture, merged, id=f"{fixture}-{run.get('name', i)}"))
    return runs or [_skip(f"no run of {METHOD}/{pattern} in this set has {', '.join(words)}", 2)]


def _skip(reason: str, count: int) -> Any:
    return pytest.param(*[None] * count, marks=pytest.mark.skip(reason=reason), id="absent")


def prefix_of(entries: list) -> str:
    return PREFIX if any(key.startswith(PREFIX) for key, *_ in entries) else ""


def spec_of(config: dict, entries: list) -> UNetSpec:
    """Reads a network's shape; the table of steps says how many there are."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    for key, shape, _ in entries:
        if key.endswith("time_embed.weight"):
            fields.setdefault("num_timesteps", shape[0])
    return UNetSpec(**fields)


def make_network(config: dict, entries: list) -> DenoisingUNet:
    """Builds the network of a manifest with weights by the rule, keys as published."""
    prefix = prefix_of(entries)
    network = DenoisingUNet(spec_of(config, entries)).eval()
    listed = [(key, tuple(shape)) for key, shape, _ in entries if key.startswith(prefix)]
    drawn = state_dict_by_rule(listed, {})
    state = {key.removeprefix(prefix): torch.from_numpy(value) for key, value in drawn.items()}
    network.load_state_dict(state)
    return network
