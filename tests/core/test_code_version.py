"""What counts as other code."""

import pytest

from selfcell.core import code_version as module
from selfcell.core.code_version import code_version


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules, of which two import others, one inside a function."""
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "far.py").write_text("VALUE = 1\n")
    (tmp_path / "near.py").write_text("def get():\n    from selfcell.far import VALUE\n    return VALUE\n")
    (tmp_path / "top.py").write_text("import json\nfrom selfcell import near\n")
    (tmp_path / "other.py").write_text("OTHER = 1\n")
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    _forget()
    yield tmp_path
    _forget()


def _forget():
    module._digest.cache_clear()
    module._imported_by.cache_clear()


def version_after(package, name, text):
    (package / name).write_text(text)
    _forget()
    return code_version(["selfcell.top"])


def test_a_change_far_down_counts_and_one_elsewhere_does_not(package):
    before = code_version(["selfcell.top"])
    assert version_after(package, "other.py", "OTHER = 2\n") == before
    assert version_after(package, "far.py", "VALUE = 2\n") != before


def test_docstrings_comments_and_layout_do_not_count(package):
    before = code_version(["selfcell.top"])
    told = '"""About."""\n\n# why\nVALUE   =   1\n"""What it is."""\n'
    assert version_after(package, "far.py", told) == before
    assert (
        version_after(
            package, "near.py", 'def get():\n    """Get."""\n    from selfcell.far import VALUE\n    return VALUE\n'
        )
        == before
    )


def test_modules_import_each_other_in_a_circle(package):
    assert version_after(package, "far.py", "from selfcell import top\n") != ""


def test_the_package_itself_has_versions_that_differ_by_module():
    versions = {code_version([f"selfcell.{name}"]) for name in ("downstream.cell_type", "downstream.integration")}
    assert len(versions) == 2 and all(len(version) == 12 for version in versions)
    with pytest.raises(ModuleNotFoundError, match=r"there is no module selfcell\.none"):
        code_version(["selfcell.none"])
