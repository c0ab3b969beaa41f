"""The second names that tensors have in the published checkpoints of Puzzle-CAM.

The original networks hold their body twice, once whole and once by stages, so that every tensor of
it lies in the file under two names, and in AffinityNet's under three. Ours hold each tensor once.

    published                     ours
    stage1.0.*                    model.conv1.*
    stage1.1.*                    model.bn1.*
    stage2.0|3.0|4.0|5.0.*        model.layer1|2|3|4.*
    backbone.0.0.*                model.conv1.*          AffinityNet
    backbone.0.1.*                model.bn1.*            AffinityNet
    backbone.1.0|2.0|3.0|4.0.*    model.layer1|2|3|4.*   AffinityNet
    edge_layers.0|1|2|3|4|5.*     fc_edge1|2|3|4|5|6.*   AffinityNet

Source: PerimeterFit section 1.3.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from maskhone.errors import WeightsError

Aliases = Mapping[str, str]
"""Published prefix to our prefix, both with their last dot."""

STAGE_ALIASES: Aliases = {
    "stage1.0.": "model.conv1.",
    "stage1.1.": "model.bn1.",
    "stage2.0.": "model.layer1.",
    "stage3.0.": "model.layer2.",
    "stage4.0.": "model.layer3.",
    "stage5.0.": "model.layer4.",
}
"""Of the classifier and of DeepLabv3+."""

AFFINITY_ALIASES: Aliases = {
    **STAGE_ALIASES,
    "backbone.0.0.": "model.conv1.",
    "backbone.0.1.": "model.bn1.",
    "backbone.1.0.": "model.layer1.",
    "backbone.2.0.": "model.layer2.",
    "backbone.3.0.": "model.layer3.",
    "backbone.4.0.": "model.layer4.",
    "edge_layers.0.": "fc_edge1.",
    "edge_layers.1.": "fc_edge2.",
    "edge_layers.2.": "fc_edge3.",
    "edge_layers.3.": "fc_edge4.",
    "edge_layers.4.": "fc_edge5.",
    "edge_layers.5.": "fc_edge6.",
}
"""Of AffinityNet; its `path_indices_*` are computed anew and no aliases."""


def remove_aliases(
    state: Mapping[str, Tensor], aliases: Aliases = STAGE_ALIASES, *, source: str = "weights"
) -> dict[str, Tensor]:
    """Returns the tensors under our names alone, once every second name has been accounted for.

    A state dict without any second names passes, as ours do.

    Args:
        state: with second names for all tensors, or for none.
        aliases: `STAGE_ALIASES` or `AFFINITY_ALIASES`.
        source: what to call the tensors in a message.

    Raises:
        WeightsError: a second name lacks the first or differs from it, or some names of the two
            kinds are missing.

    Example:
        >>> whole = {"model.bn1.bias": torch.zeros(2), "stage1.1.bias": torch.zeros(2)}
        >>> list(remove_aliases(whole))
        ['model.bn1.bias']
    """
    second = {key: first for key in state if (first := find_first_name(key, aliases))}
    kept = {key: value for key, value in state.items() if key not in second}
    for key, first in second.items():
        if first not in kept:
            raise WeightsError(
                f"{source}: {key} stands there twice in published files, but {first} is missing"
            )
        if not _are_same(state[key], kept[first]):
            raise WeightsError(
                f"{source}: {key} and {first} should be one tensor, but their values differ; "
                "the file is damaged or was changed by hand"
            )
    expected = list_aliases(kept, aliases) if second else {}
    lacking = [key for key in expected if key not in second]
    if lacking:
        raise WeightsError(
            f"{source}: has some names twice, but not {lacking[0]} ({len(lacking)} such); "
            "the file is not whole"
        )
    return kept


def add_aliases(state: Mapping[str, Tensor], aliases: Aliases = STAGE_ALIASES) -> dict[str, Tensor]:
    """Returns the tensors under all names, in the published order, for the original scripts.

    Example:
        >>> state = {"model.bn1.bias": torch.zeros(2), "classifier.weight": torch.zeros(1)}
        >>> list(add_aliases(state))
        ['model.bn1.bias', 'stage1.1.bias', 'classifier.weight']
    """
    second = list_aliases(state, aliases)
    body = {key: value for key, value in state.items() if key.startswith("model.")}
    stages = {key: state[first] for key, first in second.items() if key.startswith("stage")}
    heads = {key: value for key, value in state.items() if key not in body}
    others = {key: state[first] for key, first in second.items() if key not in stages}
    return {**body, **stages, **heads, **others}


def find_first_name(key: str, aliases: Aliases = STAGE_ALIASES) -> str | None:
    """Finds our name of a published second name; None for what is no second name.

    Example:
        >>> find_first_name("stage2.0.0.conv1.weight")
        'model.layer1.0.conv1.weight'
    """
    for published, ours in aliases.items():
        if key.startswith(published):
            return ours + key.removeprefix(published)
    return None


def list_aliases(state: Mapping[str, Tensor], aliases: Aliases = STAGE_ALIASES) -> dict[str, str]:
    """Lists the second names of our names, in the published order: second name to ours."""
    return {
        published + key.removeprefix(ours): key
        for published, ours in aliases.items()
        for key in state
        if key.startswith(ours)
    }


def _are_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
