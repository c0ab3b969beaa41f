"""Asks the methods that can be sure first, and the others about masks of which none is sure."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from maskhone.contracts import FOREGROUND, Image, Refiner, Scores
from maskhone.methods.auto.config import CAN_BE_SURE, START_RATES, AutoConfig
from maskhone.ops.band import limit_looks
from maskhone.ops.committee import Choice, choose_from_opinions, find_surest
from maskhone.ops.groups import split_masks
from maskhone.ops.guard import Guard, Opinion, form_opinion
from maskhone.ops.looks import Looks, take_looks
from maskhone.ops.masks import choose_band, surround

_LOOKS_OF_THE_SURE, _LOOKS_AT_MOST = 2, 3  # of a method, see `take_looks`
_BAND_SHARE, _WINDOW_BANDS = 0.05, 4  # as the classical refiners look around an object
_WARM_UP_PX = 32


class AutoRefiner:
    """Asks several methods about every mask and takes what the committee makes of it.

    Args:
        config: which methods, and how long they may take.
        load: makes the refiner of a name; called when it is first needed.
        clock: returns seconds.
    """

    def __init__(
        self,
        *,
        config: AutoConfig,
        load: Callable[[str], Refiner],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.config = config
        self.load = load
        self.clock = clock
        self.members: dict[str, Refiner] = {}
        self.measured: dict[tuple[str, bool], tuple[float, float]] = {}
        """Name, and whether it ran once only, without a guard -> seconds, megapixels."""

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Returns what was chosen for each of `(N, H, W)` scores, under the safe guard."""
        choices = self.choose_each(image, masks, guard="safe")
        scores = np.array([choice.scores for choice in choices], dtype=np.float32)
        return scores.reshape(masks.shape)

    def choose_each(
        self, image: Image, masks: Scores, *, guard: Guard, band_px: int = 0
    ) -> list[Choice]:
        """Chooses for each mask, and says why.

        Args:
            image: `(H, W, 3)` uint8 RGB.
            masks: `(N, H, W)` scores.
            guard: how sure is sure; `off` takes the first method that fits into the time.
            band_px: when positive, nothing further than this from the coarse outline is looked at
                or changed.
        """
        areas = [measure_window(scores) for scores in masks]
        copies = _LOOKS_AT_MOST * len(self.config.names)
        choices: list[Choice] = []
        for here in split_masks(len(masks), masks.shape[1:], copies=copies):
            time_share = sum(areas[here]) / max(sum(areas), 1e-9)
            group = _Group(
                image=image,
                masks=masks[here],
                guard=guard,
                band_px=band_px,
                megapixels=areas[here],
                allowed=self.config.seconds * time_share,
                began=self.clock(),
            )
            self._ask_all(group)
            choices += group.choose()
        return choices

    def _ask_all(self, group: "_Group") -> None:
        """Asks the methods that fit into the time about the masks that need them."""
        names, guard = self.config.names, group.guard
        everything = range(len(group.masks))
        if guard == "off":
            for name in names:
                if not any(group.opinions):
                    self._ask(name, group, everything)
            return
        for name in names:
            if name in CAN_BE_SURE:
                self._ask(name, group, everything)
        unsure = [i for i in everything if find_surest(group.opinions[i], guard=guard) is None]
        others = [name for name in names if name not in CAN_BE_SURE]
        if self.config.seconds > 0:  # without a limit speed has no say
            others.sort(key=lambda name: self._rate(name, guard))
        for name in others:
            self._ask(name, group, unsure)

    def _ask(self, name: str, group: "_Group", chosen: Sequence[int]) -> None:
        """Asks one method about some masks, or notes that it does not fit."""
        if not chosen:
            return
        megapixels = sum(group.megapixels[i] for i in chosen)
        if self.config.seconds > 0 and megapixels > 0:  # masks without an object take no time
            spent = self.clock() - group.began - group.loading
            if spent + self._rate(name, group.guard) * megapixels > group.allowed:
                group.leave_out(f"{name} (does not fit into {self.config.seconds:g} s)", chosen)
                return
        asked = self.clock()
        member = self._open(name)
        ready = self.clock()
        group.loading += ready - asked
        masks = group.masks if len(chosen) == len(group.masks) else group.masks[list(chosen)]
        if group.guard == "off":
            looks = Looks(scores=(member.refine(group.image, masks),))
        else:
            looks = take_looks(member, group.image, masks)
        self._measure(name, group.guard, self.clock() - ready, megapixels)
        group.hear(name, limit_looks(masks, looks, band_px=group.band_px), chosen)

    def _rate(self, name: str, guard: Guard) -> float:
        """Returns the seconds per megapixel that a method took, or is reckoned to take.

        With a guard that is for all its looks, without one for the only one.
        """
        runs_once = guard == "off"
        if (name, runs_once) not in self.measured:
            looks = _LOOKS_OF_THE_SURE if name in CAN_BE_SURE else _LOOKS_AT_MOST
            return START_RATES[name] / (looks if runs_once else 1)
        seconds, megapixels = self.measured[name, runs_once]
        return seconds / megapixels

    def _measure(self, name: str, guard: Guard, seconds: float, megapixels: float) -> None:
        if megapixels > 0:
            key = name, guard == "off"
            before = self.measured.get(key, (0.0, 0.0))
            self.measured[key] = before[0] + seconds, before[1] + megapixels

    def _open(self, name: str) -> Refiner:
        """Loads a method on first use.

        Where time counts it also runs once on next to nothing, so that what it compiles or
        imports then is not taken for its speed.
        """
        if name not in self.members:
            self.members[name] = self.load(name)
            if self.config.seconds:
                self.members[name].refine(*_draw_square())
        return self.members[name]


@dataclass(kw_only=True)
class _Group:
    """Masks of one picture that are done together, and what was said of each so far.

    Attributes:
        image: `(H, W, 3)` uint8 RGB.
        masks: `(N, H, W)` scores.
        guard: how sure is sure.
        band_px: where changes count, see `choose_each`.
        megapixels: N sizes, see `measure_window`.
        allowed: seconds, where they are limited.
        began: when, by the clock.
        loading: seconds since then that do not count.
    """

    image: Image
    masks: Scores
    guard: Guard
    band_px: int
    megapixels: list[float]
    allowed: float
    began: float
    loading: float = 0.0
    opinions: list[dict[str, Opinion]] = field(init=False)
    left_out: list[list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.opinions = [{} for _ in self.masks]
        self.left_out = [[] for _ in self.masks]

    def hear(self, name: str, looks: Looks, chosen: Sequence[int]) -> None:
        """Takes in the looks of a method at the chosen masks, which keep to the band."""
        for place, index in enumerate(chosen):
            look = looks.of(place)
            opinion = (
                Opinion(looks=look, signs=None)
                if self.guard == "off"
                else form_opinion(self.image, self.masks[index], look)
            )
            self.opinions[index][name] = opinion

    def leave_out(self, why: str, chosen: Iterable[int]) -> None:
        """Notes why a method was not asked about the chosen masks."""
        for index in chosen:
            self.left_out[index].append(why)

    def choose(self) -> list[Choice]:
        """Chooses for each mask from what was said of it."""
        choices = []
        for mask, opinions, left_out in zip(self.masks, self.opinions, self.left_out, strict=True):
            choice = choose_from_opinions(
                self.image, mask, opinions, guard=self.guard, band_px=self.band_px
            )
            if left_out:
                choice = replace(choice, note=f"{choice.note}; left out: {', '.join(left_out)}")
            choices.append(choice)
        return choices


def measure_window(scores: Scores) -> float:
    """Measures the window around an object of `(H, W)` scores, in megapixels; 0 without one."""
    mask = scores > FOREGROUND
    window = surround(mask, _WINDOW_BANDS * choose_band(mask, 0, _BAND_SHARE))
    return 0.0 if window is None else mask[window].size / 1e6


def _draw_square() -> tuple[Image, Scores]:
    masks = np.zeros((1, _WARM_UP_PX, _WARM_UP_PX), dtype=np.float32)
    masks[:, 8:-8, 8:-8] = 1
    image = np.repeat((255 * masks[0]).astype(np.uint8)[..., None], 3, axis=2)
    return image, masks
