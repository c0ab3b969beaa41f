from dataclasses import dataclass

import pytest

from maskhone.engine.recipe import split_recipe
from maskhone.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Size:
    width: int
    height: int = 2


@dataclass(frozen=True, kw_only=True)
class Colour:
    names: tuple[str, ...] = ()


def test_keys_go_to_the_dataclass_that_has_them():
    table = {"names": ["red", "blue"], "width": 3}
    assert split_recipe(table, [Size, Colour]) == [Size(width=3), Colour(names=("red", "blue"))]


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(UsageError, match="'widht'; did you mean width"):
        split_recipe({"widht": 3}, [Size, Colour])


def test_a_key_like_no_other_is_refused_with_all_known_ones():
    with pytest.raises(UsageError, match="height, names, width"):
        split_recipe({"zzz": 3}, [Size, Colour])


def test_a_missing_key_is_named():
    with pytest.raises(UsageError, match="lacks width"):
        split_recipe({"height": 3}, [Size, Colour])
