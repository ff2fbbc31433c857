"""Keep from the terminal what HDF5 says of each array that it could not close, where one error tells it all."""

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_FROM = "h5py/_objects.pyx"


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Drop what h5py prints as it throws objects away in the block; the error that is raised is not touched.

    On a full disk it would be pages of tracebacks.
    """
    shown, told = sys.excepthook, sys.unraisablehook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not _is_of_h5py(trace):
            shown(kind, error, trace)

    def tell(found: Any) -> None:
        if not _is_of_h5py(found.exc_traceback) and "h5py._objects" not in str(found.object):
            told(found)

    sys.excepthook, sys.unraisablehook = show, tell
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = shown, told


def _is_of_h5py(trace: TracebackType | None) -> bool:
    return trace is not None and trace.tb_frame.f_code.co_filename == _FROM
