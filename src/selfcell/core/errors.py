"""The one exception for what a user can mend."""

import contextlib
import difflib
from collections.abc import Iterator

_SHOWN = 20


class InputError(ValueError):
    """Something given by the user cannot be worked with; the message says what, where and how to mend it.

    The command line prints the message alone. Any other exception is a fault of the package and keeps its traceback.
    """


class NoWorkplaceError(InputError):
    """The machines that work should be done on cannot be reached: nothing is wrong with the work itself."""


@contextlib.contextmanager
def speaking_of(origin: str) -> Iterator[None]:
    """Put the name of a file before what is wrong with it, where several are at hand."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if origin in text else f"{origin}: {text}") from error


def did_you_mean(given: str, known: list[str]) -> str:
    """Give the end of an error message: the nearest of the known names, then all of them.

    Parameters
    ----------
    given
        What was asked for.
    known
        What there is.
    """
    if not known:
        return "There are none."
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), lowered, n=1, cutoff=0.6)
    hint = f"Did you mean {lowered[near[0]]!r}? " if near else ""
    listed = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
    return f"{hint}Known: {listed}."
