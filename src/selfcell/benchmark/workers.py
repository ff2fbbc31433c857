"""What a process that trials are run in sees to itself."""

import functools
import multiprocessing
import os
import sys
import threading
import time

from joblib.externals.loky import process_executor

_LOOKS = 2.0
"""Seconds between two looks at whether the process that asked is still there."""


def keep_this_worker() -> None:
    """Have joblib not start this worker anew, and end it soon after the process that it works for.

    One that holds 300 MB more than at first is taken for leaking, and a new one takes as long as many a trial. Ours
    hold what training needs, and what torch has freed but keeps. One whose parent was killed goes on with its trial,
    whose outcome nobody takes, and holds its memory beside the same command given again.
    """
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize  # noqa: SLF001 - there is no public way
    # A Dask worker's parent may end, and is none of ours.
    if multiprocessing.current_process().name.startswith("Loky"):
        _watch_parent()


@functools.cache
def _watch_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watches the parent").start()
