"""Files of an atlas behind a URL: read by parts, tried again when the network fails, kept for a second use."""

import itertools
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfcell.core.errors import InputError
from selfcell.data.atlas.block_cache import BLOCK_BYTES, WHOLE, BlockCache, Key, stretches

logger = logging.getLogger(__name__)

TRIES = 6
FIRST_TRIES = 3
"""How often to try before anything was ever read: a wrong address is more likely then than a fault that passes."""
FIRST_WAIT = 0.5
"""Seconds before the second try; twice as long before each one that follows."""

_BYTES_AT_ONCE = 2**25
_BLOCKS_PER_REQUEST = 2**23 // BLOCK_BYTES
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}


@dataclass(frozen=True)
class Part:
    """Some bytes of a file, and where they are to be written."""

    path: str
    start: int
    out: memoryview
    size: int | None = None
    """Bytes of the whole file, where they are known."""

    @property
    def stop(self) -> int:
        """Where the bytes end."""
        return self.start + self.out.nbytes

    @property
    def keys(self) -> list[Key]:
        """The blocks that they are in."""
        return [(self.path, place) for place in range(self.start // BLOCK_BYTES, -(-self.stop // BLOCK_BYTES))]


class RemoteFiles:
    """Files below a URL that fsspec can read. Several threads may read at once.

    Parameters
    ----------
    url
        The folder.
    cache
        What keeps blocks.

    Raises
    ------
    InputError
        If what reads such URLs is not installed.
    """

    def __init__(self, url: str, cache: BlockCache | None = None) -> None:
        # As it is shown: a name and a password before the host are left out.
        self.url = re.sub(r"//[^/@]*@", "//", url.rstrip("/"))
        self.cache = cache or BlockCache()
        self._answered = False
        self._fs, self._root = _file_system(url.rstrip("/"))

    def read_into(self, parts: Sequence[Part]) -> None:
        """Read many parts, as many at once as memory allows; blocks that follow one another by one request."""
        for lot in _lots(parts):
            sizes = {part.path: part.size for part in lot}
            blocks = self._blocks([key for part in lot for key in part.keys], sizes)
            for part in lot:
                self._copy(part, blocks)

    def whole(self, paths: Sequence[str]) -> list[bytes | None]:
        """Read small files, all at once; None for those that are not there."""
        found = {path: self.cache.get((path, WHOLE)) for path in paths}
        missing = [path for path, content in found.items() if content is None]
        for path, content in zip(missing, self._fetch([(path, None, None) for path in missing]), strict=True):
            found[path] = content
            if content is not None:
                self.cache.put((path, WHOLE), content)
        return [found[path] for path in paths]

    def size(self, path: str) -> int | None:
        """Give the bytes of a file, or None where there is none."""
        for attempt in itertools.count(1):
            try:
                return int(self._fs.info(f"{self._root}/{path}")["size"])
            except FileNotFoundError:
                return None
            except Exception as error:
                if not _passes(error) or attempt == TRIES:
                    raise self._refusal(path, error) from error
                self._wait(attempt, error)
        return None

    def _copy(self, part: Part, blocks: dict[Key, bytes]) -> None:
        at = part.start
        while at < part.stop:
            place, offset = divmod(at, BLOCK_BYTES)
            piece = blocks[part.path, place][offset : offset + part.stop - at]
            if not piece:
                raise self._too_short(part.path)
            part.out[at - part.start : at - part.start + len(piece)] = piece
            at += len(piece)

    def _blocks(self, keys: Iterable[Key], sizes: dict[str, int | None]) -> dict[Key, bytes]:
        found = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
        runs = stretches((key for key, block in found.items() if block is None), most=_BLOCKS_PER_REQUEST)
        ranges = []
        for run in runs:
            (path, first), (_, last) = run[0], run[-1]
            size = sizes[path]
            end = (last + 1) * BLOCK_BYTES
            ranges.append((path, first * BLOCK_BYTES, end if size is None else min(end, size)))
        for run, (path, start, end), content in zip(runs, ranges, self._fetch(ranges), strict=True):
            if content is None:
                raise InputError(f"{self.url}/{path} is missing. Copy the atlas there again.")
            if len(content) > end - start:
                raise InputError(
                    f"The server of {self.url} gives whole files where parts are asked for (HTTP Range). Serve the "
                    "atlas by one that knows ranges, or copy it to this machine."
                )
            if len(content) < end - start and sizes[path] is not None:
                raise self._too_short(path)
            for place, key in enumerate(run):
                found[key] = content[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
                self.cache.put(key, found[key] or b"")
        return {key: block or b"" for key, block in found.items()}

    def _fetch(self, ranges: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | None]:
        """Fetch ranges of bytes, all at once; those that fail are tried again."""
        answers: dict[int, bytes | None] = {}
        for attempt in itertools.count(1):
            left = [place for place in range(len(ranges)) if place not in answers]
            if not left:
                break
            fault = self._try(ranges, left, answers)
            if fault is not None:
                path, error = fault
                if not _passes(error) or attempt >= (TRIES if self._answered else FIRST_TRIES):
                    raise self._refusal(path, error) from error
                self._wait(attempt, error)
        return [answers[place] for place in range(len(ranges))]

    def _try(
        self,
        ranges: Sequence[tuple[str, int | None, int | None]],
        left: Sequence[int],
        answers: dict[int, bytes | None],
    ) -> tuple[str, Exception] | None:
        """Fetch once; give the worst of what failed."""
        paths, starts, stops = zip(*(ranges[place] for place in left), strict=True)
        full = [f"{self._root}/{path}" for path in paths]
        given = self._fs.cat_ranges(full, list(starts), list(stops), on_error="return")
        faults: list[tuple[str, Exception]] = []
        for place, path, answer in zip(left, paths, given, strict=True):
            if isinstance(answer, FileNotFoundError):
                answers[place] = None
            elif isinstance(answer, Exception):
                faults.append((path, answer))
            else:
                answers[place] = answer
                self._answered = True
        return min(faults, key=lambda fault: _passes(fault[1]), default=None)

    def _wait(self, attempt: int, error: Exception) -> None:
        seconds = FIRST_WAIT * 2 ** (attempt - 1)
        logger.info("%s: %s. Trying again in %.1f seconds.", self.url, _words(error), seconds)
        time.sleep(seconds)

    def _refusal(self, path: str, error: Exception) -> InputError:
        if getattr(error, "status", None) == 416:
            return self._too_short(path)
        if isinstance(error, PermissionError) or getattr(error, "status", None) in {401, 403}:
            return InputError(
                f"{self.url}/{path} may not be read ({_words(error)}). Give fsspec the credentials that the store asks "
                "for, in the environment or in ~/.config/fsspec."
            )
        return InputError(
            f"{self.url}/{path} cannot be read ({_words(error)}). Check the address and the network; a training that "
            "was broken off goes on with --resume."
        )

    def _too_short(self, path: str) -> InputError:
        return InputError(f"{self.url}/{path} is too short: it is truncated. Copy the atlas there again.")


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec.core  # noqa: PLC0415 - only URLs need it

    protocol = url.partition("://")[0]
    try:
        found, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol, "")
        how = f"pip install {package}" if package else str(error)
        if protocol in {"http", "https"}:
            how = "in a clone of selfcell, pip install '.[remote]'"
        raise InputError(f"Reading {protocol}:// takes a package that is not installed: {how}") from error
    except ValueError as error:
        raise InputError(
            f"{url} cannot be read: {error}. Known: https://, s3://, gs:// and what fsspec reads."
        ) from error
    return found, str(root).rstrip("/")


def _lots(parts: Sequence[Part]) -> Iterator[list[Part]]:
    lot: list[Part] = []
    n_bytes = 0
    for part in parts:
        if lot and n_bytes + part.out.nbytes > _BYTES_AT_ONCE:
            yield lot
            lot, n_bytes = [], 0
        lot.append(part)
        n_bytes += part.out.nbytes
    if lot:
        yield lot


def _passes(error: Exception) -> bool:
    """Tell whether a fault may pass: not where the server has understood and says no."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 100:
        return status in _PASSING
    if isinstance(error, PermissionError | FileNotFoundError):
        return False
    return isinstance(error, OSError | TimeoutError) or type(error).__module__.startswith("aiohttp")


def _words(error: Exception) -> str:
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 100:
        return f"HTTP {status} {getattr(error, 'message', '')}".rstrip()
    text = re.sub(r"\s+", " ", str(error)).strip()
    return text or type(error).__name__
