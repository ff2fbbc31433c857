"""Pages and figures that pages point to are there, and so are the headings."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

pages = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "pages.py")))
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", flags=re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Give the anchors that GitHub and MyST make of a page's headings."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages.PAGES)
def test_what_a_page_points_to_is_there(page):
    path = pages.PAGES[page]
    text = _CODE.sub("", path.read_text(encoding="utf-8"))
    for target in _LINK.findall(text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        there = path.parent / name if name else path
        assert there.exists(), f"{path.name} points to {target}"
        if anchor:
            assert anchor in anchors_of(there), f"{path.name} points to {target}"


def test_every_page_is_in_the_table_of_contents():
    index = (pages.ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    tables = re.findall(r"```{toctree}\n(.*?)```", index, flags=re.DOTALL)
    listed = {line.strip() for table in tables for line in table.splitlines()}
    assert {path.stem for path in (pages.ROOT / "docs").glob("*.md")} - {"index"} <= listed
