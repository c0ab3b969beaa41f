"""Chooses the numbers of --guard on train lists, and judges them by leave-one-set-out.

    OMP_NUM_THREADS=1 python benchmarks/guard.py DATA [--methods bpr,crf] [--looks FOLDER]

Some training pictures of every set are refined as `ops/looks.py` does it, with the coarse masks as
they are and cut at one half. What the guard could make of each mask is scored: the first look, the
average of the looks, the vote at several majorities. From that the numbers of `ops/guard.py` are
fitted, without each set in turn, and tables say what they give on the set that was left out.

With --looks, answers of refiners are kept there and taken from there, so that a run can be
stopped and go on; a folder is good for the weights that it is named after, but knows nothing of
changes of the code. Results are merged, method by method, into benchmarks/results/guard.json;
those of other weights or of another count are written only where --json says.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from guard_fit import Ballot, Mask, Trust, fit_trust, fit_votes
from guard_tables import ALL, INPUTS, MAJORITIES, UNTRUSTED, name_vote, tabulate, to_markdown
from numpy.typing import NDArray
from quality import describe
from quality_sets import SETS, spread

from maskhone.contracts import FOREGROUND, Image, LooksAgain, Refiner
from maskhone.data.files import write_text
from maskhone.data.folder import find_training_items, load_training_item
from maskhone.data.images import read_label_map, write_image
from maskhone.engine.weights import find_weights, read_header
from maskhone.methods.catalogue import METHODS, load
from maskhone.metrics.boundary import mean_boundary_accuracy
from maskhone.metrics.region import iou
from maskhone.ops.guard import RULES, GuardRule, Signs, Verdict, judge
from maskhone.ops.guided_filter import guide_masks
from maskhone.ops.looks import Looks, take_looks
from maskhone.ops.masks import IGNORE_LABEL, to_steps

COUNT = 12
RESULTS = Path(__file__).parent / "results" / "guard.json"

_TOP = 65535  # of 16-bit pictures
_MOST_PIXELS = 2000  # of a mask that the votes are fitted on
_MOST_STAKE = 0.5  # share of the object; a mask that changes more counts as if it changed this


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A coarse mask and all that it is judged by.

    Attributes:
        set: name of the set.
        id: of the picture.
        input: `soft` or `hard`.
        image: `(H, W, 3)` uint8 RGB.
        coarse: `(H, W)` scores.
        truth: `(H, W)` bool.
        ignore: `(H, W)` bool, pixels that are not scored.
    """

    set: str
    id: str
    input: str
    image: Image
    coarse: NDArray[np.float32]
    truth: NDArray[np.bool_]
    ignore: NDArray[np.bool_]


def main() -> None:
    """Measures, fits and judges one method after another."""
    arguments = parse_arguments()
    cv2.setNumThreads(torch.get_num_threads())
    for method in arguments.methods.split(","):
        weights = arguments.weights if METHODS[method].uses_weights else None
        refiner = load(method, weights=weights)
        masks, ballots = [], []
        for case in find_cases(arguments.data, arguments.count):
            looks = look(refiner, case, find_folder(arguments.looks, method, weights, case))
            mask, ballot = measure(case, looks)
            masks.append(mask)
            ballots += [ballot] if ballot is not None else []
            if case.input == INPUTS[-1]:
                print(method, case.set, case.id, flush=True)
        found = conclude(masks, ballots, can_be_trusted=isinstance(refiner, LooksAgain))
        print(to_markdown(method, found), flush=True)
        if arguments.json is not None:
            about = {"count": arguments.count, "weights": name_weights(method, weights)}
            merge(arguments.json, method, {**about, **describe(), **found})


def parse_arguments() -> argparse.Namespace:
    """Reads the command line; results that cannot be compared have no place by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", default="bpr")
    parser.add_argument("--count", type=int, default=COUNT, help="pictures of each set")
    parser.add_argument("--looks", type=Path, help="folder that keeps the answers of refiners")
    parser.add_argument("--weights", help="a file that is not bundled, for methods that have any")
    parser.add_argument("--json", type=Path, help=f"default: {RESULTS.name} for bundled weights")
    arguments = parser.parse_args()
    unknown = set(arguments.methods.split(",")) - set(METHODS)
    if unknown:
        parser.error(f"unknown methods: {', '.join(unknown)}; known: {', '.join(METHODS)}")
    if arguments.json is None and arguments.count == COUNT and arguments.weights is None:
        arguments.json = RESULTS
    return arguments


def find_cases(data: Path, count: int) -> Iterator[Case]:
    """Reads training pictures of every set, evenly spaced, each with a soft and a hard mask."""
    for name, (coarse, value) in SETS.items():
        items = find_training_items(data / name, "train", coarse=coarse, truth_value=value)
        chosen = set(spread([item.id for item in items], count))
        for item in items:
            if item.id not in chosen:
                continue
            sample = load_training_item(item)
            assert sample.target is not None
            truth = sample.target[0] > FOREGROUND
            void = np.zeros_like(truth)  # in black and white, 255 is the object
            if value is not None:
                void = read_label_map(item.truth_path) == IGNORE_LABEL
            soft = sample.masks[0]
            hard = (soft > FOREGROUND).astype(np.float32)
            for kind, scores in zip(INPUTS, (soft, hard), strict=True):
                yield Case(
                    set=name,
                    id=item.id,
                    input=kind,
                    image=sample.image,
                    coarse=scores,
                    truth=truth,
                    ignore=void,
                )


def name_weights(method: str, weights: str | None) -> str | None:
    """Says which weights a method uses: name and the beginning of their hash."""
    if not METHODS[method].uses_weights:
        return None
    path = find_weights(weights or METHODS[method].bundled)
    return f"{path.stem}-{read_header(path)['sha256'][:8]}"


def find_folder(root: Path | None, method: str, weights: str | None, case: Case) -> Path | None:
    """Names the folder of the looks at one mask: METHOD[-WEIGHTS]/INPUT/SET/ID."""
    if root is None:
        return None
    named = name_weights(method, weights)
    return root / (f"{method}-{named}" if named else method) / case.input / case.set / case.id


def look(refiner: Refiner, case: Case, folder: Path | None) -> Looks:
    """Takes looks at a mask, `(H, W)` scores each; with a folder as it has them, in 16 bits."""
    if folder is not None and folder.is_dir():
        stored = [read_label_map(path) for path in sorted(folder.glob("*.png"))]
        scores = tuple(each.astype(np.float32) / np.float32(_TOP) for each in stored)
        return Looks(scores=scores, can_be_trusted=isinstance(refiner, LooksAgain))
    looks = take_looks(refiner, case.image, case.coarse[None]).of(0)
    if folder is None:
        return looks
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for i, answer in enumerate(looks.scores):
        write_image(unfinished / f"{i}.png", to_steps(answer, _TOP).astype(np.uint16))
    unfinished.replace(folder)
    return look(refiner, case, folder)


def measure(case: Case, looks: Looks) -> tuple[Mask, Ballot | None]:
    """Scores all that the guard could make of one mask.

    Returns:
        `set`, `mask`, `input`, `signs` (None where nothing changed) and `scores`: IoU and mBA of
        `coarse`, `off` (the first look), `average` (of the looks: what a trusted object gets), the
        votes, and the vote in which trust gives no voice. And the votes on pixels.
    """
    made = {"coarse": case.coarse, "off": looks.scores[0]}
    trusted = replace(looks, can_be_trusted=True)
    made["average"] = _judge(case, trusted, least_trust=-1.0, majority=0.0).scores
    silent = replace(looks, can_be_trusted=False)
    majority = RULES["safe"].majority
    made[UNTRUSTED] = _judge(case, silent, least_trust=2.0, majority=majority).scores
    signs: Signs | None = None
    for majority in MAJORITIES:
        verdict = _judge(case, looks, least_trust=2.0, majority=majority)
        made[name_vote(majority)], signs = verdict.scores, verdict.signs
    mask = {
        "set": case.set,
        "mask": case.id,
        "input": case.input,
        "signs": None if signs is None else asdict(signs),
        "scores": {key: _score(case, scores) for key, scores in made.items()},
    }
    return mask, None if signs is None else _poll(case, looks, signs)


def _judge(case: Case, looks: Looks, *, least_trust: float, majority: float) -> Verdict:
    """Judges by a rule that no word names; nobody reaches a trust of 2."""
    rule = GuardRule(least_trust=least_trust, least_agreement=0.0, majority=majority)
    with patch.dict(RULES, {"safe": rule}):
        return judge(case.image, case.coarse, looks, guard="safe")


def _score(case: Case, scores: NDArray[np.float32]) -> list[float]:
    mask = scores > FOREGROUND
    metrics = (iou, mean_boundary_accuracy)
    return [metric(mask, case.truth, ignore=case.ignore) for metric in metrics]


def _poll(case: Case, looks: Looks, signs: Signs) -> Ballot | None:
    """Collects the votes on some of the pixels that a look or the guided filter would change."""
    guided = guide_masks(case.image, case.coarse[None])[0]
    before = case.coarse > FOREGROUND
    wanted = np.any([(s > FOREGROUND) != before for s in (*looks.scores, guided)], axis=0)
    at = np.flatnonzero(wanted & ~case.ignore)
    if not len(at):
        return None
    stake = min(len(at) / (np.count_nonzero(case.truth) + 1), _MOST_STAKE)
    at = np.random.default_rng(0).permutation(at)[:_MOST_PIXELS]
    refined = looks.average()
    voters = (guided, case.coarse, before)
    votes = [signs.steadiness * (2 * refined - 1), *(2 * s - 1 for s in voters)]
    return Ballot(
        group=(case.set, case.input),
        votes=np.stack([vote.reshape(-1)[at] for vote in votes], axis=1).astype(np.float32),
        truth=case.truth.reshape(-1)[at],
        stake=float(np.sqrt(stake)),
    )


def conclude(
    masks: Sequence[Mask], ballots: Sequence[Ballot], *, can_be_trusted: bool
) -> dict[str, Any]:
    """Fits the numbers on all sets and without each of them, and judges them on the one left out.

    Returns:
        `trust` and `votes`: the fits, by the set that was left out; both empty for methods that
        cannot be trusted as a whole. `tables`, and the `masks`.
    """
    trusts: dict[str, Trust] = {}
    votes: dict[str, dict[str, float]] = {}
    for name in (*SETS, ALL) if can_be_trusted else ():
        trusts[name] = fit_trust([mask for mask in masks if mask["set"] != name], vote=UNTRUSTED)
        votes[name] = fit_votes([ballot for ballot in ballots if ballot.group[0] != name])
    return {
        "trust": {name: {**each.weights, "offset": each.offset} for name, each in trusts.items()},
        "votes": votes,
        "tables": tabulate(masks, trusts),
        "masks": list(masks),
    }


def merge(path: Path, method: str, found: dict[str, Any]) -> None:
    """Puts the results of one method into the file, beside those of others."""
    known = json.loads(path.read_text()) if path.exists() else {}
    known = {name: each for name, each in known.items() if name in METHODS and "masks" in each}
    write_text(path, _to_json({**known, method: found}))


def _to_json(known: dict[str, Any]) -> str:
    """Writes one thing a line: of methods every entry, of masks every mask."""
    methods = []
    for method, found in known.items():
        entries = {key: json.dumps(_shorten(value)) for key, value in found.items()}
        lines = ",\n   ".join(json.dumps(_shorten(mask)) for mask in found["masks"])
        entries["masks"] = f"[\n   {lines}\n  ]"
        listed = ",\n  ".join(f'"{key}": {text}' for key, text in entries.items())
        methods.append(f'"{method}": {{\n  {listed}\n }}')
    return "{\n " + ",\n ".join(methods) + "\n}\n"


def _shorten(value: Any) -> Any:
    """Rounds numbers to five decimals, and writes an undefined one as none."""
    if isinstance(value, dict):
        return {key: _shorten(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shorten(each) for each in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 5)
    return value


if __name__ == "__main__":
    main()
