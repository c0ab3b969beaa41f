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


@dataclass(frozen=True, kw_only=True)
class Kinds:
    scales: tuple[float, ...] = (1.0,)
    size: tuple[int, int] = (1, 2)
    is_on: bool = True
    share: float | None = None
    name: str = ""


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"scales": 1.0}, "scales is 1.0; expected a list, each a number"),
        ({"scales": ["a"]}, "expected a list, each a number"),
        ({"size": [1]}, "size is (1,); expected a list, each a whole number"),
        ({"is_on": "no"}, "is_on is 'no'; expected true or false"),
        ({"is_on": 1}, "expected true or false"),
        ({"share": "half"}, "share is 'half'; expected a number"),
        ({"share": True}, "expected a number"),
        ({"name": 3}, "name is 3; expected a text"),
    ],
)
def test_a_value_of_another_type_is_refused_in_a_line(table, said):
    with pytest.raises(UsageError) as caught:
        split_recipe(table, [Kinds])
    assert said in str(caught.value)


def test_whole_numbers_may_stand_for_others_and_none_for_what_may_be_left_out():
    table = {"scales": [1, 0.5], "size": [3, 4], "share": None}
    assert split_recipe(table, [Kinds]) == [Kinds(scales=(1, 0.5), size=(3, 4))]
