"""The tables of the guard: what each way of guarding does to each set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from guard_fit import Mask, Trust
from quality_tables import LOST

from maskhone.ops.guard import RULES, TRUST_OFFSET, TRUST_WEIGHTS, GuardRule

INPUTS = ("soft", "hard")
"""Coarse masks as they are, and cut at one half."""

MAJORITIES = tuple(sorted({0.0, 0.3, 0.5, 0.7, 1.0} | {rule.majority for rule in RULES.values()}))

LEAST_TRUSTS = (0.5, 0.6, 0.7, 0.8, 0.9)

ALL = "all"
"""In place of the name of a set that is left out: none is."""

UNTRUSTED = "vote without trust"
"""The scores that trust is fitted against: of a vote in which the refiner has no voice by trust."""

Outcome = tuple[str, bool]  # name of the scores that a mask gets, and whether it is trusted
Choice = Callable[[Mask], Outcome]
Cells = dict[str, dict[str, float | None]]  # of each set


def name_vote(majority: float) -> str:
    """Names the scores of the vote alone.

    Example:
        >>> name_vote(0.5)
        'vote 0.5'
    """
    return f"vote {majority:g}"


def name_trust(least_trust: float) -> str:
    """Names the way that trusts from so much on, by what the other sets choose, or votes."""
    return f"trust {least_trust:g}"


def decide(mask: Mask, trust: Trust, rule: GuardRule) -> Outcome:
    """Says what the guard would make of a mask, as `maskhone.ops.guard.judge` does."""
    if mask["signs"] is None:
        return "off", True
    is_near = mask["signs"]["agreement"] >= rule.least_agreement
    if is_near and trust.of(mask["signs"]) > rule.least_trust:
        return "average", True
    return name_vote(rule.majority), False


def tabulate(masks: Sequence[Mask], trusts: Mapping[str, Trust]) -> dict[str, dict[str, Cells]]:
    """Says for each kind of input and way of guarding what becomes of each set.

    Args:
        masks: as measured.
        trusts: fitted without the set that they are called by; none for methods that cannot be
            trusted as a whole, whose guard is the vote.
    """
    ways = {"off": _take("off"), "average of the looks": _take("average")}
    if trusts:
        now = dict.fromkeys(trusts, Trust(weights=TRUST_WEIGHTS, offset=TRUST_OFFSET))
        ways["vote only"] = _take(name_vote(RULES["safe"].majority))
        for said, numbers in (("fitted on the other sets", trusts), ("as it is", now)):
            ways |= {f"{word}, {said}": _follow(numbers, rule) for word, rule in RULES.items()}
        for least in LEAST_TRUSTS:
            rule = replace(RULES["safe"], least_trust=least)
            ways[name_trust(least)] = _follow(trusts, rule)
    else:
        ways |= {word: _take(name_vote(rule.majority)) for word, rule in RULES.items()}
    ways |= {name: _take(name) for name in map(name_vote, MAJORITIES)}
    tables: dict[str, dict[str, Cells]] = {}
    for kind in INPUTS:
        own = [mask for mask in masks if mask["input"] == kind]
        tables[kind] = {way: _compare(own, choose) for way, choose in ways.items()}
    return tables


def _take(name: str) -> Choice:
    return lambda mask: (name, name in ("off", "average"))


def _follow(trusts: Mapping[str, Trust], rule: GuardRule) -> Choice:
    return lambda mask: decide(mask, trusts[mask["set"]], rule)


def _compare(masks: Sequence[Mask], choose: Choice) -> Cells:
    """Compares what masks become with the coarse ones.

    Returns:
        For each set `iou` and `mba`, mean changes; `worse`, the share of masks whose IoU falls by
        more than `LOST`; `trusted`, the share that gets the refined scores.
    """
    cells: Cells = {}
    for name in dict.fromkeys(mask["set"] for mask in masks):
        own = [mask for mask in masks if mask["set"] == name]
        outcomes = [choose(mask) for mask in own]
        after = [mask["scores"][key] for mask, (key, _) in zip(own, outcomes, strict=True)]
        before = [mask["scores"]["coarse"] for mask in own]
        changes = np.array(after, dtype=float) - np.array(before, dtype=float)
        has_outline = ~np.isnan(changes[:, 1])
        cells[name] = {
            "iou": float(changes[:, 0].mean()),
            "mba": float(changes[has_outline, 1].mean()) if has_outline.any() else None,
            "worse": float((changes[:, 0] < -LOST).mean()),
            "trusted": float(np.mean([is_trusted for _, is_trusted in outcomes])),
        }
    return cells


def to_markdown(method: str, found: dict[str, Any]) -> str:
    """Makes the tables of one method, and the lines that are pasted into ops/guard.py."""
    parts = [f"## {method}"]
    if found["trust"]:
        parts += [_to_fits("left out", found["trust"]), _to_code(found["trust"][ALL])]
    if found["votes"]:
        parts += [_to_fits("left out, votes", found["votes"])]
    for kind, ways in found["tables"].items():
        votes = [name_vote(majority) for majority in MAJORITIES]
        tried = [name for name in map(name_trust, LEAST_TRUSTS) if name in ways]
        shown = [way for way in ways if way not in {*votes, *tried}]
        parts += [
            f"### {method}, {kind} masks: change of IoU / mBA, share of masks that lose more than "
            "a point, share trusted",
            *(_to_table(ways, names) for names in (shown, tried + votes)),
        ]
    return "\n\n".join(parts)


def _to_fits(head: str, fits: Mapping[str, Mapping[str, float]]) -> str:
    names = list(next(iter(fits.values())))
    lines = [_line(head, names), _line("---", ["---"] * len(names))]
    return "\n".join(
        [*lines, *(_line(k, [f"{v:.2f}" for v in fit.values()]) for k, fit in fits.items())]
    )


def _to_code(fit: Mapping[str, float]) -> str:
    weights = {name: round(value, 1) for name, value in fit.items() if name != "offset"}
    shown = ", ".join(f'"{name}": {value}' for name, value in weights.items())
    return f"    TRUST_WEIGHTS = {{{shown}}}\n    TRUST_OFFSET = {fit['offset']:.1f}"


def _to_table(ways: Mapping[str, Cells], names: Sequence[str]) -> str:
    sets = list(ways[names[0]])
    lines = [_line("guard", sets), _line("---", ["---"] * len(sets))]
    for name in names:
        shows_trust = not name.startswith(("off", "average", "vote"))
        lines.append(_line(name, [_to_cell(ways[name][key], shows_trust) for key in sets]))
    return "\n".join(lines)


def _to_cell(cell: Mapping[str, float | None], shows_trust: bool) -> str:
    gains = ["-" if (x := cell[key]) is None else f"{100 * x:+.1f}" for key in ("iou", "mba")]
    shares = [f"{100 * (cell['worse'] or 0):.0f} %"]
    if shows_trust:
        shares.append(f"{100 * (cell['trusted'] or 0):.0f} %")
    return " / ".join(gains) + ", " + ", ".join(shares)


def _line(first: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"
