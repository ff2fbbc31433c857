"""Words for people."""

import re

from selfcell.core.errors import InputError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def counted(number: int | float, noun: str) -> str:
    """Give a number with what it counts: ``1 shard``, ``2,000 shards``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_words(seconds: float) -> str:
    """Give a span of time: ``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def in_bytes(n_bytes: int | float) -> str:
    """Give a size: ``5.0 MB``, ``1.2 GB``."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def file_name(text: str) -> str:
    """Give a name that any file system takes: what is no letter, digit, dot or dash becomes an underscore."""
    return re.sub(r"[^\w.-]+", "_", text)


def seconds_of(text: str, *, name: str) -> float:
    """Read a span of time: ``90s``, ``30m``, ``1.5h``, ``1h30m``, ``2d``.

    Parameters
    ----------
    text
        Numbers, each with its unit.
    name
        What is read, for the message.

    Raises
    ------
    InputError
        If it is no span of time, or of no length.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    whole = re.fullmatch(r"\s*(?:\d+(?:\.\d+)?\s*[smhd]\s*)+", text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not whole or not seconds:
        raise InputError(f"{name} is {text!r}, but takes a time with its unit, such as 90s, 30m, 2h or 1h30m.")
    return seconds
