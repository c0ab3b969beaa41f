"""The same work on every picture of a list, on all cores, so that a stopped run goes on."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

Progress = Callable[[int, int], None]

Item = TypeVar("Item")

_QUEUED = 4  # pictures per process that wait; more would only take memory


def count_processes(asked: int) -> int:
    """Returns how many processes to use; 0 asks for one on each core that this one may use."""
    if asked:
        return asked
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def do_each(
    items: Sequence[Item],
    do: Callable[[Item], Any],
    *,
    is_done: Callable[[Item], bool],
    processes: int = 1,
    on_progress: Progress | None = None,
) -> None:
    """Does what is not done yet, in processes of one thread each.

    Args:
        items: what to work on; several processes have it sent to them, pickled.
        do: likewise; it writes its result, whole or not at all.
        is_done: whether the result of an item is there.
        processes: 1 works in this process.
        on_progress: called with finished and all items.

    The first error ends the work; what is done by then stays.
    """
    waiting = [item for item in items if not is_done(item)]
    done = len(items) - len(waiting)
    report = on_progress or (lambda *_: None)
    if processes == 1 or not waiting:
        for item in waiting:
            do(item)
            done += 1
            report(done, len(items))
        return
    with ProcessPoolExecutor(
        min(processes, len(waiting)), mp_context=get_context("spawn"), initializer=_use_one_thread
    ) as pool:
        queue = iter(waiting)
        running: set[Future[Any]] = set()
        try:
            while True:
                room = processes * _QUEUED - len(running)
                running |= {pool.submit(do, item) for item in islice(queue, room)}
                if not running:
                    break
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    report(done, len(items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _use_one_thread() -> None:
    """Prepares a process; it ends with the one that started it, however that ended."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
