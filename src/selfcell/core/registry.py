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
    open_to_others
        Take ``module:Name`` of any module on Python's path for a name too.
    """

    def __init__(self, kind: str, entries: Mapping[str, Entry], *, open_to_others: bool = False) -> None:
        self.kind = kind
        self.entries = dict(entries)
        self.open_to_others = open_to_others

    def __getitem__(self, name: str) -> Thing:
        """Import and return what ``name`` stands for.

        Raises
        ------
        InputError
            If there is no such name; the message has the nearest one.
        """
        module, _, attribute = self.target_of(name).partition(":")
        if name not in self.entries:
            return self._of_others(module, attribute)
        found: Thing = getattr(importlib.import_module(module), attribute)
        return found

    def target_of(self, name: str) -> str:
        """Give where a name is defined, as ``module:Name``, without importing it; raises as ``[name]`` does."""
        if name in self.entries:
            return self.entries[name].target
        if self.open_to_others and ":" in name:
            return name
        raise InputError(f"Unknown {self.kind} {name!r}. {did_you_mean(name, list(self.entries))}")

    def _of_others(self, module: str, attribute: str) -> Thing:
        try:
            imported = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise InputError(
                f"The {self.kind} {module}:{attribute} cannot be imported: there is no module {error.name!r} on "
                "Python's path. Install it, or name its folder: PYTHONPATH=FOLDER selfcell ..."
            ) from error
        if not hasattr(imported, attribute):
            raise InputError(f"The module {module} ({imported.__file__}) has no {attribute!r}.")
        found: Thing = getattr(imported, attribute)
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
