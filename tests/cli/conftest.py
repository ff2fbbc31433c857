"""What tests of commands share."""

import sys

import pytest

from selfcell.cli import app


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command in this process; give its exit code, output and errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["selfcell", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return ended.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def file(adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    return path
