"""What AffinityNet learns: which pairs of near pixels are of one class, and its loss.

B batch, D directions, S sources, h and w of the grid. Source: Ahn and Kwak, "Learning Pixel-level
Semantic Affinity with Image-level Supervision", CVPR 2018; OFRIN/PuzzleCAM:core/aff_utils.py,
train_affinitynet.py.
"""

from typing import NamedTuple

from torch import Tensor

from maskhone.methods.perimeterfit.pairs import PathIndex

IGNORE = 255
"""The label of a pixel about which nothing is known (VOC)."""

_LEAST = 1e-5  # train_affinitynet.py: inside the logarithm, and for a kind without a pair


class PairKinds(NamedTuple):
    """What is known of each pair, `(B, D, S)` bool; a pair with an unknown end is of no kind."""

    background: Tensor
    foreground: Tensor
    different: Tensor


class AffinityLosses(NamedTuple):
    """The mean loss of the pairs of each kind, and of all; scalars."""

    background: Tensor
    foreground: Tensor
    different: Tensor
    total: Tensor


def sort_pairs(labels_Bhw: Tensor, index: PathIndex) -> PairKinds:
    """Sorts pairs by their labels: both background, both of one class, of two classes.

    Args:
        labels_Bhw: integers: 0 background, then classes, 255 unknown.
        index: of a grid of this size.

    Differs: any label but 255 is a class; the original takes 21 and more for unknown.
    """
    assert tuple(labels_Bhw.shape[1:]) == index.size_hw, "an index of another grid"
    flat = labels_Bhw.flatten(1)
    start, end = flat[:, None, index.sources], flat[:, index.destinations]
    is_known = (start != IGNORE) & (end != IGNORE)
    is_one = is_known & (start == end)
    return PairKinds(is_one & (start == 0), is_one & (start > 0), is_known & (start != end))


def find_losses(affinities_BDS: Tensor, kinds: PairKinds) -> AffinityLosses:
    """Computes the cross entropy of the affinities, each kind of pair by itself.

    Args:
        affinities_BDS: in [0, 1], of `measure_affinities`.
        kinds: of the same pairs.

    Returns:
        The mean of each kind over the whole batch, 0 for one that does not occur. The total is
        half of (half of background and foreground, plus different).
    """
    together = -(affinities_BDS + _LEAST).log()
    apart = -(1 + _LEAST - affinities_BDS).log()
    background = _mean(together, kinds.background)
    foreground = _mean(together, kinds.foreground)
    different = _mean(apart, kinds.different)
    total = ((background + foreground) / 2 + different) / 2
    return AffinityLosses(background, foreground, different, total)


def _mean(loss: Tensor, is_counted: Tensor) -> Tensor:
    return (loss * is_counted).sum() / (is_counted.sum() + _LEAST)
