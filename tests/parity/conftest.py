from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, as when the fixtures were made.

    Batch statistics over the few values of the coarsest maps, and gradients through them, are badly
    conditioned: the order in which threads add up moves the gradient of a training step by 5 %,
    five times its tolerance.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)
