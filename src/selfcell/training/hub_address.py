"""How a model on the Hugging Face Hub is named: ``org/name``, or ``org/name@revision``."""

import re
from pathlib import Path
from typing import NamedTuple

from selfcell.core.errors import InputError

_ADDRESS = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_NAME = 96


class HubAddress(NamedTuple):
    """A repository of models on the Hub, and which state of it."""

    repository: str
    """``org/name``."""
    revision: str | None = None
    """A branch, a tag or a commit; None for the main branch."""

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"

    @property
    def commit(self) -> str | None:
        """The revision, if it is the whole hash of a commit, which always stands for the same files."""
        return self.revision if self.revision is not None and _COMMIT.fullmatch(self.revision) else None

    def at(self, revision: str) -> "HubAddress":
        """Give the address of another state of the same repository."""
        return HubAddress(self.repository, revision)


def address_in(text: str | Path) -> HubAddress | None:
    """Read an address; None if the text cannot be one, as a path with other than two parts.

    Parameters
    ----------
    text
        What was given for a model.
    """
    found = _ADDRESS.fullmatch(text.as_posix() if isinstance(text, Path) else text)
    if found is None or len(found[1]) > _LONGEST_NAME or re.search(r"--|\.\.|[.-](/|$)|\.git$", found[1]):
        return None
    return HubAddress(found[1], found[2])


def read_address(text: str | Path) -> HubAddress:
    """Read an address.

    Raises
    ------
    InputError
        If the text is none.
    """
    address = address_in(text)
    if address is None:
        raise InputError(
            f"{str(text)!r} is no name of a repository on the Hub, which is org/name, or org/name@revision: letters, "
            "digits and . _ - on both sides of one slash."
        )
    return address
