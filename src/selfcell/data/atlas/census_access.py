"""Reach the CELLxGENE Census: its versions, a copy of it, and what goes wrong on the way, in words."""

import contextlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import requests

from selfcell.core.errors import InputError, did_you_mean
from selfcell.core.extras import import_extra

STABLE = "stable"
_LEAST_BUDGET = 2**28
"""Bytes that TileDB is given at least: it refuses to read with less than some tiles take."""
_BUFFER_SHARE = 8


@contextlib.contextmanager
def opened_census(version: str | None, uri: str | None, *, memory_bytes: int) -> Iterator[Any]:
    """Open a version of the census, or a copy of it.

    Parameters
    ----------
    version
        The day of a published version; not looked at where there is a ``uri``.
    uri
        Of a copy.
    memory_bytes
        What reading one of its tables may take.
    """
    buffer_bytes = str(max(2**16, memory_bytes // _BUFFER_SHARE))
    config = {
        "soma.init_buffer_bytes": buffer_bytes,
        "py.init_buffer_bytes": buffer_bytes,
        "sm.mem.total_budget": str(max(_LEAST_BUDGET, memory_bytes)),
    }
    wanted = {"census_version": version} if uri is None else {"uri": uri}
    with _package().open_soma(**wanted, tiledb_config=config) as census:
        yield census


def published_day(version: str) -> str:
    """Give the day of a published version, which ``stable`` and ``latest`` stand for one of.

    Raises
    ------
    InputError
        If there is no such version, as where it was withdrawn.
    """
    versions = _package().get_census_version_directory()
    if version not in versions:
        raise InputError(f"There is no version {version!r} of the census. {did_you_mean(version, list(versions))}")
    return str(versions[version]["release_build"])


def build_day(census: Any) -> str:
    """Give the day that an open census was made, as it says itself.

    Raises
    ------
    InputError
        If it says nothing of it.
    """
    if "census_info" in census and "summary" in census["census_info"]:
        summary = census["census_info"]["summary"].read().concat().to_pydict()
        days = [value for label, value in zip(summary["label"], summary["value"], strict=True) if label == _DAY_LABEL]
        if days:
            return str(days[0])
    raise InputError(
        f"{census.uri} does not say which version of the census it is (census_info/summary, {_DAY_LABEL}). Give the "
        "folder that has census_info and census_data."
    )


@contextlib.contextmanager
def speaking_of_census(what: str) -> Iterator[None]:
    """Turn what fails while the census is read into words.

    Raises
    ------
    InputError
        In place of errors of the network, of TileDB and of the package.
    """
    try:
        yield
    except InputError:
        raise
    except requests.RequestException as error:
        raise InputError(
            f"{what}: the list of versions cannot be fetched ({_request_words(error)}). See whether the network "
            "reaches census.cellxgene.cziscience.com, or name a copy (--census-uri); then give the same command again."
        ) from error
    except Exception as error:
        if not _is_of_tiledb(error):
            raise
        raise InputError(
            f"{what} cannot be read ({_words(error)}). See whether the network and the copy, if it is one, can be "
            "reached, then give the same command again: what is done is kept."
        ) from error


def _is_of_tiledb(error: Exception) -> bool:
    # RuntimeError is what TileDB's own errors become where tiledbsoma does not catch them.
    return type(error).__module__.startswith("tiledbsoma") or isinstance(error, OSError | RuntimeError)


def _request_words(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answers {error.response.status_code}"
    return "no answer in time" if isinstance(error, requests.Timeout) else "no connection"


def _words(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error).split("\n")[0]).strip()
    return text.rstrip(".") or type(error).__name__


def _package() -> ModuleType:
    return import_extra("cellxgene_census", extra="census", use="Reading the CELLxGENE Census")


_DAY_LABEL = "census_build_date"
