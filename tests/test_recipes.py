"""Every shipped recipe can be read by the method that it names."""

from pathlib import Path

import pytest

from maskhone.errors import UsageError
from maskhone.methods.bpr.train import parse_recipe as parse_bpr
from maskhone.methods.catalogue import METHODS
from maskhone.methods.segrefiner.train import parse_recipe as parse_segrefiner
from maskhone.pipelines.train import read_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
PARSERS = {"bpr": parse_bpr, "segrefiner": parse_segrefiner}


def parse(table):
    return PARSERS[table["method"].split("-")[0]](table)


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_is_in_order(path):
    table = read_recipe(path)
    assert METHODS[table["method"]].train is not None
    identity, _, _, _, schedule = parse(table)
    assert identity.name == path.stem
    assert schedule.iterations > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_an_unknown_key_is_refused_by_name(path):
    with pytest.raises(UsageError, match="iteratoins"):
        parse({**read_recipe(path), "iteratoins": 5})
