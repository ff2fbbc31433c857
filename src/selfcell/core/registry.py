"""From a short name to a class or function, imported only when asked for."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from selfcell.core.errors import InputError, did_you_mean

Thing = TypeVar("Thing")


class Entry(NamedTuple):
    """One line of a table."""

    target: str
    """Where it is defined, as ``module:Name``."""
    summary: str
    """What it is, in one sentence, for ``selfcell list``."""


class Registry(Mapping[str, Thing], Generic[Thing]):
    """A table of what can be chosen by name.

    Entries are strings, so that listing the names imports nothing: torch and Lightning take seconds to import.

    Parameters
    ----------
    kind
        What the entries are, in the singular, for error messages.
    entries
        Name to :class:`Entry`.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> Thing:
        """Import and return what ``name`` stands for.

        Raises
        ------
        InputError
            If there is no such name; the message has the nearest one.
        """
        if name not in self.entries:
            raise InputError(f"Unknown {self.kind} {name!r}. {did_you_mean(name, list(self.entries))}")
        module, _, attribute = self.entries[name].target.partition(":")
        found: Thing = getattr(importlib.import_module(module), attribute)
        return found

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such a name, without importing what it stands for."""
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def summaries(self) -> dict[str, str]:
        """Name to one sentence, without importing anything."""
        return {name: entry.summary for name, entry in self.entries.items()}
