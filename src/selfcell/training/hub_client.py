"""The client of the Hugging Face Hub, and what its errors mean to a user."""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

from selfcell.core.errors import InputError
from selfcell.core.extras import import_extra
from selfcell.core.write_errors import DISK_FULL, error_number
from selfcell.training.hub_address import HubAddress

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token of the Hub"


def hub_package() -> ModuleType:
    """Import ``huggingface_hub``.

    Raises
    ------
    InputError
        If it is not installed.
    """
    return import_extra("huggingface_hub", extra="hub", use="A model on the Hub")


@contextlib.contextmanager
def in_words(address: HubAddress, *, to: str) -> Iterator[None]:
    """Turn what the client raises into words that say what to do.

    Parameters
    ----------
    address
        What is asked of the Hub.
    to
        What a token must allow: ``read`` or ``write``.

    Raises
    ------
    InputError
        For everything that a user can mend: no network, no token, no such repository or revision.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, _transport_error()) as error:
        # The client hides the cause of a failed transfer behind an error of its own.
        for cause in _causes_of(error):
            message = _message_of(cause, address, to=to)
            if message is not None:
                raise InputError(message) from error
        raise


def _transport_error() -> type[BaseException]:
    """Give the base of all that the client's HTTP library raises: httpx up to huggingface_hub 1, httpx2 from 2 on."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    return HfHubHTTPError.__mro__[1]


def _causes_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _message_of(error: BaseException, address: HubAddress, *, to: str) -> str | None:
    """Say what an error means and what to do; None for one that is not of the Hub."""
    from huggingface_hub import errors  # noqa: PLC0415

    if (number := error_number(error)) in DISK_FULL and number is not None:
        return (
            f"The Hub's cache has no room for {address} ({os.strerror(number)}): {_cache()}. Make room there, or name "
            "another place (HF_HUB_CACHE)."
        )
    repository, text, token = address.repository, _first_line(error), f"{_LOG_IN} that may {to} {address.repository}"
    # A class stands before those that it is derived from.
    meanings: list[tuple[type[BaseException], str]] = [
        (
            errors.GatedRepoError,
            f"{repository} asks for consent first: agree to its terms on its page at the Hub, and {_LOG_IN}.",
        ),
        (
            errors.RepositoryNotFoundError,
            f"The Hub has no repository {repository}, or it is private and no token was given that may {to} it. Look "
            f"at the spelling (org/name), or {_LOG_IN}.",
        ),
        (
            errors.RevisionNotFoundError,
            f"{repository} has no revision {address.revision or 'main'!r}: name a branch, a tag or a commit of it, as "
            f"{repository}@main.",
        ),
        (
            errors.OfflineModeIsEnabled,
            f"{repository} was not asked for, since HF_HUB_OFFLINE is set: unset it, where there is a network.",
        ),
        (errors.LocalTokenNotFoundError, f"No token was found: {token}."),
    ]
    for kind, message in meanings:
        if isinstance(error, kind):
            return message
    if isinstance(error, errors.HfHubHTTPError):
        return _message_of_status(error.response.status_code, text, repository, token)
    if isinstance(error, _transport_error()):
        return (
            f"The connection to the Hub failed ({text}). Is there a network? Files that came whole are kept: give the "
            "same command again."
        )
    return _message_of_text(text, " ".join(str(error).split()), repository)


def _cache() -> str:
    from huggingface_hub import constants  # noqa: PLC0415

    return str(constants.HF_HUB_CACHE)


def _message_of_status(status: int, text: str, repository: str, token: str) -> str:
    known = {
        401: f"The Hub wants a token, or does not take the one it got: {token}.",
        403: f"The token that was given does not allow it: {token}, of an account that is in the organization.",
        412: f"{repository} was changed by others meanwhile. Give the same command again.",
    }
    if status == 429 or status >= 500:
        return f"The Hub is busy or out of order ({status}). Give the same command again later."
    return known.get(status, f"The Hub refuses the request ({status}): {text}.")


def _message_of_text(text: str, whole: str, repository: str) -> str | None:
    """Say what an error means that the client raises as one of Python's own."""
    if "Consistency check failed" in whole:
        return f"A file of {repository} came cut short ({text}). Give the same command again."
    if "Invalid metadata" in whole or "LFS batch" in whole:
        return f"The Hub refuses what is sent: {whole}"
    return None


def _first_line(error: BaseException) -> str:
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__).rstrip(".")
