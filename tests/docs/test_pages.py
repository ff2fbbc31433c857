"""What the pages show is run as it stands there, on simulated cells with the columns that the pages name."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from selfcell.data.simulate import simulate_cells

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["annotate", "integrate", "proteins"]
SETS_UP = ("pip install", "hf auth")
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    code: str


def blocks_of(page: Path) -> Iterator[Block]:
    """Give what a page shows to be run, in order."""
    for language, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        yield Block(language, _commands(text) if language == "console" else text)


def _commands(text: str) -> str:
    """Take out the prompts, what is printed, and what sets up."""
    lines = [line for line in text.splitlines() if line.startswith(("$ ", "> "))]
    joined = "\n".join(line[2:] if line.startswith("$ ") else "  " + line[2:] for line in lines)
    return "\n".join(line for line in joined.splitlines() if not line.startswith(SETS_UP))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the files that pages name."""
    adata = simulate_cells(
        n_cells=360, n_genes=80, n_types=3, n_donors=8, n_batches=2, n_proteins=6, mean_counts=300.0, seed=3
    )
    adata.obs = adata.obs.rename(columns={"donor": "donor_id", "batch": "study"})
    adata.obsm["X_other"] = np.random.default_rng(0).normal(size=(adata.n_obs, 4)).astype(np.float32)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    adata.write_h5ad(tmp_path / "cite.h5ad")
    is_query = adata.obs["donor_id"].isin(list(adata.obs["donor_id"].cat.categories[:2]))
    adata[is_query].copy().write_h5ad(tmp_path / "query.h5ad")
    adata[is_query].copy().write_h5ad(tmp_path / "new.h5ad")
    adata[~is_query].copy().write_h5ad(tmp_path / "reference.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    namespace: dict[str, object] = {}
    blocks = list(blocks_of(DOCS / f"{page}.md"))
    assert len(blocks) >= 3
    for block in blocks:
        if block.language == "python":
            exec(compile(block.code, f"{page}.md", "exec"), namespace)
            continue
        done = subprocess.run(
            ["bash", "-euc", block.code], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
