"""By which commands, versions and machines a benchmark came about: one entry a session, in ``benchmark.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

ENVIRONMENT = ("command", "versions", "machine")
"""What is the same in sessions that become one entry."""


def sessions_of(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the sessions that ``benchmark.json`` tells of; older ones tell of the last alone, and not when it was."""
    if "sessions" in about or not about.keys() >= set(ENVIRONMENT):
        return list(about.get("sessions", []))
    last = {name: about[name] for name in ENVIRONMENT}
    return [{"when": None, **last, "seconds": about.get("seconds_of_this_session"), "times": 1}]


def with_session(earlier: Sequence[Mapping[str, Any]], session: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add a session; one like the last, with the same command, versions and machine, is counted there.

    Parameters
    ----------
    earlier
        Sessions, the first one first.
    session
        ``when`` it began, the entries of :data:`ENVIRONMENT`, and ``seconds``.

    Returns
    -------
    The sessions with ``times``, how many an entry is of; ``when`` is then of the first of these, ``seconds`` of all.
    """
    last = dict(earlier[-1]) if earlier else {}
    if last and all(last[name] == session[name] for name in ENVIRONMENT):
        seconds = round((last["seconds"] or 0.0) + session["seconds"], 1)
        return [*map(dict, earlier[:-1]), {**last, "seconds": seconds, "times": last["times"] + 1}]
    return [*map(dict, earlier), {**session, "times": 1}]
