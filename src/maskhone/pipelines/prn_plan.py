"""What a PatchRefineNet pipeline is asked for: its recipe, and where the parts of its data lie."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskhone.data.images import write_image
from maskhone.data.score_maps import MapItem, choose_items, find_map_items
from maskhone.data.splits import read_ids
from maskhone.engine.recipe import split_recipe
from maskhone.engine.weights import find_weights, read_header
from maskhone.errors import InputError, UsageError
from maskhone.methods.prn.config import PRNConfig
from maskhone.methods.prn.train import parse_recipe as parse_prn
from maskhone.pipelines.train_segmenter import parse_recipe as parse_base
from maskhone.pipelines.truth_sets import TruthSet

Progress = Callable[[int, int], None]
ReadRecipe = Callable[[str], Mapping[str, Any]]

TRUTH_KEYS = tuple(field.name for field in fields(TruthSet))

_SET_BY_PIPELINE = (
    "name", "licence", "scores", "targets", "pseudo_labels", "train_list", "logits", "target_value"
)  # fmt: skip
_PREFIXES = ("base_", "prn_", "refine_")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What the pipeline starts from and where it stops.

    Keys of a recipe that begin with `base_`, `prn_` or `refine_` replace lines of the base model's
    recipe, lines of PatchRefineNet's recipe, and options of the refiner.

    Attributes:
        name: of the PatchRefineNet weights.
        licence: of them.
        base: recipe of the base model (`.toml`), or a weight file that is there already.
        prn: recipe of PatchRefineNet (`.toml`), or a weight file that is there already.
        scores: in place of a base model: folder of probability maps, or a stack (`.npy`).
        test_scores: maps to score everything on, of the same form; empty takes some of `scores`.
        test_targets: their truths.
        test_share: without `test_scores` and `test_list`, the share of `scores` that is held back.
        logits: `scores` are logits.
        dataset: see `TruthSet`, as the next three. It replaces all that the base recipe says of
            its data; the others replace a line each.
        root: folder of the data set.
        images: folder of pictures.
        targets: folder of truths; with `scores`, theirs: a folder of the same names, or a stack.
        target_value: the object is where the truth has this number.
        train_list: ids, one a line, to train a base model on; with `scores`, PatchRefineNet.
        validation_list: ids that a base model is validated on and PatchRefineNet trained; with
            `scores`, those that only choose PatchRefineNet's best weights.
        test_list: ids that everything is scored on.
        squares: the base model's maps are squares as its network makes them, as published;
            otherwise of the picture's size.
        form: of the maps: `png` with 16 bits, or `npy`.
        sides_px: of the patches in the report on ceilings.
        device: for scores and refining.
        dtype: likewise.
        first_stage: stages before it are taken as they are.
        last_stage: the pipeline stops after it.
    """

    name: str
    licence: str = "unknown"
    prn: str
    base: str = ""
    scores: str = ""
    test_scores: str = ""
    test_targets: str = ""
    test_share: float = 0.2
    logits: bool = False
    dataset: str = ""
    root: str = ""
    images: str = ""
    targets: str = ""
    target_value: int | None = None
    train_list: str = ""
    validation_list: str = ""
    test_list: str = ""
    squares: bool = True
    form: str = "png"
    sides_px: tuple[int, ...] = (256, 128, 64, 32)
    device: str = "auto"
    dtype: str = "fp32"
    first_stage: str = ""
    last_stage: str = ""

    def __post_init__(self) -> None:
        if bool(self.base) == bool(self.scores):
            raise UsageError("give either base (a recipe or weights) or scores, and not both")
        if self.form not in ("png", "npy"):
            raise UsageError(f"form is {self.form!r}; expected png or npy")
        if bool(self.test_scores) != bool(self.test_targets):
            raise UsageError("test_scores and test_targets go together; give both, or none")
        if self.scores and not self.targets:
            raise UsageError("scores need targets: the folder or stack of their truths")
        others = [n for n in ("dataset", "root", "images") if self.scores and getattr(self, n)]
        others += [n for n in ("test_scores", "logits") if self.base and getattr(self, n)]
        if others:
            raise UsageError(
                f"{', '.join(others)}: goes with {'base' if self.scores else 'scores'}, "
                f"but the recipe has {'scores' if self.scores else 'base'}"
            )
        if not 0 < self.test_share < 1:
            raise UsageError(f"test_share is {self.test_share}; expected more than 0, less than 1")

    @property
    def trains_base(self) -> bool:
        """Whether there is a base model to train."""
        return self.base.endswith(".toml")

    @property
    def trains_prn(self) -> bool:
        """Whether there is a PatchRefineNet to train."""
        return self.prn.endswith(".toml")

    @property
    def is_stack(self) -> bool:
        """Whether the given scores are one array."""
        return self.scores.endswith(".npy")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Maps and truths of one use: to train PatchRefineNet on (`fit`), or to score on (`test`).

    Attributes:
        scores: folder of maps.
        targets: folder of their truths.
        ids: file that lists which of them.
    """

    scores: Path
    targets: Path
    ids: Path

    def find(self) -> list[MapItem]:
        """Finds the maps of the part."""
        wanted = set(read_ids(self.ids))
        return choose_items(find_map_items(self.scores, self.targets, wanted=wanted), self.ids)


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the stages share."""

    plan: Pipeline
    base: Mapping[str, Any]
    prn: Mapping[str, Any]
    config: PRNConfig
    label_cells: int
    options: Mapping[str, Any]
    data: TruthSet | None
    out_dir: Path
    on_progress: Progress | None

    @property
    def is_converted(self) -> bool:
        """Whether the stage of scores writes maps, and not only lists of given ones."""
        return bool(self.plan.base) or self.plan.is_stack or self.plan.logits

    @property
    def target_value(self) -> int | None:
        """The number of the object in the truths that later stages read."""
        return None if self.is_converted else self.plan.target_value

    def part(self, use: str) -> Part:
        """Says where the maps of `fit` or `test` lie once the stage of scores is done."""
        folder, plan = self.out_dir / "scores", self.plan
        ids = folder / f"{use}.txt"
        if self.is_converted:
            return Part(scores=folder / use, targets=folder / f"{use}-targets", ids=ids)
        if use == "test" and plan.test_scores:
            return Part(scores=Path(plan.test_scores), targets=Path(plan.test_targets), ids=ids)
        return Part(scores=Path(plan.scores), targets=Path(plan.targets), ids=ids)

    def report(self, done: int, total: int) -> None:
        """Shows progress."""
        if self.on_progress is not None:
            self.on_progress(done, total)


def parse_recipe(
    recipe: Mapping[str, Any], read_recipe: ReadRecipe
) -> tuple[Pipeline, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Splits a flat table into the pipeline, both recipes, and options of the refiner."""
    own = {k: v for k, v in recipe.items() if k != "method" and not k.startswith(_PREFIXES)}
    (plan,) = split_recipe(own, [Pipeline])
    parts = []
    for prefix in _PREFIXES:
        named = {"base_": plan.base, "prn_": plan.prn}.get(prefix, "")
        table = dict(read_recipe(named)) if named.endswith(".toml") else {}
        given = {k.removeprefix(prefix): v for k, v in recipe.items() if k.startswith(prefix)}
        parts.append({**table, **given})
    base, prn, options = parts
    if plan.trains_base:
        if plan.dataset:  # another set: nothing of the recipe's own one stays
            base = {k: v for k, v in base.items() if k not in TRUTH_KEYS}
        base.update({k: v for k in TRUTH_KEYS if (v := getattr(plan, k)) not in ("", None)})
        parse_base(base)
    elif base:
        raise UsageError(f"base_{next(iter(base))}: there is no base model to train")
    if not plan.trains_prn:
        if prn:
            raise UsageError(f"prn_{next(iter(prn))}: there is no PatchRefineNet to train")
        return plan, base, {}, options
    foreign = [k for k in _SET_BY_PIPELINE if f"prn_{k}" in recipe]
    if foreign:
        raise UsageError(f"prn_{foreign[0]}: the pipeline itself sets this; leave it out")
    prn = {k: v for k, v in prn.items() if k not in _SET_BY_PIPELINE}
    prn = {**prn, "name": plan.name, "licence": plan.licence, "scores": "-", "targets": "-"}
    parse_prn(prn)
    return plan, base, prn, options


def plan_job(
    recipe: Mapping[str, Any], out_dir: Path, read_recipe: ReadRecipe, on_progress: Progress | None
) -> Job:
    """Reads all recipes, and the configuration of weights that are given."""
    plan, base, prn, options = parse_recipe(recipe, read_recipe)
    if plan.trains_prn:
        _, config, maps, _, _ = parse_prn(prn)
        label_cells = maps.label_cells or config.label_cells
    else:
        config = PRNConfig(**read_header(find_weights(plan.prn)).get("config", {}))
        label_cells = config.label_cells
    data = None
    if plan.trains_base:
        data = TruthSet(**{k: v for k, v in base.items() if k in TRUTH_KEYS})
    elif plan.base:
        given = {k: v for k in TRUTH_KEYS if (v := getattr(plan, k)) not in ("", None)}
        data = TruthSet(**given)
    return Job(
        plan=plan,
        base=base,
        prn=prn,
        config=config,
        label_cells=label_cells,
        options=options,
        data=data,
        out_dir=out_dir,
        on_progress=on_progress,
    )


def find_made_weights(folder: Path) -> Path:
    """Finds the weight file that a stage made."""
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise InputError(f"{folder}: holds {len(found)} weight files, expected one")
    return found[0]


def join_problems(problems: Sequence[str]) -> str:
    """Says the first problem, and how many more there are."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"


def write_truth(path: Path, mask: NDArray[np.bool_]) -> None:
    """Writes an `(H, W)` mask as a picture of 0 and 255."""
    write_image(path, mask.astype(np.uint8) * np.uint8(255))
