"""Examples in docstrings of public functions are run, in order, in one folder of simulated cells."""

import doctest
import importlib
import runpy
from pathlib import Path
from types import SimpleNamespace

import anndata
import pytest

import selfcell

given = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "cells_of_pages.py")))

FETCHES = {"pull", "push", "datasets", "import_checkpoint"}
"""These need a network, or a file of others; their pages show them."""


def example_of(name: str) -> doctest.DocTest | None:
    function = getattr(selfcell, name)
    finder = doctest.DocTestFinder(recurse=False)
    (found,) = finder.find(function, name, module=importlib.import_module(function.__module__), globs={})
    return found if found.examples else None


@pytest.mark.parametrize("name", [name for name in selfcell.__all__ if name not in FETCHES])
def test_a_public_function_has_an_example(name):
    assert example_of(name) is not None


ORDER = [
    "preset", "pretrain", "load", "embed", "annotate", "finetune", "predict_modality", "impute", "score_embeddings",
    "evaluate", "report", "export", "build_atlas", "append_to_atlas", "embed_atlas", "stream_cells",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_examples_run(tmp_path, monkeypatch, capsys):
    assert set(ORDER) == set(selfcell.__all__) - FETCHES
    given.write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("selfcell.benchmark.trials.n_cores", lambda: 1)
    for name in ORDER:
        example = example_of(name)
        example.globs = {"anndata": anndata, "selfcell": selfcell}
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(example)
        assert not runner.failures, f"{name}\n{capsys.readouterr().out}"
