"""Rules about our own source that no linter has, and what the package shows to the outside."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import selfcell

SOURCE = Path(selfcell.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TORCHS_OWN = {"batch_size", "batch_idx"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_name_of_ours_says_batch_where_a_minibatch_is_meant(path):
    tree = ast.parse(path.read_text())
    names = [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
    names += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    bad = (
        {name for name in names if re.search(r"(^|_)batch_(size|idx)|(^|_)batches$", name)} - TORCHS_OWN - {"n_batches"}
    )
    assert not bad


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_answers_one_question(path):
    assert len(path.read_text().splitlines()) <= 370


def test_there_are_no_drawers():
    assert not [path for path in FILES if path.stem in {"utils", "helpers", "misc", "common"}]


def test_public_names_are_there_and_documented():
    for name in selfcell.__all__:
        assert getattr(selfcell, name).__doc__
    assert set(selfcell.__all__) <= set(dir(selfcell))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        selfcell.nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    program = "import selfcell, sys; assert not {'torch', 'anndata', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_changelog_has_this_version():
    changelog = (SOURCE.parents[1] / "CHANGELOG.md").read_text()
    assert f"## [{importlib.metadata.version('selfcell')}]" in changelog


def test_a_public_function_stays_one_when_its_file_has_been_imported():
    code = "import selfcell; selfcell.report; import selfcell.reporting.html; assert callable(selfcell.report)"
    subprocess.run([sys.executable, "-c", code], check=True)
