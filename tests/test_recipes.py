"""Every shipped recipe can be read by the method that it names."""

from pathlib import Path

import pytest

from maskhone.engine.recipe import split_recipe
from maskhone.errors import UsageError
from maskhone.methods.bpr.train import parse_recipe as parse_bpr
from maskhone.methods.perimeterfit.train_affinity import parse_affinity_recipe
from maskhone.methods.perimeterfit.train_classifier import parse_classifier_recipe
from maskhone.methods.perimeterfit.train_segmenter import parse_segmenter_recipe
from maskhone.methods.prn.train import parse_recipe as parse_prn
from maskhone.methods.rws.train import parse_recipe as parse_rws
from maskhone.methods.segrefiner.train import parse_recipe as parse_segrefiner
from maskhone.pipelines.prn_few_shot import FewShot
from maskhone.pipelines.prn_plan import parse_recipe as parse_prn_pipeline
from maskhone.pipelines.pseudo.plan import parse_recipe as parse_pseudo
from maskhone.pipelines.train import list_trainable, read_named_recipe, read_recipe
from maskhone.pipelines.train_segmenter import parse_recipe as parse_base
from maskhone.segmenters.catalogue import SEGMENTERS

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
PARSERS = {
    "bpr": parse_bpr,
    "prn": parse_prn,
    "rws": parse_rws,
    "segrefiner": parse_segrefiner,
    **dict.fromkeys(SEGMENTERS, parse_base),
    "classifier": parse_classifier_recipe,
    "affinitynet": parse_affinity_recipe,
    "deeplabv3plus": parse_segmenter_recipe,
}
PIPELINE_PARSERS = {
    "pseudo-labels": lambda table: (parse_pseudo(table, Path()).plan, None),
    "prn-few-shot": lambda table: (*split_recipe(without(table, "method"), [FewShot]), None),
    "prn-pipeline": lambda table: parse_prn_pipeline(
        table, lambda name: read_named_recipe(name, beside=RECIPES[0])
    ),
}


def without(table, key):
    return {k: v for k, v in table.items() if k != key}


def parse(table):
    method = table["method"]
    return (PIPELINE_PARSERS.get(method) or PARSERS[method.split("-")[0]])(table)


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_is_in_order(path):
    table = read_recipe(path)
    assert table["method"] in (*list_trainable(), "pseudo-labels")
    first, *_, last = parse(table)
    if table["method"] in PIPELINE_PARSERS:
        assert first.name.split(".")[1:] == path.stem.split(".")[1:]
    else:
        assert first.name == path.stem
        assert last.iterations > 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_an_unknown_key_is_refused_by_name(path):
    with pytest.raises(UsageError, match="lerning_rate"):
        parse({**read_recipe(path), "lerning_rate": 5})
