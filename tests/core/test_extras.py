"""Packages of extras: imported, or named with the command that brings them."""

import re
import sys

import pytest

from selfcell.core.errors import InputError
from selfcell.core.extras import import_extra


def test_a_module_of_a_package_is_given():
    assert import_extra("importlib.metadata", extra="none", use="This test").version("pytest")


def test_an_absent_package_is_named_with_its_extra():
    with pytest.raises(InputError, match=re.escape("no_such: in a clone of selfcell, pip install '.[draw]'.")):
        import_extra("no_such.part", extra="draw", use="Drawing")


def test_a_package_that_is_there_and_broken_is_told_apart(tmp_path, monkeypatch):
    (tmp_path / "broken_one.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"broken_one, which cannot be imported \(No module named 'what_it_needs'\)"):
        import_extra("broken_one", extra="draw", use="Drawing")
    assert "broken_one" not in sys.modules
