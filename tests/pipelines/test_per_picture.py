"""Work on every item of a list, here and in processes."""

import os
import signal
import time
from contextlib import suppress
from functools import partial
from multiprocessing import active_children
from threading import Thread
from types import SimpleNamespace

import pytest
import torch

from maskhone.data.files import replace_when_done
from maskhone.errors import MaskhoneError, MissingExtraError
from maskhone.pipelines.per_picture import do_each, do_here


def write_number(number, folder):
    if number == 7:
        raise ValueError("seven")
    (folder / str(number)).write_text(str(number))


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_is_done_once_and_an_error_ends_the_work(tmp_path, processes):
    (tmp_path / "1").write_text("before")
    seen = []
    do_each(
        range(4),
        partial(write_number, folder=tmp_path),
        is_done=lambda number: (tmp_path / str(number)).exists(),
        processes=processes,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [(tmp_path / str(i)).read_text() for i in range(4)] == ["0", "before", "2", "3"]
    assert seen == [(2, 4), (3, 4), (4, 4)]
    with pytest.raises(ValueError, match="seven"):
        do_each(
            range(5, 9),
            partial(write_number, folder=tmp_path),
            is_done=lambda _: False,
            processes=processes,
        )


def write_threads(number, folder):
    (folder / str(number)).write_text(str(torch.get_num_threads()))


@pytest.mark.parametrize("processes", [1, 2])
def test_items_are_done_with_one_thread_wherever_and_networks_with_all(tmp_path, processes):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = do_each(
            range(3),
            partial(write_threads, folder=tmp_path),
            is_done=lambda number: number == 2,
            processes=processes,
        )
        assert (made, torch.get_num_threads()) == (2, 2)
        do_here([5], partial(write_threads, folder=tmp_path), is_done=lambda _: False)
    finally:
        torch.set_num_threads(before)
    assert [(tmp_path / name).read_text() for name in "015"] == ["1", "1", "2"]


def write_sum(number, prepared, folder):
    (folder / str(number)).write_text(f"{number + prepared} {os.getpid()}")


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_prepared_here_is_handed_over_and_little_of_it_waits(tmp_path, processes):
    waiting = []

    def prepare(number):
        waiting.append(number - len(list(tmp_path.iterdir())))
        return 10 * number

    do_each(
        range(8),
        partial(write_sum, folder=tmp_path),
        is_done=lambda _: False,
        prepare=prepare,
        processes=processes,
    )
    found = [(tmp_path / str(i)).read_text().split() for i in range(8)]
    assert [int(total) for total, _ in found] == [11 * i for i in range(8)]
    assert (str(os.getpid()) in {pid for _, pid in found}) is (processes == 1)
    assert max(waiting) <= processes


def end(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_a_clear_error():
    with pytest.raises(MaskhoneError, match="memory ran out; use fewer than 2 processes"):
        do_each(range(4), end, is_done=lambda _: False, processes=2)


def lack(number):
    raise MissingExtraError("scikit-image", extra="wsss")


def test_a_missing_extra_is_said_as_it_is(tmp_path):
    with pytest.raises(MissingExtraError, match=r"maskhone\[wsss\]") as caught:
        do_each(range(2), lack, is_done=lambda _: False, processes=2)
    assert caught.value.extra == "wsss"


def wait_long(number, folder):
    with replace_when_done(folder / str(number)) as unfinished:
        unfinished.write_text("half")
        time.sleep(60)


@pytest.fixture
def ctrl_c():
    """Lets Ctrl-C interrupt, which jobs in the background of a shell are started to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_all_processes_at_once_and_leaves_nothing_half_written(tmp_path):
    def interrupt():
        while not any(path.read_text() for path in tmp_path.glob(".unfinished-*")):
            time.sleep(0.05)
        began.append(time.monotonic())
        for process in (*active_children(), SimpleNamespace(pid=os.getpid())):
            with suppress(ProcessLookupError):  # the first to go may have taken others along
                os.kill(process.pid, signal.SIGINT)  # as a terminal does

    began = []
    thread = Thread(target=interrupt)
    thread.start()
    do = partial(wait_long, folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        do_each(range(9), do, is_done=lambda _: False, processes=2)
    thread.join()
    assert time.monotonic() - began[0] < 30
    assert list(tmp_path.iterdir()) == []
