"""Runs several methods on every mask, as far as the time goes, and lets a committee choose."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from maskhone.contracts import FOREGROUND, Image, Refiner, Scores
from maskhone.errors import MissingExtraError
from maskhone.methods.auto.config import START_RATES, AutoConfig
from maskhone.ops.committee import Choice, choose
from maskhone.ops.guard import Guard
from maskhone.ops.masks import choose_band, surround

PIXELS_AT_ONCE = 64_000_000
"""Masks are refined in groups so that all their candidates have at most this many pixels (256 MB
of scores)."""

_BAND_SHARE, _WINDOW_BANDS = 0.05, 4  # as the classical refiners look around an object
_WARM_UP_PX = 32


class AutoRefiner:
    """Tries several methods on every mask and takes what the committee chooses.

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
        self.missing: dict[str, str] = {}  # name -> package
        self.measured: dict[str, tuple[float, float]] = {}  # name -> seconds, megapixels

    def refine(self, image: Image, masks: Scores) -> Scores:
        """Returns what was chosen for each of `(N, H, W)` scores, under the safe guard."""
        choices = self.choose_each(image, masks, guard="safe")
        scores = np.array([choice.scores for choice in choices], dtype=np.float32)
        return scores.reshape(masks.shape)

    def choose_each(self, image: Image, masks: Scores, *, guard: Guard) -> list[Choice]:
        """Chooses for each mask, and says why.

        Args:
            image: `(H, W, 3)` uint8 RGB.
            masks: `(N, H, W)` scores.
            guard: of what is chosen.
        """
        areas = [measure_window(scores) for scores in masks]
        n_at_once = max(PIXELS_AT_ONCE // (len(self.config.names) * image[..., 0].size), 1)
        choices: list[Choice] = []
        for start in range(0, len(masks), n_at_once):
            group, area = masks[start : start + n_at_once], sum(areas[start : start + n_at_once])
            candidates, left_out = self._run(image, group, area, area / max(sum(areas), 1e-9))
            for index, coarse in enumerate(group):
                of_mask = {name: scores[index] for name, scores in candidates.items()}
                choice = choose(image, coarse, of_mask, guard=guard)
                choices.append(_with_note(choice, left_out))
        return choices

    def _run(
        self, image: Image, masks: Scores, megapixels: float, time_share: float
    ) -> tuple[dict[str, Scores], list[str]]:
        """Runs the methods that fit, cheap ones first; also says which were left out and why."""
        first, *others = self.config.names
        allowed = self.config.seconds * time_share
        began, found, left_out = self.clock(), dict[str, Scores](), list[str]()
        loading = 0.0
        for name in (first, *sorted(others, key=self._rate)):
            spent = self.clock() - began - loading
            if name != first and not self._fits(spent + self._rate(name) * megapixels, allowed):
                left_out.append(f"{name} (does not fit into {self.config.seconds:g} s)")
                continue
            asked = self.clock()
            member = self._open(name)
            ready = self.clock()
            loading += ready - asked
            if member is None:
                left_out.append(f"{name} (needs the package {self.missing[name]})")
                continue
            found[name] = member.refine(image, masks)
            self._measure(name, self.clock() - ready, megapixels)
        return {name: found[name] for name in self.config.names if name in found}, left_out

    def _fits(self, seconds: float, allowed: float) -> bool:
        return self.config.seconds == 0 or seconds <= allowed

    def _rate(self, name: str) -> float:
        """Returns the seconds per megapixel that a method took, or is reckoned to take."""
        if name not in self.measured:
            return START_RATES[name]
        seconds, megapixels = self.measured[name]
        return seconds / megapixels

    def _measure(self, name: str, seconds: float, megapixels: float) -> None:
        if megapixels > 0:
            before = self.measured.get(name, (0.0, 0.0))
            self.measured[name] = before[0] + seconds, before[1] + megapixels

    def _open(self, name: str) -> Refiner | None:
        """Loads a method on first use; None where its package is missing, but not for the first.

        Where time counts it also runs once on next to nothing, so that what it compiles or
        imports then is not taken for its speed.
        """
        if name in self.missing:
            return None
        if name not in self.members:
            try:
                self.members[name] = self.load(name)
            except MissingExtraError as error:
                if name == self.config.names[0]:
                    raise
                self.missing[name] = error.package
                return None
            if self.config.seconds:
                self.members[name].refine(*_draw_square())
        return self.members[name]


def measure_window(scores: Scores) -> float:
    """Measures the window around an object of `(H, W)` scores, in megapixels; 0 without one."""
    mask = scores > FOREGROUND
    window = surround(mask, _WINDOW_BANDS * choose_band(mask, 0, _BAND_SHARE))
    return 0.0 if window is None else mask[window].size / 1e6


def _with_note(choice: Choice, left_out: list[str]) -> Choice:
    if not left_out:
        return choice
    return replace(choice, note=f"{choice.note}; left out: {', '.join(left_out)}")


def _draw_square() -> tuple[Image, Scores]:
    masks = np.zeros((1, _WARM_UP_PX, _WARM_UP_PX), dtype=np.float32)
    masks[:, 8:-8, 8:-8] = 1
    image = np.repeat((255 * masks[0]).astype(np.uint8)[..., None], 3, axis=2)
    return image, masks
