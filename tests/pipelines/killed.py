"""Runs a recipe, killed again and again; see `test_pseudo_labels_stopped.py`.

    python killed.py RECIPE OUT STAGE:N ...

Each run is a process of its own that kills itself in the middle of a stage: just before the N-th
file of it takes its place. The last run is not killed.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from maskhone.pipelines.pseudo_labels import run
from maskhone.pipelines.train import read_recipe


def run_killed(recipe, out, stage, number):
    """Ends this process before a file of a stage is whole; a number of 0 lets it live."""
    count, whole = 0, Path.replace

    def replace(self, target):
        nonlocal count
        count += target.is_relative_to(out / stage)
        if number and count == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, target)

    Path.replace = replace
    sys.stdout.write(run(recipe, out_dir=out))


def main():
    """Forks a run for each kill, so that torch is loaded once."""
    torch.set_num_threads(1)
    recipe, out = read_recipe(Path(sys.argv[1])), Path(sys.argv[2])
    kills = [(stage, int(number)) for stage, number in (a.split(":") for a in sys.argv[3:])]
    for stage, number in [*kills, ("", 0)]:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            run_killed(recipe, out, stage, number)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if was_killed is not bool(number):
            sys.exit(f"{stage}:{number} ended with {status}")


if __name__ == "__main__":
    main()
