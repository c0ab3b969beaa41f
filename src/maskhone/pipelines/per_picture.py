"""The same work on every picture of a list, on all cores, so that a stopped run goes on."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

import cv2
import torch

from maskhone.errors import MaskhoneError

Progress = Callable[[int, int], None]

Item = TypeVar("Item")

_QUEUED = 4  # items per process that wait; more would only take memory
_QUEUED_MADE = 1  # likewise, where something large was made for each
_PATIENCE_S = 3.0  # a busy machine takes its time to pass on a Ctrl-C


def count_processes(asked: int) -> int:
    """Returns how many processes to use; 0 asks for one on each core that this one may use."""
    if asked:
        return asked
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def do_here(
    items: Sequence[Item],
    do: Callable[[Item], Any],
    *,
    is_done: Callable[[Item], bool],
    on_progress: Progress | None = None,
) -> int:
    """Does what is not done yet in this process, with all its threads; for networks.

    The arguments and the result are those of `do_each`.
    """
    waiting = [item for item in items if not is_done(item)]
    for count, item in enumerate(waiting, start=1):
        do(item)
        if on_progress is not None:
            on_progress(len(items) - len(waiting) + count, len(items))
    return len(waiting)


def do_each(
    items: Sequence[Item],
    do: Callable[..., Any],
    *,
    is_done: Callable[[Item], bool],
    prepare: Callable[[Item], Any] | None = None,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> int:
    """Does what is not done yet, in processes of one thread each.

    Args:
        items: what to work on; several processes have it sent to them, pickled.
        do: likewise; called with an item, it writes its result, whole or not at all.
        is_done: whether the result of an item is there.
        prepare: when given, called with each item in this process, with all its threads; `do` is
            called with the item and what it returned.
        processes: 1 works in this process, but with one thread, so that results are the same.
        on_progress: called with finished and all items.

    Returns:
        How many items were done now.

    Raises:
        MaskhoneError: a process was ended from outside.

    The first error ends the work; what is done by then stays.
    """
    waiting = [item for item in items if not is_done(item)]
    done = len(items) - len(waiting)
    report = on_progress or (lambda *_: None)
    calls = ((item,) if prepare is None else (item, prepare(item)) for item in waiting)
    if processes == 1 or not waiting:
        for call in calls:
            with _one_thread():
                do(*call)
            done += 1
            report(done, len(items))
        return len(waiting)
    most = processes * _QUEUED if prepare is None else processes + _QUEUED_MADE
    for _ in _do_in_processes(calls, do, processes=min(processes, len(waiting)), most=most):
        done += 1
        report(done, len(items))
    return len(waiting)


def _do_in_processes(
    calls: Iterator[tuple[Any, ...]], do: Callable[..., Any], *, processes: int, most: int
) -> Iterator[None]:
    """Yields as often as a call has ended; at most `most` of them exist at a time."""
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_process) as pool:
        running: set[Future[Any]] = set()
        try:
            while True:
                for call in islice(calls, most - len(running)):
                    running.add(pool.submit(_call, do, *call))
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    yield
        except BrokenProcessPool as error:
            time.sleep(_PATIENCE_S)  # Ctrl-C may have reached the processes before this one
            raise MaskhoneError(
                "a process that worked on pictures was ended from outside, probably because memory "
                f"ran out; use fewer than {processes} processes, or smaller pictures; what is done "
                "stays"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Works with one thread, as the processes do, and sets the number back afterwards."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _start_process() -> None:
    """Prepares a process; it ends with the one that started it, however that ended."""
    signal.signal(signal.SIGINT, _leave)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _call(do: Callable[..., Any], *arguments: Any) -> None:
    """Works in a process. Ctrl-C reaches it, too: it clears up and leaves without a word."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        do(*arguments)
    except KeyboardInterrupt:
        os._exit(1)
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(*_: Any) -> None:
    os._exit(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
