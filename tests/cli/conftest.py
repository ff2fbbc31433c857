"""What tests of commands share."""

import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from selfcell.cli import app


@pytest.fixture(scope="session")
def take_proteins():
    """What takes the proteins out of an AnnData, into one of their own."""

    def take(adata):
        return anndata.AnnData(
            adata.obsm.pop("protein_counts").astype(np.float32),
            obs=pd.DataFrame(index=adata.obs_names),
            var=pd.DataFrame(index=adata.uns.pop("protein_names")),
        )

    return take


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
