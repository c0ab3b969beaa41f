"""Discrete diffusion between a coarse mask and a fine one.

Each pixel is in one of two states: fine, it takes the network's answer, or coarse, it keeps the
given mask. Going back from step T - 1 to step 0, pixels become fine as the network grows sure.
B batch. Source: SegRefiner section 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Noise = Callable[[torch.Size], Tensor]
"""Draws uniform numbers in [0, 1) of a shape."""

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Returns logits for `(B, 4, S, S)` input and `(B,)` steps."""


@dataclass(frozen=True)
class DiffusionSchedule:
    """How likely a pixel is fine at each step.

    Attributes:
        start: at step 0. 0.8 as published.
        stop: at the last step. 0 as published: all pixels are coarse.
        num_timesteps: T. 6 as published.
        fine_T: `(T,)` float64 probability that a pixel is fine at step t.

    Example:
        >>> DiffusionSchedule().fine_T.round(2).tolist()
        [0.8, 0.64, 0.48, 0.32, 0.16, 0.0]
    """

    start: float = 0.8
    stop: float = 0.0
    num_timesteps: int = 6
    fine_T: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fine = np.linspace(self.start, self.stop, self.num_timesteps)
        object.__setattr__(self, "fine_T", fine)

    @property
    def fine_before_T(self) -> NDArray[np.float64]:
        """`(T,)` the same one step earlier; 1 before step 0."""
        return np.append(1.0, self.fine_T[:-1])

    @property
    def stay_fine_T(self) -> NDArray[np.float64]:
        """`(T,)` probability that a fine pixel stays fine in step t, going forward."""
        ratio: NDArray[np.float64] = self.fine_T / self.fine_before_T
        return ratio


class SeededNoise:
    """Uniform numbers whose every row depends on its seed and on nothing else.

    Args:
        seeds: `(B, ...)` one number, or several, for each row of a batch.
        device: where the numbers are wanted; they are drawn on the CPU, alike everywhere.
    """

    def __init__(self, seeds: Sequence[int | Sequence[int]], device: torch.device) -> None:
        self.device = device
        mixed = [np.random.SeedSequence(seed).generate_state(1)[0] for seed in seeds]
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in mixed]

    def __call__(self, shape: torch.Size) -> Tensor:
        """Draws `(B, ...)` float32 in [0, 1)."""
        rows = [torch.rand(shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.device)


def draw_steps(numbers: np.random.RandomState, num_timesteps: int, count: int) -> NDArray[np.int64]:
    """Draws `(count,)` steps to train on, each as likely as any other.

    Source: SegRefiner section 6.1.
    """
    steps: NDArray[np.int64] = numbers.choice(num_timesteps, size=count).astype(np.int64)
    return steps


def choose_steps(schedule: DiffusionSchedule, count: int, *, truncates: bool) -> list[int]:
    """Lists the steps of a reverse run, from the coarsest down.

    Args:
        schedule: of the weights.
        count: calls of the network, 1 to T.
        truncates: leave out the last steps, as the original's `--step` does. Otherwise the steps
            are spread evenly from T - 1 to 0, so that a short run still ends at step 0.

    Example:
        >>> choose_steps(DiffusionSchedule(), 3, truncates=True)
        [5, 4, 3]
        >>> choose_steps(DiffusionSchedule(), 3, truncates=False)
        [5, 2, 0]
    """
    last = schedule.num_timesteps - 1
    if truncates:
        return list(range(last, last - count, -1))
    return [round(t) for t in np.linspace(last, 0, count)] if count > 1 else [0]


def draw_mask(
    fine_B1SS: Tensor,
    coarse_B1SS: Tensor,
    step_B: Tensor,
    schedule: DiffusionSchedule,
    noise: Noise,
) -> Tensor:
    """Draws the mask at step t, going forward: fine where the noise falls below `fine_T[t]`.

    Source: SegRefiner section 1.2.
    """
    fine = torch.from_numpy(schedule.fine_T)[step_B.cpu()].float().view(-1, 1, 1, 1)
    is_fine = noise(fine_B1SS.shape) < fine.to(step_B.device)
    return torch.where(is_fine, fine_B1SS, coarse_B1SS)


def raise_fine_probability(
    logits: Tensor, fine_probability: Tensor, *, now: float, before: float
) -> Tensor:
    """Makes pixels likelier to be fine, as far as the network is sure of them.

    Args:
        logits: the network's answer.
        fine_probability: of the same shape, so far.
        now: probability of being fine at this step, `fine_T[t]`.
        before: probability of being fine at the step that follows in the reverse run.

    Source: SegRefiner section 1.4.
    """
    sureness = 2 * (logits.sigmoid() - 0.5).abs()
    gain = sureness * (before - now) / (1 - sureness * now)
    return fine_probability + (1 - fine_probability) * gain


def run_backwards(
    denoise: Denoiser,
    rgb_B3SS: Tensor,
    coarse_B1SS: Tensor,
    *,
    steps: Sequence[int],
    schedule: DiffusionSchedule,
    noise: Noise,
    fine_probability: Tensor | None = None,
    leads_to: int | None = None,
    ends_soft: bool = True,
) -> tuple[Tensor, Tensor]:
    """Refines masks by going back through the steps.

    Args:
        denoise: the network.
        rgb_B3SS: normalised pictures.
        coarse_B1SS: masks, 0 or 1.
        steps: falling step numbers; every step but the last draws noise once.
        schedule: of the weights.
        noise: the only source of randomness.
        fine_probability: to begin with; None begins with 0 everywhere.
        leads_to: the step that another run will go on with; None: the next one down.
        ends_soft: return the probability of foreground of the last step; otherwise a mask in
            which pixels that are still coarse keep the coarse mask.

    Returns:
        `(B, 1, S, S)` masks, and the probability of being fine.

    Source: SegRefiner section 1.5.
    Differs: when steps are left out, each step gains what the steps left out before the next would
    have; with all steps, and with the last steps cut off, this is the published rule.
    """
    mask = coarse_B1SS
    if fine_probability is None:
        fine_probability = torch.zeros_like(coarse_B1SS)
    for position, t in enumerate(steps):
        is_last = position == len(steps) - 1
        before = _fine_after(t, leads_to if is_last else steps[position + 1], schedule)
        now = float(schedule.fine_T[t])
        step_B = torch.full((len(mask),), t, dtype=torch.int64, device=mask.device)
        logits = denoise(torch.cat([rgb_B3SS, mask], dim=1), step_B)
        fine_probability = raise_fine_probability(logits, fine_probability, now=now, before=before)
        if is_last and ends_soft:
            return logits.sigmoid(), fine_probability
        is_fine = noise(mask.shape) < fine_probability
        mask = torch.where(is_fine, (logits >= 0).to(mask.dtype), coarse_B1SS)
    return mask, fine_probability


def _fine_after(step: int, following: int | None, schedule: DiffusionSchedule) -> float:
    """Returns how likely a pixel is fine once a step of the reverse run is done."""
    if following is None:
        return float(schedule.fine_before_T[step])
    return float(schedule.fine_T[following])
