"""Do tasks in this process, in processes of this machine, or on a Dask cluster."""

import concurrent.futures
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from selfcell.core.cluster import dask_client
from selfcell.core.errors import InputError

Task = TypeVar("Task")
_SECONDS_BETWEEN_LOOKS = 0.2


def run_tasks(
    function: Callable[..., None],
    tasks: Sequence[Task],
    *,
    workers: int,
    dask: str | None,
    advance: Callable[[int], Any],
    look: Callable[[], Any],
) -> None:
    """Do all tasks; the first that fails ends it.

    Parameters
    ----------
    function
        Takes a task and, in this process, ``advance``.
    tasks
        What to do.
    workers
        Number of processes; 1 is this one.
    dask
        Address of a Dask scheduler to send the tasks to instead.
    advance
        Called by ``function`` with progress, where it can be.
    look
        Called from time to time, where it cannot.

    Raises
    ------
    InputError
        If Dask is missing or a worker was killed; and what ``function`` raises.
    """
    if dask is not None:
        _on_dask(function, tasks, address=dask, look=look)
    elif workers == 1 or len(tasks) < 2:
        for task in tasks:
            function(task, advance)
    else:
        _in_processes(function, tasks, workers=workers, look=look)


def _in_processes(
    function: Callable[[Task], None], tasks: Sequence[Task], *, workers: int, look: Callable[[], Any]
) -> None:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_end_with_parent, initargs=(reader,)
    )
    try:
        _finish([pool.submit(function, task) for task in tasks], look)
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError(
            "A worker was killed, perhaps for want of memory. Give the same command again to go on, with fewer "
            "--workers or more --memory."
        ) from error
    finally:
        # What still runs after a failure would go on for minutes: the workers end when their pipe does.
        writer.close()
        pool.shutdown(wait=True, cancel_futures=True)
        reader.close()


def _end_with_parent(reader: Connection) -> None:
    """Have a worker end at once when the process that began it is gone or closes the pipe."""
    parent = multiprocessing.parent_process()
    watched: list[Any] = [reader] if parent is None else [reader, parent.sentinel]

    def watch() -> None:
        wait(watched)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_dask(function: Callable[[Task], None], tasks: Sequence[Task], *, address: str, look: Callable[[], Any]) -> None:
    with dask_client(address) as client:
        _finish([client.submit(function, task, pure=False) for task in tasks], look)


def _finish(futures: Sequence[Any], look: Callable[[], Any]) -> None:
    """Wait for all, raising what the first to fail raised."""
    waiting = list(futures)
    while waiting:
        for future in [future for future in waiting if future.done()]:
            future.result()
            waiting.remove(future)
        look()
        time.sleep(_SECONDS_BETWEEN_LOOKS if waiting else 0)
